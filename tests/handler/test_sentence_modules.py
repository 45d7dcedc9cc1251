"""Folders that sentence-transformers saved: answers equal the library's own, or the folder is refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import nn
from transformers import BertForSequenceClassification, BertModel, RobertaConfig, RobertaModel

from handler.config import ModelConfig, ServingConfig
from handler.errors import InvalidInput, ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sentence_layers import read_tensors
from handler.sentence_modules import POOLING_MODES
from scripts.archives.build import ArchiveContents, build
from scripts.archives.reference import Reference
from tests.support.samples import ROOT, MakeModel

TEXTS = [
    "parcel",
    "Where is my parcel?",
    "The charger stopped working after two weeks and it still has warranty.",
    "L'écran est rayé, 屏幕坏了 🙂",
    "a long text that goes on " * 30,
]
WIDTH = 32
LENGTH = 48  # tokens of a text

Save = Callable[..., tuple[Path, SentenceTransformer]]


@pytest.fixture(scope="module")
def encoder(make_model: MakeModel) -> Path:
    """Return the folder of a random BERT without a head."""
    return make_model(architecture=BertModel)


@pytest.fixture
def save(encoder: Path, tmp_path: Path) -> Save:
    """Return a function that saves a SentenceTransformer with the library and returns its folder and the model."""

    def run(
        *later: Any, pooling: Any = "mean", base: Path = encoder, **options: Any
    ) -> tuple[Path, SentenceTransformer]:
        transformer = modules.Transformer(
            str(base), max_seq_length=LENGTH, do_lower_case=options.pop("lowercase", False)
        )
        include_prompt = options.pop("include_prompt", True)
        pool = modules.Pooling(WIDTH, pooling_mode=pooling, include_prompt=include_prompt)
        torch.manual_seed(1)
        model = SentenceTransformer(modules=[transformer, pool, *(make() for make in later)], device="cpu", **options)
        model.save(str(tmp_path / "saved"), create_model_card=False)
        return tmp_path / "saved", model

    return run


def embeddings(predictor: Predictor, **parameters: Any) -> np.ndarray:
    """Return our embeddings of TEXTS."""
    return np.array(predictor.answer_items(list(TEXTS), parameters))


def load(folder: Path, **settings: Any) -> Predictor:
    """Load a folder for feature extraction."""
    return load_predictor(folder, ServingConfig(task="feature-extraction", **settings))


@pytest.mark.parametrize("pooling", [*POOLING_MODES, ("cls", "mean"), ("weightedmean", "lasttoken", "max")], ids=str)
def test_every_pooling_mode_equals_the_library(save: Save, pooling: Any) -> None:
    """One mode, or several side by side, for texts from one word to longer than the model."""
    folder, library = save(pooling=pooling)
    np.testing.assert_allclose(embeddings(load(folder)), library.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    "activation", [nn.Tanh, nn.Identity, nn.GELU, nn.ReLU, nn.Sigmoid, nn.SiLU], ids=lambda it: it.__name__
)
def test_dense_and_normalize_equal_the_library(save: Save, activation: type[nn.Module]) -> None:
    """What stands behind the pooling is computed in its order."""
    folder, library = save(
        lambda: modules.Dense(WIDTH, 24, activation_function=activation()),
        lambda: modules.LayerNorm(24),
        lambda: modules.Dropout(0.5),
        lambda: modules.Dense(24, 16, bias=False, activation_function=nn.Identity()),
        modules.Normalize,
    )
    predictor = load(folder)
    np.testing.assert_allclose(embeddings(predictor), library.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embeddings(predictor, dimensions=4), library.encode(TEXTS, truncate_dim=4), atol=1e-5)
    np.testing.assert_allclose(
        embeddings(predictor, dimensions=4, normalize=True),
        library.encode(TEXTS, truncate_dim=4, normalize_embeddings=True),
        atol=1e-5,
    )


@pytest.mark.parametrize("out", [WIDTH, 20])
def test_a_residual_of_dense_equals_the_library(save: Save, out: int) -> None:
    """With a projection of its own where the widths differ."""
    folder, library = save(lambda: modules.Dense(WIDTH, out, use_residual=True))
    np.testing.assert_allclose(embeddings(load(folder)), library.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "weightedmean", ("max", "lasttoken")], ids=str)
def test_prompts_equal_the_library(save: Save, pooling: Any, include_prompt: bool) -> None:
    """The default prompt applies; another one by name or by itself; an empty one switches it off."""
    prompts = {"query": "query: ", "document": "represent this passage: "}
    folder, library = save(pooling=pooling, prompts=prompts, default_prompt_name="query", include_prompt=include_prompt)
    predictor = load(folder)
    np.testing.assert_allclose(embeddings(predictor), library.encode(TEXTS), atol=1e-5)
    chosen: list[dict[str, Any]] = [{"prompt_name": "document"}, {"prompt": "another: "}, {"prompt": ""}]
    for prompt in chosen:
        np.testing.assert_allclose(embeddings(predictor, **prompt), library.encode(TEXTS, **prompt), atol=1e-5)
    assert not np.allclose(embeddings(predictor), embeddings(predictor, prompt=""), atol=1e-3)
    with pytest.raises(InvalidInput, match="prompt_name must be one of document, query"):
        predictor.answer_items(["a"], {"prompt_name": "clustering"})
    with pytest.raises(InvalidInput, match="exclude each other"):
        predictor.answer_items(["a"], {"prompt_name": "query", "prompt": "a"})
    with pytest.raises(InvalidInput, match="unknown parameter"):
        predictor.answer_items(["a"], {"pooling": "cls"})


def test_a_text_that_makes_one_word_of_its_prompt_leaves_others_alone(save: Save) -> None:
    """It has fewer tokens than its prompt alone, all of which are pooled; the other texts of a batch are as before."""
    folder, library = save(include_prompt=False)
    predictor, prompt = load(folder), "univers"
    assert predictor.tokenizer.prompt_length(prompt) > len(library.tokenizer(prompt + "ity")["input_ids"])
    answers = predictor.answer_items(["ity", *TEXTS], {"prompt": prompt})
    np.testing.assert_allclose(np.array(answers[1:]), library.encode(TEXTS, prompt=prompt), atol=1e-5)
    np.testing.assert_array_equal(answers[0], predictor.answer_items(["ity"], {"prompt": prompt})[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_of_a_layer_are_read_in_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    """Whatever the type in which they are stored."""
    stored = (torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    save_file({"weight": stored}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(read_tensors(tmp_path)["weight"], stored.float().numpy(), strict=True)


WITHOUT_TORCH = """
import sys; sys.modules["torch"] = None
from pathlib import Path
import numpy as np
from handler.sentence_modules import read_sentence_modules
modules = read_sentence_modules(Path(sys.argv[1]), int(sys.argv[2]), 0)
np.save(sys.argv[3], modules.project(np.load(sys.argv[3])))
"""


def test_layers_are_computed_without_torch(save: Save, tmp_path: Path) -> None:
    """In a process that cannot import it, vectors of numpy have the numbers of the library's modules."""
    folder, library = save(
        lambda: modules.Dense(WIDTH, 24, activation_function=nn.GELU()),
        lambda: modules.LayerNorm(24),
        lambda: modules.Dense(24, 16, use_residual=True),
        modules.Normalize,
    )
    vectors = np.random.default_rng(0).standard_normal((7, WIDTH), dtype=np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    arguments = [str(folder), str(WIDTH), str(tmp_path / "vectors.npy")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], cwd=ROOT, check=True, timeout=120)
    features = {"sentence_embedding": torch.from_numpy(vectors)}
    for layer in [*library][2:]:
        features = layer(features)
    expected = features["sentence_embedding"].detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)


def test_truncated_embeddings_equal_the_library(save: Save) -> None:
    """A folder says how many numbers count, of vectors and of similarities; a request says otherwise."""
    folder, library = save(modules.Normalize, truncate_dim=5)
    np.testing.assert_allclose(embeddings(load(folder)), library.encode(TEXTS), atol=1e-5)
    assert embeddings(load(folder), dimensions=9).shape == (len(TEXTS), 9)
    predictor = load_predictor(folder, ServingConfig(task="sentence-similarity"))
    body: Any = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    vectors = library.encode(TEXTS)
    (answer,) = predictor.answer_items([body])
    np.testing.assert_allclose(answer, library.similarity(vectors[0], vectors[1:])[0], atol=1e-4)
    reference: Any = Reference(predictor.task, folder, ServingConfig()).answer(body, {})
    np.testing.assert_allclose(answer, reference, atol=1e-4)


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_equal_the_library(save: Save, function: str) -> None:
    """By the function that the folder names, with its prompt."""
    folder, library = save(similarity_fn_name=function, prompts={"query": "query: "}, default_prompt_name="query")
    predictor = load_predictor(folder, ServingConfig(task="sentence-similarity"))
    (answer,) = predictor.answer_items([{"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}])
    vectors = library.encode(TEXTS)
    np.testing.assert_allclose(answer, library.similarity(vectors[0], vectors[1:])[0], atol=1e-4)


def test_lower_casing_equals_the_library(save: Save, make_model: MakeModel) -> None:
    """A cased tokenizer, of which the folder says that texts are lower-cased first."""
    base = make_model(architecture=RobertaModel, config_class=RobertaConfig, pad_token_id=0)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    tokenizer["normalizer"]["strip_accents"] = False
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    folder, library = save(base=base)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": True}))
    library = SentenceTransformer(str(folder), device="cpu")
    predictor = load(folder)
    assert predictor.tokenizer.max_length == 16
    np.testing.assert_allclose(embeddings(predictor), library.encode(TEXTS), atol=1e-5)


def test_flags_of_older_versions_mean_the_same(save: Save) -> None:
    """Before version 6 each mode was a boolean of its own, and the width had another name."""
    folder, library = save(pooling=("cls", "mean"))
    flags = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["type"], listed[1]["type"] = (
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
    )
    (folder / "modules.json").write_text(json.dumps(listed))
    np.testing.assert_allclose(embeddings(load(folder)), library.encode(TEXTS), atol=1e-5)


def listed(folder: Path, index: int, **changes: Any) -> None:
    """Change an entry of modules.json."""
    entries = json.loads((folder / "modules.json").read_text())
    entries[index] |= changes
    (folder / "modules.json").write_text(json.dumps(entries))


def changed(path: Path, **changes: Any) -> None:
    """Change a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "code of the model's own": (lambda f: listed(f, 0, type="custom_st.Transformer"), "code of the model's own"),
    "a module that is not computed": (
        lambda f: listed(f, 2, type="sentence_transformers.models.LSTM"),
        r"lists LSTM, which is not computed here: its vectors cannot be computed without LSTM: train .*MSELoss",
    ),
    "no pooling": (
        lambda f: listed(f, 1, type="sentence_transformers.models.CNN"),
        "Pooling; its .*without CNN: train",
    ),
    "the encoder in a folder of its own": (lambda f: listed(f, 0, path="0_Transformer"), "save it again"),
    "an unknown pooling": (lambda f: changed(f / "1_Pooling/config.json", pooling_mode="median"), "median is unknown"),
    "another width": (lambda f: changed(f / "1_Pooling/config.json", embedding_dimension=64), "pools 64 numbers"),
    "weights of another shape": (lambda f: changed(f / "2_Dense/config.json", out_features=7), "ask for"),
    "pickled weights": (
        lambda f: (f / "2_Dense/model.safetensors").rename(f / "2_Dense/pytorch_model.bin"),
        "2_Dense has pickled weights only",
    ),
    "no weights": (lambda f: (f / "2_Dense/model.safetensors").unlink(), "2_Dense has no weights"),
    "an activation that is code": (
        lambda f: changed(f / "2_Dense/config.json", activation_function="my.module.Swish"),
        "none of torch.nn",
    ),
    "an activation with arguments": (
        lambda f: changed(f / "2_Dense/config.json", activation_function="torch.nn.modules.activation.Threshold"),
        "needs arguments",
    ),
    "dense of tokens": (
        lambda f: changed(f / "2_Dense/config.json", module_input_name="token_embeddings"),
        "module_input_name is token_embeddings",
    ),
    "an unknown similarity": (
        lambda f: changed(f / "config_sentence_transformers.json", similarity_fn_name="jaccard"),
        "similarity_fn_name is jaccard",
    ),
    "no numbers at all": (
        lambda f: changed(f / "config_sentence_transformers.json", truncate_dim=0),
        "truncate_dim must be a whole number",
    ),
    "a default prompt that is not there": (
        lambda f: changed(f / "config_sentence_transformers.json", default_prompt_name="clustering"),
        "default_prompt_name is clustering",
    ),
    "a sparse encoder": (
        lambda f: changed(f / "config_sentence_transformers.json", model_type="SparseEncoder"),
        "this SparseEncoder lists Transformer, Pooling, Dense",
    ),
    "another output of the encoder": (
        lambda f: changed(f / "sentence_bert_config.json", transformer_task="fill-mask"),
        "transformer_task is fill-mask",
    ),
    "a module elsewhere": (lambda f: listed(f, 1, path="../other"), "the path '../other' leaves the model's folder"),
    "a module anywhere": (lambda f: listed(f, 2, path="/etc"), "the path '/etc' leaves the model's folder"),
    "not JSON": (lambda f: (f / "modules.json").write_text("["), "modules.json cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused_by_name(save: Save, case: str) -> None:
    """Nothing that changes an embedding is ignored."""
    folder, _ = save(lambda: modules.Dense(WIDTH, 8))
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(ModelMismatch, match=message):
        load(folder)


@pytest.fixture(scope="module")
def cross_encoders(make_model: MakeModel) -> dict[int, Path]:
    """Return folders of classifiers with one and with three labels."""
    return {
        n: make_model(
            architecture=BertForSequenceClassification, labels=tuple(f"LABEL_{i}" for i in range(n)), problem_type=None
        )
        for n in (1, 3)
    }


@pytest.mark.parametrize("activation", [None, nn.Identity(), nn.Sigmoid()], ids=str)
def test_a_cross_encoder_ranks_as_the_library(
    cross_encoders: dict[int, Path], tmp_path: Path, activation: nn.Module | None
) -> None:
    """One label: the activation of the folder, by default the sigmoid."""
    library = CrossEncoder(str(cross_encoders[1]), max_length=40, device="cpu", activation_fn=activation)
    library.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    expected = library.predict([(TEXTS[0], text) for text in TEXTS[1:]])
    predictor = load_predictor(tmp_path / "saved", ServingConfig(task="rerank"))
    (ranked,) = predictor.answer_items([{"query": TEXTS[0], "texts": TEXTS[1:]}])
    by_index = [item["score"] for item in sorted(ranked, key=lambda item: int(item["index"]))]
    np.testing.assert_allclose(by_index, expected, atol=1e-5)
    assert [item["index"] for item in ranked] == np.argsort(-expected, kind="stable").tolist()


@pytest.mark.parametrize("activation", [None, nn.Identity(), nn.Sigmoid(), nn.Softmax(dim=-1)], ids=str)
def test_a_cross_encoder_of_several_labels_scores_as_the_library(
    cross_encoders: dict[int, Path], tmp_path: Path, activation: nn.Module | None
) -> None:
    """Several labels: by default the logits themselves, where a plain classifier has the softmax."""
    library = CrossEncoder(str(cross_encoders[3]), device="cpu", activation_fn=activation)
    library.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    pairs = [(TEXTS[0], text) for text in TEXTS[1:4]]
    expected = library.predict(pairs)
    predictor = load_predictor(tmp_path / "saved", ServingConfig(top_k=3))
    answers = predictor.answer_items([{"text": text, "text_pair": pair} for text, pair in pairs])
    scores = [
        [next(one["score"] for one in answer if one["label"] == f"LABEL_{i}") for i in range(3)] for answer in answers
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_an_activation_that_is_not_computed_is_refused(cross_encoders: dict[int, Path], tmp_path: Path) -> None:
    """Where older versions of the library put it, too."""
    folder = Path(shutil.copytree(cross_encoders[1], tmp_path / "saved"))
    changed(folder / "config.json", sentence_transformers={"activation_fn": "my.Activation", "version": "4.1.0"})
    with pytest.raises(ModelMismatch, match=r"my\.Activation"):
        load_predictor(folder)
    changed(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    predictor = load_predictor(folder)
    (answer,) = predictor.answer_items(["no"])
    (logits,) = predictor.answer_items(["no"], {"function_to_apply": "none"})
    assert answer == logits


def test_an_archive_holds_all_modules(save: Save, tmp_path: Path) -> None:
    """Packed and unpacked, a folder answers as before; its self-test holds the modules too."""
    folder, library = save(lambda: modules.Dense(WIDTH, 8), modules.Normalize, pooling="cls")
    store = tmp_path / "store"
    store.mkdir()
    mar = build(
        ArchiveContents(folder, "sentences", "1.0", ModelConfig(handler=ServingConfig(task="feature-extraction"))),
        store,
    )
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(mar, unpacked, "zip")
    predictor = load_predictor(unpacked, ServingConfig(task="feature-extraction"))
    np.testing.assert_allclose(embeddings(predictor), library.encode(TEXTS), atol=1e-5)
    (unpacked / "model" / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelMismatch, match=r"1_Pooling/config\.json is missing"):
        load_predictor(unpacked, ServingConfig(task="feature-extraction"))
