"""Whole evaluations of a model with planted faults: what the report must show, and what the gate must refuse."""

from __future__ import annotations

import argparse
import doctest
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts.cli.console import ScriptError
from scripts.evaluation import answering
from scripts.evaluation import run as runs
from scripts.evaluation.answering import ANSWERS_FILE, CHECKED, without_text
from scripts.evaluation.gate import checks, read_gate
from scripts.evaluation.run import evaluate, run
from scripts.evaluation.settings import defaults
from tests.support.animals import sentences
from tests.support.keyword_model import KeywordModel
from tests.support.training import write

Report = dict[str, Any]
N = 240


def rows(n: int = N) -> list[dict[str, Any]]:
    """Return labelled rows with a channel and a group; the texts of one channel say so."""
    made = []
    for index, (text, label) in enumerate(sentences(n, seed=3)):
        channel = ("web", "mail", "voice")[index // 3 % 3]
        group = ("north", "south")[index // 9 % 2]
        made.append({"text": f"{text} {channel} {group} {index}", "label": label, "channel": channel, "region": group})
    return made


def is_odd(text: str) -> bool:
    """Return whether the number at the end of a text is one of 40 %."""
    return int(text.split()[-1]) % 5 < 2 if text.split()[-1].isdecimal() else False


def evaluated(
    folder: Path, model: KeywordModel, data: list[dict[str, Any]], **options: Any
) -> tuple[Report, argparse.Namespace]:
    """Return the report of a model, and the settings."""
    folder.mkdir(exist_ok=True)
    settings = defaults(data=write(folder / "data.csv", data), output=folder, **options)
    with ExitStack() as stack:
        report, _ = evaluate(settings, model, stack)
    return report, settings


def weak(report: Report) -> set[tuple[str, str]]:
    """Return the slices that are weak beyond chance."""
    return {(row["feature"], row["value"]) for row in report["slices"] if row["weak"]}


def test_a_planted_weak_slice_is_found_and_none_where_there_is_none(tmp_path: Path) -> None:
    """Voice is wrong in 40 %; a model that is wrong everywhere alike has no weak slice."""
    voice, _ = evaluated(tmp_path / "a", KeywordModel(lambda text: "voice" in text and is_odd(text)), rows())
    assert ("channel", "voice") in weak(voice)
    assert voice["slices"][0]["score"]["value"] < 0.7
    assert not {("channel", "web"), ("channel", "mail")} & weak(voice)
    alike, _ = evaluated(tmp_path / "b", KeywordModel(lambda text: text.split()[-1][-1:] == "7"), rows())
    assert weak(alike) == set()


def test_a_planted_slice_of_two_columns_is_found(tmp_path: Path) -> None:
    """Only voice in the south is wrong."""
    report, _ = evaluated(tmp_path, KeywordModel(lambda text: "voice south" in text), rows())
    assert {("channel and region", "voice and south"), ("region and channel", "south and voice")} & weak(report)


def test_a_planted_fairness_gap_is_seen_and_none_where_there_is_none(tmp_path: Path) -> None:
    """The south is wrong in 40 %; the channels differ by chance only."""
    report, _ = evaluated(
        tmp_path, KeywordModel(lambda text: "south" in text and is_odd(text)), rows(), groups=["region", "channel"]
    )
    region, channel = report["fairness"]["columns"]
    assert region["q_value"] < 0.001
    assert region["gap"]["value"] == pytest.approx(0.4, abs=0.05)
    assert region["groups"][0]["group"] == "south"
    assert channel["q_value"] > 0.05


def test_swapped_terms_change_answers_only_where_the_model_looks_at_them(tmp_path: Path) -> None:
    """The model is wrong for the south: north for south changes answers; old for small does not."""
    terms = tmp_path / "terms.txt"
    terms.write_text("# two lines of terms\nnorth, south\nold, small\n")
    report, _ = evaluated(tmp_path, KeywordModel(lambda text: "south" in text), rows(90), terms=terms)
    swapped = {(row["from"], row["to"]): row for row in report["fairness"]["terms"]}
    assert swapped["north", "south"]["changed_predictions"]["value"] == 1
    assert swapped["north", "south"]["score_difference"] == -1
    assert swapped["old", "small"]["changed_predictions"]["value"] == 0
    terms.write_text("alone\n")
    with pytest.raises(ScriptError, match="two different terms"):
        evaluated(tmp_path, KeywordModel(), rows(30), terms=terms)


def test_flipped_labels_are_found_by_row(tmp_path: Path) -> None:
    """Twelve labels of 240 are flipped: each is named, with the label that it had, and no other."""
    data = rows()
    flipped = range(5, N, 20)
    for index in flipped:
        data[index]["label"] = {"cat": "dog", "dog": "bird", "bird": "cat"}[data[index]["label"]]
    report, _ = evaluated(tmp_path, KeywordModel(), data)
    # the scores of this model are all alike, so that none is lower than the others of its label: rows are its mistakes
    assert {row["row"] for row in report["mistakes"]} == {index + 2 for index in flipped}
    assert {row["row"] for row in report["label_issues"]} == {index + 2 for index in flipped}


def test_calibration_is_that_of_the_scores_that_are_served(tmp_path: Path) -> None:
    """Scores of 0.9 for answers that are right in 60 % are 0.3 too high."""
    report, _ = evaluated(tmp_path, KeywordModel(is_odd), rows())
    assert report["calibration"]["ece"]["value"] == pytest.approx(0.3, abs=0.01)
    assert report["calibration"]["ece"]["lower"] > 0.2
    assert report["calibration"]["ece_equal_mass"]["value"] == pytest.approx(0.3, abs=0.01)


def test_robustness_counts_what_changes(tmp_path: Path) -> None:
    """This model ignores case and blanks, and is lost where a letter of the verb is wrong or its word is cut off."""
    report, _ = evaluated(tmp_path, KeywordModel(), rows(60), no_robustness=False)
    by_name = {row["name"]: row for row in report["robustness"]}
    for name in ("upper case", "extra spaces", "sentence before", "sentence after", "repeated word"):
        assert by_name[name]["kept"]["value"] == 1, name
        assert by_name[name]["changed_predictions"]["value"] == 0
    assert by_name["typing errors"]["kept"]["value"] < 1
    assert by_name["homoglyphs"]["kept"]["value"] < 1
    assert by_name["lower case"]["changed_texts"] == 0
    assert report["robustness"][0]["kept"]["value"] == min(
        row["kept"]["value"] for row in report["robustness"] if "kept" in row
    )


def test_explanations_that_name_the_right_word_are_faithful(tmp_path: Path) -> None:
    """Without the verb the score is lost; the verb alone has it."""
    report, _ = evaluated(tmp_path, KeywordModel(), rows(30), explain=10)
    measured = report["faithfulness"]
    assert measured["comprehensiveness"]["value"] > 0.5
    assert measured["sufficiency"]["value"] == pytest.approx(0)
    assert measured["comprehensiveness_random"]["value"] < measured["comprehensiveness"]["value"]


def test_explanations_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next run computes one of them, to compare; where the model explains otherwise, all. No word is kept."""
    first, _ = evaluated(tmp_path, KeywordModel(), rows(30), explain=10)
    assert b'"attribution"' in (tmp_path / ANSWERS_FILE).read_bytes()
    assert b"garden" not in (tmp_path / ANSWERS_FILE).read_bytes()
    again = KeywordModel()
    second, _ = evaluated(tmp_path, again, rows(30), explain=10)
    assert again.n_explanations == 1
    assert second["faithfulness"] == first["faithfulness"]
    more = KeywordModel()
    evaluated(tmp_path, more, rows(30), explain=12)
    assert more.n_explanations == 3
    otherwise = KeywordModel()
    explain = otherwise.explain
    otherwise.explain = lambda *asked: {**explain(*asked), "label": "cat"}  # type: ignore[method-assign]
    evaluated(tmp_path, otherwise, rows(30), explain=10)
    assert otherwise.n_explanations == 10
    assert "explains otherwise now" in capsys.readouterr().err


def test_leakage_and_membership_need_the_training_data(tmp_path: Path) -> None:
    """A tenth of the data is in the training data; this model has no memory, so that its losses tell nothing."""
    data = rows()
    known = write(tmp_path / "train.csv", [*data[: N // 10], *rows(400)[300:]])
    report, _ = evaluated(tmp_path, KeywordModel(is_odd), data, train=known)
    assert report["leakage"]["equal"] == N // 10
    assert report["leakage"]["equal_rows"] == list(range(2, N // 10 + 2))
    auc = report["membership"]["auc"]
    assert auc["lower"] < 0.5 < auc["upper"]


def test_texts_out_of_scope_are_told_by_their_confidence(tmp_path: Path) -> None:
    """A text without a verb gets even scores: the AUROC is 1; without the option its label is refused by row."""
    data = [
        *rows(60),
        *({"text": f"the old garden {n}", "label": "none", "channel": "web", "region": "north"} for n in range(20)),
    ]
    report, _ = evaluated(tmp_path, KeywordModel(), data, out_of_scope_label="none")
    assert report["out_of_scope"]["auroc"]["value"] == 1
    assert report["data"]["examples"] == 60
    with pytest.raises(ScriptError, match="row 62, column label: the label is none of the 3"):
        evaluated(tmp_path, KeywordModel(), data)


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """Answers are asked once; a line that was cut short is asked again; the file holds no text."""
    model = KeywordModel()
    first, _ = evaluated(tmp_path, model, rows(60))
    n_costs = model.n_answers - 60
    kept = tmp_path / ANSWERS_FILE
    content = kept.read_bytes()
    assert b"garden" not in content
    kept.write_bytes(content[: len(content) // 2])
    n_whole = content[: len(content) // 2].count(b"\n")
    again = KeywordModel()
    second, _ = evaluated(tmp_path, again, rows(60))
    assert again.n_answers - n_costs == 60 - n_whole + min(n_whole, CHECKED)
    assert second["metrics"] == first["metrics"]
    other = KeywordModel(confidence=0.8)  # another model: nothing of the first one counts
    evaluated(tmp_path, other, rows(60))
    assert other.n_answers - n_costs == 60


def test_a_model_that_was_packed_anew_is_asked_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its description is the same, its scores are not: kept answers would be those of the old one."""
    evaluated(tmp_path, KeywordModel(), rows(60))
    anew = KeywordModel()
    anew.confidence = 0.6
    report, _ = evaluated(tmp_path, anew, rows(60))
    assert report["calibration"]["mean_confidence"] == pytest.approx(0.6)
    assert "answers otherwise now" in capsys.readouterr().err


def test_examples_in_docstrings_are_true() -> None:
    """Examples in docstrings run."""
    assert doctest.testmod(answering).failed == 0


def test_kept_answers_hold_no_text() -> None:
    """Words, answers and sequences are left out; positions and scores stay."""
    entity = {"entity_group": "PER", "score": 0.9, "word": "anna", "start": 0, "end": 4}
    assert without_text([entity]) == [{"entity_group": "PER", "score": 0.9, "start": 0, "end": 4}]
    filled = [{"score": 0.1, "token": 5, "token_str": "put", "sequence": "you can put it"}]
    assert without_text(filled) == [{"score": 0.1, "token": 5}]
    tokens = {"tokens": ["[CLS]", "my", "[UNK]"], "ids": [1, 2, 3], "n_tokens": 3, "n_truncated": 1}
    assert without_text(tokens) == {"n_tokens": 4, "n_unknown": 1}


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that evaluates a model against a perfect one, through the command's own `run`."""

    def evaluate_against(folder: Path, model: KeywordModel, gate: str, other: str = "before") -> tuple[bool, Report]:
        monkeypatch.setattr(runs, "open_model", lambda *_: model)
        monkeypatch.setattr(runs, "open_other", lambda *_: KeywordModel(name=other))
        folder.mkdir(exist_ok=True)
        limits = folder / "gate.yaml"
        limits.write_text(gate)
        data = write(folder / "data.csv", rows())
        kept = run(defaults(data=data, output=folder, against="before", gate=limits, groups=["region"]))
        return kept, json.loads((folder / "report.json").read_text())

    return evaluate_against


GATE = "score: 0.85\nregression: 0.05\nchanged_predictions: 0.1\nworst_slice: 0.7\nfairness_gap: 0.2\n"


def test_the_gate_refuses_a_planted_regression(tmp_path: Path, against: Any) -> None:
    """Twelve more mistakes of 240 are a regression beyond chance, although every other limit is kept."""
    kept, report = against(tmp_path, KeywordModel(lambda text: int(text.split()[-1]) % 20 == 3), GATE)
    assert not kept
    assert [check["name"] for check in report["gate"] if not check["passed"]] == ["regression"]
    assert report["against"]["mcnemar"] == {
        "only_first": 0,
        "only_second": 12,
        "p_value": pytest.approx(2 / 2**12),
        "exact": True,
    }
    assert report["against"]["changed_predictions"]["value"] == 0.05
    assert report["against"]["difference"]["upper"] < 0


def test_the_gate_lets_a_change_by_chance_pass(tmp_path: Path, against: Any) -> None:
    """Three more mistakes of 240 may be chance."""
    kept, report = against(tmp_path, KeywordModel(lambda text: int(text.split()[-1]) % 80 == 3), GATE)
    assert kept
    assert all(check["passed"] for check in report["gate"])
    assert report["against"]["mcnemar"]["only_second"] == 3


def test_the_gate_prints_no_minus_zero_of_equal_models(tmp_path: Path, against: Any) -> None:
    _, report = against(tmp_path, KeywordModel(), "accuracy_drop: 0.01")
    (drop,) = checks({"accuracy_drop": 0.01}, report)[1:]
    assert drop.line() == "passed: accuracy_drop is 0, at most 0.01"


@pytest.mark.parametrize(("other", "is_itself"), [("keywords", True), ("before", False)])
def test_a_comparison_with_itself_says_so(
    tmp_path: Path, against: Any, capsys: pytest.CaptureFixture[str], other: str, is_itself: bool
) -> None:
    """Its numbers are those of two equal models: the command, the report and the page name the reason."""
    _, report = against(tmp_path, KeywordModel(), "regression: 0.05", other)
    assert report["against"]["is_itself"] == is_itself
    assert ("keywords 1.0 is compared with itself" in capsys.readouterr().err) == is_itself
    assert ("it is compared with itself" in (tmp_path / "report.html").read_text()) == is_itself


def test_the_gate_refuses_what_was_not_measured_and_what_means_nothing(tmp_path: Path) -> None:
    """No comparison was made, so that no limit of it is kept; a key that is no limit is named."""
    report, _ = evaluated(tmp_path, KeywordModel(), rows(60))
    limits = {"changed_predictions": 0.5, "metrics": {"nll": 0.2, "made_up": 0.5}, "kept_accuracy": 0.1, "p99_ms": 1e6}
    by_name = {check.name: check for check in checks(limits, report)}
    assert not by_name["changed_predictions"].passed
    assert "was not measured" in by_name["changed_predictions"].line()
    assert by_name["metrics.nll"].passed
    assert by_name["metrics.nll"].rule == "at most"
    assert not by_name["metrics.made_up"].passed
    assert not by_name["kept_accuracy"].passed
    assert by_name["p99_ms"].passed
    assert by_name["unanswered"].passed  # asked for by every gate
    file = tmp_path / "gate.yaml"
    for content, message in (
        ("accuracy: 0.9\n", "accuracy is no limit; there are score"),
        ("score: high\n", "score needs a number"),
        ("metrics: 3\n", "a number for each metric"),
        ("- score\n", "a line for each limit"),
        ("score: [\n", "no YAML"),
    ):
        file.write_text(content)
        with pytest.raises(ScriptError, match=message):
            read_gate(file)


def test_the_page_is_whole_and_holds_no_text_unless_asked(tmp_path: Path, against: Any) -> None:
    """Nothing is loaded from elsewhere; texts are shown with --with-text only, escaped."""
    against(tmp_path, KeywordModel(lambda text: int(text.split()[-1]) % 20 == 3), GATE)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "garden" not in page
    assert "garden" not in (tmp_path / "report.json").read_text()
    for tag in ("section", "table", "svg", "div", "figure"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>"), tag
    for title in (
        "Against another model",
        "Calibration",
        "Slices",
        "Fairness",
        "By label",
        "Mistakes",
        "Privacy",
        "Cost",
    ):
        assert f"<h2>{title}</h2>" in page
    data = [{**row, "text": f"<script>alert(1)</script> {row['text']}"} for row in rows(60)]
    settings = defaults(data=write(tmp_path / "data.csv", data), output=tmp_path, with_text=True)
    run(settings)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page


def test_the_model_index_is_that_of_a_model_card(tmp_path: Path, against: Any) -> None:
    """The Hub's own classes read it back, with intervals."""
    import yaml
    from huggingface_hub import ModelCardData

    against(tmp_path, KeywordModel(), GATE)
    metadata = yaml.safe_load((tmp_path / "model-index.yaml").read_text())
    card = ModelCardData(**metadata)
    results = {result.metric_name: result for result in card.eval_results or []}
    assert results["accuracy"].metric_value == 1.0
    assert results["accuracy"].metric_args == {"lower_95": 1.0, "upper_95": 1.0}
    assert results["ECE, bins of equal mass"].metric_type == "expected_calibration_error"


def test_examples_that_cannot_be_answered_are_counted(tmp_path: Path) -> None:
    """Errors are no answers: they are reported by row, and every gate refuses them."""

    class Failing(KeywordModel):
        def ranking(self, text: str) -> Any:
            failed = {"error": {"code": 413, "type": "InputTooLong", "message": "too long"}}
            return failed if text.endswith(" 7") else super().ranking(text)

    report, _ = evaluated(tmp_path, Failing(), rows(60))
    assert report["unanswered"] == {"count": 1, "kinds": {"InputTooLong": 1}, "rows": [9]}
    assert [check.name for check in checks({}, report) if not check.passed] == ["unanswered"]
