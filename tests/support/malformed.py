"""Bad input: every kind that the reliability notes name, and the refusal that each must get.

Every bad body holds `MARK` where a user's text could be; it must appear in no response, header or log. STRANGE are
texts that only look bad, and must be answered.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from handler.protocol import JSON, Body, serialize_value
from handler.request_state import Request
from tests.support.bodies import NOT_JSON, REFUSED_TYPES, binary_body, binary_elements, tensor
from tests.support.samples import JSON_TYPE, TEXTS

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
    return [Request(Body(serialize_value(text), JSON_TYPE)) for text in texts]


# --- bodies that are bad in every codec --------------------------------------------------------------------------

# Where the JSON of one item goes in a body.
TEMPLATES: dict[str, bytes] = {
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
    "control characters": b'"\\u0001\\u001c\\u001f\\u0085"',
    "joiners": b'"\\u200d\\u200b\\u2060"',
    "byte order mark": b'"\\ufeff"',
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
COMPLETED_BY_A_CODEC = ("nothing", "blank", "32 levels")  # bad alone, but not inside every codec
MALFORMED: dict[str, bytes] = {
    **NOT_UTF_8,
    **{
        name: text.replace("a", "a Xyzzymark", 1).encode() if text.startswith('"') else text.encode()
        for name, text in NOT_JSON.items()
        if name not in COMPLETED_BY_A_CODEC
    },
    "equal keys": b'{"text": "Xyzzymark", "text": "Xyzzymark"}',
    "single quotes": b"'Xyzzymark'",
    "bare word": b"Xyzzymark",
    "unterminated object": b'{"text": "Xyzzymark"',
}


def in_every_codec(name: str, item: bytes, status: int, kind: str) -> list[Bad]:
    """Return a bad item in every codec."""
    return [
        bad(f"{name} in {codec}", template.replace(b"%s", item), status, kind) for codec, template in TEMPLATES.items()
    ]


IN_EVERY_CODEC: dict[str, list[Bad]] = {
    **{name: in_every_codec(name, item, 422, "InvalidInput") for name, item in BAD_ITEMS.items()},
    **{name: in_every_codec(name, item, 400, "MalformedBody") for name, item in MALFORMED.items()},
    **{
        name: in_every_codec(name, serialize_value(text), 413, "InputTooLong")
        for name, text in {"100,010 characters": MARK + "a" * 100_001, "a megabyte": MARK + "é " * 500_000}.items()
    },
}

# --- bodies as a whole -------------------------------------------------------------------------------------------

WHOLE = {name: template.replace(b"%s", serialize_value(MARK)) for name, template in TEMPLATES.items()}
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
    bad("10,000 texts", serialize_value(MANY), 413, "InputTooLong"),
    bad("10,000 texts, Hugging Face", serialize_value({"inputs": MANY}), 413, "InputTooLong"),
    bad("10,000 texts, KServe v1", serialize_value({"instances": MANY}), 413, "InputTooLong"),
    bad("10,000 texts, Open Inference v2", serialize_value({"inputs": [tensor(*MANY)]}), 413, "InputTooLong"),
    bad("1,001 texts", serialize_value(MANY[:1001]), 413, "InputTooLong"),
    bad("a thousand bad texts", serialize_value([MARK, *[None] * 999]), 422, "InvalidInput"),
    bad("100,000 keys", serialize_value({f"{MARK}{n}": n for n in range(100_000)}), 422, "InvalidInput"),
    bad(
        "100,000 parameters",
        serialize_value({"inputs": "a", **{f"{MARK}{n}": n for n in range(10_000)}}),
        422,
        "InvalidInput",
    ),
    bad("instances is text", serialize_value({"instances": MARK}), 422, "InvalidInput"),
    bad("instances is an object", serialize_value({"instances": {"data": MARK}}), 422, "InvalidInput"),
    bad("instances is null", serialize_value({"instances": None, "parameters": {}}), 422, "InvalidInput"),
    bad("instances and more", serialize_value({"instances": [MARK], MARK: 1}), 422, "InvalidInput"),
    bad("instances and inputs", serialize_value({"instances": [MARK], "inputs": MARK}), 422, "InvalidInput"),
    bad("signature of TensorFlow", serialize_value({"instances": [MARK], "signature_name": MARK}), 422, "InvalidInput"),
    bad("inputs is empty", serialize_value({"inputs": []}), 422, "InvalidInput"),
    bad("instances is empty", serialize_value({"instances": []}), 422, "InvalidInput"),
]

# --- types and encodings -----------------------------------------------------------------------------------------

OF_ANOTHER_TYPE = [
    *(bad(f"type {kind}", serialize_value(MARK), 415, "UnsupportedMediaType", kind) for kind in REFUSED_TYPES),
    bad("type with a user's word", serialize_value(MARK), 415, "UnsupportedMediaType", f"text/{MARK}"),
    bad(
        "charset with a user's word", serialize_value(MARK), 415, "UnsupportedMediaType", f"text/plain; charset={MARK}"
    ),
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

# --- parameters, in the three codecs that have them-- -----------------------------------------------------------

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
    "top_k a fraction": {"top_k": 1.5},
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
    bad(f"parameters {name} in {codec}", serialize_value({**body, "parameters": value}), 422, "InvalidInput")
    for name, value in BAD_PARAMETERS.items()
    for codec, body in WITH_PARAMETERS.items()
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
    "binary_data is text": {"outputs": [{"name": "label", "parameters": {"binary_data": MARK}}]},
    "binary_data is a number": {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
    "binary_data_output is text": {"parameters": {"binary_data_output": MARK}},
    "binary_data_output is null": {"parameters": {"binary_data_output": None}},
    "one output twice": {"outputs": [{"name": "label"}, {"name": "label", "parameters": {"binary_data": True}}]},
    "unknown key": {MARK: MARK},
}
OF_TENSORS = [
    *(
        bad(f"tensor: {name}", serialize_value({"inputs": value}), 422, "InvalidInput")
        for name, value in BAD_TENSORS.items()
    ),
    *(
        bad(f"Open Inference v2: {name}", serialize_value({"inputs": [tensor(MARK)], **more}), 422, "InvalidInput")
        for name, more in MORE.items()
    ),
    *(
        Bad(name, Request(body), 400, "MalformedBody")
        for name, body in {
            "binary: size too large": binary_body(binary_elements(MARK.encode()), 1000),
            "binary: size below zero": binary_body(binary_elements(MARK.encode()), -1),
            "binary: bytes left over": binary_body(binary_elements(MARK.encode()) + MARK.encode(), 4 + len(MARK)),
            "binary: element past the end": binary_body(b"\xff\xff\xff\xff" + MARK.encode(), 4 + len(MARK)),
            "binary: not UTF-8": binary_body(binary_elements(MARK.encode() + b"\xff"), 5 + len(MARK)),
            "binary: JSON cut": binary_body(binary_elements(MARK.encode()), 4 + len(MARK), json_length=9),
            "binary: no JSON": binary_body(binary_elements(MARK.encode()), 4 + len(MARK), json_length=0),
        }.items()
    ),
    Bad("binary: empty text", Request(binary_body(binary_elements(b""), 4)), 422, "InvalidInput"),
    Bad(
        "binary: two texts for one",
        Request(binary_body(binary_elements(MARK.encode(), b"b"), 9 + len(MARK))),
        422,
        "InvalidInput",
    ),
]

# --- what is asked beside the body -------------------------------------------------------------------------------

BESIDE_THE_BODY = [
    *(
        Bad(
            f"operation {operation}",
            Request(Body(serialize_value(MARK), JSON_TYPE), operation),
            404,
            "UnknownOperation",
        )
        for operation in ("nonsense", MARK, "predict/more", "../predict", "Predict", " ", "%00", "é")
    ),
    *(
        Bad(f"explain {name}", Request(Body(body, JSON_TYPE), "tokenise", explain=True), 404, "UnknownOperation")
        for name, body in WHOLE.items()
        if name not in ("kserve v1", "open inference")  # whose routes have no operation in their path
    ),
    *(
        Bad(
            f"deadline {deadline}",
            Request(Body(serialize_value(MARK), JSON_TYPE), deadline_ms=deadline),
            504,
            "Expired",
        )
        for deadline in (0.0, -1.0, 1.0, 1e12)
    ),
    Bad("deadline of a malformed body", Request(Body(b"'Xyzzymark", JSON_TYPE), deadline_ms=1.0), 504, "Expired"),
]

ONE_BY_ONE = [*AS_A_WHOLE, *OF_ANOTHER_TYPE, *OF_BAD_PARAMETERS, *OF_TENSORS, *BESIDE_THE_BODY]
ALL = [*(case for cases in IN_EVERY_CODEC.values() for case in cases), *ONE_BY_ONE]
UNKNOWN_OUTPUT = Bad(
    "Open Inference v2: unknown output",
    Request(Body(serialize_value({"inputs": [tensor(MARK)], "outputs": [{"name": MARK}]}), JSON_TYPE)),
    422,
    "InvalidInput",
)


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
    "one long word": "Xyzzymark" * 1000,
    "513 tokens": "a " * 510 + MARK,
    "50,000 tokens": ("a " * 49_995 + MARK)[:100_000],
    "100,000 characters without a space": (MARK + "a" * 100_000)[:100_000],
}


# --- over HTTP ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A request as it is sent to a server, and the statuses that it may get; 0 is none, the connection ended."""

    name: str
    path: str
    statuses: tuple[int, ...]
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    leaves: bool = False  # the client ends the connection when it has sent everything
    is_raw: bool = False  # content is all that is sent, head included

    def __str__(self) -> str:
        return self.name

    def message(self, key: str) -> bytes:
        """Return the bytes to send."""
        usual = {"Host": "localhost", "Authorization": f"Bearer {key}", "Content-Length": str(len(self.content))}
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            *(f"{name}: {text}" for name, text in {**usual, **self.headers}.items()),
        ]
        return self.content if self.is_raw else "\r\n".join([*lines, "", ""]).encode() + self.content


def over_http(case: Bad, model: str) -> Sent | None:
    """Return a bad request as it is sent to a server; None where HTTP cannot say it."""
    request, body = case.request, case.request.body
    if body.content is None or not body.typed:
        return None
    headers = {"Content-Type": body.content_type, "Content-Encoding": body.content_encoding}
    if body.json_length is not None:
        headers["Inference-Header-Content-Length"] = str(body.json_length)
    if request.deadline_ms is not None:
        headers["x-request-deadline-ms"] = str(request.deadline_ms)
    path = f"/{'explanations' if request.explain else 'predictions'}/{model}"
    path += f"/1.0/{quote(request.operation)}" if request.operation else ""
    given = {name: text for name, text in headers.items() if text}
    return Sent(case.name, path, (case.status,), body.content, given)


def only_over_http(model: str) -> list[Sent]:
    """Return what goes wrong before a handler sees a body: forms, lengths, methods, paths, clients that leave."""
    path, json_type = f"/predictions/{model}", {"Content-Type": JSON_TYPE}
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\nXyzzymark\r\n'
    text = {"Content-Type": "text/plain"}
    return [
        Sent("gzip", path, (415,), gzip.compress(b'"Xyzzymark"'), {**json_type, "Content-Encoding": "gzip"}),
        Sent("curl -d", path, (415,), b"Xyzzymark", {"Content-Type": "application/x-www-form-urlencoded"}),
        Sent("form without a field", path, (415,), b"", form),
        Sent("form without data", path, (415,), part % 1 + b"--x--\r\n", form),
        Sent("form without a boundary", path, (415,), b"data=Xyzzymark", {"Content-Type": "multipart/form-data"}),
        Sent("form that is cut", path, (415,), part[:-12] % 1, form),
        Sent("form of 10,000 parts", path, (415,), b"".join(part % n for n in range(10_000)) + b"--x--\r\n", form),
        Sent(
            "fields of 10,000 names",
            path,
            (415,),
            b"&".join(b"%d=Xyzzymark" % n for n in range(10_000)),
            {"Content-Type": "application/x-www-form-urlencoded"},
        ),
        Sent("unknown model", "/predictions/Xyzzymark", (404,), b"a", text),
        Sent("unknown version", f"{path}/9.9", (404,), b"a", text),
        Sent("unknown route", "/Xyzzymark", (404,), b"a", text),
        Sent("bad escape in a path", f"{path}/1.0/%zz", (400, 403, 404), b"a", text),
        Sent("bad escape in a model", "/predictions/%", (400, 403, 404), b"a", text),
        Sent("no body", path, (400, 415), b"", {}, "GET"),
        *(
            Sent(f"method {method}", path, (400, 404, 405, 415), b"", {}, method)
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "XYZZY")
        ),
        Sent("more than max_request_size", path, (413,), b"a" * 7_000_000, text),
        Sent("a long path", f"{path}/1.0/" + "a" * 10_000, (400, 404, 414), b"a", text),
        Sent("a long header", path, (400, 431), b"a", {**text, "x-request-id": "a" * 100_000}),
        Sent(
            "fewer bytes than Content-Length", path, (0,), b"Xyzzymark", {**text, "Content-Length": "1000"}, leaves=True
        ),
        Sent(
            "a head that is cut",
            path,
            (0,),
            f"POST {path} HTTP/1.1\r\nHost: a\r\nConte".encode(),
            leaves=True,
            is_raw=True,
        ),
        Sent("no HTTP", path, (0, 400), bytes(range(256)) + b"\r\n\r\n", is_raw=True),
    ]
