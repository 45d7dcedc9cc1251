"""handler/properties.py: a file says what java.util.Properties reads in it.

Each case was run through java.util.Properties of Java 21.0.8 (November 2026). Random files showed one known difference:
a last line that is only a backslash sets an empty key in Java, and nothing here.
"""

from __future__ import annotations

import pytest

from handler.properties import loads


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (b"a=1", {"a": "1"}),
        (b"a=1 \n", {"a": "1 "}),
        (b" \t\fa \t=\f 1", {"a": "1"}),
        (b"a:1\nb 2\nc\t=3\nd = = 4", {"a": "1", "b": "2", "c": "3", "d": "= 4"}),
        (b"a==1\na:=2", {"a": "=2"}),
        (b"# a=1\n  ! b=2\nc=3 # d\n", {"c": "3 # d"}),
        (b"# a=1\\\nb=2", {"b": "2"}),
        (b"a=1,\\\n   2,\\\r\n\t3", {"a": "1,2,3"}),
        (b"a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        (b"a=1\\\n# b=2", {"a": "1# b=2"}),
        (b"a=1\\\n\nb=2", {"a": "1", "b": "2"}),
        (b"a\\=b=1\na\\ c\\:d:2", {"a=b": "1", "a c:d": "2"}),
        (b"a=\\t\\n\\r\\f\\q\\\\", {"a": "\t\n\r\fq\\"}),
        (b"a=\\u00e9\\uD83D\\uDE00", {"a": "é😀"}),
        ("a=é".encode(), {"a": "Ã©"}),
        (b"a\nb=\n=c\n", {"a": "", "b": "", "": "c"}),
        (b"a=1\ra=2\r\na=3", {"a": "3"}),
        (b"", {}),
    ],
)
def test_as_java_reads_it(content: bytes, settings: dict[str, str]) -> None:
    """Separators, blanks, comments, continued lines, escapes, bytes."""
    assert loads(content) == settings


@pytest.mark.parametrize("content", [b"a=\\u12", b"a=\\u00g0", b"\\u=1"])
def test_what_java_refuses(content: bytes) -> None:
    """TorchServe ends with `Malformed \\uxxxx encoding.`"""
    with pytest.raises(ValueError, match="four hexadecimal digits"):
        loads(content)
