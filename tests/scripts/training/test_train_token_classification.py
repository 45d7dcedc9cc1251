"""Training for entities: the forms of data, the schemes of tags, the metric, and a model that finds names."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings, strategies

from handler.tag_scheme import IOB2, SCHEMES, LabelSpans, detect_scheme
from scripts.cli.console import ScriptError
from scripts.readers import hub, tables
from scripts.readers.tables import ColumnMapping
from scripts.training import splits
from scripts.training.tasks.base import Examples, TokenLimits
from scripts.training.tasks.conll import TaggedText, tagged_text
from scripts.training.tasks.token_classification import EntityRecognition, span_metrics
from tests.support.training import Row, fit, refusal, tiny, weights, write

PEOPLE = ["ann", "bob stone", "carla"]
PLACES = ["rome", "new york", "oslo"]
FILLER = ["we", "met", "in", "the", "old", "town", "today", ",", "."]
COLUMNS = ColumnMapping("tokens", None, ("tags",))
SECRET = "secret"


def sentences(n: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Write sentences with one person and one place among other words, tagged by IOB2."""
    generator = random.Random(seed)  # noqa: S311 sentences, not secrets
    tagged = []
    for _ in range(n):
        parts = [([word], ["O"]) for word in generator.choices(FILLER, k=generator.randint(2, 6))]
        for names, kind in ((PEOPLE, "PER"), (PLACES, "LOC")):
            words = generator.choice(names).split()
            tags = [f"{'I' if index else 'B'}-{kind}" for index in range(len(words))]
            parts.insert(generator.randint(0, len(parts)), (words, tags))
        tagged.append(([word for words, _ in parts for word in words], [tag for _, tags in parts for tag in tags]))
    return tagged


def conll(path: Path, tagged: list[tuple[list[str], list[str]]], mark: str = " ") -> Path:
    """Write a CoNLL file of four columns."""
    blocks = ["\n".join(mark.join((word, "NN", "x", tag)) for word, tag in zip(*pair, strict=True)) for pair in tagged]
    path.write_text("-DOCSTART- -X- O O\n\n" + "\n\n".join(blocks) + "\n")
    return path


def table(path: Path, content: str) -> tables.Table:
    """Read a file of tagged sentences."""
    path.write_text(content)
    return tables.read(path, EntityRecognition.readers)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that knows the words, some of them as two tokens."""
    words = [*FILLER, *" ".join(PEOPLE[:2] + PLACES).split(), "car", "##la"]
    return tiny(tmp_path_factory.mktemp("models") / "base", words)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Row]:
    """A model of names, trained on a CoNLL file."""
    folder = tmp_path_factory.mktemp("names")
    train, test = conll(folder / "train.conll", sentences(96)), conll(folder / "test.conll", sentences(30, 1), "\t")
    return folder / "out", fit(
        base, folder / "out", "--train", train, "--test", test, "--epochs", 6, "--keep-checkpoints"
    )


@pytest.mark.slow
def test_a_model_learns_names(trained: tuple[Path, Row]) -> None:
    output, record = trained
    assert record["problem"] == "entities"
    assert record["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert sum(record["data"][part]["labels"]["PER"] for part in ("train", "validation")) == 96
    assert record["epochs"][0]["f1"] < record["validation"]["f1"]
    assert record["test"]["f1"] > 0.9
    finder: Any = transformers.pipeline("token-classification", str(output), aggregation_strategy="first", device="cpu")
    text = "we met carla in new york , bob stone"
    entities = [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in finder(text)]
    assert entities == [("PER", "carla"), ("LOC", "new york"), ("PER", "bob stone")]


@pytest.mark.slow
def test_the_test_metric_is_that_of_the_saved_model(trained: tuple[Path, Row]) -> None:
    output, record = trained
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    model = transformers.AutoModelForTokenClassification.from_pretrained(output).eval()
    targets, answers = [], []
    for words, tags in sentences(30, 1):
        encoding = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            numbers = model(**encoding).logits[0].argmax(-1).tolist()
        first = [encoding.word_ids().index(word) for word in range(len(words))]
        answers.append([model.config.id2label[numbers[position]] for position in first])
        targets.append(tags)
    assert span_metrics(targets, answers, IOB2) == pytest.approx(record["test"])


@pytest.mark.slow
def test_tags_and_spans_train_the_same_model(base: Path, tmp_path: Path) -> None:
    tags = write(tmp_path / "tags.jsonl", [{"tokens": words, "tags": tags} for words, tags in sentences(40)])
    rows = []
    for words, tagged in sentences(40):
        starts = [sum(len(word) + 1 for word in words[:index]) for index in range(len(words))]
        entities: list[Row] = []
        for start, word, tag in zip(starts, words, tagged, strict=True):
            if tag[0] == "B":
                entities.append({"start": start, "end": start + len(word), "label": tag[2:]})
            elif tag[0] == "I":
                entities[-1]["end"] = start + len(word)
        rows.append({"text": " ".join(words), "entities": entities})
    by_spans = write(tmp_path / "spans.jsonl", rows)
    lines = conll(tmp_path / "lines.txt", sentences(40))
    for name, file in {"tags": tags, "spans": by_spans, "lines": lines}.items():
        options = () if file.suffix == ".jsonl" else ("--problem", "entities")
        fit(base, tmp_path / name, "--train", file, "--epochs", 1, *options)
    assert weights(tmp_path / "tags") == weights(tmp_path / "spans") == weights(tmp_path / "lines")


# --- data ----------------------------------------------------------------------------------------------------------


def test_variants_of_conll(tmp_path: Path) -> None:
    """CoNLL-U counts its tokens, comments stand before a sentence, and a hash with a tag is a token."""
    counted = "# text = Ann ran\n1\tAnn\tNOUN\tB-PER\n2\tran\tVERB\tO\n\n1\tyes\tX\tO\n"
    rows = table(tmp_path / "a.conll", counted).rows
    assert [(row, record["tokens"], record["tags"]) for row, record in rows] == [
        (2, ["Ann", "ran"], ["B-PER", "O"]),
        (5, ["yes"], ["O"]),
    ]
    rows = table(tmp_path / "a.conll", "# id 12\n# O\nAnn B-PER\n\n1 CD B-X\n2 CD O\nyears NN O\n").rows
    assert [record["tokens"] for _, record in rows] == [["#", "Ann"], ["1", "2", "years"]]
    counted = "1-2\tdel\t_\n1\tde\tB-X\n2\tel\tI-X\n2.1\tx\t_\n3\tmar\tnoun\n\n1\tyes\tO\n"
    data = table(tmp_path / "b.conll", counted)
    assert data.rows[0][1]["tokens"] == ["de", "el", "mar"]  # not the ranges and empty nodes of CoNLL-U
    with pytest.raises(ScriptError, match=r"b\.conll row 5, column tags: this is no tag"):
        tagged_text(data, *data.rows[0], ColumnMapping("tokens", None, ("tags",)))


def test_text_with_spans_becomes_tags_of_pieces(tmp_path: Path) -> None:
    row = {"text": "Ann O'Neil (of unhappy Rome).", "entities": [{"start": 0, "end": 10, "label": "PER"}]}
    row["entities"] += [{"start": 15, "end": 17, "label": "PART"}, {"start": 23, "end": 27, "label": "LOC"}]  # type: ignore[operator]
    file = write(tmp_path / "a.jsonl", [row])
    read = tables.read(file, EntityRecognition.readers)
    columns = ColumnMapping("text", None, ("entities",))
    task = EntityRecognition.from_table(read, columns)
    (example,) = task.examples(read).rows
    pieces = [example.text[start:end] for start, end in example.words]
    assert pieces == ["Ann", "O", "'", "Neil", "(", "of", "un", "happy", "Rome", ")", "."]
    expected = "B-PER I-PER I-PER I-PER O O B-PART O B-LOC O O"
    assert example.tags == expected.split()


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ("O B-X I-X O B-X", "IOB2"),
        ("B-X B-X B-Y", "IOB2"),
        ("I-X I-X O I-Y", "IOB1"),
        ("I-X B-X I-X O I-Y", "IOB1"),
        ("B-X E-X S-X O B-Y I-Y E-Y", "IOBES"),
        ("B-X L-X U-X O B-Y I-Y L-Y", "BILOU"),
        ("U-X O U-Y", "BILOU"),
    ],
)
def test_the_scheme_is_that_of_the_file(tags: str, name: str) -> None:
    scheme, _, _ = detect_scheme([["O"], tags.split()])
    assert scheme is not None
    assert scheme.name == name


@given(strategies.data())
@settings(max_examples=60, deadline=None)
def test_spans_are_counted_as_seqeval_counts_them(data: strategies.DataObject) -> None:
    """A sentence that keeps a scheme has as many spans as seqeval finds, strictly."""
    import seqeval.scheme

    scheme = data.draw(strategies.sampled_from(SCHEMES))
    tags = data.draw(strategies.lists(strategies.sampled_from(scheme.labels(["X", "Y"])), min_size=1, max_size=6))
    strict = seqeval.scheme.Entities([tags], getattr(seqeval.scheme, scheme.name)).entities[0]
    if scheme.first_invalid(tags) is None:
        spans = LabelSpans.from_labels(scheme.labels(["X", "Y"]))
        assert spans.span_types(tags) == [entity.tag for entity in strict]


def test_metrics_by_hand() -> None:
    targets = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    answers = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "I-LOC"]]
    metrics = span_metrics(targets, answers, IOB2)  # 1 of 3 true and 1 of 3 predicted spans is right
    assert metrics == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 3 / 6})
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2 as REFERENCE

    assert metrics["f1"] == pytest.approx(f1_score(targets, answers, mode="strict", scheme=REFERENCE))


def test_labels_stand_on_first_tokens_of_words_in_windows(base: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    words = ["carla"] * 6
    text = " ".join(words)
    offsets = [(6 * index, 6 * index + 5) for index in range(6)]
    task = EntityRecognition(IOB2, {"PER"}, COLUMNS)
    example = TaggedText(text, offsets, ["B-PER", "O"] * 3)
    encoded = task.encode(Examples("x", "", [example]), tokenizer, TokenLimits(7), training=True)
    labels = [feature["labels"] for feature in encoded.features]
    # Five tokens a window: car ##la car ##la car | ##la car ##la car ##la | car ##la
    x, per, other = -100, 1, 0
    assert labels == [[x, per, x, other, x, per, x], [x, x, other, x, per, x, x], [x, other, x, x]]
    assert encoded.notes == ["1 of 1 sentences are longer than 7 tokens: read in parts"]


def test_a_hub_dataset_names_its_tags() -> None:
    import datasets

    names = datasets.ClassLabel(names=["O", "B-LOC"])
    kinds = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(names)})
    rows = datasets.Dataset.from_dict({"tokens": [["in", "rome"]], "ner_tags": [[0, 1]]}, features=kinds)
    read = hub.to_table("conll[train]", rows)
    columns = ColumnMapping("tokens", None, ("ner_tags",))
    assert EntityRecognition.from_table(read, columns).examples(read).rows[0].tags == ["O", "B-LOC"]


def test_equal_sentences_are_held_out_together(tmp_path: Path) -> None:
    read = table(tmp_path / "a.conll", "ann B-PER\n\nrome B-LOC\n\n" * 3 + "".join(f"x{i} O\n\n" for i in range(20)))
    task = EntityRecognition.from_table(read, COLUMNS)
    kept, held = splits.split(task, task.examples(read), 0.3, seed=0)
    assert len(kept) + len(held) == 26
    assert not {row.text for row in kept.rows} & {row.text for row in held.rows}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", f"{SECRET} O\n{SECRET}\n", "a.conll row 2: a token and its tag are needed"),
        ("a.conll", f"x B-A\n\n{SECRET} O\n{SECRET} {SECRET}\n", "a.conll row 4, column tags: this is no tag such as"),
        ("a.conll", f"x O\n\n{SECRET} O\n", "column tags: there is no entity"),
        ("a.conll", f"x B-A\n{SECRET} O\n\nx O\nx I-A\ny B-A\n", "a.conll row 5, column tags: the tag fits none of"),
        ("a.conll", "x B-A\nx E-A\n\nx B-A\nx O\n", "a.conll row 5, column tags: the tag fits none of"),
        ("a.conll", "\n", "a.conll: no rows"),
        ("a.jsonl", json.dumps({"tokens": [SECRET], "tags": []}), "row 1, column tags: 0 tags for 1 tokens"),
        ("a.jsonl", json.dumps({"tokens": [SECRET, " "], "tags": ["O", "O"]}), "column tokens: token 2 is empty"),
        ("a.jsonl", json.dumps({"tokens": [SECRET], "tags": [SECRET]}), "row 1, column tags: tag 1: this is no tag"),
        ("a.jsonl", json.dumps({"tokens": [SECRET], "tags": "O"}), "row 1, column tags: the tags are not a list"),
        ("a.jsonl", json.dumps({"tokens": [], "tags": []}), "row 1, column tokens: there is no token"),
        ("a.jsonl", json.dumps({"text": SECRET, "entities": [{"start": 0}]}), "entity 1: start, end and label are"),
        (
            "a.jsonl",
            json.dumps({"text": SECRET, "entities": [{"start": 0, "end": 7, "label": "A"}]}),
            "row 1, column entities: entity 1: characters 0 to 7 are no part of the text",
        ),
        (
            "a.jsonl",
            json.dumps({"text": SECRET, "entities": [{"start": s, "end": 4, "label": "A"} for s in (0, 2)]}),
            "row 1, column entities: entities overlap",
        ),
    ],
)
def test_bad_data(name: str, content: str, message: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, tmp_path, name, content)
    assert message in error
    assert SECRET not in error


def test_bad_validation_data_and_options(tmp_path: Path) -> None:
    train = conll(tmp_path / "train.conll", sentences(4))
    for content, message in {
        "x B-LOC\ny B-ORG\n": "row 2, column tags: the tag is of no type and scheme of the training data",
        "x O\ny I-LOC\n": "row 2, column tags: the tag must not stand there in IOB2",
    }.items():
        (tmp_path / "v.conll").write_text(content)
        with pytest.raises(ScriptError, match=message):
            fit(tmp_path, tmp_path / "out", "--train", train, "--validation", tmp_path / "v.conll")
    with pytest.raises(ScriptError, match="--pair-column means nothing to --problem entities"):
        fit(tmp_path, tmp_path / "out", "--train", train, "--pair-column", "x")
