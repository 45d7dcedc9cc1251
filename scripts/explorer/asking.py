"""One request of the page, its answers, and the lines of curl and Python that ask the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.http import Inference, Reply, path_of
from scripts.client.server import Server
from scripts.explorer.catalogue import Operation

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Ask:
    """One request: questions for one version of a model."""

    model: str
    version: str | None  # None: the default version
    operation: Operation
    questions: list[JSON]
    parameters: Mapping[str, JSON]
    explain: bool = False

    @property
    def path(self) -> str:
        """The path of the request."""
        return path_of("explanations" if self.explain else "predictions", self.model, self.version)

    @property
    def body(self) -> JSON:
        """The body: a list, in which each question has an answer or an error of its own, also where there is one alone.

        A text alone would get the answer inside a list from some tasks and not from others, as Hugging Face's clients
        expect it.
        """
        parameters = dict(self.parameters)
        if self.operation.word:
            parameters["operation"] = self.operation.word
        return {"inputs": self.questions, "parameters": {**parameters, "on_error": "report"}}

    @property
    def content(self) -> bytes:
        """The bytes of the body."""
        try:
            return json.dumps(self.body, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a character
            return json.dumps(self.body).encode()


@dataclass(frozen=True)
class Answered:
    """The answers to one request, in the order of its questions."""

    ask: Ask
    answers: list[JSON]
    reply: Reply


def send(server: Server, ask: Ask) -> Answered:
    """Send one request.

    Raises:
        ScriptError: there is no server, no such model, a wrong key, or the server refuses the request.
    """
    reply = Inference(server).reply(ask.path, ask.content, TIMEOUT_S)
    answers = reply.answer
    if not isinstance(answers, list) or len(answers) != len(ask.questions):
        raise ScriptError(f"{ask.model} did not answer {len(ask.questions)} texts with as many answers")
    return Answered(ask, answers, reply)


def parameters_of(text: str) -> dict[str, JSON]:
    """Parse the parameters that a person typed; nothing is an empty object.

    Raises:
        ScriptError: it is no JSON object.
    """
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ScriptError(f'the parameters are no JSON, as {{"top_k": 3}} is: {error}') from None
    if not isinstance(value, dict):
        raise ScriptError('the parameters are an object with names and values, as {"top_k": 3}')
    return value


def curl_lines(server: Server, ask: Ask) -> str:
    """Return the lines of a shell that send the same request; the key stays in its file."""
    lines = []
    authorization = ""
    if server.authorized:
        lines = [_shell_key(server)]
        authorization = ' -H "Authorization: Bearer $KEY"'
    address = shlex.quote(server.inference + ask.path)
    body = shlex.quote(json.dumps(ask.body, ensure_ascii=False))
    return "\n".join(
        [*lines, f"curl -s {address}{authorization} \\", f"  -H 'Content-Type: application/json' -d {body}"]
    )


def python_lines(server: Server, ask: Ask) -> str:
    """Return the lines of Python that send the same request; the key stays in its file."""
    imports, key, headers = "import requests", "", ""
    if server.authorized and server.keys is None:
        imports = "import json\nfrom pathlib import Path\n\nimport requests"
        key = f'key = json.loads(Path({str(server.key_file)!r}).read_text())["inference"]["key"]\n'
    elif server.authorized:
        imports = "import os\n\nimport requests"
        key = 'key = os.environ["KEY"]  # the inference key of this server\n'
    if server.authorized:
        headers = '    headers={"Authorization": f"Bearer {key}"},\n'
    return (
        f"{imports}\n\n{key}response = requests.post(\n    {server.inference + ask.path!r},\n{headers}"
        f"    json={ask.body!r},\n    timeout={TIMEOUT_S:.0f},\n)\nprint(response.status_code, response.json())"
    )


def _shell_key(server: Server) -> str:
    if server.keys is not None:
        return ': "${KEY:?the inference key of this server}"'
    path = json.dumps(str(server.key_file))  # a literal of Python too, in quotes that a shell need not escape
    program = f'import json; print(json.load(open({path}))["inference"]["key"])'
    return f"KEY=$(python3 -c {shlex.quote(program)})"
