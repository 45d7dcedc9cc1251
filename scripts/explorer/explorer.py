"""What each control of the page does: from what a person chose and typed to what the page shows. It keeps nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from scripts.cli.console import ScriptError
from scripts.client.http import Management, Model
from scripts.client.server import Server
from scripts.explorer.answers import ANSWERS, html_of, message_html
from scripts.explorer.asking import Answered, Ask, curl_lines, parameters_of, python_lines, send
from scripts.explorer.catalogue import UNKNOWN, DescribedModel, Operation, models_of, state_of
from scripts.explorer.reports import report_html


@dataclass(frozen=True)
class OtherServer:
    """Another server than the command line's: its addresses and keys, as typed. Empty: the command line's."""

    inference: str = ""
    management: str = ""
    inference_key: str = ""
    management_key: str = ""


@dataclass(frozen=True)
class View:
    """What a server serves now."""

    status: str  # HTML
    is_ready: bool
    models: Mapping[str, list[Model]] = field(default_factory=dict)


@dataclass(frozen=True)
class Typed:
    """What the fields of a question hold."""

    model: str
    version: str | None = None  # None: the default version
    other_version: str | None = None  # to compare with
    operation: str = ""  # the label of one
    first: str = ""
    second: str = ""
    each_line: bool = True
    parameters: str = ""
    target: str = ""  # of an explanation


@dataclass(frozen=True)
class Shown:
    """What a question brings to the page."""

    answers: str  # HTML
    other: str = ""  # HTML, of the version to compare with
    details: str = ""  # HTML
    raw: str = ""  # JSON
    curl: str = ""
    python: str = ""


class Explorer:
    """The page's functions for one server, and for others where they are allowed."""

    def __init__(self, server: Server, report: Path, *, others: bool) -> None:
        """Refer to the server of the command line.

        Args:
            report: where an evaluation wrote its page.
            others: whether a person may name another server; who reaches the page could otherwise use it as a proxy.
        """
        self.default, self.report, self.others = server, report, others

    def server(self, address: OtherServer) -> Server:
        """Return the server of an address.

        Raises:
            ScriptError: an address or a key is malformed or without the inference address, or other servers are not
                allowed here.
        """
        if not any(map(str.strip, vars(address).values())):
            return self.default
        if not self.others:
            raise ScriptError("this playground asks the server that it was started for, and no other one")
        if not address.inference.strip():
            raise ScriptError("the inference address of the other server is missing: type it, or empty all four fields")
        keys = {"inference": address.inference_key.strip(), "management": address.management_key.strip()}
        given = {port: key for port, key in keys.items() if key}
        return Server.at(address.inference.strip(), address.management.strip() or None, given)

    def look(self, address: OtherServer) -> View:
        """Return what a server serves, or why nothing can be asked."""
        try:
            server = self.server(address)
            if not server.management:
                message = "Without the management address there is no list of models: type the name of one"
                return View(message_html(message, "note"), is_ready=True)
            models = models_of(Management(server))
        except ScriptError as error:
            return View(message_html(f"Not ready: {error}"), is_ready=False)
        is_ready, sentence = state_of(models)
        return View(message_html(sentence, "good" if is_ready else "bad"), is_ready, models)

    def describe(self, address: OtherServer, model: str, version: str | None) -> tuple[DescribedModel, str]:
        """Return what a model can be asked, and HTML about it; every operation where nothing is known."""
        try:
            server = self.server(address)
            if not server.management or not model:
                return UNKNOWN, ""
            served = DescribedModel.of(Management(server).describe(model, version))
        except ScriptError as error:
            return UNKNOWN, message_html(str(error))
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in served.facts.items()
        )
        return served, f'<div class="{ANSWERS}"><table class="facts">{rows}</table></div>'

    def ask(self, address: OtherServer, typed: Typed, *, explain: bool = False) -> Shown:
        """Ask the model, and the version to compare it with; a failure is shown in the place of an answer."""
        try:
            server = self.server(address)
            served, _ = self.describe(address, typed.model, typed.version)
            ask = question_of(typed, _operation(served, typed.operation), explain=explain)
        except ScriptError as error:
            return Shown(message_html(str(error)))
        lines = (curl_lines(server, ask), python_lines(server, ask))
        try:
            answered = send(server, ask)
        except ScriptError as error:
            return Shown(message_html(str(error)), "", "", "", *lines)
        other = self._other(server, ask, typed.other_version, answered)
        version = ask.version or served.facts.get("version", "(default version)")
        title = f"{ask.model} {version}" if other else ""
        raw = json.dumps(answered.reply.answer, ensure_ascii=False, indent=1)
        return Shown(html_of(answered, title), other, details_html(answered), raw, *lines)

    def report_of(self, model: str) -> str:
        """Return the report of the evaluation of a model, as HTML."""
        return report_html(self.report, model)

    def _other(self, server: Server, ask: Ask, version: str | None, first: Answered) -> str:
        if not version:
            return ""
        try:
            second = Ask(ask.model, version, ask.operation, ask.questions, ask.parameters, ask.explain)
            return html_of(send(server, second), f"{ask.model} {version}", None if ask.explain else first)
        except ScriptError as error:
            return message_html(f"{ask.model} {version}: {error}")


def question_of(typed: Typed, operation: Operation, *, explain: bool = False) -> Ask:
    """Return the request that the fields describe.

    Raises:
        ScriptError: a field is empty or malformed.
    """
    if not typed.model.strip():
        raise ScriptError("choose a model")
    questions, parameters = operation.form.questions(typed.first, typed.second, each_line=typed.each_line)
    parameters |= parameters_of(typed.parameters)
    if explain and typed.target.strip():
        parameters["target"] = typed.target.strip()
    return Ask(typed.model.strip(), typed.version or None, operation, questions, parameters, explain)


def details_html(answered: Answered) -> str:
    """Return the time of a request and the headers of its answer as HTML."""
    headers = {name: value for name, value in sorted(answered.reply.headers.items()) if name.startswith("x-")}
    measured = {"measured here": f"{answered.reply.seconds * 1000:.1f} ms, network included"}
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in {**measured, **headers}.items()
    )
    return f'<div class="{ANSWERS}"><table class="facts">{rows}</table></div>'


def parameters_help(operation: Operation) -> str:
    """Return the parameters that an operation accepts, as HTML."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_accepted(schema))}</td></tr>"
        for name, schema in operation.parameters.items()
        if name not in ("on_error", "operation")
    )
    return f'<div class="{ANSWERS}"><table class="facts">{rows}</table></div>' if rows else ""


def _accepted(schema: Mapping[str, object]) -> str:
    parts = [str(schema.get("description", ""))]
    if "enum" in schema:
        parts.append(f"one of {json.dumps(schema['enum'])}")
    if schema.get("default") is not None:
        parts.append(f"default {json.dumps(schema['default'])}")
    return "; ".join(part for part in parts if part) or str(schema.get("type", ""))


def _operation(served: DescribedModel, label: str) -> Operation:
    if label and label not in served.operations:
        raise ScriptError(f"this model has no operation {label}: choose one of {', '.join(served.operations)}")
    return served.operations[label] if label else next(iter(served.operations.values()))
