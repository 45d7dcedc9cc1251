"""The settings of the TorchServe server that runs this worker, which TorchServe 0.12 does not pass to its workers.

The server is the worker's parent process. Its file of settings is found as the server finds it (ConfigManager.java):
TS_CONFIG_FILE in the environment, which workers inherit, else the option of its command line, else
`config.properties` in its working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

DEFAULT_MAX_RESPONSE_SIZE = 6_553_500  # bytes of one answer
CONFIG_OPTIONS = ("-f", "--ts-config-file")
SEPARATOR = re.compile(r"(?<!\\)(?:[ \t\f]*[=:][ \t\f]*|[ \t\f]+)")  # of key and value in Java properties


def max_response_size(server: Path | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Return the bytes of the largest answer that the server accepts from a worker.

    A longer answer ends the worker, and every request of its batch gets 500.

    Args:
        server: folder of the server in /proc; by default that of the parent process.
        environment: of the server; by default that of this process, which inherits it.
    """
    environment = os.environ if environment is None else environment
    settings = server_settings(server or Path(f"/proc/{os.getppid()}"), environment)
    value = settings.get("max_response_size", "")
    if settings.get("enable_envvars_config", "").lower() == "true":
        value = environment.get("TS_MAX_RESPONSE_SIZE", value)
    return int(value) if value.isdecimal() else DEFAULT_MAX_RESPONSE_SIZE


def server_settings(server: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in the file of a server; none if it has no file, or none that this process may read."""
    try:
        command = (server / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        path = environment.get("TS_CONFIG_FILE") or _option(command, CONFIG_OPTIONS) or "config.properties"
        text = (server / "cwd" / path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return parse_properties(text)


def parse_properties(text: str) -> dict[str, str]:
    r"""Parse a file of Java properties as `java.util.Properties.load` does; the last of equal keys wins.

    >>> parse_properties("# comment\na=1 \nb : 2\nc 3\nd=x,\\\n   y")
    {'a': '1 ', 'b': '2', 'c': '3', 'd': 'x,y'}
    """
    lines: list[str] = []
    continued = False
    for line in re.split(r"\r\n|\r|\n", text):
        stripped = line.lstrip(" \t\f")
        if continued:
            lines[-1] += stripped
        elif not stripped or stripped[0] in "#!":
            continue
        else:
            lines.append(stripped)
        backslashes = len(line) - len(line.rstrip("\\"))
        continued = backslashes % 2 == 1
        if continued:
            lines[-1] = lines[-1][:-1]
    settings = {}
    for line in lines:
        key, value = SEPARATOR.split(line, maxsplit=1) if SEPARATOR.search(line) else (line, "")
        settings[_unescape(key)] = _unescape(value)
    return settings


def _unescape(text: str) -> str:
    """Replace the escapes of Java properties."""
    letters = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}

    def character(match: re.Match[str]) -> str:
        code, letter = match.group(1), match.group(2)
        return chr(int(code, 16)) if code else letters.get(letter, letter)

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.?))", character, text)


def _option(command: Sequence[str], names: Sequence[str]) -> str | None:
    return next((value for name, value in pairwise(command) if name in names), None)
