"""Protocols that the standalone server has beyond TorchServe's, asked by the clients that people use."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest
import requests
import tritonclient.http as triton

from server.connections import STALLED_S
from server.lifecycle import _bind
from server.settings import Address
from tests.support.live import Live

if TYPE_CHECKING:  # every process that collects the tests would import it, for more than a second
    import openai

pytestmark = pytest.mark.server

TEXTS = ["Where is my parcel?", "The screen is cracked."]


@pytest.fixture
def client(standalone: Live) -> openai.OpenAI:
    """Return OpenAI's client with the server's key."""
    import openai

    return openai.OpenAI(api_key=standalone.key, base_url=f"{standalone.url}/v1", max_retries=0)


def test_openai_embeddings(standalone: Live, client: openai.OpenAI) -> None:
    """In base64, which the client asks for by itself, and as numbers: those of the model's own route."""
    own = standalone.post("/predictions/encoder", json.dumps(TEXTS))
    binary = client.embeddings.create(model="encoder", input=TEXTS)
    numbers = client.embeddings.create(model="encoder", input=TEXTS, encoding_format="float")
    for answer in (binary, numbers):
        np.testing.assert_allclose([item.embedding for item in answer.data], own.json(), atol=1e-6)
        assert [item.index for item in answer.data] == [0, 1]
        assert answer.usage.total_tokens == int(own.headers["x-request-tokens"])
    short = client.embeddings.create(model="encoder", input=TEXTS[0], dimensions=4)
    assert len(short.data[0].embedding) == 4


def test_openai_models_and_errors(standalone: Live, client: openai.OpenAI) -> None:
    """The list of models; an unknown model, a wrong input and a wrong key raise the client's own errors."""
    import openai

    assert {"encoder", "tiny"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("encoder").id == "encoder"
    for ask in (client.models.retrieve, lambda model: client.embeddings.create(model=model, input="a")):
        with pytest.raises(openai.NotFoundError, match="there are: answers, encoder"):
            ask("nobody")
    with pytest.raises(openai.BadRequestError, match="text is empty"):
        client.embeddings.create(model="encoder", input="")
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):  # LangChain's default
        client.embeddings.create(model="encoder", input=[[9241, 374, 856, 30409, 30]])
    stranger = openai.OpenAI(api_key="wrong", base_url=f"{standalone.url}/v1", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_cohere_rerank(standalone: Live) -> None:
    """In the order and with the scores of the model's own route; by similarity where the model is an encoder."""
    import cohere
    from cohere.core.api_error import ApiError as CohereError

    with cohere.ClientV2(standalone.key, base_url=standalone.url) as client:
        own = standalone.post("/predictions/reranker", json.dumps({"query": "Where is it?", "texts": TEXTS})).json()
        answer = client.rerank(model="reranker", query="Where is it?", documents=TEXTS)
        assert [result.index for result in answer.results] == [item["index"] for item in own]
        scores = [result.relevance_score for result in answer.results]
        assert scores == pytest.approx([item["score"] for item in own], abs=1e-6)
        first = client.rerank(model="encoder", query=TEXTS[1], documents=TEXTS, top_n=1)
        assert [result.index for result in first.results] == [1]
        with pytest.raises(CohereError) as refused:
            client.rerank(model="nobody", query="a", documents=["a"])
        assert refused.value.status_code == 404


def test_jina_rerank(standalone: Live) -> None:
    """With the documents, which may be objects; a model of late interaction ranks too."""
    body = {"model": "reranker", "query": "Where?", "documents": [{"text": TEXTS[0]}, TEXTS[1]], "top_n": 1}
    answer = standalone.post("/v1/rerank", json.dumps(body)).json()
    (best,) = answer["results"]
    assert best["document"]["text"] == TEXTS[best["index"]]
    own = standalone.post("/predictions/late/1.0/rerank", json.dumps({"query": "Where?", "texts": TEXTS})).json()
    ranked = standalone.post("/v1/rerank", json.dumps({"model": "late", "query": "Where?", "documents": TEXTS})).json()
    scores = [(result["index"], result["relevance_score"]) for result in ranked["results"]]
    assert scores == [(item["index"], pytest.approx(item["score"], abs=1e-5)) for item in own], "by MaxSim"
    refused = standalone.post("/v1/rerank", json.dumps({**body, "rank_fields": ["a"]}))
    assert (refused.status_code, "unknown field 'rank_fields'" in refused.json()["detail"]) == (400, True)


def test_triton_health_and_metadata(standalone: Live) -> None:
    """What NVIDIA's client asks before it infers."""
    with triton.InferenceServerClient(standalone.url.removeprefix("http://")) as client:
        headers = {"Authorization": f"Bearer {standalone.key}"}
        assert client.is_server_live()  # without a key, for probes
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", headers=headers)
        assert client.is_model_ready("tiny", "1.0", headers=headers)
        assert not client.is_model_ready("nobody", headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "bert-on-torchserve"
        metadata = client.get_model_metadata("tiny", headers=headers)
        assert client.get_server_metadata(headers=headers)["extensions"] == ["binary_tensor_data"]
    assert metadata["versions"] == ["1.0"]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["label", "score"]


def test_kserve_v1_health(standalone: Live) -> None:
    """What kserve's InferenceRESTClient asks with the first version of its protocol, and reads of the answers."""
    headers = {"Authorization": f"Bearer {standalone.key}"}

    def ask(path: str) -> requests.Response:
        return requests.get(standalone.url + path, headers=headers, timeout=30)

    assert ask("/").json()["status"] == "alive"
    assert (ask("/v1/models/tiny").json()["name"], ask("/v1/models/tiny").json()["ready"]) == ("tiny", True)
    assert ask("/v1/models/nobody").status_code == 404
    assert requests.get(standalone.url, timeout=30).status_code == 400


def test_ping_tells_the_truth(standalone: Live) -> None:
    """Healthy with TorchServe's words; refused without a key."""
    headers = {"Authorization": f"Bearer {standalone.key}"}
    healthy = requests.get(f"{standalone.url}/ping", headers=headers, timeout=30)
    assert (healthy.status_code, healthy.text) == (200, '{\n  "status": "Healthy"\n}\n')
    assert requests.get(f"{standalone.url}/ping", timeout=30).status_code == 400


def raw(server: Live, head: str, body: str = '["a"]') -> bytes:
    """Send a request line and headers of one's own with the server's key; return all that comes back."""
    lines = [*head.split("\n"), f"Authorization: Bearer {server.key}", "Content-Type: application/json", "", body]
    with socket.create_connection(("127.0.0.1", server.ports["inference_address"]), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


PREDICT = "POST /predictions/tiny HTTP/1.1\nHost: a\nConnection: close"
CHUNKS = '5\r\n["a"]\r\n0\r\n\r\n'


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"{PREDICT}\nContent-Length: 5\nTransfer-Encoding: chunked", CHUNKS),
        (f"{PREDICT}\nTransfer-Encoding: chunked\nContent-Length: 5", CHUNKS),
        (f"{PREDICT}\nContent-Length: 5\nContent-Length: 6", '["a"]'),
        (f"{PREDICT}\nContent-Length: 5, 5", '["a"]'),
        (f"{PREDICT}\nContent-Length: +5", '["a"]'),
        (f"{PREDICT}\nTransfer-Encoding: chunked, identity", CHUNKS),
        (f"{PREDICT}\nTransfer-Encoding: xchunked", CHUNKS),
        (f"{PREDICT}\nTransfer-Encoding : chunked", CHUNKS),
        (f"{PREDICT}\nTransfer-Encoding: chunked", CHUNKS.replace("5\r\n", "5\n", 1)),
        (f"{PREDICT}\nX-A: b\rContent-Length: 3\nContent-Length: 5", '["a"]'),
        (f"{PREDICT}\nX-A: b\n c\nContent-Length: 5", '["a"]'),
        (f"{PREDICT}\nHost: b\nContent-Length: 5", '["a"]'),
        (f"{PREDICT}\nContent-Length: 5".replace("Host: a\n", ""), '["a"]'),
        (f"{PREDICT}\nAuthorization: Bearer other\nContent-Length: 5", '["a"]'),
        (f"{PREDICT}\nContent-Type: text/plain\nContent-Length: 5", '["a"]'),
        (f"{PREDICT}\nTransfer-Encoding: chunked".replace("1.1", "1.0"), CHUNKS),
        (f"{PREDICT}\nContent-Length: 5".replace("1.1", "2.0"), '["a"]'),
        ("CONNECT a:80 HTTP/1.1\nHost: a", ""),
    ],
)
def test_what_two_programs_may_read_differently_is_refused(standalone: Live, head: str, body: str) -> None:
    """Framing, hosts, keys, types and versions: one answer, and the end of the connection."""
    answer = raw(standalone, head, body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"content-length: ") == 1


def test_an_offer_of_http2_is_ignored(standalone: Live) -> None:
    """Java's client makes it with every first request; the body counts all the same."""
    offer = "Upgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    head = PREDICT.replace("close", "Upgrade, HTTP2-Settings, close")
    answers = [raw(standalone, f"{head}\n{offer}\nContent-Length: 5"), raw(standalone, f"{PREDICT}\nContent-Length: 5")]
    assert [answer.partition(b" ")[2][:3] for answer in answers] == [b"200", b"200"]
    assert answers[0].rpartition(b"\r\n")[2] == answers[1].rpartition(b"\r\n")[2]
    chunked = raw(standalone, f"{head}\n{offer}\nTransfer-Encoding: chunked", CHUNKS)
    assert chunked.rpartition(b"\r\n")[2] == answers[1].rpartition(b"\r\n")[2]


def test_a_header_without_an_end_is_refused(standalone: Live) -> None:
    """Before its end has come: the parser alone would keep all of it."""
    with socket.create_connection(("127.0.0.1", standalone.ports["inference_address"]), timeout=20) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nX-A: " + b"a" * 40_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_many_short_headers_are_too_long(standalone: Live) -> None:
    """Their ends count too."""
    assert raw(standalone, PREDICT + "\na:" * 9_000 + "\nContent-Length: 5").startswith(b"HTTP/1.1 431 ")


def test_a_client_that_does_not_read_is_let_go() -> None:
    """Every port: the system ends such connections, for a buffer that nobody empties would stay for ever."""
    with _bind("inference", Address("127.0.0.1", 0)) as bound:
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == STALLED_S * 1000
