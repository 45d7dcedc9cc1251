"""The field `data` of a form, as TorchServe hands it to a handler."""

from __future__ import annotations

import asyncio
import threading

import pytest

from server.errors import ApiError
from server.forms import data_field
from server.reading import INLINE_BYTES, read_body

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"


def part(content: bytes, name: bytes = b"data", *headers: bytes) -> bytes:
    """Return one part of a multipart form."""
    lines = [b"--x", b'Content-Disposition: form-data; name="' + name + b'"', *headers, b"", content, b""]
    return b"\r\n".join(lines)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"data=Where+is+it%3F", b"Where is it?"),
        (b"a=1&data=one&data=two", b"two"),
        (b"data=", b""),
        (b"Where is it?", None),
        (b"data", None),
        (b"", None),
    ],
)
def test_urlencoded(content: bytes, expected: bytes | None) -> None:
    """The last field `data`, unquoted."""
    assert data_field(content, URLENCODED) == (expected, "text/plain")


def test_a_bad_escape_is_named_without_the_text() -> None:
    """TorchServe answers 500 and quotes it."""
    with pytest.raises(ApiError, match="data has a %") as refused:
        data_field(b"data=secret%zz", URLENCODED)
    assert (refused.value.status, "secret" in refused.value.message) == (400, False)


def test_multipart() -> None:
    """Other parts are ignored, the last `data` counts, with its own content type."""
    content = part(b"one") + part(b"b", b"other") + part(b'["two"]', b"data", b"Content-Type: application/json")
    assert data_field(content + b"--x--\r\n", MULTIPART) == (b'["two"]', "application/json")
    assert data_field(part(b"a", b"other") + b"--x--\r\n", MULTIPART) == (None, "text/plain")


@pytest.mark.parametrize("content", [b"", b"data=a", part(b"cut")[:-4], b"\x00" * 50])
def test_a_broken_form_has_no_field(content: bytes) -> None:
    """No exception, and no part that did not come to its end."""
    assert data_field(content, MULTIPART)[0] is None
    assert data_field(part(b"a") + b"--x--\r\n", "multipart/form-data")[0] is None


@pytest.mark.parametrize(("length", "inline"), [(INLINE_BYTES, True), (INLINE_BYTES + 1, False)])
def test_a_long_body_is_read_beside_the_event_loop(length: int, inline: bool) -> None:
    """A form of 6 MB may have 100,000 parts, whose parsing takes a second."""

    def thread(_: bytes) -> str:
        return threading.current_thread().name

    own, content = threading.current_thread().name, bytes(length)
    assert (asyncio.run(read_body(content, thread, content)) == own) == inline
