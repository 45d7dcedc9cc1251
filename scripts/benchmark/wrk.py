"""Load by `wrk`, where it is installed: a client in C takes less of the machine than this process does.

It counts answers by status and does not read them: whoever uses it checks answers before the run.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scripts.benchmark.http import TIMEOUT_S, Endpoint
from scripts.cli.console import ScriptError

SCRIPT = Path(__file__).with_name("wrk.lua")


@cache
def wrk_version() -> str:
    """Return the version of wrk; empty: it is not installed."""
    program = shutil.which("wrk")
    if program is None:
        return ""
    printed = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"wrk (\S+)", printed)
    return match[1] if match else "of unknown version"


def load(
    endpoint: Endpoint, texts: Sequence[str], connections: int, seconds: float, pause_s: float | None = None
) -> dict[str, Any]:
    """Let each connection send one text, and the next when the response is there.

    Args:
        pause_s: mean of the exponentially distributed pause of a connection before each request.

    Returns:
        answers per second, requests sent per second, p50 and p99 in milliseconds, and the numbers of requests that were
        refused (a status above 399) or had no answer.

    Raises:
        ScriptError: wrk did not run.
    """
    with tempfile.NamedTemporaryFile(suffix=".requests") as file:
        for text in texts:
            message = endpoint.message([text])
            file.write(b"%d\n%b" % (len(message), message))
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S:.0f}s"]
        command += ["-s", str(SCRIPT), f"http://{endpoint.host}:{endpoint.port}", "--", file.name]
        command += [] if pause_s is None else [f"{1e3 * pause_s:.3f}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise ScriptError(f"wrk failed: {' '.join((done.stderr or done.stdout).split())[-300:]}")
    counts = json.loads(lines[-1])
    return {
        "texts_per_s": (counts["answers"] - counts["refused"]) / counts["seconds"],
        "sent_per_s": counts["answers"] / counts["seconds"],
        **{name: counts[name] for name in ("p50_ms", "p99_ms", "refused", "failed")},
    }
