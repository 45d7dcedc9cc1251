"""Models without PyTorch and transformers' models: their numbers, and a worker that imports none of either."""

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
from safetensors.torch import load_file, save_file

from handler.batching import PackedRow
from handler.config import ServingConfig
from handler.engine import cpu, int8_file, int8_weights, native_layers, native_support, positions
from handler.engine.device import CPU
from handler.engine.fused_model import FusedModel
from handler.engine.native_engine import NativeEngine, precision_of
from handler.engine.native_layers import NativeLinear
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.engine.torch_engine import TorchEngine
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.sequences import Encoding
from scripts.archives import calibration
from tests.support.encodings import LENGTHS, ChosenStates, logits_of, outputs_of, random_words
from tests.support.families import FAMILIES, LATER_FAMILIES, LATER_INT8_FAMILIES, OWN_ENCODER_FAMILIES, reference_logits
from tests.support.samples import ROOT, MakeModel

HEADS = {"ForSequenceClassification": None, "ForTokenClassification": None, "ForQuestionAnswering": ("start", "end")}
PRECISIONS = [*supported(CPU), *(["int8"] if int8_weights.supported(CPU) else [])]

# What a serving process must not import: it takes two thirds of the time and half of the memory of a start.
FORBIDDEN = (
    "torch",
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "sympy",
    "accelerate",
    "captum",
    "PIL",
    "jinja2",
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
explaining = type(predictor.engine.with_gradients().model).__name__
print(json.dumps([imported, type(predictor.engine.model).__name__, explaining, answers, explained]))
"""


def make(name: str, suffix: str, make_model: MakeModel, **settings: Any) -> Path:
    """Make a model of a family with a head."""
    labels = HEADS.get(suffix)
    return make_model(
        architecture=getattr(transformers, f"{name}{suffix}"),
        config_class=getattr(transformers, f"{name}Config"),
        **({} if labels is None else {"labels": labels}),
        **{**(FAMILIES | LATER_FAMILIES | LATER_INT8_FAMILIES)[name], "max_position_embeddings": 100, **settings},
    )


def pairs() -> list[Encoding]:
    """Return random sequences, half of whose tokens have type 1."""
    return [
        Encoding(words.ids, [0] * (len(words) // 2) + [1] * (len(words) - len(words) // 2))
        for words in random_words(*LENGTHS)
    ]


ROTATED = ("ModernBert", "NomicBert", "Gte", "JinaEmbeddingsV3")  # families whose queries and keys are rotated
# How far outputs in a precision are from those of the modules of transformers around the same layers: sums in another
# order, which for int8 move a number to the next integer here and there, and weights of norms that bf16 does not round.
ATOL = {"fp32": 5e-6, "bf16": 0.02, "int8": 0.04}


@pytest.mark.parametrize("suffix", [*HEADS, "Model"])
@pytest.mark.parametrize("name", [*OWN_ENCODER_FAMILIES, "MPNet", *ROTATED])
def test_the_numbers_of_the_modules_of_transformers(
    name: str, suffix: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """Every family, head and precision; all tokens, the first, or several; types of pairs where the model has any."""
    if not hasattr(transformers, f"{name}{suffix}"):
        assert suffix == "ForQuestionAnswering"  # which transformers has not of every family
        return
    folder = make(name, suffix, make_model)
    assert native_support.supported_config(folder)
    exact = load_predictor(folder)
    with_int8 = tmp_path / "int8"
    shutil.copytree(folder, with_int8)
    if "int8" in PRECISIONS:
        params = calibration.calibrate(exact, random_words(*LENGTHS))
        int8_file.write(with_int8 / int8_weights.FILE, exact.engine.model, params)
    auto_class = f"AutoModel{suffix}" if suffix != "Model" else "AutoModel"
    for precision in PRECISIONS:
        config = ServingConfig(precision=precision)  # type: ignore[arg-type]
        options: Any = {"type_ids": name not in ("DistilBert", "MPNet")}
        plain = TorchEngine.load(with_int8, auto_class, exact.task, config, **options)
        chosen = precision_of(with_int8, config, CPU)
        assert chosen is not None
        assert chosen.name == precision
        native = NativeEngine.load(with_int8, auto_class, exact.task, config, chosen, **options)
        assert native.architecture == plain.architecture == f"{name}{suffix}"
        assert native.packed
        for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5), exact.task):
            outputs = zip(*(outputs_of(engine, pooler, pairs()) for engine in (plain, native)), strict=True)
            for expected, output in outputs:
                assert output.dtype == expected.dtype
                np.testing.assert_allclose(output, expected, atol=ATOL[precision], rtol=1e-4)
            if chosen.has_gradients:  # the model of explanations is that of transformers to the bit, but for angles
                engines = (plain, native.with_gradients())
                for pair in zip(*(outputs_of(engine, pooler, pairs()) for engine in engines), strict=True):
                    atol, rtol = (ATOL[precision], 1e-4) if name in ROTATED else (0.0, 0.0)
                    np.testing.assert_allclose(pair[1], pair[0], atol=atol, rtol=rtol)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sequence_has_the_same_bits_in_any_batch(precision: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Alone or among others, with one thread or several: embeddings, layers and head; also narrow embeddings."""
    folder = tmp_path / "model"
    shutil.copytree(make("Electra", "ForTokenClassification", make_model), folder)
    if precision == "int8":
        exact = load_predictor(folder)
        params = calibration.calibrate(exact, random_words(*LENGTHS))
        int8_file.write(folder / int8_weights.FILE, exact.engine.model, params)
    task, config = load_predictor(folder).task, ServingConfig(precision=precision)  # type: ignore[arg-type]
    chosen = precision_of(folder, config, CPU)
    assert chosen is not None
    native = NativeEngine.load(folder, "AutoModelForTokenClassification", task, config, chosen)
    native.model.encoder.single_thread_tokens = 0
    threads, sequences = cpu.thread_count(), random_words(*[*LENGTHS, 90] * 9)
    try:
        cpu.set_thread_count(1)
        alone = [outputs_of(native, task, [sequence])[0] for sequence in sequences]
        for count in (1, 2, 3):
            cpu.set_thread_count(count)
            for output, expected in zip(native.forward(task, sequences), alone, strict=True):
                np.testing.assert_array_equal(output, expected)
    finally:
        cpu.set_thread_count(threads)


@pytest.mark.parametrize("n_tokens", [4, 40_000], ids=["few", "many"])
def test_ids_that_no_table_has_are_refused(n_tokens: int, make_model: MakeModel) -> None:
    """The kernel reads nothing beyond a table of words, types or positions, before its first row or after its last."""
    folder = make("Bert", "ForSequenceClassification", make_model)
    config = ServingConfig(precision="fp32")
    precision = precision_of(folder, config, CPU)
    assert precision is not None
    engine = NativeEngine.load(folder, "AutoModelForSequenceClassification", HiddenStates(), config, precision)
    sizes = (engine.model.config.vocab_size, engine.model.config.type_vocab_size, 100)
    row = PackedRow.of([Encoding([5] * 50, [0] * 50)] * (n_tokens // 50) or [Encoding([5] * n_tokens, [0] * n_tokens)])
    expected = engine.model._embeddings(row)
    for ids, size in zip((row.input_ids, row.type_ids, row.position_ids), sizes, strict=True):
        for wrong in (size, -1, 2**40, -(2**40)):
            kept, ids[-1] = ids[-1], wrong
            with pytest.raises(IndexError, match="no embedding"):
                engine.model._embeddings(row)
            ids[-1] = kept
    assert np.array_equal(engine.model._embeddings(row), expected)


def test_one_thread_or_more_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that keeps the interpreter's lock, because there is little to do, and others that return it."""
    generator = np.random.default_rng(0)
    linear = NativeLinear(generator.standard_normal((70, 96), np.float32), generator.standard_normal(70, np.float32))
    x = generator.standard_normal((33, 96), np.float32)
    held = linear(x, "gelu")
    monkeypatch.setattr(native_layers, "HELD_PRODUCTS", 0)
    assert np.array_equal(linear(x, "gelu"), held)
    monkeypatch.setattr(native_layers, "SINGLE_THREAD_PRODUCTS", 0)
    for threads in (1, 2):
        monkeypatch.setattr(cpu, "thread_count", lambda: threads)  # noqa: B023 - called before the next one
        assert np.array_equal(linear(x, "gelu"), held)


def test_ranges_of_distances_are_those_of_transformers() -> None:
    """Also those that begin at a power of two, where a logarithm is a whole number."""
    from transformers.models.mpnet import modeling_mpnet

    encoder: Any = modeling_mpnet.MPNetEncoder
    distances = torch.arange(-600, 601)
    for n_ranges in (8, 32, 64):
        expected = encoder.relative_position_bucket(distances, n_ranges)
        np.testing.assert_array_equal(positions.range_of(distances.numpy(), n_ranges), expected)


def test_what_is_not_supported_keeps_transformers(make_model: MakeModel, tmp_path: Path) -> None:
    """Other heads, families and activations, a decoder, tensors under other names, and widths that do not fit."""
    assert native_support.supported_config(make_model(architecture=transformers.BertForMultipleChoice)) is None
    assert native_support.supported_config(make("Electra", "ForPreTraining", make_model)) is None
    assert native_support.supported_config(make_model(hidden_act="quick_gelu")) is None
    assert native_support.supported_config(make("Albert", "ForSequenceClassification", make_model)) is None
    assert native_support.supported_config(tmp_path) is None
    folder = tmp_path / "model"
    shutil.copytree(make("Bert", "ForTokenClassification", make_model), folder)
    assert native_support.supported_config(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for change in (
        {"is_decoder": True},
        {"position_embedding_type": "relative_key"},
        {"architectures": [3]},
        {"hidden_act": ["gelu"]},
        {"num_attention_heads": 0},
        {"hidden_size": None},
        {"num_hidden_layers": 0},
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
        assert precision_of(folder, ServingConfig(precision="fp32"), CPU) is None
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}', encoding="utf-8")
    assert native_support.supported_config(folder) is None
    (folder / "model.safetensors.index.json").unlink()
    weights.rename(folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({**config, "architectures": ["BertForQuestionAnswering"]}), encoding="utf-8"
    )
    assert native_support.supported_config(folder) is None


def test_a_missing_tensor_is_refused(make_model: MakeModel) -> None:
    """The message names it."""
    folder = make("Bert", "ForTokenClassification", make_model)
    exact = load_predictor(folder)
    config, auto_class = ServingConfig(precision="fp32"), "AutoModelForQuestionAnswering"
    precision = precision_of(folder, config, CPU)
    assert precision is not None
    with pytest.raises(ModelMismatch, match=r"weights cannot be loaded: KeyError 'qa_outputs.weight'"):
        NativeEngine.load(folder, auto_class, exact.task, config, precision)
    with pytest.raises(ModelMismatch, match=r"weights cannot be loaded: KeyError 'qa_outputs.weight'"):
        TorchEngine.load(folder, auto_class, exact.task, config, fused=True)


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "embeddings.word_embeddings.weight": "word embeddings of shape",
        "embeddings.position_embeddings.weight": "position embeddings of shape",
        "embeddings.token_type_embeddings.weight": "type embeddings of shape",
        "embeddings.LayerNorm.bias": "a norm of embeddings of shape",
        "encoder.layer.0.intermediate.dense.weight": "intermediate is no weight",
        "encoder.layer.1.attention.self.query.weight": "query is no weight",
        "encoder.layer.0.attention.output.dense.weight": "attention_output is no weight",
        "encoder.layer.0.output.dense.weight": "output is no weight",
        "encoder.layer.1.output.LayerNorm.bias": "a norm has not 32 weights",
    }.items(),
)
def test_tensors_that_do_not_fit_each_other_are_refused(
    name: str, message: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """A row, or a part of each, is missing: the kernels would read what lies behind."""
    folder = tmp_path / "model"
    shutil.copytree(make("Bert", "ForTokenClassification", make_model), folder)
    task, tensors = load_predictor(folder).task, load_file(folder / "model.safetensors")
    tensor = tensors[f"bert.{name}"]
    tensors[f"bert.{name}"] = (tensor[:-1] if name.startswith("embeddings") else tensor[..., :-4]).contiguous()
    save_file(tensors, folder / "model.safetensors")
    config = ServingConfig(precision="fp32")
    precision = precision_of(folder, config, CPU)
    assert precision is not None
    with pytest.raises(ModelMismatch, match=message):
        NativeEngine.load(folder, "AutoModelForTokenClassification", task, config, precision)


def test_fields_that_a_family_does_not_read(make_model: MakeModel) -> None:
    """DistilBERT reads neither `hidden_act` nor `layer_norm_eps`, which a config.json may hold none the less."""
    folder = make("DistilBert", "ForSequenceClassification", make_model, hidden_act="relu", layer_norm_eps=0.1)
    config, auto_class = ServingConfig(precision="fp32"), "AutoModelForSequenceClassification"
    precision, exact = precision_of(folder, config, CPU), load_predictor(folder)
    assert precision is not None
    native = NativeEngine.load(folder, auto_class, exact.task, config, precision, type_ids=False)
    fused = TorchEngine.load(folder, auto_class, exact.task, config, fused=True, type_ids=False)
    expected = reference_logits(folder, random_words(*LENGTHS))
    for engine in (native, fused, exact.engine):
        np.testing.assert_allclose(logits_of(engine.run(random_words(*LENGTHS))), expected, atol=2e-5, rtol=1e-4)


def test_fields_that_bert_does_not_read(make_model: MakeModel) -> None:
    """Pooling and rotary positions of other families."""
    others = {"classifier_pooling": "mean", "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
    folder = make("Bert", "ForSequenceClassification", make_model, **others)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")).items() >= others.items()
    config, auto_class = ServingConfig(precision="fp32"), "AutoModelForSequenceClassification"
    precision, exact = precision_of(folder, config, CPU), load_predictor(folder)
    assert precision is not None
    native = NativeEngine.load(folder, auto_class, exact.task, config, precision)
    fused = TorchEngine.load(folder, auto_class, exact.task, config, fused=True)
    expected = reference_logits(folder, random_words(*LENGTHS))
    for engine in (native, fused, exact.engine):
        np.testing.assert_allclose(logits_of(engine.run(random_words(*LENGTHS))), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"pad_token_id": 5}, {"relative_attention_num_buckets": 40}])
def test_fields_that_mpnet_does_not_read(settings: dict[str, int], make_model: MakeModel) -> None:
    """Its positions are from 2 on and skip the token 1, and distances have 32 ranges, whatever config.json says."""
    folder = make("MPNet", "ForSequenceClassification", make_model, **{**LATER_FAMILIES["MPNet"], **settings})
    config, auto_class = ServingConfig(precision="fp32"), "AutoModelForSequenceClassification"
    sequences = [*random_words(*LENGTHS[:5]), Encoding([1000, 1, 5, 1001, 1002], [0] * 5)]
    precision, exact = precision_of(folder, config, CPU), load_predictor(folder)
    assert precision is not None
    assert exact.engine.packed
    native = NativeEngine.load(folder, auto_class, exact.task, config, precision, type_ids=False)
    fused = TorchEngine.load(folder, auto_class, exact.task, config, fused=True, type_ids=False)
    expected = reference_logits(folder, sequences)
    for engine in (native, fused, exact.engine):
        np.testing.assert_allclose(logits_of(engine.run(sequences)), expected, atol=2e-5, rtol=1e-4)


SETTINGS_OF_MODERNBERT: list[dict[str, Any]] = [
    {"classifier_pooling": "mean", "classifier_bias": True},
    {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
    {"hidden_activation": "silu", "classifier_activation": "gelu_pytorch_tanh", "norm_eps": 0.01},
    {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 50.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7.0},
        }
    },
]


@pytest.mark.parametrize("settings", SETTINGS_OF_MODERNBERT, ids=lambda settings: next(iter(settings)))
def test_settings_of_modernbert(settings: dict[str, Any], make_model: MakeModel) -> None:
    """Pooling of the mean, biases, activations, the types of layers and angles, in answers and in explanations."""
    folder = make("ModernBert", "ForSequenceClassification", make_model, **settings)
    config, auto_class = ServingConfig(precision="fp32"), "AutoModelForSequenceClassification"
    precision, exact = precision_of(folder, config, CPU), load_predictor(folder)
    assert precision is not None
    native = NativeEngine.load(folder, auto_class, exact.task, config, precision)
    fused = TorchEngine.load(folder, auto_class, exact.task, config, fused=True)
    expected = reference_logits(folder, random_words(*LENGTHS))
    for engine in (native, fused, exact.engine):
        np.testing.assert_allclose(logits_of(engine.run(random_words(*LENGTHS))), expected, atol=2e-5, rtol=1e-4)


def test_a_config_of_the_hub(make_model: MakeModel, tmp_path: Path) -> None:
    """As answerdotai/ModernBERT-base has it: other names for the angles and the types of layers."""
    folder = tmp_path / "model"
    shutil.copytree(make("ModernBert", "ForSequenceClassification", make_model), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    thetas = {"global_rope_theta": 90.0, "local_rope_theta": 8.0, "global_attn_every_n_layers": 2}
    config = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types")} | thetas
    content = json.dumps({**config, "position_embedding_type": "absolute"})
    (folder / "config.json").write_text(content, encoding="utf-8")
    precision, exact = precision_of(folder, ServingConfig(precision="fp32"), CPU), load_predictor(folder)
    assert precision is not None
    native = NativeEngine.load(
        folder, "AutoModelForSequenceClassification", exact.task, ServingConfig(precision="fp32"), precision
    )
    expected = reference_logits(folder, random_words(*LENGTHS))
    np.testing.assert_allclose(logits_of(native.run(random_words(*LENGTHS))), expected, atol=2e-5, rtol=1e-4)


def test_settings_of_modernbert_that_keep_transformers(make_model: MakeModel, tmp_path: Path) -> None:
    """Angles that are scaled, a part of each head, a window of one token, other layers or pooling."""
    folder = tmp_path / "model"
    shutil.copytree(make("ModernBert", "ForSequenceClassification", make_model), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert native_support.supported_config(folder)
    scaled = {name: {**rope, "rope_type": "linear", "factor": 2.0} for name, rope in config["rope_parameters"].items()}
    for change in (
        {"rope_parameters": scaled},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"head_dim": 16},
        {"partial_rotary_factor": 0.5},
        {"local_attention": 1},
        {"layer_types": ["linear_attention"] * 3},
        {"classifier_pooling": "max"},
        {"hidden_activation": "quick_gelu"},
        {"classifier_activation": "tanh"},
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
        assert precision_of(folder, ServingConfig(precision="fp32"), CPU) is None, change


def test_widths_that_a_config_leaves_out(make_model: MakeModel, tmp_path: Path) -> None:
    """Every family has its own."""
    folder, width = tmp_path / "model", {"hidden_size": 256, "num_attention_heads": 4}
    shutil.copytree(make("Electra", "ForTokenClassification", make_model, **width), folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del content["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert precision_of(folder, ServingConfig(precision="fp32"), CPU)


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
    imported, model, explaining, answers, explained = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    assert model == "NativeModel"
    assert explaining == FusedModel.__name__
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
