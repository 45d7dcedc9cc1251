"""scripts/score.py: rows cut into parts, read back and answered; and a real cluster of which a worker is killed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handler.predictor import Predictor
from handler.tasks.base import alike
from scripts import score
from scripts.answerers import load
from scripts.console import ScriptError
from scripts.scoring import corpus
from scripts.scoring.cluster import part_of
from scripts.scoring.corpus import Columns, Part, Row, sources
from scripts.scoring.job import MANIFEST, Job, fingerprint
from scripts.scoring.output import OUTPUTS, Shape, narrowed
from scripts.scoring.scorer import Scorer, Setup
from tests.live import activated
from tests.samples import ROOT, TEXTS, LoadMain

SECRET = "xyzzyplugh"  # stands in texts, and must never stand in a log


def rows_of(path: Path, columns: Columns | None = None, size: int = 2) -> list[Row]:
    """Cut a file into small parts and read them, each on its own."""
    (source,) = sources([path], columns or Columns())
    parts = list(corpus.parts([source], size))
    found = [list(source.form.read(source, part, columns or Columns())) for part in parts]
    assert [len(rows) for rows in found] == [part.rows for part in parts]
    assert all(0 < part.rows <= size for part in parts)
    rows = [row for part in found for row in part]
    assert [row.number for row in rows] == list(range(len(rows)))
    return rows


def questions(rows: list[Row]) -> list[Any]:
    """Return the questions; what is wrong in the place of one that could not be read."""
    return [row.problem or row.question for row in rows]


# --- what is read --------------------------------------------------------------------------------------------------


def test_lines_of_text(tmp_path: Path) -> None:
    """Ends of either kind, a byte order mark, an empty line, one that is not UTF-8, and no end at the end."""
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\ntwo\u2028three\n".encode() + b"f\xff\n" + "fünf".encode())
    assert questions(rows_of(path)) == ["one", "", "two\u2028three", "the row is not UTF-8", "fünf"]


def test_objects(tmp_path: Path) -> None:
    """Blank lines are no rows; what is no object stands in its place."""
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "a", "n": 7}', "", '{"text": "b", "text_pair": "c"}', "{", "[]"]
    lines += ['{"question": "d", "n": 8}', "  "]
    path.write_text("\n".join(lines) + "\n")
    rows = rows_of(path, Columns(id="n"))
    assert [row.id for row in rows] == [7, None, None, None, 8]
    wrong = ["the row has no field n", "the row is not JSON", "no JSON object"]
    assert questions(rows) == ["a", *wrong, {"question": "d"}]
    assert questions(rows_of(path))[1] == {"text": "b", "text_pair": "c"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables(tmp_path: Path, suffix: str, end: str) -> None:
    """Parts begin where rows do: not at line breaks inside of cells."""
    path = tmp_path / f"a{suffix}"
    cells = [["n", "text", "more"], ["1", f'a "quoted"{end}{end}b', "x"], ["2", "ü, \t", "y"]]
    cells += [["3", "", ""], ["4", "z"]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter="," if suffix == ".csv" else "\t", lineterminator=end).writerows(cells)
        file.write(end)
    with path.open("ab") as file:
        file.write(b"5,\xff,\n".replace(b",", b"," if suffix == ".csv" else b"\t"))
    rows = rows_of(path, Columns(id="n"))
    wrong = ["the row has 2 cells, the header 3", "the row is not UTF-8"]
    assert questions(rows) == [f'a "quoted"{end}{end}b', "ü, \t", "", *wrong]
    assert [row.id for row in rows] == ["1", "2", "3", None, None]
    pairs = questions(rows_of(path, Columns("more", "text")))
    assert pairs[1] == {"text": "y", "text_pair": "ü, \t"}


def test_columns(tmp_path: Path) -> None:
    """Row groups are cut too; a null is a row; without a text column a row is a question as a whole."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c", "d", "e"], "n": [1, 2, 3, 4, 5]}), path, row_group_size=3)
    rows = rows_of(path, Columns(id="n"))
    assert questions(rows) == ["a", None, "c", "d", "e"]
    assert [row.id for row in rows] == [1, 2, 3, 4, 5]
    pq.write_table(pa.table({"question": ["a"], "context": ["b"]}), path)
    assert questions(rows_of(path)) == [{"question": "a", "context": "b"}]


def test_long_rows_make_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is held in memory as a whole."""
    monkeypatch.setattr(corpus, "MOST_BYTES", 50)
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("text\n" + f"{'a' * 60}\n" * 3)
        (source,) = sources([tmp_path / name], Columns())
        assert all(part.end - part.begin <= 70 for part in corpus.parts([source], 100))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b"id,body\n1,a\n", "has no column text; it has id, body: use --column"),
        ("a.csv", b'text\na\n"never closed\nb\n', "line 4 of .* cannot be read: unexpected end of data"),
        ("a.csv", b"text,text\na,b\n", "column text appears twice"),
        ("a.parquet", b"nothing", "is no Parquet file, or a broken one"),
        ("a.xml", b"", "must end in one of .txt, .jsonl, .csv, .tsv, .parquet"),
    ],
)
def test_a_file_whose_rows_cannot_be_told_apart(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    """It is refused before anything is computed, without its words."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ScriptError, match=complaint):
        rows_of(path)


def test_a_folder_is_searched(tmp_path: Path) -> None:
    """For files with known ends, by their names."""
    for name in ("b.txt", "c/a.txt", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\n")
    assert [Path(source.name).name for source in sources([tmp_path], Columns())] == ["b.txt", "a.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScriptError, match="no file in"):
        sources([tmp_path / "empty"], Columns())


# --- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "parameters", "typed"),
    [
        ("text-classification", {}, True),
        ("token-classification", {"aggregation_strategy": "none", "ignore_labels": []}, True),
        ("question-answering", {"top_k": 1}, True),
        ("question-answering", {"top_k": 2}, True),
        ("feature-extraction", {}, True),
        ("rerank", {}, True),
        ("fill-mask", {}, False),  # one mask or several: two shapes
    ],
)
def test_columns_hold_the_answers_of_a_task(
    load_main: LoadMain, tmp_path: Path, main: str, parameters: dict[str, Any], typed: bool
) -> None:
    """What is read back is what was answered."""
    predictor = load_main(main)
    answers = predictor.answer_items(list(predictor.task.golden_items), parameters)
    shape = Shape.of(predictor.task.schema()["answer"], answers, ids=False)
    rows = [Row(number) for number in range(len(answers))]
    path = tmp_path / "part.parquet"
    OUTPUTS["parquet"].write(path, "a.txt", rows, answers, shape)
    found = pq.read_table(path)["answer"].to_pylist()
    assert bool(shape.answer) is typed
    assert [without_nulls(one) if typed else json.loads(one) for one in found] == answers
    assert [(told.file, told.row, told.error) for told in OUTPUTS["parquet"].read(path)] == [
        ("a.txt", row.number, "") for row in rows
    ]


def without_nulls(value: Any) -> Any:
    """Leave out the fields that another kind of answer would have."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


def test_answers_that_the_schema_does_not_tell_are_texts() -> None:
    """Better than a column that drops a field."""
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    assert narrowed(schema, [{"a": 1.0}]) == schema
    assert Shape.of(schema, [{"a": 1.0}], ids=False).answer
    assert not Shape.of(schema, [{"a": 1.0, "b": 2.0}], ids=False).answer


# --- a worker and its job, without Ray -----------------------------------------------------------------------------


def job_of(path: Path, output: Path, model: Path, form: str = "jsonl", **options: Any) -> tuple[Job, Setup]:
    """Plan small parts of one file."""
    columns = Columns(id=options.pop("id", None))
    files = sources([path], columns)
    told = {"model": {"sha256": fingerprint(model)}, "parameters": options}
    job = Job.open(output, form, files, 4, told)
    return job, Setup(str(model), fingerprint(model), {}, options, columns, files, form, 3, 1, False)


def work(job: Job, setup: Setup) -> list[Any]:
    """Let one worker in this process answer what is missing."""
    scorer = Scorer(setup)
    lines = [part_of(job, index) for index in job.missing()]
    told = [json.loads(line) for line in scorer({"part": lines})["told"]]
    for one in told:
        assert "failure" not in one, one
        job.agree(one["serves"])
    return told


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_bad_rows_stand_beside_good_ones(tmp_path: Path, model_folder: Path, predictor: Predictor, form: str) -> None:
    """Null, empty, a number, too long, of the wrong shape, unreadable: each an error, and the others are answered."""
    texts = [*TEXTS, None, "", 7, "long " * 30_000, {"a": 10**30}, "half \ud800"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": index}) + "\n" for index, text in enumerate(texts)) + "{\n")
    job, setup = job_of(path, tmp_path / "out", model_folder, form, id="n", top_k=2)
    work(job, setup)
    manifest = job.close()
    good = len(TEXTS)
    assert (manifest["rows"], manifest["answered"]) == (good + 7, good)
    assert manifest["errors"] == {"InvalidInput": 5, "InputTooLong": 1, "MalformedBody": 1}
    found = [row for index in range(len(job.parts)) for row in lines_of(job.path(index))]
    assert [row["id"] for row in found][:3] == ([0, 1, 2] if form == "jsonl" else ["0", "1", "2"])
    for text, row in zip(TEXTS, found, strict=False):
        (known,) = predictor.answer_items([text], {"top_k": 2})
        assert alike(known, row["answer"], 1e-5)
    assert all(row["error"]["message"] and not row.get("answer") for row in found[good:])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a part."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_job_goes_on_and_ends_only_when_it_is_whole(tmp_path: Path, model_folder: Path) -> None:
    """A part that is missing, short, doubled or somebody else's is found; one that is done again is the same bytes."""
    path, output = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("".join(f"text {number}\n" for number in range(10)))
    job, setup = job_of(path, output, model_folder)
    work(job, setup)
    first = job.path(0).read_bytes()
    lines = first.splitlines(keepends=True)
    for wrong in (lines[:-1], lines[:1] + lines, lines[::-1], job.path(1).read_bytes().splitlines(keepends=True)):
        job.path(0).write_bytes(b"".join(wrong))
        with pytest.raises(ScriptError, match=r"has no row \d of .*: remove it and start again"):
            job.close()
    job.path(0).unlink()
    with pytest.raises(ScriptError, match="1 of 3 parts are not there"):
        job.close()
    assert job.manifest() is None
    (output / ".part-000000.jsonl.dead").write_text("half of a part")
    again, setup = job_of(path, output, model_folder)
    assert again.missing() == [0]
    assert [one["part"] for one in work(again, setup)] == [0]
    assert again.path(0).read_bytes() == first
    assert again.close()["rows"] == 10
    assert sorted(file.name for file in output.iterdir() if file.name[0] == ".") == []


def test_another_run_does_not_touch_the_folder(tmp_path: Path, model_folder: Path) -> None:
    """Other options, a file that changed, a folder of something else."""
    path, output = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("a\nb\n")
    job, _ = job_of(path, output, model_folder)
    with pytest.raises(ScriptError, match="is of a run with other parameters: choose another --output"):
        job_of(path, output, model_folder, top_k=1)
    path.write_text("a\nb\nc\n")
    with pytest.raises(ScriptError, match="is of a run with other sources"):
        job_of(path, output, model_folder)
    with pytest.raises(ScriptError, match="holds something else"):
        job_of(path, tmp_path, model_folder)
    job.agree({"precision": "fp32"})
    with pytest.raises(ScriptError, match="workers differ: precision fp32 and bf16; name a --precision"):
        job.agree({"precision": "bf16"})


def test_what_a_worker_cannot_do_is_told(tmp_path: Path, model_folder: Path) -> None:
    """A parameter that no row would survive, another model, a file that shrank: once, not for each row."""
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"parameters": {"top_k": "many"}}, "top_k must be a whole number"),
        ({"parameters": {"operation": "dance"}}, "unknown operation, accepted: predict"),
        ({"fingerprint": "0"}, "is another model on this node"),
        ({"settings": {"precision": "fp7"}}, "precision is 'fp7', accepted"),
    ]
    job, setup = job_of(path, tmp_path / "out", model_folder)
    for changes, complaint in wrong:
        scorer = Scorer(replace(setup, **changes))
        told = json.loads(scorer({"part": [part_of(job, 0)]})["told"][0])
        assert complaint in told["failure"]
    path.write_text("a\n")
    told = json.loads(Scorer(setup)({"part": [part_of(job, 0)]})["told"][0])
    assert "changed while it was read" in told["failure"]


def test_a_part_that_ends_every_worker_is_left_out(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three of them; the others are answered, and its rows are named."""
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{text}\n" for text in "abcdefgh"))
    job, setup = job_of(path, tmp_path / "out", model_folder)
    ends, answered = Scorer(setup), Scorer._answer

    def answer(scorer: Scorer, part: Part, target: Path) -> tuple[int, int]:
        if part.first == 0:
            raise KeyboardInterrupt  # as abrupt as a process that is killed: nothing here catches it
        return answered(scorer, part, target)

    monkeypatch.setattr(Scorer, "_answer", answer)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            ends({"part": [part_of(job, 0)]})
    told = [json.loads(one) for one in ends({"part": [part_of(job, 0), part_of(job, 1)]})["told"]]
    assert told[0] == {"part": 0, "left_out": True}
    assert (told[1]["part"], told[1]["rows"]) == (1, 4)
    assert job.places([0]) == f"0 to 3 of {path}"


# --- the command ---------------------------------------------------------------------------------------------------


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", ["score.py", "a.txt", "--model", "m", "--output", str(tmp_path)])
    with pytest.raises(ScriptError, match=r"needs Ray: .* -r requirements/score\.txt"):
        score.main()
    assert (ROOT / "requirements" / "score.txt").is_file()


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
print(cluster.address, cluster.head_node.get_logs_dir_path(), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True)
class Nodes:
    """A running cluster."""

    address: str
    logs: Path
    process: psutil.Process

    def workers(self) -> list[psutil.Process]:
        """Find the processes that have the model."""
        found = []
        for child in self.process.children(recursive=True):
            try:
                found += [child] if "MapBatches(Scorer)" in " ".join(child.cmdline()) else []
            except psutil.Error:  # it is gone
                continue
        return found


@pytest.fixture
def two_nodes() -> Iterator[Nodes]:
    """Run a cluster of two nodes with one core each."""
    environment = {**activated(), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout
        assert process.stdin
        try:
            address, logs = process.stdout.readline().split()
            yield Nodes(address, Path(logs), psutil.Process(process.pid))
        finally:
            process.stdin.close()


@pytest.mark.server
def test_a_worker_that_dies_costs_no_row(two_nodes: Nodes, mar: Path, tmp_path: Path) -> None:
    """On two nodes, with files of every form: each row once, with the answer that the model gives it anywhere."""
    texts = {name: [f"{SECRET} {name} {number} " + "word " * (number % 60) for number in range(400)] for name in "abcd"}
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in texts["a"]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts["b"]) + "{\n")
    (tmp_path / "c.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts["c"]))
    pq.write_table(pa.table({"text": [*texts["d"], None]}), tmp_path / "d.parquet")
    files = [str(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.csv", "d.parquet")]
    output = tmp_path / "out"
    words = [*files, "--model", str(mar), "--output", str(output), "--rows-per-part", "20", "--top-k", "4"]
    command = [str(ROOT / "scripts" / "score.py"), *words, "--format", "jsonl", "--address", two_nodes.address]
    environment = {**activated(), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        deadline = time.monotonic() + 120
        while not list(output.glob("part-*")):
            assert run.poll() is None, run.stderr and run.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim = two_nodes.workers()[0]
        victim.kill()
        victim.wait(timeout=30)
        there = len(list(output.glob("part-*")))
        _, told = run.communicate(timeout=120)
    print(told)
    assert run.returncode == 1, told
    assert 0 < there < 82, "it was killed in the middle"
    manifest = json.loads((output / MANIFEST).read_text())
    assert (manifest["rows"], manifest["errors"]) == (1602, {"InvalidInput": 2})
    found = [json.loads(line) for path in sorted(output.glob("part-*")) for line in path.read_bytes().splitlines()]
    assert len({(row["file"], row["row"]) for row in found}) == len(found) == 1602
    with ExitStack() as stack:
        predictor = load(mar, stack)
    for name, file in zip("abcd", files, strict=True):
        known = predictor.answer_items(texts[name], {"top_k": 4})
        mine = {row["row"]: row for row in found if row["file"] == file}
        assert all(alike(one, mine[number]["answer"], 1e-5) for number, one in enumerate(known))
    assert SECRET not in told
    assert not [
        path for path in two_nodes.logs.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")
    ]
