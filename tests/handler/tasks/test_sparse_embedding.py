"""sparse-embedding: every weight equals that of the SparseEncoder of sentence-transformers on the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

from handler.config import ServingConfig
from handler.engine import engine
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.reference import Reference
from tests.support.families import FAMILIES, LATER_FAMILIES
from tests.support.samples import TEXTS, MakeModel, ask, response_json

N_WORDS = 30522  # more than the vocabulary of the tests' tokenizer


def saved(folder: Path, pooling: SpladePooling, **settings: Any) -> Path:
    """Add to a masked language model the files that sentence-transformers writes for a SparseEncoder."""
    SparseEncoder(modules=[Transformer(str(folder), transformer_task="fill-mask"), pooling], **settings).save(
        str(folder)
    )
    return folder


@pytest.fixture
def splade(make_model: MakeModel) -> Path:
    """Return the folder of a SparseEncoder."""
    return saved(make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2), SpladePooling("max"))


def dense(answer: Any, width: int) -> NDArray[np.float64]:
    """Return an answer as a vector (width,)."""
    vector = np.zeros(width)
    vector[[entry["index"] for entry in answer]] = [entry["value"] for entry in answer]
    return vector


def check(predictor: Predictor, folder: Path, texts: list[str], **parameters: Any) -> None:
    """Compare the weights of texts with those of the library, and ask for texts in one batch and alone."""
    library = SparseEncoder(str(folder), device="cpu")
    expected = library.encode(texts, convert_to_sparse_tensor=False, **parameters).numpy()
    answers = [response_json(response) for response in ask(predictor, *({"inputs": text} for text in texts))]
    for answer, vector in zip(answers, expected, strict=True):
        assert [entry["index"] for entry in answer] == sorted(entry["index"] for entry in answer)
        assert dense(answer, len(vector)) == pytest.approx(vector, rel=1e-5, abs=1e-5)
    (alone,) = ask(predictor, {"inputs": texts[0]})
    assert predictor.task.answers_match(answers[0], response_json(alone), 1e-6), "another batch, another answer"


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_as_the_library_pools(make_model: MakeModel, strategy: Any, activation: Any) -> None:
    """Every pooling and activation that it has; the task is that of the folder."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    predictor = load_predictor(saved(folder, SpladePooling(strategy, activation)))
    assert predictor.task.name == "sparse-embedding"
    check(predictor, folder, [text for text in TEXTS if text != "word " * 700])


@pytest.mark.parametrize("name", ["Roberta", "DistilBert", "ModernBert"])
def test_other_families(name: str, make_model: MakeModel) -> None:
    """Packed or padded, with other heads than BERT's."""
    folder = make_model(
        architecture=getattr(transformers, f"{name}ForMaskedLM"),
        config_class=getattr(transformers, f"{name}Config"),
        **{**(FAMILIES | LATER_FAMILIES)[name], "initializer_range": 0.2},
    )
    check(load_predictor(saved(folder, SpladePooling("max"))), folder, TEXTS[:6])


def test_folders_of_version_5(make_model: MakeModel) -> None:
    """Whose transformer has a class of its own, and whose pooling names its width by another key."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    SparseEncoder(modules=[MLMTransformer(str(folder)), SpladePooling("max")]).save(str(folder))
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        name = module["type"].rpartition(".")[2]
        module["type"] = f"sentence_transformers.sparse_encoder.models.{name}"
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": None}
    (folder / "1_SpladePooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    check(load_predictor(folder), folder, [*TEXTS[:4], "the parcel " * 40])


def test_prompts_of_the_folder(make_model: MakeModel) -> None:
    """The default one stands before each text; a request may name another or write its own."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    prompts = {"query": "ask: ", "document": "read: "}
    saved(folder, SpladePooling("max"), prompts=prompts, default_prompt_name="query")
    predictor, texts = load_predictor(folder), TEXTS[:3]
    check(predictor, folder, texts)
    (named, own, prefixed) = (
        response_json(response)
        for response in ask(
            predictor,
            {"inputs": texts[0], "parameters": {"prompt_name": "document"}},
            {"inputs": texts[0], "parameters": {"prompt": "read: "}},
            {"inputs": "read: " + texts[0], "parameters": {"prompt": ""}},
        )
    )
    assert named == own == prefixed


def test_a_part_of_the_weights(splade: Path) -> None:
    """`top_k` keeps the heaviest, still by index; `return_tokens` names the word pieces."""
    predictor, text = load_predictor(splade), TEXTS[2]
    all_weights, heaviest, named = (
        response_json(response)
        for response in ask(
            predictor,
            text,
            {"inputs": text, "parameters": {"top_k": 5}},
            {"inputs": text, "parameters": {"return_tokens": True}},
        )
    )
    lightest = sorted((entry["value"] for entry in all_weights), reverse=True)[4]
    assert heaviest == [entry for entry in all_weights if entry["value"] >= lightest]
    tokenizer = transformers.AutoTokenizer.from_pretrained(splade)
    assert named == [entry | {"token": tokenizer.convert_ids_to_tokens(entry["index"])} for entry in all_weights]


def test_folders_that_keep_the_heaviest(make_model: MakeModel) -> None:
    """As many as the folder says, in similarities too; a request says otherwise."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    saved(folder, SpladePooling("max"), max_active_dims=9)
    predictor, texts = load_predictor(folder), TEXTS[:4]
    check(predictor, folder, texts)
    (longer,) = ask(predictor, {"inputs": texts[0], "parameters": {"top_k": 20}})
    assert len(response_json(longer)) == 20
    body = {"source_sentence": texts[0], "sentences": texts[1:]}
    (answer,) = ask(predictor, body, operation="similarity")
    library = SparseEncoder(str(folder), device="cpu")
    expected = library.similarity(library.encode(texts[:1]), library.encode(texts[1:]))[0].tolist()
    assert response_json(answer) == pytest.approx(expected, rel=1e-4)
    reference: Any = Reference(predictor.task, folder, ServingConfig()).answer(texts[0], {})
    (ours,) = ask(predictor, texts[0])
    assert predictor.task.answers_match(reference, response_json(ours), 1e-5)


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_long_texts_in_windows(make_model: MakeModel, strategy: Any) -> None:
    """No token is lost: the weights of the windows are joined as those of tokens are; as the reference has them."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    saved(folder, SpladePooling(strategy))
    config = ServingConfig(overflow="window", max_length=16)
    predictor, text = load_predictor(folder, config), " ".join(TEXTS[:5])
    (answer,) = (response_json(response) for response in ask(predictor, text))
    reference: Any = Reference(predictor.task, folder, config).answer(text, {})
    assert dense(answer, N_WORDS) == pytest.approx(dense(reference, N_WORDS), rel=1e-5, abs=1e-5)
    windows = Reference(predictor.task, folder, config).encode((text, None))
    assert len(windows) > 2


def test_operations(splade: Path, make_model: MakeModel) -> None:
    """Similarities and masked words too, no other vectors; a plain masked language model gets it where asked."""
    predictor = load_predictor(splade)
    assert list(predictor.operations) == ["predict", "embed-sparse", "fill", "similarity", "tokenize"]
    for task in ("feature-extraction", "sentence-similarity"):
        with pytest.raises(ModelMismatch, match=f"not for {task} as its task"):
            load_predictor(splade, ServingConfig(task=task))
    plain = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    assert "embed-sparse" not in load_predictor(plain).operations
    chosen = load_predictor(plain, ServingConfig(task="sparse-embedding"))
    assert chosen.operations.keys() == predictor.operations.keys()
    check(chosen, plain, TEXTS[:4])
    encoder = make_model(architecture=transformers.BertModel)
    with pytest.raises(ModelMismatch):
        load_predictor(encoder, ServingConfig(task="sparse-embedding"))


@pytest.mark.parametrize("function", [None, "cosine"])
def test_similarities(make_model: MakeModel, function: Any) -> None:
    """Products of the weights unless the folder names another function, as the library has them."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    saved(folder, SpladePooling("max"), similarity_fn_name=function)
    body = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:6]}
    (answer,) = ask(load_predictor(folder), body, operation="similarity")
    library = SparseEncoder(str(folder), device="cpu")
    expected = library.similarity(library.encode(TEXTS[:1]), library.encode(TEXTS[1:6]))[0].tolist()
    assert response_json(answer) == pytest.approx(expected, rel=1e-4)


def changed(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("1_SpladePooling/config.json", {"pooling_strategy": "mean"}, "pooling_strategy is mean"),
        ("1_SpladePooling/config.json", {"activation_function": "gelu"}, "activation_function gelu"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "feature-extraction"},
            "transformer_task is feature-extraction",
        ),
        ("config_sentence_transformers.json", {"default_prompt_name": "nobody"}, "default_prompt_name is nobody"),
    ],
)
def test_what_is_not_computed_is_refused(splade: Path, file: str, fields: dict[str, Any], message: str) -> None:
    """By name."""
    changed(splade / file, **fields)
    with pytest.raises(ModelMismatch, match=message):
        load_predictor(splade)


def test_other_modules_are_refused(splade: Path) -> None:
    """Another encoder, and layers behind the pooling."""
    modules = json.loads((splade / "modules.json").read_text())
    for names in (["SparseAutoEncoder"], ["Transformer", "SpladePooling", "Normalize"]):
        listed = [{"type": f"sentence_transformers.models.{name}", "path": ""} for name in names]
        (splade / "modules.json").write_text(json.dumps(listed))
        with pytest.raises(ModelMismatch, match="served is a Transformer, then a SpladePooling"):
            load_predictor(splade)
    modules[0]["path"] = "0_Transformer"
    (splade / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelMismatch, match="must lie in the folder itself"):
        load_predictor(splade)


def test_batches_are_bounded_by_their_logits(splade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 250,000 words times a batch of thousands of tokens would be gigabytes."""
    predictor = load_predictor(splade)
    vocabulary = predictor.task.model_config.vocab_size
    monkeypatch.setattr(engine, "BATCH_LOGITS", 40 * vocabulary)
    batches: list[int] = []
    forward = predictor.engine.forward

    def counted(pooler: Any, encodings: Any) -> Any:
        batches.append(sum(map(len, encodings)))
        return forward(pooler, encodings)

    monkeypatch.setattr(predictor.engine, "forward", counted)
    texts = [f"parcel number {number} has not arrived" for number in range(20)]
    assert [response.status for response in ask(predictor, *texts)] == [200] * len(texts)
    assert max(batches) <= 40 < sum(batches)
