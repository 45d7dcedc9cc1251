"""Protocols that the standalone server has beyond TorchServe's, asked by the clients that people use."""

from __future__ import annotations

import json

import cohere
import numpy as np
import openai
import pytest
import requests
import tritonclient.http as triton
from cohere.core.api_error import ApiError as CohereError

from tests.support.live import Live

pytestmark = pytest.mark.server

TEXTS = ["Where is my parcel?", "The screen is cracked."]


@pytest.fixture
def client(standalone: Live) -> openai.OpenAI:
    """Return OpenAI's client with the server's key."""
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
    """With the documents, which may be objects."""
    body = {"model": "reranker", "query": "Where?", "documents": [{"text": TEXTS[0]}, TEXTS[1]], "top_n": 1}
    answer = standalone.post("/v1/rerank", json.dumps(body)).json()
    (best,) = answer["results"]
    assert best["document"]["text"] == TEXTS[best["index"]]
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
