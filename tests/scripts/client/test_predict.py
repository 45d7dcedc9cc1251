"""scripts/predict.py: every source of texts, order, retries, going on after an interruption."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handler.config import ServingConfig
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.protocol import Body
from handler.request_state import Request
from scripts import predict
from scripts.cli.console import ROOT, ScriptError
from scripts.client import backends, bulk
from scripts.client.server import NotRunning, Unavailable
from tests.support.fake_server import FakeServer

Run = Callable[..., tuple[int, list[Any]]]


@pytest.fixture
def run(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a runner of the script in this process: exit code and the lines of standard output."""
    # Retries follow at once.
    monkeypatch.setattr(backends, "MAX_BACKOFF_S", 0.01)

    def run_script(*words: str | Path, stdin: bytes = b"") -> tuple[int, list[Any]]:
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words), *fake_server.options])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        code = predict.main()
        return code, [json.loads(line) for line in capfd.readouterr().out.split("\n") if line]

    return run_script


def label(line: Any) -> str:
    """Return the best label of an answer."""
    return str(line["answer"][0]["label"])


def test_texts_of_the_command_line(run: Run) -> None:
    """One line a text, in order."""
    code, lines = run("toy", "one", "two")
    assert code == 0
    assert lines == [
        {"index": 0, "answer": [{"label": "ONE", "score": 1.0}]},
        {"index": 1, "answer": [{"label": "TWO", "score": 1.0}]},
    ]


def test_a_text_that_cannot_be_answered_stands_beside_the_others(run: Run) -> None:
    """It has an error in the place of its answer, and the exit code tells."""
    code, lines = run("toy", "one", "bad", "two")
    assert code == 1
    assert [("answer" in line, "error" in line) for line in lines] == [(True, False), (False, True), (True, False)]
    assert lines[1]["error"]["type"] == "InvalidInput"


def test_standard_input_is_one_text_a_line(run: Run) -> None:
    """Empty lines are texts, ends of lines of either kind are not part of them, other separators are."""
    _, lines = run("toy", "--with-text", stdin="\ufeffone\r\n\ntwo\u2028three\nfour".encode())
    assert [line["text"] for line in lines] == ["one", "", "two\u2028three", "four"]


def test_no_text_at_all(run: Run, tmp_path: Path) -> None:
    """Standard input that is empty is a mistake (`predict.py hello` names a model); a file may have no rows."""
    with pytest.raises(ScriptError, match="no texts: write some behind the model's name"):
        run("hello")
    (tmp_path / "texts.csv").write_text("text\n")
    assert run("toy", "--csv", tmp_path / "texts.csv")[0] == 0
    run("toy", "one", "--output", tmp_path / "answers.jsonl")
    assert run("toy", "one", "--output", tmp_path / "answers.jsonl")[0] == 0


def test_one_text_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line at the end counts in English."""
    said: list[str] = []
    monkeypatch.setattr(bulk, "say", said.append)
    run("toy", "one")
    run("toy", "one", "two")
    assert [line.split(" in ")[0] for line in said] == ["1 text", "2 texts"]


def test_input_that_is_not_utf_8_is_named_by_its_line(run: Run) -> None:
    """Nothing is guessed or replaced."""
    with pytest.raises(ScriptError, match="standard input line 2: byte 4 is not UTF-8"):
        run("toy", stdin=b"one\n\xff\n")


def test_tables(run: Run, tmp_path: Path) -> None:
    """Columns by name, quotes and line ends inside of cells, pairs."""
    path = tmp_path / "texts.csv"
    path.write_text('id,question,reply\n1,"a, b",c\n2,"d\ne",f\n')
    _, lines = run("toy", "--csv", path, "--column", "question")
    assert [label(line) for line in lines] == ["A, B", "D\nE"]
    _, lines = run("toy", "--csv", path, "--column", "question", "--pair-column", "reply", "--with-text")
    assert lines[1] == {"index": 1, "text": "d\ne", "text_pair": "f", "answer": [{"label": "D\nEF", "score": 1.0}]}
    with pytest.raises(ScriptError, match="has no column text; it has id, question, reply"):
        run("toy", "--csv", path)


def test_tabs(run: Run, tmp_path: Path) -> None:
    """A .tsv is separated by tabs."""
    path = tmp_path / "texts.tsv"
    path.write_text("text\tlabel\na, b\tx\n")
    assert label(run("toy", "--csv", path)[1][0]) == "A, B"


def test_tables_with_types(run: Run, tmp_path: Path) -> None:
    """Parquet by columns; a .json holds a list of objects."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "id": [1, 2]}), tmp_path / "texts.parquet")
    assert [label(line) for line in run("toy", "--csv", tmp_path / "texts.parquet")[1]] == ["A", "B"]
    with pytest.raises(ScriptError, match="has no column body; it has text, id"):
        run("toy", "--csv", tmp_path / "texts.parquet", "--column", "body")
    (tmp_path / "texts.json").write_text('[{"text": "a"},\n {"text": "b", "text_pair": "c"}]')
    for option in ("--jsonl", "--csv"):
        assert [label(line) for line in run("toy", option, tmp_path / "texts.json")[1]] == ["A", "BC"]


def test_objects(run: Run, tmp_path: Path) -> None:
    """A text or a pair a line; other fields are left alone."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a", "id": 7}\n{"text": "b", "text_pair": "c"}\n')
    assert [label(line) for line in run("toy", "--jsonl", path)[1]] == ["A", "BC"]
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ScriptError, match=r"texts\.jsonl row 2: not a JSON object"):
        run("toy", "--jsonl", path)
    path.write_text('{"content": "a"}\n')
    assert label(run("toy", "--jsonl", path, "--column", "content")[1][0]) == "A"
    with pytest.raises(ScriptError, match=r"texts\.jsonl row 1: no field body"):
        run("toy", "--jsonl", path, "--column", "body")


def test_whole_questions(run: Run, tmp_path: Path, fake_server: FakeServer) -> None:
    """An object without a text is a question of another task; operation and parameters go along."""
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "a", "context": "b"}\n')
    options = ("--operation", "answer", "--parameters", '{"max_answer_len": 3}', "--top-k", "2")
    assert label(run("toy", "--jsonl", path, *options)[1][0]) == "AB"
    assert fake_server.parameters == {"on_error": "report", "operation": "answer", "max_answer_len": 3, "top_k": 2}
    for wrong in ("7", "[]", "{", '{"top_k": NaN}', '{"top_k": 1e400}'):
        with pytest.raises(SystemExit):
            run("toy", "a", "--parameters", wrong)


def test_half_a_character_survives(run: Run, tmp_path: Path) -> None:
    """JSON can hold a lone surrogate, UTF-8 cannot: the answer is written all the same."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a\\ud800"}\n')
    assert run("toy", "--jsonl", path, "--with-text")[1][0]["text"] == "a\ud800"


def test_many_texts_a_request_and_many_requests(run: Run, fake_server: FakeServer) -> None:
    """A thousand texts in requests of seven, some of which are slower, come back in order."""
    fake_server.delay = 0.005
    code, lines = run(
        "toy", "--texts-per-request", "7", "--concurrency", "8", stdin="\n".join(map(str, range(1000))).encode()
    )
    assert code == 0
    assert [line["index"] for line in lines] == list(range(1000))
    assert [label(line) for line in lines] == [str(number) for number in range(1000)]
    bodies = [json.loads(body) for _, _, body in fake_server.requests]
    assert len(bodies) == 143
    assert bodies[0]["parameters"] == {"on_error": "report"}


def test_parameters_and_version(run: Run, fake_server: FakeServer) -> None:
    """They reach the server, wherever they stand on the command line."""
    run("toy", "--version", "1.0", "--top-k", "3", "hello")
    _, path, body = fake_server.requests[-1]
    assert path == "/predictions/toy/1.0"
    assert json.loads(body) == {"inputs": ["hello"], "parameters": {"top_k": 3, "on_error": "report"}}


def test_failures_that_pass_are_tried_again(run: Run, fake_server: FakeServer) -> None:
    """A full queue, a worker that dies, a broken connection."""
    fake_server.failures.extend([503, "reset", 500])
    code, lines = run("toy", "--concurrency", "1", "one", "two")
    assert code == 0
    assert [label(line) for line in lines] == ["ONE", "TWO"]


def test_tries_are_bounded(run: Run, fake_server: FakeServer) -> None:
    """The run ends, and says why."""
    fake_server.failures.extend([503] * 3)
    with pytest.raises(Unavailable, match="503 ServiceUnavailableException: no worker"):
        run("toy", "--tries", "3", "one")
    assert len(fake_server.requests) == 3


def test_no_server_is_not_tried_again_at_the_start(run: Run, fake_server: FakeServer) -> None:
    """A person who forgot to start it is told at once."""
    fake_server.stop()
    with pytest.raises(NotRunning, match=r"serve\.sh start"):
        run("toy", "one")


def test_a_request_that_is_too_large_is_split(run: Run, fake_server: FakeServer) -> None:
    """Down to single texts, so that each gets its answer."""
    fake_server.max_texts = 3
    code, lines = run("toy", "--texts-per-request", "16", stdin="\n".join(map(str, range(20))).encode())
    assert code == 0
    assert [label(line) for line in lines] == [str(number) for number in range(20)]


def test_going_on_after_an_interruption(run: Run, fake_server: FakeServer, tmp_path: Path) -> None:
    """Whole lines are kept, a torn one is written anew, and the result is that of one run."""
    output, texts = tmp_path / "answers.jsonl", "\n".join(map(str, range(40))).encode()
    run("toy", "--output", output, "--texts-per-request", "4", stdin=texts)
    complete = output.read_bytes()
    for n_bytes in (0, 1, 100, len(complete) // 2, len(complete) - 1, len(complete)):
        output.write_bytes(complete[:n_bytes])
        fake_server.requests.clear()
        assert run("toy", "--output", output, "--texts-per-request", "4", stdin=texts)[0] == 0
        assert output.read_bytes() == complete
        n_texts = sum(len(json.loads(body)["inputs"]) for _, _, body in fake_server.requests)
        assert n_texts == 40 - complete[:n_bytes].count(b"\n")


def test_an_interrupted_run_keeps_what_it_had(run: Run, fake_server: FakeServer, tmp_path: Path) -> None:
    """What was answered before the server went away is in the file, in order."""
    output, texts = tmp_path / "answers.jsonl", "\n".join(map(str, range(12))).encode()
    fake_server.failures.extend([0, 0, 503, 503])
    words = ["toy", "--output", output, "--texts-per-request", "4", "--concurrency", "1"]
    with pytest.raises(Unavailable):
        run(*words, "--tries", "2", stdin=texts)
    assert len(output.read_bytes().splitlines()) == 8
    assert run(*words, stdin=texts)[0] == 0
    assert [label(json.loads(line)) for line in output.read_bytes().splitlines()] == list(map(str, range(12)))


def test_a_device_is_an_output_from_which_nothing_is_read(run: Run) -> None:
    """Or /dev/full, which never ends, would be read for ever as answers of an earlier run."""
    assert run("toy", "one", "--output", "/dev/null")[0] == 0
    with pytest.raises(OSError, match="No space left"):
        run("toy", "one", "--output", "/dev/full")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("hello\n", "line 1 of .* is no answer"),
        ("hello", "line 1 of .* is no answer"),  # and no line cut short either
        ('{"index": 0}', "line 1 of .* is no answer"),
        ('{"index": 0, "answer": 1}\n{"index": 10', "line 2 of .* is no answer"),
        ('{"index": 0}\n[]\n', "line 2 of .* is no answer"),
        ('{"index": 1}\n', "line 1 of .* is not the answer to text 0"),
        ('{"index": 0}\n{"index": 1}\n{"index": 2}\n', "has 3 answers, but there are only 2 texts"),
    ],
)
def test_another_file_is_not_overwritten(run: Run, tmp_path: Path, content: str, complaint: str) -> None:
    """What is no output of this script, or of another input, stays as it is."""
    output = tmp_path / "answers.jsonl"
    output.write_text(content)
    with pytest.raises(ScriptError, match=complaint):
        run("toy", "one", "two", "--output", output)
    assert output.read_text() == content


def test_a_table_for_a_person(fake_server: FakeServer, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Text, best label, score; errors in their place."""
    monkeypatch.setattr(sys, "argv", ["predict.py", "toy", "hello", "bad", "--table", *fake_server.options])
    assert predict.main() == 1
    table = capfd.readouterr().out
    assert "HELLO" in table
    assert "1.000" in table
    assert "error" in table


def test_two_sources_are_refused(run: Run, tmp_path: Path) -> None:
    """Which one was meant is not guessed."""
    with pytest.raises(ScriptError, match="texts come from one place"):
        run("toy", "hello", "--csv", tmp_path / "texts.csv")


def test_a_local_model_answers_without_a_server(make_model: Any, fake_server: FakeServer, run: Run) -> None:
    """The same lines from the same predictor, and nobody is n_texts."""
    folder = make_model(labels=("x", "y"))
    code, lines = run("--local", folder, "hello", "", "world", "--top-k", "1")
    assert code == 1
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert label(lines[0]) in ("x", "y")
    assert lines[1]["error"]["type"] == "InvalidInput"
    assert not fake_server.requests


def test_embeddings_have_the_digits_of_the_servers(make_model: Any, run: Run, tmp_path: Path) -> None:
    """Nine, which are all that fp32 has, and not the 17 of the same number as a double."""
    folder, output = make_model(), tmp_path / "answers.jsonl"
    assert run("--local", folder, "hello", "world", "--operation", "embed", "--output", output)[0] == 0
    predictor = load_predictor(folder, ServingConfig())
    body = {"inputs": ["hello", "world"], "parameters": {"operation": "embed"}}
    (served,) = predictor.answer([Request(Body(json.dumps(body).encode(), "application/json"))])
    lines = [line["answer"] for line in map(json.loads, output.read_text().splitlines())]
    assert lines == json.loads(served.content)
    assert max(len(digits.replace(".", "").lstrip("-0")) for digits in map(str, lines[0]) if "e" not in digits) <= 9


@pytest.mark.parametrize(("path", "complaint"), [("nothing", "no model at"), ("README.md", "is no whole archive")])
def test_a_local_model_that_is_none(run: Run, path: str, complaint: str) -> None:
    """A wrong path is an error of one line."""
    with pytest.raises((ScriptError, ModelMismatch), match=complaint):
        run("--local", ROOT / path, "hello")


def test_as_a_command(fake_server: FakeServer) -> None:
    """Answers on standard output, the sum on standard error, and one line for an error."""
    script = [sys.executable, str(ROOT / "scripts" / "predict.py")]
    done = subprocess.run([*script, "toy", "hello", *fake_server.options], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["index"] == 0
    assert "1 text in" in done.stderr
    done = subprocess.run(
        [*script, "nope", "my secret", *fake_server.options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 404 ModelNotFoundException: Model not found: nope")
    assert "secret" not in done.stdout + done.stderr


def test_a_reader_that_leaves_is_no_error(fake_server: FakeServer) -> None:
    """`predict.py ... | head -1` ends without a word."""
    script = f"{sys.executable} {ROOT}/scripts/predict.py toy {' '.join(fake_server.options)} | head -1"
    texts = "\n".join(map(str, range(20000)))
    done = subprocess.run(["bash", "-c", script], input=texts, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["index"] == 0
    assert "error" not in done.stderr
