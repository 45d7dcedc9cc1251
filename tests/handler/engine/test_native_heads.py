"""Heads that compute a logit for each word, and of next sentences, without PyTorch: the numbers of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from handler.batching import PackedRow
from handler.config import ServingConfig
from handler.engine import cpu, int8_file, int8_weights, kernels, native_engine
from handler.engine.device import CPU
from handler.engine.native_engine import NativeEngine, precision_of
from handler.engine.native_layers import NativeDecoder, NativeLinear, WordTable
from handler.engine.precision import supported
from handler.engine.stored_weights import Weights
from handler.engine.torch_engine import TorchEngine
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.sequences import Encoding
from handler.tasks import Pooler, RaggedOutput
from scripts.archives import calibration
from tests.support.encodings import LENGTHS, outputs_of, random_words
from tests.support.families import FAMILIES, LATER_FAMILIES, LATER_INT8_FAMILIES, OWN_ENCODER_FAMILIES
from tests.support.samples import MakeModel, SetKernelLevels

PRECISIONS = [*supported(CPU), *(["int8"] if int8_weights.supported(CPU) else [])]
# How far logits are from those of transformers' modules around the same layers, as in test_native_model.py: they are
# sums over 32 numbers of a state, to whose norm the head has given a size of 6.
ATOL = {"fp32": 5e-6, "bf16": 0.03, "int8": 0.04}
ROTATED = ("ModernBert", "NomicBert", "Gte", "JinaEmbeddingsV3")
LEVELS = [level for level, needs in kernels.LEVELS.items() if cpu.has(*needs)]


class Logits(Pooler):
    """Every logit of some tokens of each sequence."""

    def __init__(self, name: str, *positions: int) -> None:
        self.name, self.positions = name, positions

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        """Return those of the positions that there are; of none all."""
        return [place for place in self.positions if place < len(encoding)] or [0] if self.positions else None

    def pool(self, output: Any, batch: Any) -> RaggedOutput:
        logits = output[self.name]
        return RaggedOutput(logits if logits.shape[-1] == 2 else batch.tokens(logits), batch.counts)


def make(name: str, suffix: str, make_model: MakeModel, **settings: Any) -> Path:
    """Make a model of a family with a head."""
    return make_model(
        architecture=getattr(transformers, f"{name}{suffix}"),
        config_class=getattr(transformers, f"{name}Config"),
        **{**(FAMILIES | LATER_FAMILIES | LATER_INT8_FAMILIES)[name], "max_position_embeddings": 100, **settings},
    )


def with_int8(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of a model folder that has its file in int8, too, where this processor computes that."""
    copied = tmp_path / "int8"
    shutil.copytree(folder, copied)
    if "int8" in PRECISIONS:
        exact = load_predictor(folder)
        params = calibration.calibrate(exact, random_words(*LENGTHS))
        int8_file.write(copied / int8_weights.FILE, exact.engine.model, params)
    return copied


def native_of(folder: Path, suffix: str, precision: str = "fp32", **options: Any) -> NativeEngine:
    """Load a model folder without PyTorch."""
    config = ServingConfig(precision=precision)  # type: ignore[arg-type]
    chosen = precision_of(folder, config, CPU)
    assert chosen is not None
    return NativeEngine.load(folder, f"AutoModel{suffix}", Logits("logits"), config, chosen, **options)


def reference(folder: Path, suffix: str, name: str, sequences: list[Encoding]) -> list[NDArray[Any]]:
    """Return what transformers computes of each sequence alone."""
    model = getattr(transformers, f"AutoModel{suffix}").from_pretrained(folder).eval()
    with torch.inference_mode():
        return [model(torch.tensor([sequence.ids]))[name][0].numpy() for sequence in sequences]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", [*OWN_ENCODER_FAMILIES, "MPNet", *ROTATED])
def test_the_logits_of_words_are_those_of_transformers(
    name: str, tied: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    """Every family and precision; a decoder that is the embeddings or has weights of its own; of all tokens or few."""
    folder = with_int8(make(name, "ForMaskedLM", make_model, tie_word_embeddings=tied), tmp_path)
    exact = reference(folder, "ForMaskedLM", "logits", random_words(*LENGTHS))
    for precision in PRECISIONS:
        expected = exact
        options: Any = {"type_ids": name not in ("DistilBert", "MPNet")}
        native = native_of(folder, "ForMaskedLM", precision, **options)
        assert native.architecture == f"{name}ForMaskedLM"
        if precision != "fp32":
            config = ServingConfig(precision=precision)  # type: ignore[arg-type]
            plain = TorchEngine.load(folder, "AutoModelForMaskedLM", Logits("logits"), config, **options)
            expected = outputs_of(plain, Logits("logits"), random_words(*LENGTHS))
        for positions in ((), (0, 5)):
            outputs = outputs_of(native, Logits("logits", *positions), random_words(*LENGTHS))
            for output, logits in zip(outputs, expected, strict=True):
                rows = [place for place in positions if place < len(logits)] or slice(None)
                np.testing.assert_allclose(output, logits[rows], atol=ATOL[precision], rtol=1e-4)


@pytest.mark.parametrize("suffix", ["ForNextSentencePrediction", "ForPreTraining"])
def test_next_sentences_are_those_of_transformers(suffix: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Also of a model with both heads of BERT's pretraining."""
    folder = with_int8(make("Bert", suffix, make_model), tmp_path)
    names = ["logits"] if suffix == "ForNextSentencePrediction" else ["seq_relationship_logits", "prediction_logits"]
    for precision in PRECISIONS:
        native = native_of(folder, suffix, precision)
        assert native.architecture == f"Bert{suffix}"
        config = ServingConfig(precision=precision)  # type: ignore[arg-type]
        for name in names:
            outputs = outputs_of(native, Logits(name, 0), random_words(*LENGTHS))
            if precision == "fp32":
                expected = reference(folder, suffix, name, random_words(*LENGTHS))
            else:
                plain = TorchEngine.load(folder, f"AutoModel{suffix}", Logits(name, 0), config)
                expected = outputs_of(plain, Logits(name, 0), random_words(*LENGTHS))
            for output, logits in zip(outputs, expected, strict=True):
                first = logits.reshape(-1, output.shape[-1])[:1]
                np.testing.assert_allclose(output, first, atol=ATOL[precision], rtol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_logits_of_a_text_have_the_same_bits_in_any_batch(
    precision: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone or among others, by any number of threads, and where a batch has more logits than are held at once."""
    folder = with_int8(make("Electra", "ForMaskedLM", make_model), tmp_path)
    native, sequences = native_of(folder, "ForMaskedLM", precision), random_words(*LENGTHS)
    native.model.encoder.single_thread_tokens = 0
    threads = cpu.thread_count()
    try:
        cpu.set_thread_count(1)
        alone = [outputs_of(native, Logits("logits"), [sequence])[0] for sequence in sequences]
        for count in (1, 2, 3):
            cpu.set_thread_count(count)
            for held in (native_engine.HEAD_NUMBERS, 60 * native.model.head_width):
                monkeypatch.setattr(native_engine, "HEAD_NUMBERS", held)
                for output, expected in zip(native.forward(Logits("logits"), sequences), alone, strict=True):
                    np.testing.assert_array_equal(output, expected)
    finally:
        cpu.set_thread_count(threads)


def test_a_batch_in_parts() -> None:
    """Each has at most so many tokens that are read, or one sequence."""
    row = PackedRow.of(random_words(9, 5, 3, 2), reads=[[0, 1, 2], [1], [2], [0]])
    assert [part for _, part in row.parts()] == [row]
    assert [part for _, part in row.parts(6)] == [row]
    parts = [(tokens, part.seq_lens, part.counts) for tokens, part in row.parts(2)]
    assert parts == [(slice(0, 3), (9,), (3,)), (slice(3, 5), (5, 3), (1, 1)), (slice(5, 6), (2,), (1,))]
    (_, part), *_ = row.parts(2)
    assert part.read_positions is None
    assert part.count_array().tolist() == [3]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("is_int8", [False, True], ids=["fp32", "int8"])
def test_the_logits_of_all_words_of_every_level(level: str, is_int8: bool, kernel_levels: SetKernelLevels) -> None:
    """Those of PyTorch, and to the bit those of a linear layer with the same weights; whole panels or not."""
    kernel_levels({level: kernels.LEVELS[level]})
    random = np.random.default_rng(0)
    for n_words, width, n_rows in ((64, 16, 1), (131, 33, 7), (1000, 96, 101)):
        table = random.integers(-127, 128, (n_words, width), np.int8) if is_int8 else None
        scale = random.random(n_words, np.float32)
        weight = random.standard_normal((n_words, width), np.float32) if table is None else table * scale[:, None]
        weights = {"w.weight": weight} if table is None else {"w.weight": table, "w.scale": scale}
        bias = random.standard_normal(n_words, np.float32)
        x = random.standard_normal((n_rows, width), np.float32)
        logits = NativeDecoder(WordTable(Weights(weights), "w"), bias)(x)
        np.testing.assert_array_equal(logits, NativeLinear(weight, bias)(x), strict=True)
        expected = torch.nn.functional.linear(*(torch.from_numpy(array).double() for array in (x, weight, bias)))
        np.testing.assert_allclose(logits, expected.numpy(), atol=2e-5 * np.abs(weight).max(), rtol=1e-5)
        no_bias = NativeDecoder(WordTable(Weights(weights), "w"))(x)
        np.testing.assert_array_equal(no_bias, NativeLinear(weight)(x), strict=True)


def test_a_file_that_has_the_words_as_those_of_the_decoder(make_model: MakeModel, tmp_path: Path) -> None:
    """In fp32, as files in int8 of XLM-RoBERTa were written at first: the same bits as of the embeddings' numbers."""
    folder = with_int8(make("XLMRoberta", "ForMaskedLM", make_model), tmp_path)
    path = next((path for path in [folder / int8_weights.FILE] if path.is_file()), folder / "model.safetensors")
    tensors = load_file(path)
    prefix = "rest." if path.name == int8_weights.FILE else ""
    words = tensors.pop(f"{prefix}roberta.embeddings.word_embeddings.weight").float()
    scale = tensors.pop(f"{prefix}roberta.embeddings.word_embeddings.scale", None)
    precision = PRECISIONS[-1]
    expected = outputs_of(native_of(folder, "ForMaskedLM", precision), Logits("logits"), random_words(*LENGTHS))
    tensors[f"{prefix}lm_head.decoder.weight"] = words if scale is None else words * scale[:, None]
    save_file(tensors, path, metadata={"format": int8_weights.FORMAT})
    outputs = outputs_of(native_of(folder, "ForMaskedLM", precision), Logits("logits"), random_words(*LENGTHS))
    for pair in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(*pair)


def test_a_decoder_that_does_not_fit_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """With tensors of other sizes; an untied one that is missing is left to transformers."""
    folder = tmp_path / "model"
    shutil.copytree(make("Bert", "ForMaskedLM", make_model, tie_word_embeddings=False), folder)
    tensors = load_file(folder / "model.safetensors")
    name = "cls.predictions.decoder"
    transform = "cls.predictions.transform"
    for changed in (f"{name}.weight", f"{name}.bias", f"{transform}.dense.weight", f"{transform}.LayerNorm.bias"):
        for cut in (tensors[changed][:-1], tensors[changed][..., :-1]):
            save_file({**tensors, changed: cut.contiguous()}, folder / "model.safetensors")
            with pytest.raises(ModelMismatch, match=r"of shape|no weight"):
                native_of(folder, "ForMaskedLM")
    save_file({key: tensor for key, tensor in tensors.items() if key != f"{name}.weight"}, folder / "model.safetensors")
    assert precision_of(folder, ServingConfig(), CPU) is None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}), encoding="utf-8")
    assert precision_of(folder, ServingConfig(), CPU) is not None


def test_workers_share_the_words_of_a_decoder(make_model: MakeModel, tmp_path: Path) -> None:
    """Those that were stored in 16 bits: embeddings and decoder refer to one table, or to two."""
    for tied in (True, False):
        folder = tmp_path / str(tied)
        shutil.copytree(make("Bert", "ForMaskedLM", make_model, tie_word_embeddings=tied), folder)
        tensors = load_file(folder / "model.safetensors")
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
        native = native_of(folder, "ForMaskedLM")
        before = outputs_of(native, Logits("logits"), random_words(*LENGTHS))
        native.share_weights(tmp_path)
        tables = {id(table) for table in native.model._tables()}
        assert len(tables) == (1 if tied else 2)
        after = outputs_of(native, Logits("logits"), random_words(*LENGTHS))
        for pair in zip(before, after, strict=True):
            np.testing.assert_array_equal(*pair)
