"""The reference at packing: equal to the libraries, independent of the handler, and a reason not to pack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import normalizers
from torch import nn
from transformers import AlbertConfig, AlbertForTokenClassification, BertModel, pipeline

import handler.engine.runner
import handler.tasks.embedding
import handler.tasks.sequence_classification
import handler.tokenization
from handler.batching import split
from handler.config import ModelConfig, ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import truncate
from handler.tasks.token_classification import TokenClassification
from scripts.archives.build import ArchiveContents, build
from scripts.archives.golden import expected_outputs
from scripts.archives.reference import Reference
from scripts.cli.console import ScriptError
from tests.support import families
from tests.support.samples import MODELS, MakeModel
from tests.support.tokenizers import metaspace_tokenizer

WIDTH, LENGTH = 32, 40  # of the models; tokens of a text
TEXTS = ["parcel", "Where is my Parcel?", "L'écran est rayé, 屏幕坏了 🙂", "a long text that goes on " * 30]


def reference_of(folder: Path, **settings: Any) -> Reference:
    """Return the reference of a folder."""
    config = ServingConfig(**settings)
    return Reference(load_predictor(folder, config).task, folder, config)


@pytest.mark.parametrize("name", MODELS)
def test_every_task_agrees_with_its_reference(make_model: MakeModel, name: str) -> None:
    """Every input of the self-test is answered alike, long ones too: in windows where the task has them."""
    overflow: Any = "window" if "window" in handler.tasks.TASKS[name].overflows else "truncate"
    config = ServingConfig(task=name, overflow=overflow, stride=9, max_length=LENGTH)
    folder = make_model(**MODELS[name])
    predictor = load_predictor(folder, config)
    golden = expected_outputs(folder, config, predictor)
    assert len(golden.items) == len(predictor.task.self_test_items)


@pytest.fixture(scope="module")
def encoder(make_model: MakeModel) -> Path:
    """Return the folder of a random BERT without a head."""
    return make_model(architecture=BertModel)


def dense(out: int, function: nn.Module, **options: Any) -> modules.Dense:
    """Return a layer behind the pooling, with the same weights every time."""
    torch.manual_seed(1)
    return modules.Dense(WIDTH, out, activation_function=function, **options)


SENTENCE_FOLDERS: dict[str, dict[str, Any]] = {
    **{mode: {"pooling_mode": mode} for mode in modules.Pooling.POOLING_MODES},
    "two modes": {"pooling_mode": ("cls", "mean")},
    "dense": {
        "later": lambda: [dense(24, nn.Tanh()), modules.LayerNorm(24), modules.Dropout(0.5), modules.Normalize()]
    },
    "residual": {"later": lambda: [dense(20, nn.GELU(), use_residual=True), modules.Normalize()]},
    "no bias": {"later": lambda: [dense(WIDTH, nn.Identity(), bias=False)]},
    "prompt": {"prompts": {"query": "find this: "}, "pooling_mode": "weightedmean"},
    "prompt not pooled": {"prompts": {"query": "find this: "}, "include_prompt": False},
    "dot": {"similarity_fn_name": "dot"},
    "euclidean": {"similarity_fn_name": "euclidean"},
    "manhattan": {"similarity_fn_name": "manhattan"},
}


@pytest.mark.parametrize("case", SENTENCE_FOLDERS)
def test_embeddings_equal_sentence_transformers(encoder: Path, tmp_path: Path, case: str) -> None:
    """Folders that the library saved: vectors as by `encode`, similarities as by `similarity`."""
    options = dict(SENTENCE_FOLDERS[case])
    pooling = {key: options.pop(key) for key in ("pooling_mode", "include_prompt") if key in options}
    later = options.pop("later", list)()
    if "prompts" in options:
        options["default_prompt_name"] = "query"
    parts = [modules.Transformer(str(encoder), max_seq_length=LENGTH), modules.Pooling(WIDTH, **pooling), *later]
    library = SentenceTransformer(modules=parts, device="cpu", **options)
    library.save(str(tmp_path / "saved"), create_model_card=False)
    reference = reference_of(tmp_path / "saved", task="feature-extraction")
    vectors = library.encode(TEXTS)
    np.testing.assert_allclose([reference.answer(text, {}) for text in TEXTS], vectors, atol=1e-5)
    similarities = reference_of(tmp_path / "saved", task="sentence-similarity")
    answer = similarities.answer({"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}, {})
    np.testing.assert_allclose(answer, library.similarity(vectors[0], vectors[1:])[0], atol=1e-4)


@pytest.mark.parametrize("activation", [None, nn.Identity(), nn.Sigmoid(), nn.Softmax(dim=-1)], ids=str)
@pytest.mark.parametrize("n_labels", [1, 3])
def test_scores_equal_a_cross_encoder(
    make_model: MakeModel, tmp_path: Path, n_labels: int, activation: nn.Module | None
) -> None:
    """Of pairs, with every activation; of one label also as a ranking."""
    if n_labels == 1 and isinstance(activation, nn.Softmax):
        activation = None
    folder = make_model(labels=tuple(f"LABEL_{index}" for index in range(n_labels)), problem_type=None)
    library = CrossEncoder(str(folder), max_length=LENGTH, device="cpu", activation_fn=activation)
    library.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    expected = library.predict([(TEXTS[0], text) for text in TEXTS[1:]])
    reference = reference_of(tmp_path / "saved")
    answers = [reference.answer({"text": TEXTS[0], "text_pair": text}, {}) for text in TEXTS[1:]]
    scores = [[score["score"] for score in sorted(answer, key=lambda score: str(score["label"]))] for answer in answers]
    np.testing.assert_allclose(scores, np.reshape(expected, (3, n_labels)), atol=1e-5)
    if n_labels == 1:
        ranked = reference_of(tmp_path / "saved", task="rerank").answer({"query": TEXTS[0], "texts": TEXTS[1:]}, {})
        by_index = sorted(ranked, key=lambda item: int(item["index"]))
        np.testing.assert_allclose([item["score"] for item in by_index], expected, atol=1e-5)


@pytest.mark.parametrize(
    "problem_type", ["single_label_classification", "multi_label_classification", "regression", None]
)
def test_labels_equal_the_pipeline(make_model: MakeModel, problem_type: str | None) -> None:
    """Of texts and pairs, by every problem type."""
    folder = make_model(problem_type)
    reference = reference_of(folder)
    theirs: Any = pipeline("text-classification", str(folder), top_k=None)
    items: list[Any] = [*TEXTS, {"text": TEXTS[0], "text_pair": TEXTS[1]}]
    for item in items:
        (expected,) = theirs([item], truncation=True)
        answer = reference.answer(item, {"top_k": None})
        assert [score["label"] for score in answer] == [score["label"] for score in expected]
        assert [score["score"] for score in answer] == pytest.approx([score["score"] for score in expected], abs=1e-5)


def test_tokens_masks_and_candidates_equal_their_pipelines(make_model: MakeModel) -> None:
    """Entities token by token, words for a mask, and labels that a request brings."""
    tokens, text = make_model(**MODELS["token-classification"]), "Ada wrote to Bob in London."
    answer = reference_of(tokens).answer(text, TokenClassification.self_test_parameters)
    expected = pipeline("token-classification", str(tokens), ignore_labels=[])(text)
    keys = ("entity", "index", "word", "start", "end")
    assert [[entity[key] for key in keys] for entity in answer] == [[one[key] for key in keys] for one in expected]
    assert [one["score"] for one in answer] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    masks, text = make_model(**MODELS["fill-mask"]), "My parcel has [MASK] arrived."
    answer, expected = reference_of(masks).answer(text, {"top_k": 7}), pipeline("fill-mask", str(masks), top_k=7)(text)
    of_word = ("token", "token_str", "sequence")
    assert [[word[key] for key in of_word] for word in answer] == [[one[key] for key in of_word] for one in expected]
    assert [one["score"] for one in answer] == pytest.approx([one["score"] for one in expected], abs=1e-6)
    candidates, labels = make_model(**MODELS["zero-shot-classification"]), ["praise", "a complaint", "屏幕"]
    reference = reference_of(candidates, task="zero-shot-classification")
    answer = reference.answer(TEXTS[1], {"candidate_labels": labels})
    theirs = pipeline("zero-shot-classification", str(candidates))(TEXTS[1], labels)
    assert [score["label"] for score in answer] == theirs["labels"]
    assert [score["score"] for score in answer] == pytest.approx(theirs["scores"], abs=1e-5)


def test_another_family_and_tokenizer_agree(make_model: MakeModel) -> None:
    """ALBERT with a tokenizer of sentencepiece's kind: segments by the template, spans without the blank."""
    made = metaspace_tokenizer()
    sizes = {"embedding_size": 16, "vocab_size": len(made), "type_vocab_size": 2}
    folder = make_model(
        architecture=AlbertForTokenClassification, config_class=AlbertConfig, labels=("O", "B-PER"), **sizes
    )
    for path in (*folder.glob("tokenizer*"), *folder.glob("vocab*")):
        path.unlink()
    made.save_pretrained(folder)
    predictor = load_predictor(folder)
    golden = expected_outputs(folder, ServingConfig(), predictor)
    assert len(golden.items) == len(predictor.task.self_test_items)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # in the module of DeBERTa
@pytest.mark.parametrize("name", [name for name in families.FAMILIES | families.PADDED_FAMILIES if name != "Bert"])
def test_every_family_agrees_with_its_reference(make_model: MakeModel, name: str) -> None:
    """Positions, segments, limits and heads of other families than BERT's."""
    settings = (families.FAMILIES | families.PADDED_FAMILIES)[name]
    folder = families.make_family(name, settings, make_model)
    predictor = load_predictor(folder)
    assert len(expected_outputs(folder, ServingConfig(), predictor).items) == len(predictor.task.self_test_items)


# --- faults of the handler -----------------------------------------------------------------------------------------


def without_lower_case(patch: pytest.MonkeyPatch) -> None:
    """Read texts as they are, where tokenizer.json lower-cases them."""

    def as_in_file(_: Path, tokenizer: Any) -> Any:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
        return tokenizer

    patch.setattr(handler.tokenization, "as_in_file", as_in_file)


def cut_at_the_beginning(patch: pytest.MonkeyPatch) -> None:
    """Truncate the wrong end of a text."""
    patch.setattr(handler.tokenization, "truncate", lambda ids, n, **_: truncate(ids, n, truncation_side="left"))


def scored_by_a_sigmoid(patch: pytest.MonkeyPatch) -> None:
    """Compute each label's score by itself."""
    functions = handler.tasks.sequence_classification.ACTIVATIONS
    patch.setitem(functions, "softmax", functions["sigmoid"])


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], object], str]] = {
    "case": (
        "text-classification",
        without_lower_case,
        r"The Quick.*read differently than tokenizer\.json says: the token '.UNK.' at 1, by tokenizers 'the'",
    ),
    "side": (
        "feature-extraction",
        cut_at_the_beginning,
        r"'0 1 2 3 .* is read differently than tokenizer\.json says: the token",
    ),
    "segments": (
        "next-sentence-prediction",
        lambda patch: patch.setattr(handler.tokenization, "has_type_ids", lambda *_: False),
        r"input 0 .* another answer than by BertForNextSentencePrediction of transformers",
    ),
    "scores": ("text-classification", scored_by_a_sigmoid, "input 0 .*numbers differ by up to 0"),
    "labels": (
        "text-classification",
        lambda patch: patch.setattr(
            handler.tasks.sequence_classification, "label_names", lambda config: sorted(config.id2label.values())
        ),
        "input 0 .*another answer",
    ),
    "pooling": (
        "feature-extraction",
        lambda patch: patch.setattr(
            handler.tasks.embedding, "sentence_pooler", lambda *_: handler.tasks.embedding.SentencePooler(("cls",))
        ),
        "input 0 .*another answer than by BertModel",
    ),
    "numbers": (
        "token-classification",
        lambda patch: patch.setattr(
            handler.engine.runner, "split", lambda *ragged: [1.02 * output for output in split(*ragged)]
        ),
        "input 0 .*another answer than by BertForTokenClassification of transformers .*numbers differ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_handler_is_found(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Nothing is packed, and the message says where the two ways part."""
    name, break_handler, message = FAULTS[fault]
    folder, config = make_model(**MODELS[name]), ServingConfig(task=name)
    break_handler(monkeypatch)
    predictor: Predictor = load_predictor(folder, config)
    with pytest.raises(ScriptError, match=message):
        expected_outputs(folder, config, predictor)


def test_no_archive_is_written_after_a_fault(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's function raises, and the store stays empty."""
    scored_by_a_sigmoid(monkeypatch)
    with pytest.raises(ScriptError, match="nothing is packed"):
        build(ArchiveContents(model_folder, "faulty", "1.0", ModelConfig()), tmp_path)
    assert not list(tmp_path.iterdir())
