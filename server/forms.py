"""The field `data` of a form: what TorchServe hands to a handler of a multipart or urlencoded body."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.errors import bad_request

FIELD = b"data"
BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def data_field(content: bytes, content_type: str) -> tuple[bytes | None, str]:
    """Return the content and the content type of the last field `data`; None where there is none."""
    media, options = parse_options_header(content_type)
    if media != b"multipart/form-data":
        return _urlencoded(content), "text/plain"
    boundary = options.get(b"boundary")
    return _multipart(content, boundary) if boundary else (None, "text/plain")


def _urlencoded(content: bytes) -> bytes | None:
    value = None
    for pair in content.split(b"&"):
        name, separator, raw = pair.partition(b"=")
        if separator and unquote_to_bytes(name) == FIELD:
            if BAD_ESCAPE.search(raw):
                raise bad_request("the field data has a % without two hexadecimal digits")
            value = unquote_to_bytes(raw.replace(b"+", b" "))
    return value


def _multipart(content: bytes, boundary: bytes) -> tuple[bytes | None, str]:
    """Return the last whole part named `data`; a form that is broken behind it counts as if it ended there."""
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(content)
    except FormParserError:
        pass
    return parts.content, parts.content_type


class _Parts:
    """Collects the parts of a form as the parser finds them."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.content_type = "text/plain"
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._part = bytearray(), bytearray(), bytearray()

    def callbacks(self) -> dict[str, object]:
        """Return the callbacks of the parser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._part.extend(data[start:end]),
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._headers = {}
        self._part = bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if options.get(b"name") == FIELD:
            self.content = bytes(self._part)
            self.content_type = self._headers.get(b"content-type", b"text/plain").decode("latin-1")
