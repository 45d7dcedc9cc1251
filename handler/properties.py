"""Read a file of settings as java.util.Properties.load does (Java 17 and 21), because TorchServe does.

It differs from what a line `key=value` suggests: a blank at the end belongs to the value; `:` and a blank separate as
`=` does; a backslash at the end of a line continues it; `\\u` and four digits are a character; `!` begins a comment as
`#` does; bytes are ISO 8859-1, not UTF-8; a key without a value gets an empty one. One difference: a last line that is
only a backslash, which sets an empty key in Java, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

BLANKS = " \t\f"
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "f": "\f"}


def loads(content: bytes) -> dict[str, str]:
    """Return keys and values; of equal keys the last wins.

    Raises:
        ValueError: a `\\u` without four hexadecimal digits, for which Java raises IllegalArgumentException.

    >>> loads(b"a = 1 \\nb:2\\nc 3\\n! d=4\\ne=5,\\\\\\n  6\\nf\\n")
    {'a': '1 ', 'b': '2', 'c': '3', 'e': '5,6', 'f': ''}
    """
    return dict(map(_pair, _logical_lines(content.decode("latin-1"))))


def _logical_lines(text: str) -> Iterator[str]:
    """Yield lines without comments, blank lines and leading blanks; continued lines as one."""
    line = ""
    continues = False  # the line before ended in a backslash
    for natural in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        part = natural.lstrip(BLANKS)
        if not line and (part[:1] in ("#", "!") or not part):
            continues = False
            continue
        n_backslashes = len(part) - len(part.rstrip("\\"))
        continues = n_backslashes % 2 == 1
        line += part[:-1] if continues else part
        if line and not continues:
            yield line
            line = ""
    if line:
        yield line


def _pair(line: str) -> tuple[str, str]:
    """Split a line at the first separator that no backslash precedes."""
    at, escaped = 0, False
    while at < len(line) and (escaped or line[at] not in f"=:{BLANKS}"):
        escaped = line[at] == "\\" and not escaped
        at += 1
    value = line[at:].lstrip(BLANKS)
    if value[:1] in ("=", ":"):
        value = value[1:].lstrip(BLANKS)
    return _unescape(line[:at]), _unescape(value)


def _unescape(word: str) -> str:
    """Replace escapes; a backslash before any other character vanishes."""
    if "\\" not in word:
        return word
    units: list[str] = []
    at = 0
    while at < len(word):
        if word[at] != "\\" or at + 1 == len(word):
            units.append(word[at])
            at += 1
        elif word[at + 1] == "u":
            digits = word[at + 2 : at + 6]
            if len(digits) < 4 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                raise ValueError("a \\u without four hexadecimal digits")
            units.append(chr(int(digits, 16)))
            at += 6
        else:
            units.append(ESCAPES.get(word[at + 1], word[at + 1]))
            at += 2
    return "".join(units).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
