"""scripts/score.py without Ray: a worker and its parts, the job and its folder, the command."""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handler.errors import ConfigError
from handler.predictor import Predictor
from handler.protocol import serialize_value
from handler.tasks.scores import values_allclose
from scripts import score
from scripts.cli.console import ScriptError
from scripts.scoring.cluster import part_of
from scripts.scoring.corpus import sources
from scripts.scoring.job import ScoringJob, fingerprint
from scripts.scoring.rows import CorpusColumns, CorpusPart
from scripts.scoring.scorer import Scorer, ScorerConfig
from tests.support.samples import ROOT, TEXTS

SECRET = "xyzzyplugh"  # is in texts, and must never be in a log


# --- a worker and its job, without Ray -----------------------------------------------------------------------------


def job_of(
    path: Path, output: Path, model: Path, output_format: str = "jsonl", **options: Any
) -> tuple[ScoringJob, ScorerConfig]:
    """Plan small parts of one file."""
    columns = CorpusColumns(id=options.pop("id", None))
    files = sources([path], columns)
    plan = {"model": {"sha256": fingerprint(model)}, "parameters": options}
    job = ScoringJob.open(output, output_format, files, 4, plan)
    return job, ScorerConfig(str(model), fingerprint(model), {}, options, columns, files, output_format, 3, 1, False)


def work(job: ScoringJob, config: ScorerConfig) -> list[Any]:
    """Let one worker in this process answer what is missing."""
    scorer = Scorer(config)
    lines = [part_of(job, index) for index in job.missing()]
    results = [json.loads(line) for line in scorer({"part": lines})["result"]]
    for result in results:
        assert "failure" not in result, result
        job.require_same_model(result["serves"])
    return results


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_bad_rows_stand_beside_good_ones(
    tmp_path: Path, model_folder: Path, predictor: Predictor, output_format: str
) -> None:
    """Null, empty, a number, too long, of the wrong shape, unreadable: each an error, and the others are answered."""
    texts = [*TEXTS, None, "", 7, "long " * 30_000, {"a": 10**30}, "half \ud800"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": index}) + "\n" for index, text in enumerate(texts)) + "{\n")
    job, config = job_of(path, tmp_path / "out", model_folder, output_format, id="n", top_k=2)
    work(job, config)
    manifest = job.close()
    good = len(TEXTS)
    assert (manifest["rows"], manifest["answered"]) == (good + 7, good)
    assert manifest["errors"] == {"InvalidInput": 5, "InputTooLong": 1, "MalformedBody": 1}
    written = [row for index in range(len(job.parts)) for row in lines_of(job.path(index))]
    assert [row["id"] for row in written][:3] == ([0, 1, 2] if output_format == "jsonl" else ["0", "1", "2"])
    for text, row in zip(TEXTS, written, strict=False):
        (expected,) = predictor.answer_items([text], {"top_k": 2})
        assert values_allclose(expected, row["answer"], 1e-5)
    assert all(row["error"]["message"] and not row.get("answer") for row in written[good:])


def test_embeddings_are_written_as_the_servers_write_them(
    tmp_path: Path, model_folder: Path, predictor: Predictor
) -> None:
    """In nine digits, which are the same numbers of fp32; ids and errors stand beside them."""
    path = tmp_path / "a.jsonl"
    rows = [{"id": {"n": index}, "text": text} for index, text in enumerate([*TEXTS, ""])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job, config = job_of(path, tmp_path / "out", model_folder, id="id", operation="embed")
    work(job, config)
    assert job.close()["errors"] == {"InvalidInput": 1}
    lines = [line for index in range(len(job.parts)) for line in job.path(index).read_bytes().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in rows]
    for text, line in zip(TEXTS, lines, strict=False):
        (expected,) = predictor.answer_items([text], {"operation": "embed"})
        written = np.array(json.loads(line)["answer"], np.float32)
        np.testing.assert_allclose(written, expected, atol=1e-5)
        assert line.endswith(b', "answer": %s}' % serialize_value(written))


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_an_embedding_that_is_not_finite_is_an_error_of_its_row(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, output_format: str
) -> None:
    """JSON has no NaN, and no reader of vectors expects one."""
    (tmp_path / "a.txt").write_text("a\nb\n")
    job, config = job_of(tmp_path / "a.txt", tmp_path / "out", model_folder, output_format, operation="embed")
    scorer = Scorer(config)
    vectors = [np.ones(32, np.float32), np.full(32, np.nan, np.float32)]
    monkeypatch.setattr(scorer.predictor, "answer_items", lambda *_, **__: vectors)
    assert json.loads(scorer({"part": [part_of(job, 0)]})["result"][0])["errors"] == 1
    good, bad = lines_of(job.path(0))
    assert good["answer"] == [1.0] * 32
    assert bad["error"]["type"] == "InternalError"


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_ids_of_any_type_stand_beside_answers(tmp_path: Path, model_folder: Path, output_format: str) -> None:
    """Dates, of which one is missing: as texts in JSON lines, as dates in Parquet."""
    path = tmp_path / "a.parquet"
    days = [datetime.date(2024, 5, day) for day in range(1, 6)] + [None]
    pq.write_table(pa.table({"text": list("abcdef"), "day": pa.array(days, pa.date32())}), path)
    job, config = job_of(path, tmp_path / "out", model_folder, output_format, id="day")
    work(job, replace(config, typed_ids=True))
    assert job.close()["answered"] == 6
    ids = [row["id"] for index in range(len(job.parts)) for row in lines_of(job.path(index))]
    assert ids == (days if output_format == "parquet" else [day and day.isoformat() for day in days])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a part."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_job_goes_on_and_ends_only_when_it_is_whole(tmp_path: Path, model_folder: Path) -> None:
    """A part that is missing, short, doubled or somebody else's is found; one that is done again is the same bytes."""
    path, output = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("".join(f"text {number}\n" for number in range(10)))
    job, config = job_of(path, output, model_folder)
    work(job, config)
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
    again, config = job_of(path, output, model_folder)
    assert again.missing() == [0]
    assert [result["part"] for result in work(again, config)] == [0]
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
    job.require_same_model({"precision": "fp32"})
    with pytest.raises(ScriptError, match="workers differ: precision fp32 and bf16; name a --precision"):
        job.require_same_model({"precision": "bf16"})


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
    job, config = job_of(path, tmp_path / "out", model_folder)
    for changes, complaint in wrong:
        scorer = Scorer(replace(config, **changes))
        results = json.loads(scorer({"part": [part_of(job, 0)]})["result"][0])
        assert complaint in results["failure"]
    path.write_text("a\n")
    results = json.loads(Scorer(config)({"part": [part_of(job, 0)]})["result"][0])
    assert "changed while it was read" in results["failure"]


def test_a_part_that_ends_every_worker_is_left_out(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three of them; the others are answered, and its rows are named."""
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{text}\n" for text in "abcdefgh"))
    job, config = job_of(path, tmp_path / "out", model_folder)
    ends, answered = Scorer(config), Scorer._answer

    def answer(scorer: Scorer, part: CorpusPart, target: Path) -> tuple[int, int]:
        if part.first == 0:
            raise KeyboardInterrupt  # as abrupt as a process that is killed: nothing here catches it
        return answered(scorer, part, target)

    monkeypatch.setattr(Scorer, "_answer", answer)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            ends({"part": [part_of(job, 0)]})
    results = [json.loads(line) for line in ends({"part": [part_of(job, 0), part_of(job, 1)]})["result"]]
    assert results[0] == {"part": 0, "left_out": True}
    assert (results[1]["part"], results[1]["rows"]) == (1, 4)
    assert job.describe([0]) == f"0 to 3 of {path}"


# --- the command ---------------------------------------------------------------------------------------------------


def test_what_no_worker_has_is_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written: the folder would be that of a job with this precision."""
    output = tmp_path / "out"
    arguments = ["score.py", "a.txt", "--model", "m", "--output", str(output), "--precision", "fp7"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ConfigError, match="precision is 'fp7', accepted: "):
        score.main()
    assert not output.exists()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", ["score.py", "a.txt", "--model", "m", "--output", str(tmp_path)])
    with pytest.raises(ScriptError, match=r"needs Ray: .* -r requirements/score\.txt"):
        score.main()
    assert (ROOT / "requirements" / "score.txt").is_file()
