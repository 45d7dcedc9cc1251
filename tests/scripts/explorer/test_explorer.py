"""The playground without a browser: every task asked through its form, what it shows, what it sends, what it refuses.

`python -m tests.browser` uses the page itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from handler.description import describe
from handler.protocol import JSON
from handler.tasks import TASKS
from scripts.client.http import Reply
from scripts.client.server import Server
from scripts.explorer.answers import bars, html_of, matrix
from scripts.explorer.asking import Answered, Ask, curl_lines, python_lines
from scripts.explorer.catalogue import DescribedModel
from scripts.explorer.explorer import Explorer, OtherServer, Typed, parameters_help, question_of
from scripts.explorer.forms import FORMS
from scripts.explorer.serving import is_loopback, middleware
from scripts.explorer.spans import Span, highlighted
from tests.support.fake_server import INFERENCE_KEY, MANAGEMENT_KEY, FakeServer
from tests.support.live import activated
from tests.support.samples import MODELS, LoadMain

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound
HOSTILE = "<script>alert(1)</script> & \"double\" 'single' $HOME `id` é"
CAPITALS: JSON = {  # what the fake server says of its model
    "task": "text-classification",
    "labels": ["A"],
    "operations": {"predict": "text-classification", "classify": "text-classification"},
    "explained": [],
}


@pytest.fixture
def fake(fake_server: FakeServer) -> FakeServer:
    """Return a running server whose model says what it can be asked."""
    fake_server.description = CAPITALS
    return fake_server


@pytest.fixture
def explorer(fake: FakeServer, tmp_path: Path) -> Explorer:
    """Return the playground of a running server."""
    return Explorer(Server.read(fake.config, fake.run_dir), tmp_path / "report.html", others=True)


def visible(html: str) -> str:
    """Return the text of HTML as a person reads it."""
    return unescape(re.sub(r"<[^>]*>", " ", html))


def test_every_task_has_a_form() -> None:
    """With the operation that the task has."""
    assert {name: form.operation for name, form in FORMS.items()} == {
        name: task.operation for name, task in TASKS.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_example_of_every_operation_is_answered_and_shown(name: str, load_main: LoadMain) -> None:
    """Description, form, request, answer and HTML fit together; explanations too."""
    predictor = load_main(name)
    served = DescribedModel.of(describe(predictor))
    assert served.facts["task"] == name
    assert next(iter(served.operations)) == FORMS[name].operation
    for label, operation in served.operations.items():
        first, second = operation.form.fill(operation.example, operation.example_parameters)
        typed = Typed("m", operation=label, first=first, second=second)
        for explain in [False, True] if operation.explained else [False]:
            ask = question_of(typed, operation, explain=explain)
            assert ask.body["inputs"] == ask.questions, "a text alone gets a list in a list from a classifier"
            parameters = {**ask.parameters, **({"operation": operation.word} if operation.word else {})}
            answers = predictor.answer_items(ask.questions, parameters, explain=explain)
            assert not any("error" in answer for answer in answers if isinstance(answer, dict)), answers
            html = html_of(Answered(ask, answers, Reply(answers, {}, 0.1)))
            assert "<pre>" not in html, "shown as JSON"
            assert first.splitlines()[0].split()[0].lower() in visible(html).lower()
        assert set(operation.parameters) - {"operation", "on_error"} <= set(visible(parameters_help(operation)).split())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("token-classification", {"aggregation_strategy": "none"}),
        ("question-answering", {"top_k": 3}),
        ("question-answering", {"handle_impossible_answer": True}),
        ("fill-mask", {"top_k": 2}),
        ("text-classification", {"function_to_apply": "none"}),
    ],
)
def test_parameters_that_change_an_answer(name: str, parameters: JSON, load_main: LoadMain) -> None:
    """The answer is shown by its task's view, not as JSON."""
    predictor = load_main(name)
    operation = next(iter(DescribedModel.of(describe(predictor)).operations.values()))
    ask = Ask("m", None, operation, [operation.example], parameters)
    answers = predictor.answer_items(ask.questions, parameters)
    assert "<pre>" not in html_of(Answered(ask, answers, Reply(answers, {}, 0.1)))


def test_judged_rankings() -> None:
    """The set of labels and the abstention of a calibrated model."""
    ranking = [{"label": "a", "score": 0.6}]
    answer = {"ranking": ranking, "abstained": True, "set": ["a", "b"], "coverage": 0.95}
    text = visible(html_of(answered(answer, "text-classification")))
    assert "abstained" in text
    assert "in 95%:  a, b" in text


def test_a_ranking_is_numbered_by_place() -> None:
    """Not by where a text stands in the box: the first one is the best."""
    ranking = [{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}]
    text = visible(html_of(answered(ranking, "rerank", {"query": "q", "texts": ["worse", "better"]})))
    assert "1. better" in text
    assert "2. worse" in text


def answered(answer: JSON, task: str, question: JSON = "text") -> Answered:
    """Return one answer as it came."""
    operation = next(iter(DescribedModel.of({"operations": {"predict": task}}).operations.values()))
    return Answered(Ask("m", None, operation, [question], {}), [answer], Reply(answer, {}, 0.1))


def test_nothing_that_a_person_or_a_model_wrote_becomes_markup() -> None:
    """Texts, labels, tokens, errors, names, values of headers."""
    label = {"label": HOSTILE, "score": 0.5, "word": HOSTILE, "start": 0, "end": 3, "entity_group": HOSTILE}
    token = {"token_str": HOSTILE, "sequence": HOSTILE, "score": 0.5}
    for task, answer, question in (
        ("text-classification", [label], HOSTILE),
        ("token-classification", [label], HOSTILE),
        ("question-answering", {**label, "answer": HOSTILE}, {"question": HOSTILE, "context": HOSTILE}),
        ("fill-mask", [token], HOSTILE),
        ("rerank", [{"index": 0, "score": 0.5}], {"query": HOSTILE, "texts": [HOSTILE]}),
        ("text-classification", {"error": {"code": 422, "type": HOSTILE, "message": HOSTILE}}, HOSTILE),
        ("text-classification", {"another shape": HOSTILE}, HOSTILE),
    ):
        html = html_of(answered(answer, task, question), HOSTILE)
        assert "<script" not in html
        assert "alert(1)" in visible(html)
    assert "<script" not in matrix([HOSTILE] * 2, [[1.0, 0.5], [0.5, 1.0]]) + bars([(HOSTILE, 0.1)])


def test_spans_that_overlap_or_are_empty() -> None:
    """The text stays whole."""
    spans = [Span(0, 5, "A"), Span(3, 8, "B"), Span(8, 8, "C"), Span(9, 11, "D")]
    assert unescape(re.sub(r"<b>.</b>|<[^>]*>", "", highlighted("Ada & Grace", spans))) == "Ada & Grace"


def test_looking_at_a_server(explorer: Explorer, fake: FakeServer) -> None:
    """Ready, loading, wrong key, no key file, not there: each with what to do."""
    assert explorer.look(OtherServer()).is_ready
    fake.models["toy", "1.0"]["workers"] = []
    view = explorer.look(OtherServer())
    assert (view.is_ready, "toy 1.0 is not ready: 0 of 1 workers" in view.status) == (False, True)
    fake.write_keys("wrong", "wrong")
    assert "does not accept the management key" in explorer.look(OtherServer()).status
    (fake.run_dir / "key_file.json").unlink()
    assert "scripts/serve.sh start" in explorer.look(OtherServer()).status
    fake.default, fake.models = {}, {}
    fake.write_keys(INFERENCE_KEY, MANAGEMENT_KEY)
    assert "scripts/models.py register" in explorer.look(OtherServer()).status
    fake.stop()
    view = explorer.look(OtherServer())
    assert (view.is_ready, "no server at" in view.status) == (False, True)
    assert "no server at" in explorer.ask(OtherServer(), Typed("toy", first="hi")).answers


def test_another_server(explorer: Explorer) -> None:
    """Asked with the keys that were typed, never with those of the file."""
    inference, management = explorer.default.inference, explorer.default.management
    keyed = OtherServer(inference, management, INFERENCE_KEY, MANAGEMENT_KEY)
    assert list(explorer.look(keyed).models) == ["toy"]
    assert "HI" in explorer.ask(keyed, Typed("toy", first="hi")).answers
    assert "none was given" in explorer.look(OtherServer(inference, management)).status
    assert "that was given" in explorer.look(OtherServer(inference, management, "no", "no")).status
    assert "no management key was given" in explorer.look(OtherServer(inference, management, INFERENCE_KEY)).status
    assert "http://HOST:PORT" in explorer.look(OtherServer("ftp://127.0.0.1")).status
    assert "blanks" in explorer.look(OtherServer(inference, management, "two words")).status
    alone = OtherServer(inference, "", INFERENCE_KEY)
    assert "type the name" in explorer.look(alone).status
    assert "HI" in explorer.ask(alone, Typed("toy", operation="classify", first="hi")).answers
    for partly in (OtherServer("", management), OtherServer(" ", "", INFERENCE_KEY), OtherServer(management_key="no")):
        assert "inference address of the other server is missing" in explorer.look(partly).status
        assert "is missing" in explorer.ask(partly, Typed("toy", first="hi")).answers
    fixed = Explorer(explorer.default, explorer.report, others=False)
    assert "no other one" in fixed.look(keyed).status
    assert "no other one" in fixed.ask(keyed, Typed("toy", first="hi")).answers


def test_asking(explorer: Explorer, fake: FakeServer) -> None:
    """One text, several with an error among them, a pair, another version beside, and what is refused."""
    one = explorer.ask(OtherServer(), Typed("toy", first="where is it?"))
    assert "WHERE IS IT?" in visible(one.answers)
    assert "measured here" in one.details
    assert json.loads(one.raw)
    several = explorer.ask(OtherServer(), Typed("toy", first="a\n\nbad\nc"))
    assert re.findall(r"\b(A|C|422)\b", visible(several.answers)) == ["A", "422", "C"]
    whole = explorer.ask(OtherServer(), Typed("toy", first="a\nb", each_line=False))
    assert "A\nB" in visible(whole.answers)
    fake.register("toy-2.0")
    fake.answers["2.0"] = lambda _: [{"label": "other", "score": 1.0}]
    beside = explorer.ask(OtherServer(), Typed("toy", other_version="2.0", first="a\nb"))
    assert "toy 2.0" in beside.other
    assert beside.other.count("says something else") == 2
    assert beside.answers.count('class="mark"') == beside.other.count('class="mark"') == 2, "cards would not align"
    missing = explorer.ask(OtherServer(), Typed("toy", other_version="3.0", first="a"))
    assert ("A" in visible(missing.answers), "toy 3.0: 404" in missing.other) == (True, True)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (Typed("", first="a"), "choose a model"),
        (Typed("toy", first=" \n "), "is empty"),
        (Typed("toy", first="a", parameters="{top_k}"), "no JSON"),
        (Typed("toy", first="a", parameters="[1]"), "an object"),
        (Typed("toy", first="a", operation="rerank"), "no operation rerank"),
        (Typed("nobody", first="a"), "404 ModelNotFoundException"),
    ],
)
def test_what_cannot_be_asked(explorer: Explorer, typed: Typed, message: str) -> None:
    """Said in the place of the answer."""
    assert message in visible(explorer.ask(OtherServer(), typed).answers)


def test_a_model_of_another_kind(explorer: Explorer, fake: FakeServer) -> None:
    """One that does not say what it can be asked is still asked, with every operation to choose from."""
    fake.description = {"task": "capitals"}
    served, about = explorer.describe(OtherServer(), "toy", None)
    assert len(served.operations) == len(FORMS)
    assert "not packed by scripts/package.py" in about


@pytest.mark.parametrize("address", ["file", "typed"])
def test_the_lines_ask_the_same(address: str, explorer: Explorer, fake: FakeServer) -> None:
    """A shell and Python run them: the same body comes to the server, whatever the text holds; no key is in them."""
    keys = {"inference": INFERENCE_KEY}
    server = explorer.default if address == "file" else Server.at(explorer.default.inference, None, keys)
    ask = question_of(Typed("toy", first=HOSTILE + "\nsecond"), DescribedModel.of(CAPITALS).operations["classify"])
    environment = {**activated(), "KEY": INFERENCE_KEY}
    assert "'\"'" not in curl_lines(server, ask).partition("\n")[0]  # the line of the key is one that a person can read
    for command in (["bash", "-c", curl_lines(server, ask)], [sys.executable, "-c", python_lines(server, ask)]):
        assert INFERENCE_KEY not in command[2]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert "SECOND" in done.stdout
        method, path, body = fake.requests[-1]
        assert (method, path, json.loads(body)) == ("POST", ask.path, ask.body)


def test_the_report(explorer: Explorer, tmp_path: Path) -> None:
    """Shown in a frame that cannot reach the page; that of another model is not."""
    assert "scripts/evaluate.py toy" in explorer.report_of("toy")
    explorer.report.write_text('<script>parent.x</script><p class="a">Evaluation of toy</p>')
    (tmp_path / "report.json").write_text('{"model": {"name": "toy", "version": "1.0"}}')
    html = explorer.report_of("toy")
    assert 'sandbox="allow-scripts"' in html
    assert "<script" not in html
    assert "is the report of toy, not of other" in explorer.report_of("other")


def get(host: str, name: str) -> Any:
    """Return the response of a page that listens on an address, to a request that names a host."""
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("page"))], middleware=middleware(host))
    return TestClient(app).get("/", headers={"host": name})


def test_the_page_is_private() -> None:
    """A request that names another host than the loopback is refused; no response lets the browser ask others."""
    assert get("127.0.0.1", "127.0.0.1:7860").status_code == 200
    assert get("127.0.0.1", "evil.example").status_code == 400
    response = get(EVERYWHERE, "server.example")
    assert response.status_code == 200
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, (EVERYWHERE, "10.0.0.1")))
