"""Every bad input of the reliability notes: the documented 4xx, harmless neighbours, and no text of a user anywhere.

Every bad body holds `MARK` where a user's text could be; it must appear in no reply, header or log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from handler.predictor import Predictor
from handler.wire import JSON, Body, write_value
from handler.work import Reply, Request
from tests.samples import JSON_TYPE, TEXTS, MakePredictor, told
from tests.test_strict_json import NOT_JSON
from tests.test_wire import REFUSED_TYPES, binary_body, packed, tensor

MARK = "Xyzzymark"
GOOD = TEXTS[:7]


@dataclass(frozen=True)
class Bad:
    """One bad request, and the refusal that it must get."""

    name: str
    request: Request
    status: int
    kind: str

    def __str__(self) -> str:
        return self.name


def bad(name: str, content: bytes | None, status: int, kind: str, content_type: str = JSON_TYPE, **body: Any) -> Bad:
    """Return a bad request made of a body."""
    return Bad(name, Request(Body(content, content_type, **body)), status, kind)


def requests(*texts: str) -> list[Request]:
    """Return a plain request for each text."""
    return [Request(Body(write_value(text), JSON_TYPE)) for text in texts]


# --- bodies that are bad in every dialect ------------------------------------------------------------------------

# Where the JSON of one item goes in a body.
DIALECTS: dict[str, bytes] = {
    "item": b"%s",
    "list": b'["fine", %s]',
    "text": b'{"text": %s}',
    "pair": b'{"text": "fine", "text_pair": %s}',
    "hugging face": b'{"inputs": %s}',
    "hugging face list": b'{"inputs": ["fine", %s], "parameters": {"top_k": 1}}',
    "kserve v1": b'{"instances": [%s, "fine"]}',
    "open inference": b'{"id": "1", "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [%s]}]}',
}

BAD_ITEMS: dict[str, bytes] = {
    "null": b"null",
    "number": b"7",
    "fraction": b"1.5",
    "true": b"true",
    "false": b"false",
    "empty text": b'""',
    "blank text": b'" \\n\\t\\u00a0\\u3000 "',
    "half a surrogate pair": b'"Xyzzymark \\ud800"',
    "the other half": b'"\\udfff Xyzzymark"',
    "empty list": b"[]",
    "text and number": b'["Xyzzymark", 7]',
    "nested text": b'[["Xyzzymark"]]',
    "empty object": b"{}",
    "unknown key": b'{"Xyzzymark": "Xyzzymark"}',
    "extra key": b'{"text": "Xyzzymark", "Xyzzymark": 1}',
    "text is null": b'{"text": null, "text_pair": "Xyzzymark"}',
    "text is missing": b'{"text_pair": "Xyzzymark"}',
    "text is a list": b'{"text": ["Xyzzymark"]}',
    "text is an object": b'{"text": {"text": "Xyzzymark"}}',
    "pair is null": b'{"text": "Xyzzymark", "text_pair": null}',
    "pair is empty": b'{"text": "Xyzzymark", "text_pair": ""}',
    "capitals": b'{"Text": "Xyzzymark"}',
}

# Bytes that can stand where an item stands, and make the whole body malformed.
NOT_UTF_8: dict[str, bytes] = {
    "invalid UTF-8": b'"Xyzzymark \xff"',
    "truncated UTF-8": b'"Xyzzymark \xe2\x82"',
    "overlong UTF-8": b'"Xyzzymark \xc0\xaf"',
    "surrogate in UTF-8": b'"Xyzzymark \xed\xa0\x80"',
    "past U+10FFFF": b'"Xyzzymark \xf4\x90\x80\x80"',
    "Latin-1": b'"Xyzzymark \xe9"',
}
CLOSED_BY_A_DIALECT = ("nothing", "blank", "32 levels")  # bad alone, but not inside every dialect
MALFORMED: dict[str, bytes] = {
    **NOT_UTF_8,
    **{
        name: text.replace("a", "a Xyzzymark", 1).encode() if text.startswith('"') else text.encode()
        for name, text in NOT_JSON.items()
        if name not in CLOSED_BY_A_DIALECT
    },
    "equal keys": b'{"text": "Xyzzymark", "text": "Xyzzymark"}',
    "single quotes": b"'Xyzzymark'",
    "bare word": b"Xyzzymark",
    "unterminated object": b'{"text": "Xyzzymark"',
}


def in_every_dialect(name: str, item: bytes, status: int, kind: str) -> list[Bad]:
    """Return a bad item in every dialect."""
    return [
        bad(f"{name} in {dialect}", template.replace(b"%s", item), status, kind)
        for dialect, template in DIALECTS.items()
    ]


IN_EVERY_DIALECT: dict[str, list[Bad]] = {
    **{name: in_every_dialect(name, item, 422, "InvalidInput") for name, item in BAD_ITEMS.items()},
    **{name: in_every_dialect(name, item, 400, "MalformedBody") for name, item in MALFORMED.items()},
    **{
        name: in_every_dialect(name, write_value(text), 413, "InputTooLong")
        for name, text in {"100,010 characters": MARK + "a" * 100_001, "a megabyte": MARK + "é " * 500_000}.items()
    },
}

# --- bodies as a whole -------------------------------------------------------------------------------------------

WHOLE = {name: template.replace(b"%s", write_value(MARK)) for name, template in DIALECTS.items()}
BOM = b"\xef\xbb\xbf"
MANY = [MARK] * 10_000

AS_A_WHOLE = [
    *(bad(f"BOM before {name}", BOM + body, 400, "MalformedBody") for name, body in WHOLE.items()),
    *(bad(f"trailing word after {name}", body + b" Xyzzymark", 400, "MalformedBody") for name, body in WHOLE.items()),
    *(bad(f"trailing NUL after {name}", body + b"\0", 400, "MalformedBody") for name, body in WHOLE.items()),
    *(bad(f"cut {name}", body[:-2], 400, "MalformedBody") for name, body in WHOLE.items()),
    *(
        bad(f"{codec} of {name}", body.decode().encode(codec), 400, "MalformedBody")
        for name, body in WHOLE.items()
        for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
    ),
    *(
        bad(f"{name} as {content_type or 'no type'}", content, 400, "MalformedBody", content_type)
        for name, content in NOT_UTF_8.items()
        for content_type in ("text/plain", "application/octet-stream", "")
    ),
    bad("UTF-16 as text", MARK.encode("utf-16"), 400, "MalformedBody", "text/plain"),
    *(bad(f"empty as {kind or 'no type'}", b"", 400, "MalformedBody", kind) for kind in ("", "text/plain", JSON_TYPE)),
    *(
        bad(f"blank as {content_type}", b" \n", status, kind, content_type)
        for content_type, status, kind in [("text/plain", 422, "InvalidInput"), (JSON_TYPE, 400, "MalformedBody")]
    ),
    bad("empty gRPC", b"", 400, "MalformedBody", "", typed=False),
    bad("broken JSON over gRPC", b'{"text": "Xyzzymark"', 400, "MalformedBody", "", typed=False),
    bad("a megabyte of text", MARK.encode() + b"a" * (1 << 20), 413, "InputTooLong", "text/plain"),
    bad("10,000 texts", write_value(MANY), 413, "InputTooLong"),
    bad("10,000 texts, Hugging Face", write_value({"inputs": MANY}), 413, "InputTooLong"),
    bad("10,000 texts, KServe v1", write_value({"instances": MANY}), 413, "InputTooLong"),
    bad("10,000 texts, Open Inference v2", write_value({"inputs": [tensor(*MANY)]}), 413, "InputTooLong"),
    bad("1,001 texts", write_value(MANY[:1001]), 413, "InputTooLong"),
    bad("a thousand bad texts", write_value([MARK, *[None] * 999]), 422, "InvalidInput"),
    bad("100,000 keys", write_value({f"{MARK}{n}": n for n in range(100_000)}), 422, "InvalidInput"),
    bad(
        "100,000 parameters",
        write_value({"inputs": "a", **{f"{MARK}{n}": n for n in range(10_000)}}),
        422,
        "InvalidInput",
    ),
    bad("instances is text", write_value({"instances": MARK}), 422, "InvalidInput"),
    bad("instances is an object", write_value({"instances": {"data": MARK}}), 422, "InvalidInput"),
    bad("instances is null", write_value({"instances": None, "parameters": {}}), 422, "InvalidInput"),
    bad("instances and more", write_value({"instances": [MARK], MARK: 1}), 422, "InvalidInput"),
    bad("instances and inputs", write_value({"instances": [MARK], "inputs": MARK}), 422, "InvalidInput"),
    bad("signature of TensorFlow", write_value({"instances": [MARK], "signature_name": MARK}), 422, "InvalidInput"),
    bad("inputs is empty", write_value({"inputs": []}), 422, "InvalidInput"),
    bad("instances is empty", write_value({"instances": []}), 422, "InvalidInput"),
]

# --- types and encodings -----------------------------------------------------------------------------------------

OF_ANOTHER_TYPE = [
    *(bad(f"type {kind}", write_value(MARK), 415, "UnsupportedMediaType", kind) for kind in REFUSED_TYPES),
    bad("type with a user's word", write_value(MARK), 415, "UnsupportedMediaType", f"text/{MARK}"),
    bad("charset with a user's word", write_value(MARK), 415, "UnsupportedMediaType", f"text/plain; charset={MARK}"),
    *(
        bad(
            f"encoding {encoding}",
            b"\x1f\x8b\x08\x00Xyzzymark",
            415,
            "UnsupportedMediaType",
            kind,
            content_encoding=encoding,
        )
        for encoding in ("gzip", "GZIP", "deflate", "br", MARK)
        for kind in (JSON_TYPE, "text/plain")
    ),
    bad("gzip that says nothing", b"\x1f\x8b\x08\x00Xyzzymark", 400, "MalformedBody"),
    *(
        bad(f"no data in a form, {kind or 'no type'}", None, 415, "UnsupportedMediaType", kind)
        for kind in ("", "text/plain", JSON_TYPE)
    ),
]

# --- parameters, in the three dialects that have them -----------------------------------------------------------

BAD_PARAMETERS: dict[str, JSON] = {
    "a list": [MARK],
    "a text": MARK,
    "a number": 7,
    "true": True,
    "an unknown one": {MARK: MARK},
    "top_k 0": {"top_k": 0},
    "top_k below zero": {"top_k": -1},
    "top_k true": {"top_k": True},
    "top_k false": {"top_k": False},
    "top_k a fraction": {"top_k": 1.0},
    "top_k a text": {"top_k": MARK},
    "top_k a list": {"top_k": [1]},
    "an unknown function": {"function_to_apply": MARK},
    "a function that is a number": {"function_to_apply": 7},
    "a function that is zero": {"function_to_apply": 0},
    "a function that is false": {"function_to_apply": False},
    "a function that is empty": {"function_to_apply": ""},
    "a function that is a list": {"function_to_apply": []},
    "a function that is an object": {"function_to_apply": {MARK: MARK}},
    "unknown on_error": {"on_error": MARK},
    "on_error null": {"on_error": None},
    "on_error a list": {"on_error": ["report"]},
}
WITH_PARAMETERS: dict[str, JSON] = {
    "object": {"text": MARK},
    "hugging face": {"inputs": MARK},
    "kserve v1": {"instances": [MARK]},
    "open inference": {"inputs": [tensor(MARK)]},
}
OF_BAD_PARAMETERS = [
    bad(f"parameters {name} in {dialect}", write_value({**body, "parameters": value}), 422, "InvalidInput")
    for name, value in BAD_PARAMETERS.items()
    for dialect, body in WITH_PARAMETERS.items()
]

# --- tensors -----------------------------------------------------------------------------------------------------

BAD_TENSORS: dict[str, JSON] = {
    **{
        f"datatype {datatype}": [tensor(MARK, datatype=datatype)]
        for datatype in ("INT32", "FP32", "BOOL", "STRING", "bytes", MARK, None, 7, ["BYTES"])
    },
    **{
        f"shape {shape}": [tensor(MARK, shape=shape)]
        for shape in (
            None, 1, "1", [], [0], [2], [-1], [1, 2], [1, 0], [1, -1], [1, 1, 1], [1.0], [True], ["1"], [MARK], [None],
            [[1]], [10**19], {"0": 1},
        )
    },
    **{f"data {data!r}": [tensor(MARK, data=data)] for data in (None, MARK, 7, {MARK: MARK}, [], [MARK, MARK])},
    "no text": [tensor()],
    "no shape": [{"name": "text", "datatype": "BYTES", "data": [MARK]}],
    "no data": [{"name": "text", "datatype": "BYTES", "shape": [1]}],
    "no name": [{"datatype": "BYTES", "shape": [1], "data": [MARK]}],
    "a name that is a number": [tensor(MARK, name=7)],  # type: ignore[arg-type]
    "a name that is null": [tensor(MARK, name=None)],  # type: ignore[arg-type]
    "an unknown name": [tensor(MARK, name="TEXT0")],
    "a user's word as name": [tensor(MARK, name=MARK)],
    "a user's word as name of a broken tensor": [tensor(MARK, name=MARK, shape=[2])],
    "a user's text as name of a broken tensor": [tensor(MARK, name=f"my {MARK}", datatype="INT32")],
    "half a surrogate pair as name": [tensor(MARK, name="\ud800")],
    "unknown beside known": [tensor(MARK), tensor(MARK, name="other")],
    "two of one name": [tensor(MARK), tensor(MARK)],
    "different lengths": [tensor(MARK, MARK), tensor(MARK, name="text_pair")],
    "only the pair": [tensor(MARK, name="text_pair")],
    "something else beside": [tensor(MARK), MARK],
    "null beside": [tensor(MARK), None],
    "shared memory": [
        {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"shared_memory_region": MARK}}
    ],
    "a size without bytes": [
        {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}
    ],
}  # fmt: skip
MORE: dict[str, JSON] = {
    "id is a number": {"id": 7},
    "id is a list": {"id": [MARK]},
    "outputs is text": {"outputs": MARK},
    "outputs is an object": {"outputs": {"name": "label"}},
    "output is text": {"outputs": [MARK]},
    "output without a name": {"outputs": [{}]},
    "output with a number as name": {"outputs": [{"name": 7}]},
    "output with text as parameters": {"outputs": [{"name": "label", "parameters": MARK}]},
    "output with a parameter that nobody obeys": {"outputs": [{"name": "label", "parameters": {MARK: 1}}]},
    "unknown key": {MARK: MARK},
}
OF_TENSORS = [
    *(
        bad(f"tensor: {name}", write_value({"inputs": value}), 422, "InvalidInput")
        for name, value in BAD_TENSORS.items()
    ),
    *(
        bad(f"Open Inference v2: {name}", write_value({"inputs": [tensor(MARK)], **more}), 422, "InvalidInput")
        for name, more in MORE.items()
    ),
    *(
        Bad(name, Request(body), 400, "MalformedBody")
        for name, body in {
            "binary: size too large": binary_body(packed(MARK.encode()), 1000),
            "binary: size below zero": binary_body(packed(MARK.encode()), -1),
            "binary: bytes left over": binary_body(packed(MARK.encode()) + MARK.encode(), 4 + len(MARK)),
            "binary: element past the end": binary_body(b"\xff\xff\xff\xff" + MARK.encode(), 4 + len(MARK)),
            "binary: not UTF-8": binary_body(packed(MARK.encode() + b"\xff"), 5 + len(MARK)),
            "binary: JSON cut": binary_body(packed(MARK.encode()), 4 + len(MARK), json_length=9),
            "binary: no JSON": binary_body(packed(MARK.encode()), 4 + len(MARK), json_length=0),
        }.items()
    ),
    Bad("binary: empty text", Request(binary_body(packed(b""), 4)), 422, "InvalidInput"),
    Bad(
        "binary: two texts for one",
        Request(binary_body(packed(MARK.encode(), b"b"), 9 + len(MARK))),
        422,
        "InvalidInput",
    ),
]

# --- what is asked beside the body -------------------------------------------------------------------------------

BESIDE_THE_BODY = [
    *(
        Bad(f"operation {operation}", Request(Body(write_value(MARK), JSON_TYPE), operation), 404, "UnknownOperation")
        for operation in ("nonsense", MARK, "predict/more", "../predict", "Predict", " ", "%00", "é")
    ),
    *(
        Bad(f"explain {name}", Request(Body(body, JSON_TYPE), "tokenise", explain=True), 404, "UnknownOperation")
        for name, body in WHOLE.items()
        if name not in ("kserve v1", "open inference")  # whose routes have no operation in their path
    ),
    *(
        Bad(f"deadline {deadline}", Request(Body(write_value(MARK), JSON_TYPE), deadline_ms=deadline), 504, "Expired")
        for deadline in (0.0, -1.0, 1.0, 1e12)
    ),
    Bad("deadline of a malformed body", Request(Body(b"'Xyzzymark", JSON_TYPE), deadline_ms=1.0), 504, "Expired"),
]

ONE_BY_ONE = [*AS_A_WHOLE, *OF_ANOTHER_TYPE, *OF_BAD_PARAMETERS, *OF_TENSORS, *BESIDE_THE_BODY]
ALL = [*(case for cases in IN_EVERY_DIALECT.values() for case in cases), *ONE_BY_ONE]
UNKNOWN_OUTPUT = Bad(
    "Open Inference v2: unknown output",
    Request(Body(write_value({"inputs": [tensor(MARK)], "outputs": [{"name": MARK}]}), JSON_TYPE)),
    422,
    "InvalidInput",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep the tiny model from waiting for a second core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def neighbours(predictor: Predictor) -> list[bytes]:
    """Return what seven good requests get in one batch, which is what each gets alone."""
    together = predictor.answer(requests(*GOOD))
    alone = [predictor.answer([request])[0] for request in requests(*GOOD)]
    assert {reply.status for reply in (*together, *alone)} == {200}
    for one, other in zip(alone, together, strict=True):
        assert predictor.task.agree(told(one), told(other), 1e-6)
    return [reply.content for reply in together]


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail a test in which a user's text reaches the log, standard output or standard error."""
    caplog.set_level(0)
    yield
    printed = "".join(capfd.readouterr())
    assert MARK.lower() not in (caplog.text + printed).lower()


def check_refusal(reply: Reply, expected: Bad) -> None:
    """Hold a reply against the documented refusal."""
    assert reply.status == expected.status, expected.name
    value = told(reply)
    if "error" in value:
        assert list(value) == ["error"]
        message = value["error"]
    else:
        assert list(value) == ["code", "type", "message"]
        assert (value["code"], value["type"]) == (expected.status, expected.kind)
        message = value["message"]
    assert isinstance(message, str)
    assert message
    check_discretion(reply)
    assert reply.headers["x-error-message"][:50] == message[:50].encode("ascii", "replace").decode()


def check_discretion(reply: Reply) -> None:
    """Fail if a reply holds a user's text, or anything that TorchServe or HTTP could stumble over."""
    written = reply.content.decode("ascii")
    for shown in (written, reply.phrase, *reply.headers, *reply.headers.values()):
        assert MARK.lower() not in shown.lower()
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) < 3000


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("case", [*ONE_BY_ONE, UNKNOWN_OUTPUT], ids=str)
def test_bad_input_alone(predictor: Predictor, case: Bad) -> None:
    """The documented status, in the shape of the dialect, and nothing of the text."""
    (reply,) = predictor.answer([case.request])
    check_refusal(reply, case)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("cases", IN_EVERY_DIALECT.values(), ids=IN_EVERY_DIALECT)
def test_bad_items_of_every_dialect_alone(predictor: Predictor, cases: list[Bad]) -> None:
    """One refusal in all dialects."""
    for case in cases:
        (reply,) = predictor.answer([case.request])
        check_refusal(reply, case)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("case", ONE_BY_ONE, ids=str)
def test_bad_input_among_good(predictor: Predictor, neighbours: list[bytes], case: Bad) -> None:
    """One bad row among seven good ones: the same refusal, and the bytes that the good ones get without it."""
    place = len(case.name) % 8
    replies = predictor.answer([*requests(*GOOD[:place]), case.request, *requests(*GOOD[place:])])
    check_refusal(replies.pop(place), case)
    assert [reply.content for reply in replies] == neighbours


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("cases", IN_EVERY_DIALECT.values(), ids=IN_EVERY_DIALECT)
def test_bad_items_of_every_dialect_among_good(predictor: Predictor, neighbours: list[bytes], cases: list[Bad]) -> None:
    """Seven good rows, each between two bad ones that say the same in two dialects."""
    between = [row for case, good in zip(cases[:7], requests(*GOOD), strict=True) for row in (case.request, good)]
    replies = predictor.answer([*between, cases[7].request])
    for reply, case in zip(replies[::2], cases, strict=True):
        check_refusal(reply, case)
    assert [reply.content for reply in replies[1::2]] == neighbours


@pytest.mark.usefixtures("silent")
def test_every_bad_input_in_one_batch(predictor: Predictor, neighbours: list[bytes]) -> None:
    """A batch of nothing but bad rows, but for seven: each gets its own refusal."""
    cases = [*ALL[::3], *ALL[1::3]]
    replies = predictor.answer([*requests(*GOOD), *(case.request for case in cases)])
    assert [reply.content for reply in replies[:7]] == neighbours
    for reply, case in zip(replies[7:], cases, strict=True):
        check_refusal(reply, case)


@pytest.mark.parametrize("case", [case for case in OF_TENSORS if case.name.startswith("Open")], ids=str)
def test_open_inference_is_refused_in_its_own_shape(predictor: Predictor, case: Bad) -> None:
    """On the v2 route: `{"error": message}`."""
    (reply,) = predictor.answer([replace(case.request, kserve=True)])
    assert reply.status == case.status
    assert list(told(reply)) == ["error"]


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("n_words", [511, 100_000])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_too_many_tokens_under_refuse(long_refuser: Predictor, dialect: str, n_words: int) -> None:
    """513 tokens, or 100,000: 413 that tells both numbers; 512 are answered."""
    template = DIALECTS[dialect]
    text = write_value("a " * n_words)
    (reply,) = long_refuser.answer([Request(Body(template.replace(b"%s", text), JSON_TYPE))])
    check_refusal(reply, Bad("", Request(Body(None)), 413, "InputTooLong"))
    assert b"accepted: at most 512" in reply.content


@pytest.fixture(scope="module")
def long_refuser(make_predictor: MakePredictor) -> Predictor:
    """Return a predictor that refuses long texts, and takes many characters."""
    return make_predictor(overflow="refuse", max_characters=1_000_000)


def test_the_longest_text_under_refuse(long_refuser: Predictor) -> None:
    """512 tokens are not too many."""
    (reply,) = long_refuser.answer(requests("a " * 510))
    assert (reply.status, reply.headers["x-request-tokens"]) == (200, "512")


@pytest.mark.usefixtures("silent")
def test_a_bad_item_is_named_by_its_index(predictor: Predictor) -> None:
    """Every bad index of a list, and no good one."""
    (reply,) = predictor.answer([Request(Body(write_value([MARK, "", MARK, None, 7]), JSON_TYPE))])
    message = told(reply)["message"]
    assert [f"item {n}:" in message for n in range(5)] == [False, True, False, True, True]
    check_discretion(reply)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("dialect", ["list", "hugging face", "kserve v1", "open inference"])
def test_bad_items_can_be_reported_beside_answers(predictor: Predictor, dialect: str) -> None:
    """With on_error=report each bad item has its own error, and each good one its answer."""
    texts: list[JSON] = ["fine", "", MARK, None, "\ud800"]
    body = {
        "list": {"inputs": texts},
        "hugging face": {"inputs": texts},
        "kserve v1": {"instances": texts},
        "open inference": {"inputs": [tensor(*texts)]},
    }[dialect]
    (reply,) = predictor.answer([Request(Body(write_value({**body, "parameters": {"on_error": "report"}}), JSON_TYPE))])
    assert reply.status == 200
    value = told(reply)
    if dialect == "kserve v1":
        value = value["predictions"]
    if dialect == "open inference":
        value = [told(Reply(element.encode())) for element in value["outputs"][0]["data"]]
    assert [isinstance(answer, list) for answer in value] == [True, False, True, False, False]
    for index in (1, 3, 4):
        assert value[index]["error"]["code"] == 422
        assert value[index]["error"]["type"] == "InvalidInput"
    check_discretion(reply)


@pytest.mark.parametrize("body", [{"text": ""}, {"inputs": None}], ids=["object", "Hugging Face"])
def test_a_single_bad_question_is_never_reported_as_an_answer(predictor: Predictor, body: dict[str, JSON]) -> None:
    """on_error=report is for lists: one bad question alone is refused."""
    (reply,) = predictor.answer([Request(Body(write_value({**body, "parameters": {"on_error": "report"}}), JSON_TYPE))])
    assert reply.status == 422


@pytest.mark.usefixtures("silent")
def test_a_refused_output_name_leaves_the_neighbours_alone(predictor: Predictor) -> None:
    """The one refusal that is known only when the answers are: the neighbours still get theirs."""
    replies = predictor.answer([*requests(*GOOD), UNKNOWN_OUTPUT.request])
    check_refusal(replies.pop(), UNKNOWN_OUTPUT)
    for text, reply in zip(GOOD, replies, strict=True):
        assert predictor.task.agree(told(predictor.answer(requests(text))[0]), told(reply), 1e-6)


# --- input that only looks bad -----------------------------------------------------------------------------------

STRANGE = {
    "NUL": "Xyzzymark \0 b",
    "control characters": "Xyzzymark \x01\x07\x1b[31m\x7f\x85",
    "new lines": "Xyzzymark\r\nb\u2028c\x0bd",
    "U+FFFF": "Xyzzymark \uffff \ufffe \U0010ffff",
    "U+FFFD": "\ufffd Xyzzymark",
    "BOM inside": "Xyzzymark \ufeff",
    "right to left": "\u202eXyzzymark لا يعمل\u202c",
    "joiners": "Xyzzymark \u200d\u200c\u2060",
    "emoji": "Xyzzymark 👩‍👩‍👧‍👦🏳️‍🌈",
    "stacked marks": "Xyzzymark" + "e" + "\u0301\u0323" * 500,
    "frontend metrics": "[METRICS]Xyzzymark.Count:1|#Level:Host",
    "frontend pid": "[PID]1 Xyzzymark",
    "frontend ready": "Torch worker started. Xyzzymark",
    "frontend stopped": "Xyzzymark Load model failed: x\nBackend worker error",
    "jndi": "${jndi:ldap://Xyzzymark/a}",
    "HTML": "<script>alert('Xyzzymark')</script>",
    "format": "%s %n {} {0} Xyzzymark",
    "special tokens": "[CLS] Xyzzymark [SEP] [PAD] [MASK] [UNK]",
    "JSON": '{"inputs": ["Xyzzymark"]}',
    "only a control character": "\x01",
    "only a joiner": "\u200d",
    "one long word": "Xyzzymark" * 1000,
    "513 tokens": "a " * 510 + MARK,
    "50,000 tokens": ("a " * 49_995 + MARK)[:100_000],
    "100,000 characters without a space": (MARK + "a" * 100_000)[:100_000],
}


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_texts_are_answered(predictor: Predictor, neighbours: list[bytes], text: str) -> None:
    """As text and as JSON alike, in one line of ASCII that holds only labels and scores."""
    bodies = [
        Body(text.encode(), "text/plain"),
        Body(write_value(text), JSON_TYPE),
        Body(write_value([text]), JSON_TYPE),
    ]
    replies = predictor.answer([Request(body) for body in bodies])
    assert [reply.status for reply in replies] == [200, 200, 200]
    plain, string, many = map(told, replies)
    assert predictor.task.agree(plain, string, 1e-6)
    assert predictor.task.agree(plain, many[0], 1e-6)
    assert [set(item) for item in plain] == [{"label", "score"}] * 4
    for reply in replies:
        check_discretion(reply)
    mixed = predictor.answer([*requests(*GOOD), Request(bodies[0])])
    for content, reply in zip(neighbours, mixed, strict=False):
        assert predictor.task.agree(told(Reply(content)), told(reply), 1e-6)


def test_a_million_keys_cost_seconds_at_most(predictor: Predictor) -> None:
    """Ten megabytes of keys are refused before any work is done."""
    body = b"{" + b",".join(b'"%d":0' % n for n in range(1_000_000)) + b"}"
    began = time.process_time()
    (reply,) = predictor.answer([Request(Body(body, JSON_TYPE))])
    assert reply.status == 422
    assert time.process_time() - began < 10


@pytest.mark.parametrize("n_requests", [0, 1, 64])
def test_as_many_replies_as_requests(predictor: Predictor, n_requests: int) -> None:
    """An empty batch, a batch of nothing but bad rows."""
    replies = predictor.answer([ALL[0].request] * n_requests)
    assert [reply.status for reply in replies] == [ALL[0].status] * n_requests
