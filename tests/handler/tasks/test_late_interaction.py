"""late-interaction: every vector and score equals that of the MultiVectorEncoder of sentence-transformers.

That library reads folders of PyLate and of colbert-ai too. PyLate 1.6.0 itself, which needs older libraries than the
tests have, gave the same numbers for the folders of `test_as_pylate_computes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from sentence_transformers import MultiVectorEncoder

from handler.config import ServingConfig
from handler.errors import ConfigError, ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.comparison import agreement
from scripts.archives.reference_late import LateReference
from scripts.pretrained.files import settings_in
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.families import FAMILIES, LATER_FAMILIES
from tests.support.late import write_dense, write_pylate, write_stanford
from tests.support.samples import TEXTS, MakeModel, ask, response_json

QUERIES = [TEXTS[0], "no", "the shop does not answer my letters, and " * 4]
DOCUMENTS = [*TEXTS[:8], "It waits, they said: at the office (in town)!", TEXTS[2] * 6]


def check(predictor: Predictor, folder: Path, queries: Sequence[str] = QUERIES) -> None:
    """Compare vectors, similarities and rankings with those of the library, many texts in one batch."""
    library = MultiVectorEncoder(str(folder), device="cpu")
    expected_queries, expected_documents = library.encode_query(list(queries)), library.encode_document(DOCUMENTS)
    vectors = predictor.answer_items(
        [*({"text": query, "input_type": "query"} for query in queries), *DOCUMENTS],
    )
    for answer, expected in zip(vectors, [*expected_queries, *expected_documents], strict=True):
        np.testing.assert_allclose(np.array(answer), expected.numpy(), atol=1e-5)
    scores = library.similarity(expected_queries, expected_documents).tolist()
    similar = ask(
        predictor,
        *({"source_sentence": query, "sentences": DOCUMENTS} for query in queries),
        operation="similarity",
    )
    assert [response_json(response) for response in similar] == [pytest.approx(row, abs=1e-4) for row in scores]
    ranked = ask(predictor, *({"query": query, "texts": DOCUMENTS} for query in queries), operation="rerank")
    for response, row in zip(ranked, scores, strict=True):
        answer = response_json(response)
        assert [item["score"] for item in answer] == sorted((item["score"] for item in answer), reverse=True)
        assert {item["index"]: item["score"] for item in answer} == pytest.approx(dict(enumerate(row)), abs=1e-4)


@pytest.fixture
def late(make_model: MakeModel) -> Path:
    """Return a folder of PyLate."""
    return write_pylate(make_model(architecture=transformers.BertModel, initializer_range=0.2))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attend_to_expansion_tokens": True},
        {"do_query_expansion": False, "query_length": 9},
        {"skiplist_words": []},
        {"skiplist_words": None, "query_prefix": "", "document_prefix": ""},
        {"prompts": {"query": "ask: ", "document": "read: "}, "similarity_fn_name": None},
        {"query_length": 8, "document_length": 12},
    ],
)
def test_as_pylate_computes(settings: dict[str, Any], make_model: MakeModel) -> None:
    """Each of its settings; the task is that of the folder."""
    folder = make_model(architecture=transformers.BertModel, initializer_range=0.2)
    predictor = load_predictor(write_pylate(folder, **settings))
    assert predictor.task.name == "late-interaction"
    assert list(predictor.operations) == ["predict", "embed-multi-vector", "similarity", "rerank", "tokenize"]
    check(predictor, folder)


@pytest.mark.parametrize("name", ["Roberta", "ModernBert"])
def test_other_families(name: str, make_model: MakeModel) -> None:
    """Position ids that skip padding, and layers that attend to near tokens alone."""
    settings = {**(FAMILIES | LATER_FAMILIES)[name], "initializer_range": 0.2}
    settings |= {"local_attention": 40} if name == "ModernBert" else {"max_position_embeddings": 80}
    folder = make_model(
        architecture=getattr(transformers, f"{name}Model"),
        config_class=getattr(transformers, f"{name}Config"),
        **settings,
    )
    check(load_predictor(write_pylate(folder)), folder)


def test_layers_of_pylate(late: Path) -> None:
    """Several, one of them with a residual connection and an activation."""
    modules = json.loads((late / "modules.json").read_text())
    write_dense(late / "2_Dense", 24, 24, use_residual=True, activation_function="torch.nn.modules.activation.GELU")
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "pylate.models.Dense.Dense"})
    (late / "modules.json").write_text(json.dumps(modules))
    check(load_predictor(late), late)


@pytest.mark.parametrize("metadata", [{}, {"attend_to_mask_tokens": True, "mask_punctuation": False, "doc_maxlen": 9}])
def test_checkpoints_of_colbert_ai(metadata: dict[str, Any], make_model: MakeModel) -> None:
    """They are converted where a model is opened; the handler says so where one is given to it as it is."""
    folder = write_stanford(make_model(architecture=transformers.BertModel, initializer_range=0.2), **metadata)
    with pytest.raises(ModelMismatch, match=r"a checkpoint of colbert-ai: scripts/package.py converts it"):
        load_predictor(folder)
    with open_model(ModelRequest(str(folder))) as source:
        check(load_predictor(source.folder), folder)
        assert "converted to the layout of PyLate" in source.provenance.steps[0]


def test_a_checkpoint_without_metadata(make_model: MakeModel) -> None:
    """Has the defaults of colbert-ai, which other libraries do not share; the hub's file is fetched where it is."""
    folder = write_stanford(make_model(architecture=transformers.BertModel))
    (folder / "artifact.metadata").unlink()
    with open_model(ModelRequest(str(folder))) as source:
        settings = json.loads((source.folder / "config_sentence_transformers.json").read_text())
    assert (settings["query_length"], settings["document_length"], settings["skiplist_words"]) == (32, 220, None)
    assert "artifact.metadata" in settings_in(["artifact.metadata", "config.json", "model.safetensors"])


@pytest.mark.parametrize(
    "expansion",
    [
        None,
        {"strategy": "fixed", "attend": False, "token": None, "length": 10},
        {"strategy": "min", "attend": True, "token": "[unused5]", "length": 10},
    ],
)
@pytest.mark.parametrize("similarity", ["maxsim", "meanmaxsim"])
def test_folders_of_a_multi_vector_encoder(late: Path, expansion: Any, similarity: str) -> None:
    """As the library saves what it read of PyLate, with its own settings changed."""
    MultiVectorEncoder(str(late), device="cpu", similarity_fn_name=similarity).save(str(late))
    changed(late / "sentence_bert_config.json", query_expansion=expansion, query_length=None, document_length=30)
    mask = next(late.glob("*_MultiVectorMask")) / "config.json"
    changed(mask, skiplist_tasks=["query", "document"])
    check(load_predictor(late), late)


def test_long_documents_in_windows(late: Path) -> None:
    """The vectors of all windows belong to a document; a query is truncated, and a header counts its lost tokens."""
    config = ServingConfig(overflow="window", max_length=24)
    predictor = load_predictor(late, config)
    text = " ".join(TEXTS[:5])
    reference: Any = LateReference(predictor.task, late, config)
    assert len(reference.encode((text, "document"))) > 2
    query = {"text": text, "input_type": "query"}
    query_response, document_response = ask(predictor, query, text)
    for question, response in ((query, query_response), (text, document_response)):
        np.testing.assert_allclose(response_json(response), reference.answer(question, {}), atol=1e-5)
    assert int(query_response.headers["x-truncated-tokens"]) > 0
    assert "x-truncated-tokens" not in document_response.headers
    (long_response,) = ask(load_predictor(late), "again and " * 600)
    assert int(long_response.headers["x-truncated-tokens"]) > 500
    (refused,) = ask(load_predictor(late, ServingConfig(overflow="refuse")), {"inputs": query})
    assert refused.status == 413


def test_parameters(late: Path) -> None:
    """The role of a whole request, or of one text of it; tokens by name; the best so many with their texts."""
    predictor = load_predictor(late)
    text = "Where is it?"
    of_request, of_item, named = (
        response_json(response)
        for response in ask(
            predictor,
            {"inputs": text, "parameters": {"input_type": "query"}},
            {"inputs": {"text": text, "input_type": "query"}},
            {"inputs": text, "parameters": {"return_tokens": True}},
        )
    )
    assert of_request == of_item
    assert len(of_request) == 20
    assert [entry["token"] for entry in named] == ["[CLS]", "[unused1]", "where", "is", "it", "[SEP]"]
    np.testing.assert_allclose([entry["embedding"] for entry in named], predictor.answer_items([text])[0], atol=1e-6)
    (bare, with_tokens) = ask(predictor, text, {"inputs": text, "parameters": {"return_tokens": True}})
    for vector in bare.content.strip(b"[]").split(b"],["):
        assert b'"embedding":[' + vector + b"]" in with_tokens.content, "the same nine digits"
    (lists,) = predictor.answer_items([text], {"return_tokens": True})
    assert [type(entry["embedding"]) for entry in lists] == [list] * len(named)
    ranking = {"inputs": {"query": text, "texts": DOCUMENTS}, "parameters": {"top_k": 2, "return_text": True}}
    (best,) = ask(predictor, ranking, operation="rerank")
    assert [item["text"] for item in response_json(best)] == [DOCUMENTS[item["index"]] for item in response_json(best)]
    assert len(response_json(best)) == 2
    for wrong in ({"text": text, "input_type": "passage"}, {"text": text, "role": "query"}, {"input_type": "query"}):
        (refused,) = ask(predictor, {"inputs": wrong})
        assert refused.status == 422


def changed(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_prefix": "[Q] "}, r"query_prefix is '\[Q\] ', which is no token"),
        ({"similarity_fn_name": "dot"}, "similarity_fn_name is dot"),
        ({"query_length": "32"}, "query_length is 32"),
        ({"skiplist_words": "."}, "skiplist_words must be a list"),
        ({"default_prompt_name": "query", "prompts": {"query": "ask: "}}, "default_prompt_name is query"),
    ],
)
def test_settings_that_are_not_computed_are_refused(late: Path, fields: dict[str, Any], message: str) -> None:
    """By name."""
    changed(late / "config_sentence_transformers.json", **fields)
    with pytest.raises(ModelMismatch, match=message):
        load_predictor(late)


def test_other_folders_are_refused(late: Path, make_model: MakeModel) -> None:
    """Other modules and tasks, an encoder without vectors of tokens, and queries that do not fit."""
    for task in ("feature-extraction", "sparse-embedding"):
        with pytest.raises(ModelMismatch, match="late-interaction"):
            load_predictor(late, ServingConfig(task=task))
    with pytest.raises(ConfigError, match="queries have 20 tokens in this model, more than the 16"):
        load_predictor(late, ServingConfig(max_length=16))
    plain = make_model(architecture=transformers.BertModel)
    with pytest.raises(ModelMismatch, match="late-interaction needs a folder of PyLate"):
        load_predictor(plain, ServingConfig(task="late-interaction"))
    pooling = [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1", "type": "x.Pooling"}]
    pooling[1]["type"] = "sentence_transformers.models.HierarchicalTokenPooling"
    (late / "modules.json").write_text(json.dumps(pooling))
    with pytest.raises(ModelMismatch, match=r"modules.json lists Transformer, HierarchicalTokenPooling"):
        load_predictor(late)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa's own module
@pytest.mark.parametrize(("name", "settings"), [("ModernBert", {"local_attention": 10}), ("DebertaV2", {})])
def test_queries_whose_tokens_would_see_nothing(name: str, settings: dict[str, Any], make_model: MakeModel) -> None:
    """What is not attended to must reach a word: beyond a window it does not, and in DeBERTa never."""
    folder = make_model(
        architecture=getattr(transformers, f"{name}Model"),
        config_class=getattr(transformers, f"{name}Config"),
        **{**LATER_FAMILIES[name], **settings},
    )
    with pytest.raises(ModelMismatch, match="queries have 20 tokens, of which some are not attended to"):
        load_predictor(write_pylate(folder))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"similarity": "l2"}, "similarity is l2"), ({"interaction": "flipr"}, "interaction is flipr")],
)
def test_other_scores_of_colbert_ai_are_refused(metadata: dict[str, Any], message: str, make_model: MakeModel) -> None:
    """By name."""
    folder = write_stanford(make_model(architecture=transformers.BertModel), **metadata)
    with pytest.raises(Exception, match=message), open_model(ModelRequest(str(folder))):
        pass


def test_agreement_is_the_mean_cosine_of_tokens(late: Path) -> None:
    """By which int8 is judged when it is packed."""
    task = load_predictor(late).task
    expected: Any = [[1.0, 0.0], [0.0, 1.0]]
    assert agreement(task, expected, expected) == 1
    assert agreement(task, expected, [[1.0, 0.0], [1.0, 0.0]]) == 0.5
