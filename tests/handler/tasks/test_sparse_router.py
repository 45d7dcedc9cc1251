"""Sparse encoders whose queries are looked up in a table: as encode_query and encode_document of the library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from transformers import AutoTokenizer

from handler.config import ModelConfig, ServingConfig
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sentence_router import WeightTable
from handler.tasks.feature_extraction import FeatureExtraction
from scripts.archives.build import ArchiveContents, build
from scripts.archives.examples import Example, encodings_of
from scripts.archives.golden import expected_outputs
from scripts.cli.console import ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.samples import TEXTS, MakeModel, ask, response_json

TABLE = "query_0_SparseStaticEmbedding"
LONG = " ".join(TEXTS[:6]) * 12  # more tokens than a query may have


def changed(file: Path, /, **fields: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


Save = Callable[..., Path]


@pytest.fixture
def save(make_model: MakeModel, tmp_path: Path) -> Save:
    """Return a function that saves an encoder with the library; `later` modules stand behind its Router."""

    def run(*later: Any, weights: Any = None, router: Any = None, **options: Any) -> Path:
        folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
        documents = Transformer(str(folder), transformer_task="fill-mask")
        n_words = len(documents.tokenizer.get_vocab())
        torch.manual_seed(3)
        weights = torch.rand(n_words) * (torch.rand(n_words) > 0.1) if weights is None else weights
        table = SparseStaticEmbedding(documents.tokenizer, weight=weights, frozen=True)
        routes = {"query": [table], "document": [documents, SpladePooling("max", "log1p_relu")]}
        made = Router(routes, **(router or {"default_route": "document"}))
        SparseEncoder(modules=[made, *later], **options).save(str(tmp_path / "saved"), create_model_card=False)
        return tmp_path / "saved"

    return run


@pytest.fixture
def folder(save: Save, tmp_path: Path) -> Path:
    """Return a folder whose transformer is in the folder itself, as the Hub's models have it."""
    return in_itself(save(), tmp_path / "model")


def in_itself(saved: Path, target: Path) -> Path:
    """Copy a folder as `open_model` reads it."""
    with open_model(ModelRequest(str(saved))) as source:
        shutil.copytree(source.folder, target)
    return target


def weights_of(predictor: Predictor, texts: list[str], **parameters: Any) -> np.ndarray:
    """Return the weights (texts, vocabulary) that we answer."""
    rows = np.zeros((len(texts), predictor.task.model_config.vocab_size))
    for row, answer in zip(rows, predictor.answer_items(list(texts), parameters), strict=True):
        assert isinstance(answer, list)
        row[[entry["index"] for entry in answer]] = [entry["value"] for entry in answer]
    return rows


def check(predictor: Predictor, saved: Path) -> None:
    """Compare queries, documents and texts of which nothing is said with the library's."""
    library = SparseEncoder(str(saved), device="cpu")
    texts = [*TEXTS[:6], LONG]
    options: Any = {"convert_to_sparse_tensor": False}
    for input_type, encode in (
        (None, library.encode),
        ("query", library.encode_query),
        ("document", library.encode_document),
    ):
        ours = weights_of(predictor, texts, input_type=input_type)
        np.testing.assert_allclose(ours, encode(texts, **options).numpy(), rtol=1e-5, atol=1e-5)


def test_queries_by_the_table_and_documents_by_the_model(save: Save, tmp_path: Path) -> None:
    """As the library saves it, and with the transformer in the folder itself, which the library reads, too."""
    saved = save()
    folder = in_itself(saved, tmp_path / "model")
    predictor = load_predictor(folder)
    assert predictor.task.name == "sparse-embedding"
    check(predictor, saved)
    check(predictor, folder)
    query, document = (weights_of(predictor, TEXTS[:1], input_type=kind)[0] for kind in ("query", "document"))
    assert np.count_nonzero(query) < 20 < np.count_nonzero(document)


def test_no_model_runs_for_queries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a batch of both kinds has the answers of each alone."""
    predictor = load_predictor(folder)
    alone = [weights_of(predictor, TEXTS[:2], input_type=kind) for kind in ("query", "document")]
    bodies = [{"inputs": TEXTS[:2], "parameters": {"input_type": kind}} for kind in ("query", "document")]
    mixed = [response_json(response) for response in ask(predictor, *bodies)]
    for rows, answers in zip(alone, mixed, strict=True):
        for row, answer in zip(rows, answers, strict=True):
            assert [entry["index"] for entry in answer] == np.flatnonzero(row).tolist()
    engine: Any = predictor.engine
    monkeypatch.setattr(engine, "call", None)
    monkeypatch.setattr(engine._runner, "call", None)
    np.testing.assert_array_equal(weights_of(predictor, TEXTS[:2], input_type="query"), alone[0])


@pytest.mark.parametrize(
    "router",
    [
        {"default_route": "query"},
        {"default_route": None, "allow_empty_key": True},
        {"route_mappings": {(None, "text"): "query", ("document", "text"): "document"}},
        {"route_mappings": {("query", None): "document"}, "default_route": "query"},
    ],
    ids=str,
)
def test_routes_of_texts(save: Save, tmp_path: Path, router: Any) -> None:
    """By name, by mappings in the library's order, or by default; self-tests always reach the model."""
    saved = save(router=router)
    folder = in_itself(saved, tmp_path / "model")
    predictor = load_predictor(folder)
    check(predictor, saved)
    (encoding,) = encodings_of(predictor, [Example(TEXTS[0], None)])
    assert encoding.ids[0] == AutoTokenizer.from_pretrained(folder).cls_token_id, "calibration must reach the model"
    golden = expected_outputs(folder, ServingConfig(), predictor)
    assert len(golden.items) == 3 * len(FeatureExtraction.self_test_items)  # without input_type, and of either


def test_prompts(save: Save, tmp_path: Path) -> None:
    """Of queries and documents by their names; the default one is for texts of which nothing is said."""
    prompts = {"query": "ask: ", "document": "read: ", "other": "think: "}
    saved = save(prompts=prompts, default_prompt_name="other")
    predictor = load_predictor(in_itself(saved, tmp_path / "model"))
    check(predictor, saved)
    library = SparseEncoder(str(saved), device="cpu")
    expected = library.encode_query(TEXTS[:3], prompt_name="other", convert_to_sparse_tensor=False).numpy()
    ours = weights_of(predictor, TEXTS[:3], input_type="query", prompt_name="other")
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_similarities_of_a_query_and_documents(save: Save, tmp_path: Path) -> None:
    """The source is a query, the sentences are documents, of which the folder keeps the heaviest weights."""
    saved = save(max_active_dims=7)
    folder = in_itself(saved, tmp_path / "model")
    predictor, library = load_predictor(folder), SparseEncoder(str(saved), device="cpu")
    check(predictor, saved)
    body: Any = {"source_sentence": TEXTS[0], "sentences": [TEXTS[0], *TEXTS[3:6]]}
    (answer,) = ask(predictor, body, operation="similarity")
    options: Any = {"convert_to_sparse_tensor": False}
    vectors = library.encode_query(TEXTS[:1], **options), library.encode_document(body["sentences"], **options)
    assert response_json(answer) == pytest.approx(library.similarity(*vectors)[0].tolist(), rel=1e-4)
    assert expected_outputs(folder, ServingConfig(), predictor).answers


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_queries(folder: Path, side: str) -> None:
    """Cut at the limit of the table's tokenizer, read whole as windows, or refused."""
    for path in (folder, folder / TABLE):
        changed(path / "tokenizer_config.json", truncation_side=side)
    changed(folder / TABLE / "tokenizer_config.json", model_max_length=12)
    check(load_predictor(folder), folder)
    config = ServingConfig(overflow="window")
    windowed = load_predictor(folder, config)
    expected_outputs(folder, config, windowed)
    whole = set(np.flatnonzero(weights_of(windowed, [LONG], input_type="query")[0]))
    library: Any = SparseEncoder(str(folder), device="cpu")
    table = library[0].sub_modules["query"][0]
    tokens = {token for token in table.tokenizer(LONG, add_special_tokens=False)["input_ids"] if table.weight[token]}
    assert whole == tokens
    refusing = load_predictor(folder, ServingConfig(overflow="refuse"))
    body = {"inputs": LONG, "parameters": {"input_type": "query"}}
    (answer,) = ask(refusing, body)
    assert answer.status == 413
    shorter = load_predictor(folder, ServingConfig(max_length=6))
    assert np.count_nonzero(weights_of(shorter, [LONG], input_type="query")) <= 6


def test_an_archive_of_one(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the table and its tokenizer; a table that is read wrongly keeps it from being packed."""
    saved = save()
    with open_model(ModelRequest(str(saved))) as source:
        assert "the transformer of document_0_Transformer in the folder itself" in source.provenance.steps
        archive = build(ArchiveContents(source.folder, "router", "1.0", ModelConfig()), tmp_path)
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(archive, unpacked, "zip")
    check(load_predictor(unpacked), saved)
    monkeypatch.setattr(
        WeightTable, "embed", lambda table, ids: table.weights * np.bincount(ids, minlength=len(table.weights))
    )
    with (
        open_model(ModelRequest(str(saved))) as source,
        pytest.raises(ScriptError, match="but another answer than by"),
    ):
        build(ArchiveContents(source.folder, "router", "1.0", ModelConfig()), tmp_path)


def other_words(folder: Path) -> None:
    """Give the table a tokenizer that splits words at other places."""
    file = folder / TABLE / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(content))


def rerouted(**fields: Any) -> Callable[[Path], None]:
    """Change router_config.json."""
    return lambda folder: changed(folder / "router_config.json", **fields)


def without_document(folder: Path) -> None:
    """Rename the route of documents."""
    config = json.loads((folder / "router_config.json").read_text())
    config["structure"]["passage"] = config["structure"].pop("document")
    config["parameters"]["default_route"] = "passage"
    (folder / "router_config.json").write_text(json.dumps(config))


def one_weight_less(folder: Path) -> None:
    """Take a table of another vocabulary."""
    from safetensors.torch import load_file, save_file

    file = folder / TABLE / "model.safetensors"
    save_file({"weight": load_file(file)["weight"][1:].clone()}, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_words, f"{TABLE} has another tokenizer than the Transformer beside it"),
        (without_document, "has the routes query, passage, and none for a document"),
        (one_weight_less, f"{TABLE} has the weights .* the model's vocabulary asks for"),
        (lambda folder: (folder / TABLE / "model.safetensors").unlink(), f"{TABLE} has no weights"),
        (
            lambda folder: changed(folder / TABLE / "config.json", path="idf.json"),
            r"path is idf\.json, weights outside",
        ),
        (lambda folder: changed(folder / TABLE / "config.json", scale=2), "scale is 2, which is not computed here"),
        (lambda folder: changed(folder / "sentence_bert_config.json", do_lower_case=True), "do_lower_case of a Transf"),
        (
            rerouted(structure={"query": [TABLE], "document": [TABLE]}),
            "served are one Transformer with a SpladePooling",
        ),
        (rerouted(structure={"query": ["nowhere"]}), "must hold types of modules"),
        (
            rerouted(types={"../up": "sentence_transformers.models.Router"}, structure={"a": ["../up"]}),
            "leaves the model",
        ),
        (rerouted(parameters={"default_route": "nowhere"}), "names the route nowhere, it has query, document"),
        (rerouted(parameters={"default_route": None, "allow_empty_key": False}), r"none for .*\(default_route\)"),
        (rerouted(parameters={"route_mappings": {"query": "document"}}), "must be by pairs"),
        (lambda folder: (folder / "router_config.json").unlink(), r"router_config\.json cannot be read"),
    ],
)
def test_what_is_not_computed_is_refused(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    """By name: nothing that a folder says is ignored."""
    change(folder)
    with pytest.raises(ModelMismatch, match=message):
        load_predictor(folder)


def test_modules_behind_a_router_are_refused(save: Save, tmp_path: Path) -> None:
    """They would change the weights of either route."""
    with pytest.raises(ModelMismatch, match="this SparseEncoder lists Router, Normalize"):
        load_predictor(in_itself(save(Normalize()), tmp_path / "model"))


def test_a_table_of_one_tokenizer_has_its_words(folder: Path) -> None:
    """Names of word pieces are those of the model's vocabulary."""
    predictor = load_predictor(folder)
    body = {"inputs": TEXTS[0], "parameters": {"input_type": "query", "return_tokens": True}}
    (answer,) = ask(predictor, body)
    tokens = set(AutoTokenizer.from_pretrained(folder).tokenize(TEXTS[0]))
    assert {entry["token"] for entry in response_json(answer)} <= tokens
    both = [{"text": TEXTS[0], "input_type": kind} for kind in ("query", "document")]
    (mixed,) = ask(predictor, {"instances": [*both, TEXTS[0]], "parameters": {"return_tokens": True}})
    assert response_json(mixed)["predictions"][0] == response_json(answer)
    assert response_json(mixed)["predictions"][1] == response_json(mixed)["predictions"][2]
    (refused,) = ask(predictor, {"inputs": TEXTS[0], "parameters": {"input_type": "passage"}})
    assert (refused.status, "input_type must be one of query, document" in str(response_json(refused))) == (422, True)


def test_a_dense_router_is_refused_by_name(make_model: MakeModel, tmp_path: Path) -> None:
    """Of vectors for queries by other modules than those for documents; the folder of each encoder can be packed."""
    encoder = Transformer(str(make_model(architecture=transformers.BertModel)))
    table = StaticEmbedding(encoder.tokenizer, embedding_dim=32)
    router = Router.for_query_document([table], [encoder, Pooling(32)])
    SentenceTransformer(modules=[router, Normalize()]).save(str(tmp_path / "saved"), create_model_card=False)
    with (
        open_model(ModelRequest(str(tmp_path / "saved"))) as source,
        pytest.raises(ModelMismatch, match=r"lists Router: .*pack each Transformer of this one as a model of its own"),
    ):
        load_predictor(source.folder, ServingConfig(task="feature-extraction"))
    load_predictor(tmp_path / "saved" / "document_0_Transformer", ServingConfig(task="feature-extraction"))
