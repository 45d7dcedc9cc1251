"""Reference pages made from the code: commands from their --help, settings from their fields, routes from OpenAPI."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from handler.protocol import JSON
from scripts.cli.console import ROOT, ScriptError

SETTINGS = {
    "Of a model: `handler` in model-config.yaml": (ROOT / "handler" / "config.py", "ServingConfig"),
    "Of a model: the other keys of model-config.yaml": (ROOT / "handler" / "config.py", "ModelConfig"),
}


def commands_page() -> str:
    """Return what every command says of itself, subcommands too."""
    names = sorted(path.name for path in (ROOT / "scripts").glob("*.*") if os.access(path, os.X_OK))
    with ThreadPoolExecutor(2) as pool:
        sections = list(pool.map(_command, names))
    return "# Commands\n\nWhat each command prints for `--help`.\n\n" + "\n".join(sections)


def settings_page() -> str:
    """Return every setting of a model with its default and comment, and the files of settings as they are."""
    parts = ["# Settings", ""]
    for title, (file, name) in SETTINGS.items():
        parts += [f"## {title}", "", "| setting | type | default | |", "|---|---|---|---|"]
        parts += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in fields_of(file, name)]
        parts.append("")
    for example in ("config.properties", "model-config.yaml"):
        content = (ROOT / example).read_text(encoding="utf-8").rstrip()
        parts += [f"## {example} as it is delivered", "", f"```{example.rpartition('.')[2]}", content, "```", ""]
    return "\n".join(parts)


def routes_page(document: JSON) -> str:
    """Return the routes, parameters and answers of one model, from its OpenAPI document."""
    info = document["info"]
    parts = [
        "# Routes and parameters",
        "",
        f"Those of the quickstart's model, `{info['title']}` {info['version']}, from the OpenAPI document that"
        " `scripts/package.py` writes beside each archive. Other tasks have other items, answers and parameters:"
        " [Tasks](../tasks.md).",
        "",
        "| route | |",
        "|---|---|",
    ]
    parts += [f"| `POST {path}` | {_cell(route['post']['summary'])} |" for path, route in document["paths"].items()]
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Parameters"):
            parts += ["", f"## {name}", "", "| parameter | default | |", "|---|---|---|"]
            for word, described in schema["properties"].items():
                default = json.dumps(described["default"]) if "default" in described else ""
                parts.append(f"| `{word}` | {_cell(default)} | {_cell(_meaning(described))} |")
    errors = next(iter(document["paths"].values()))["post"]["responses"]
    parts += ["", "## Statuses", "", "| status | |", "|---|---|"]
    parts += [f"| {status} | {_cell(described['description'])} |" for status, described in errors.items()]
    return "\n".join([*parts, ""])


def fields_of(file: Path, name: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and comment of each field of a dataclass, as its source says them."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    owner = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = lines[(node.end_lineno or 1) - 1].partition("  # ")[2]
            default = ast.unparse(node.value) if node.value else ""
            yield f"`{node.target.id}`", f"`{ast.unparse(node.annotation)}`", f"`{default}`" if default else "", comment


def openapi_of(store: Path) -> JSON:
    """Return the OpenAPI document of the quickstart's model.

    Raises:
        ScriptError: there is none.
    """
    file = store / "intents.openapi.json"
    if not file.is_file():
        raise ScriptError(f"no {file}: scripts/quickstart.sh packs the model whose routes the reference shows")
    return json.loads(file.read_text(encoding="utf-8"))


def _command(name: str) -> str:
    text = _help(name)
    words = re.findall(r"(?m)^    ([a-z]+)(?:  |$)", text.partition("COMMAND")[2]) if name == "models.py" else []
    parts = [f"## {name}", "", "```text", text, "```", ""]
    for word in words:
        parts += [f"### {name} {word}", "", "```text", _help(name, word), "```", ""]
    return "\n".join(parts)


def _help(name: str, *words: str) -> str:
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100"}
    command = [str(ROOT / "scripts" / name), *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ScriptError(f"scripts/{name} --help failed: {done.stderr.strip()[-300:]}")
    return done.stdout.replace(str(ROOT) + "/", "").replace(str(ROOT), ".").rstrip()


def _meaning(schema: JSON) -> str:
    accepted = f"one of {json.dumps(schema['enum'])}" if "enum" in schema else ""
    return "; ".join(filter(None, (schema.get("description", ""), accepted))) or str(schema.get("type", ""))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
