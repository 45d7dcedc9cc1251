"""Training on plain text: hidden words, next sentences, and both together."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from scripts.cli.console import ScriptError
from scripts.readers import tables
from scripts.readers.tables import ColumnMapping
from scripts.training import splits
from scripts.training.tasks import masking
from scripts.training.tasks.base import IGNORE_INDEX, Examples, TokenLimits
from scripts.training.tasks.masked_language_modeling import MaskedLanguageModeling
from scripts.training.tasks.next_sentence import NextSentenceTraining, pairs
from tests.support.training import Row, fit, fit_interrupted, refusal, tiny, weights

HOMES = {"ann": "rome", "bob": "oslo", "carla": "paris", "dora": "bern"}
FILLER = ["lives", "in", "works", "and", "now", "first", "then", "."]
COLUMNS = ColumnMapping("text", None, ())
SECRET = "secret"


def line(generator: random.Random) -> str:
    """Write a sentence about a person, who is always in the same place."""
    person = generator.choice(sorted(HOMES))
    return f"{person} {generator.choice(['lives', 'works'])} in {HOMES[person]} {generator.choice(['now', 'and'])} ."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that knows the words, "paris" as two tokens."""
    words = [*HOMES, *(home for home in HOMES.values() if home != "paris"), "par", "##is", *FILLER]
    return tiny(tmp_path_factory.mktemp("models") / "base", words)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    """Its tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 200 different sentences; each ends in a number that the model does not know."""
    generator = random.Random(0)  # noqa: S311 sentences, not secrets
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(f"{line(generator)} {number}" for number in range(200)) + "\n\n")
    return path


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of two sentences that say which is the first and which the second."""
    generator = random.Random(0)  # noqa: S311 sentences, not secrets
    path = tmp_path_factory.mktemp("texts") / "documents.txt"
    path.write_text("\n\n".join(f"first {line(generator)}\nthen {line(generator)}" for _ in range(160)))
    return path


def tied(model: Any) -> bool:
    """Tell whether the words that go in and those that come out have the same weights."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.slow
def test_hidden_words_are_learnt(base: Path, lines: Path, tmp_path: Path) -> None:
    options = ("--problem", "masked-words", "--epochs", 8, "--whole-words")
    record = fit(base, tmp_path / "out", "--train", lines, "--test", lines, *options)
    assert (record["problem"], record["labels"]) == ("masked-words", [])
    assert record["data"]["train"]["rows"] == 180
    assert record["epochs"][0]["perplexity"] > 2 * record["validation"]["perplexity"]
    assert record["validation"]["accuracy"] > 0.5
    filler: Any = transformers.pipeline("fill-mask", str(tmp_path / "out"), device="cpu")
    assert tied(filler.model)
    assert filler("bob works [MASK] oslo now .")[0]["token_str"] == "in"
    assert filler("[MASK] lives in rome and .")[0]["token_str"] in HOMES


@pytest.mark.slow
def test_a_resumed_training_hides_the_same_words(base: Path, lines: Path, tmp_path: Path) -> None:
    options = ("--train", lines, "--problem", "masked-words", "--epochs", 3)
    uninterrupted = fit(base, tmp_path / "uninterrupted", *options)
    fit_interrupted(base, tmp_path / "parts", *options)
    parts = fit(base, tmp_path / "parts", *options, "--resume")
    assert weights(tmp_path / "parts") == weights(tmp_path / "uninterrupted")
    assert parts["epochs"] == uninterrupted["epochs"]


@pytest.mark.slow
def test_evaluation_hides_the_same_words_in_every_epoch(base: Path, lines: Path, tmp_path: Path) -> None:
    options = ("--problem", "masked-words", "--epochs", 3, "--learning-rate", 1e-12)
    record = fit(base, tmp_path / "out", "--train", lines, *options)
    assert len({epoch["accuracy"] for epoch in record["epochs"]}) == 1
    assert len({round(epoch["perplexity"], 4) for epoch in record["epochs"]}) == 1


@pytest.mark.slow
def test_next_sentence_prediction_is_learnt(base: Path, documents: Path, tmp_path: Path) -> None:
    options = ("--problem", "next-sentence", "--epochs", 5)
    record = fit(base, tmp_path / "out", "--train", documents, *options)
    assert record["data"]["train"] | {"sha256": ""} == {
        "name": "documents.txt",
        "sha256": "",
        "rows": 144,
        "labels": {"pairs": 288},
    }
    assert record["validation"]["accuracy"] > 0.65  # 0.75 is the best there is: half of the random ones are second
    follows, other = next_scores(tmp_path / "out")
    assert follows > 0 > other


def next_scores(output: Path) -> list[float]:
    """Return by how much a model believes that a second, and that another first sentence follows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    model = transformers.AutoModelForNextSentencePrediction.from_pretrained(output).eval()
    first, second = ["first ann lives in rome now ."] * 2, ["then bob works in oslo .", "first bob works in oslo ."]
    with torch.inference_mode():
        logits = model(**tokenizer(first, second, padding=True, return_tensors="pt")).logits
    return list((logits[:, 0] - logits[:, 1]).tolist())


@pytest.mark.slow
def test_pretraining_learns_both(base: Path, documents: Path, tmp_path: Path) -> None:
    options = ("--train", documents, "--problem", "pretraining", "--epochs", 6)
    record = fit(base, tmp_path / "out", *options, "--test", documents)
    assert record["best_epoch"] == min(record["epochs"], key=lambda epoch: epoch["validation_loss"])["epoch"]
    assert record["validation"]["next_accuracy"] > 0.6
    assert record["validation"]["accuracy"] > record["epochs"][0]["accuracy"]
    assert set(record["test"]) == {"accuracy", "perplexity", "next_accuracy"}
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert type(model) is transformers.BertForPreTraining
    assert tied(model)
    follows, other = next_scores(tmp_path / "out")
    assert follows > other
    filler: Any = transformers.pipeline("fill-mask", str(tmp_path / "out"), device="cpu")
    assert filler("first bob works in oslo [MASK] .")[0]["token_str"] in ("now", "and")


@pytest.mark.slow
def test_a_family_without_the_head_is_refused(documents: Path, tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    config.save_pretrained(tmp_path / "base")
    for kind in ("pretraining", "next-sentence"):
        with pytest.raises(ScriptError, match=f"a distilbert has no head for --problem {kind}"):
            fit(tmp_path / "base", tmp_path / "out", "--train", documents, "--problem", kind)


# --- hiding --------------------------------------------------------------------------------------------------------


def test_how_much_is_hidden_and_how(tokenizer: Any) -> None:
    text = " ".join(["ann lives in paris and works"] * 5)
    features = masking.with_mask_units(tokenizer([text] * 400), tokenizer, whole_words=True)
    collator, generator = masking.MaskingCollator(tokenizer), torch.Generator().manual_seed(0)
    tokens = np.array(features[0]["input_ids"])
    hidden = [collator.mask_feature(feature, generator) for feature in features]
    ids, labels = (np.array([feature[name] for feature in hidden]) for name in ("input_ids", "labels"))
    chosen = labels != IGNORE_INDEX
    words = np.array(features[0]["units"])
    assert {len(set(words[row])) for row in chosen} == {round(0.15 * 30)}
    assert not chosen[:, [0, -1]].any()
    assert (labels == tokens)[chosen].all()
    assert (ids == tokens)[~chosen].all()
    pieces = np.flatnonzero(tokens == tokenizer.convert_tokens_to_ids("##is"))
    assert (chosen[:, pieces] == chosen[:, pieces - 1]).all()  # both tokens of "paris", or none
    masked = (ids == tokenizer.mask_token_id)[chosen].mean()
    kept = (ids == tokens)[chosen].mean()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1, abs=0.03)


def test_unknown_words_are_never_hidden(tokenizer: Any) -> None:
    (feature,) = masking.with_mask_units(tokenizer(["ann zzz in paris"]), tokenizer, whole_words=False)
    assert feature["units"] == [-1, 0, -1, 1, 2, 3, -1]
    with pytest.raises(ScriptError, match="knows no word"):
        masking.prepare([feature | {"units": [-1] * 7}], tokenizer, TokenLimits(9), training=True)


def test_evaluation_is_hidden_once_and_training_is_not(tokenizer: Any) -> None:
    examples = Examples("x", "", ["ann lives in paris and works in rome ."] * 3)
    task = MaskedLanguageModeling((), COLUMNS)
    once, again = (task.encode(examples, tokenizer, TokenLimits(6, seed=1), training=False).features for _ in range(2))
    assert once == again
    training = task.encode(examples, tokenizer, TokenLimits(6, seed=1), training=True)
    assert not any("labels" in feature for feature in training.features)
    assert training.notes == ["3 texts are read in 9 parts of 6 tokens"]
    collate = task.collator(tokenizer, TokenLimits(6))
    batches = [collate(training.features)["input_ids"] for _ in range(8)]
    assert any(not torch.equal(batch, batches[0]) for batch in batches)


def test_masked_metrics_by_hand() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [1.0, 0.0], [0.0, 0.0]]])
    labels = torch.tensor([[0, IGNORE_INDEX, 0], [IGNORE_INDEX, 1, IGNORE_INDEX]])
    metrics = masking.masked_lm_metrics(masking.token_losses(logits, labels).numpy())
    losses = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(1)), np.log(1 + np.exp(1))]
    assert metrics == pytest.approx({"accuracy": 1 / 3, "perplexity": np.exp(np.mean(losses))})


# --- documents -----------------------------------------------------------------------------------------------------


def test_half_of_the_pairs_are_neighbours() -> None:
    documents = [("a1", "a2", "a3"), ("b1",), ("c1", "c2")]
    drawn = pairs(documents, seed=0)
    assert [pair[::2] for pair in drawn] == [(s, label) for s in ("a1", "a2", "c1") for label in (0, 1)]
    assert [second for _, second, label in drawn if label == 0] == ["a2", "a3", "c2"]
    assert all(first[0] != second[0] for first, second, label in drawn if label == 1)
    assert drawn == pairs(documents, seed=0)


def test_documents_are_read_and_held_out_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\na\nb\n\n\n \nc\n" + "".join(f"\nx{n}\ny{n}\n" for n in range(18)))
    read = tables.read(tmp_path / "a.txt", NextSentenceTraining.readers)
    task = NextSentenceTraining.from_table(read, COLUMNS)
    examples = task.examples(read)
    assert examples.rows[:3] == [("a", "b"), ("c",), ("x0", "y0")]
    kept, held = splits.split(task, examples, 0.1, seed=0)
    assert (len(kept), len(held)) == (18, 2)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "x\n",
            (),
            "a.txt: say what it is for: --problem entities or masked-words or next-sentence or pretraining",
        ),
        ("\n\n", ("--problem", "masked-words"), "a.txt: no text"),
        (
            f"{SECRET}\n",
            ("--problem", "masked-words"),
            "a.txt: too few different texts (1) to hold out 10% of them: give --validation FILE, or another",
        ),
        (f"{SECRET}\nx\n", ("--problem", "next-sentence"), "a.txt: 1 document, 2 are needed"),
        ("x\n\n" * 20, ("--problem", "pretraining"), "a.txt: no document has two sentences"),
        (
            f"x\n{SECRET}\n\n" * 5,
            ("--problem", "pretraining", "--validation-split", "0.2"),
            "1 document, 2 are needed; blank lines part them, in the part that is held out: give --validation",
        ),
        (
            f"{SECRET}\n",
            ("--problem", "masked-words", "--label-column", "x"),
            "--label-column means nothing to --problem",
        ),
        ("x\n", ("--problem", "next-sentence", "--whole-words"), "--whole-words means nothing to --problem"),
    ],
)
def test_bad_data(content: str, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, tmp_path, "a.txt", content, *options)
    assert message in error
    assert SECRET not in error


@pytest.mark.parametrize("problem", ["masked-words", "pretraining"])
def test_a_tokenizer_without_a_mask_is_refused(problem: str, base: Path, documents: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": None}))
    with pytest.raises(ScriptError, match=f"its tokenizer has no mask token, which --problem {problem} needs"):
        fit(tmp_path / "base", tmp_path / "out", "--train", documents, "--problem", problem)
    assert not (tmp_path / "out").exists()


def test_a_row_of_the_metrics_is_what_a_person_reads() -> None:
    metrics: Row = {"accuracy": 0.5, "perplexity": 12.3456}
    assert MaskedLanguageModeling((), COLUMNS).format_metrics(metrics) == "masked accuracy 0.500  perplexity 12.346"
