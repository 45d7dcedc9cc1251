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

from handler import properties

DEFAULT_MAX_RESPONSE_SIZE = 6_553_500  # bytes of one answer
CONFIG_OPTIONS = ("-f", "--ts-config-file")
VARIABLE = re.compile(r"\$\$([^$]+[^$])\$\$")  # in a value: that of the environment


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
        settings = properties.loads((server / "cwd" / path).read_bytes())
    except (OSError, ValueError):
        return {}
    return {
        key: VARIABLE.sub(lambda match: environment.get(match[1], match[0]), value) for key, value in settings.items()
    }


def _option(command: Sequence[str], names: Sequence[str]) -> str | None:
    return next((value for name, value in pairwise(command) if name in names), None)
