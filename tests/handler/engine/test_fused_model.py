"""Models without the modules of transformers: the same bits, and a worker that imports none of those modules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from handler.config import ServingConfig
from handler.engine import Engine, fused_model, int8, int8_file
from handler.engine.fused_model import FusedModel
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.sequences import Encoding
from scripts.archives import calibration
from tests.support.encodings import LENGTHS, ChosenStates, outputs_of, random_words
from tests.support.families import FAMILIES, OWN_ENCODER_FAMILIES
from tests.support.samples import ROOT, MakeModel

CPU = torch.device("cpu")
HEADS = {"ForSequenceClassification": None, "ForTokenClassification": None, "ForQuestionAnswering": ("start", "end")}
PRECISIONS = [*supported(CPU), *(["int8"] if int8.supported(CPU) else [])]

# What a serving process must not import: it takes two thirds of the time and half of the memory of a start.
FORBIDDEN = (
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "sympy",
    "accelerate",
    "captum",
    "PIL",
    "jinja2",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "transformers.modeling_utils",
    "transformers.trainer",
    "transformers.generation.utils",
    "transformers.quantizers",
)
SERVE = """
import json, sys
from pathlib import Path
from handler.config import ServingConfig
from handler.loading import load_predictor
predictor = load_predictor(Path(sys.argv[1]), ServingConfig(precision="fp32"), serving=True)
answers = predictor.answer_items(["Where is my parcel?", {"text": "a", "text_pair": "b"}])
imported = sorted(name for name in sys.argv[2:] if name in sys.modules)
explained = predictor.answer_items(["Where is my parcel?"], explain=True)
print(json.dumps([imported, type(predictor.engine.model).__name__, answers, explained]))
"""


def make(name: str, suffix: str, make_model: MakeModel, **settings: Any) -> Path:
    """Make a model of a family with a head."""
    labels = HEADS.get(suffix)
    return make_model(
        architecture=getattr(transformers, f"{name}{suffix}"),
        config_class=getattr(transformers, f"{name}Config"),
        **({} if labels is None else {"labels": labels}),
        **{**FAMILIES[name], "max_position_embeddings": 100, **settings},
    )


def pairs() -> list[Encoding]:
    """Return random sequences, half of whose tokens have type 1."""
    return [
        Encoding(words.ids, [0] * (len(words) // 2) + [1] * (len(words) - len(words) // 2))
        for words in random_words(*LENGTHS)
    ]


@pytest.mark.parametrize("suffix", [*HEADS, "Model"])
@pytest.mark.parametrize("name", OWN_ENCODER_FAMILIES)
def test_the_same_bits_as_with_the_modules_of_transformers(
    name: str, suffix: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """Every family, head and precision; all tokens, the first, or several; types of pairs where the model has any."""
    folder = make(name, suffix, make_model)
    assert fused_model.supports(folder)
    exact = load_predictor(folder)
    with_int8 = tmp_path / "int8"
    shutil.copytree(folder, with_int8)
    if "int8" in PRECISIONS:
        params = calibration.calibrate(exact, random_words(*LENGTHS))
        int8_file.write(with_int8 / int8.FILE, exact.engine.model, params)
    auto_class = f"AutoModel{suffix}" if suffix != "Model" else "AutoModel"
    for precision in PRECISIONS:
        config = ServingConfig(precision=precision)  # type: ignore[arg-type]
        options: Any = {"type_ids": name != "DistilBert"}
        plain, fused = (
            Engine.load(with_int8, auto_class, exact.task, config, fused=is_fused, **options)
            for is_fused in (False, True)
        )
        assert isinstance(fused.model, FusedModel)
        assert fused.architecture == plain.architecture == f"{name}{suffix}"
        assert fused.packed
        for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5), exact.task):
            outputs = zip(*(outputs_of(engine, pooler, pairs()) for engine in (plain, fused)), strict=True)
            for output in outputs:
                np.testing.assert_array_equal(*output)


def test_what_is_not_supported_keeps_transformers(make_model: MakeModel, tmp_path: Path) -> None:
    """Other heads, families and activations, a decoder, and tensors under other names."""
    assert not fused_model.supports(make_model(architecture=transformers.BertForMaskedLM))
    assert not fused_model.supports(make_model(hidden_act="quick_gelu"))
    assert not fused_model.supports(make("Albert", "ForSequenceClassification", make_model))
    assert not fused_model.supports(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(make("Bert", "ForTokenClassification", make_model), folder)
    assert fused_model.supports(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for change in ({"is_decoder": True}, {"position_embedding_type": "relative_key"}):
        (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
        assert not fused_model.supports(folder)
    (folder / "config.json").write_text(
        json.dumps({**config, "architectures": ["BertForQuestionAnswering"]}), encoding="utf-8"
    )
    assert not fused_model.supports(folder)


def test_a_missing_tensor_is_refused(make_model: MakeModel) -> None:
    """The message names it."""
    folder = make("Bert", "ForTokenClassification", make_model)
    exact = load_predictor(folder)
    with pytest.raises(ModelMismatch, match=r"weights cannot be loaded: KeyError 'qa_outputs.weight'"):
        Engine.load(folder, "AutoModelForQuestionAnswering", exact.task, ServingConfig(), fused=True)


def test_what_a_serving_process_imports(mar: Path, tmp_path: Path, model_folder: Path) -> None:
    """None of what transformers imports for its models; the answers and explanations are those of transformers."""
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path), *FORBIDDEN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported, model, answers, explained = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    assert model == "FusedModel"
    assert "PyTorch was not found" not in done.stderr
    exact = load_predictor(model_folder)
    items: list[Any] = ["Where is my parcel?", {"text": "a", "text_pair": "b"}]
    for answer, expected in zip(answers, exact.answer_items(items), strict=True):
        assert exact.task.answers_match(expected, answer, 1e-4)
    (expected,) = exact.answer_items(items[:1], explain=True)
    assert explained[0]["label"] == expected["label"]
    attributions, references = (
        [word["attribution"] for word in answer["words"]] for answer in (explained[0], expected)
    )
    np.testing.assert_allclose(attributions, references, atol=1e-3)
