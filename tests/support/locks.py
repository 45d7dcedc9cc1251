"""Write requirements/locks: what images install, with hashes, and lists of it for scanners in deploy/security.

`python -m tests.support.locks` resolves every level, and what compiles the kernels, for all Python versions and
platforms at once, within requirements/constraints.txt; it needs a registry and `uv`. `python -m tests.support.locks
--lists` writes the lists alone, with `cyclonedx-py` of cyclonedx-bom 7.5.0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from scripts.cli.console import ROOT

REQUIREMENTS = ROOT / "requirements"
LOCKS = REQUIREMENTS / "locks"
LEVELS = ("serve", "lean", "slim")
TOOLS = ("compiler",)  # locked as well, and in no image
LISTS = ROOT / "deploy" / "security"
UNLOCKED = re.compile(r"torch|triton|nvidia-.*|cuda-.*")  # what differs between PyTorch's indexes
HEAD = """\
# requirements/{level}.txt and all that it needs, with the SHA-256 of every file that the registry has of each.
# Not in it: torch and its CUDA libraries, which it pins itself: an index of CPU wheels has other files. Made by
#   python -m tests.support.locks
"""


def packages(text: str) -> list[str]:
    """Return the entries of a lock, each with its hashes: `NAME==VERSION [; MARKER]`, then one hash a line."""
    return re.findall(r"(?m)^[a-z0-9].*\n(?:    .*\n)*", text)


def name_of(entry: str) -> str:
    """Return the name of the package of an entry."""
    return re.split(r"[=\[ ;]", entry, maxsplit=1)[0]


def compile_lock(level: str, uv: str = "uv") -> str:
    """Resolve one level; return its lock."""
    command = [uv, "pip", "compile", str(REQUIREMENTS / f"{level}.txt"), "-c", str(REQUIREMENTS / "constraints.txt")]
    command += ["--universal", "--python-version", "3.10", "--generate-hashes", "--no-annotate", "--no-header", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = [entry for entry in packages(done.stdout) if not UNLOCKED.fullmatch(name_of(entry))]
    return HEAD.format(level=level) + "".join(kept)


def listed(level: str) -> list[str]:
    """Return what the list of a level has: every entry of its lock without hashes, and torch where it asks for it."""
    entries = [entry.partition(" \\\n")[0] for entry in packages((LOCKS / f"{level}.txt").read_text(encoding="utf-8"))]
    asked = (REQUIREMENTS / f"{level}.txt").read_text(encoding="utf-8")
    return [*entries, *re.findall(r"(?m)^torch==\S+", asked)]


def write_list(level: str, cyclonedx: str = "cyclonedx-py") -> None:
    """Write the packages of a level as CycloneDX 1.6, named by purls alone: any index may give them."""
    command = [cyclonedx, "requirements", "--output-reproducible", "--spec-version", "1.6", "--of", "JSON", "-"]
    done = subprocess.run(command, input="\n".join(listed(level)), capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    for part in (*document["components"], *document["metadata"].get("tools", {}).get("components", [])):
        part.pop("externalReferences", None)
    (LISTS / f"{level}.cdx.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main(folder: Path = LOCKS) -> None:
    """Write the lock of every level, unless `--lists` asks for the lists alone, and the lists."""
    folder.mkdir(exist_ok=True)
    for level in (*LEVELS, *TOOLS):
        if "--lists" not in sys.argv[1:]:
            (folder / f"{level}.txt").write_text(compile_lock(level), encoding="utf-8")
        if level in LEVELS:
            write_list(level)


if __name__ == "__main__":
    main()
