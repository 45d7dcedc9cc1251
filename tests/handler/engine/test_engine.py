"""The engine: packed equals padded equals transformers, whatever the batch composition, for every family."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from handler.config import ServingConfig
from handler.engine import cpu, device, engine, int8_weights, precision
from handler.engine.batch import TensorBatch
from handler.engine.isolation import is_device_failure, is_out_of_memory
from handler.engine.precision import choose, supported
from handler.engine.torch_engine import TorchEngine
from handler.engine.transformers_attention import packed_attention
from handler.errors import (
    ConfigError,
    DeviceLost,
    InternalError,
    ModelMismatch,
    OutOfMemory,
    Overloaded,
)
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.support.clock import Clock
from tests.support.encodings import logits_of, random_words
from tests.support.families import FAMILIES, PADDED_FAMILIES, make_family, reference_logits
from tests.support.samples import TEXTS, MakeModel, MakePredictor, ask, response_json

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa's own module
@pytest.mark.parametrize("name", [*FAMILIES, *PADDED_FAMILIES])
def test_every_family_equals_transformers(name: str, make_model: MakeModel) -> None:
    """Families whose attention can be replaced run packed, the others padded; both give the same numbers."""
    folder = make_family(name, {**FAMILIES, **PADDED_FAMILIES}[name], make_model)
    predictor = load_predictor(folder)
    assert predictor.engine.packed == (name in FAMILIES)
    sequences = random_words(3, 20, 20, 7, 50, 20)
    np.testing.assert_allclose(
        logits_of(predictor.engine.run(sequences)), reference_logits(folder, sequences), atol=1e-5
    )


def test_type_ids_reach_the_model(predictor: Predictor, model_folder: Path) -> None:
    """The second text of a pair has type id 1, packed as well as alone."""
    ids = random_words(12)[0].ids
    pair, single = Encoding(ids, [0] * 6 + [1] * 6), Encoding(ids, [0] * 12)
    logits = logits_of(predictor.engine.run([single, pair, single]))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), token_type_ids=torch.tensor([pair.type_ids])).logits.numpy()
    np.testing.assert_allclose(logits[1:2], expected, atol=1e-5)
    assert np.abs(logits[1] - logits[0]).max() > 1e-3


def test_packed_equals_padded(model_folder: Path, make_predictor: MakePredictor) -> None:
    """One model, two layouts of a batch."""
    padded = load_predictor(model_folder, packed=False)
    assert not padded.engine.packed
    sequences = random_words(*range(1, 40), 512)
    np.testing.assert_allclose(
        logits_of(make_predictor().engine.run(sequences)), logits_of(padded.engine.run(sequences)), atol=1e-5
    )


@pytest.mark.parametrize("precision", supported(CPU))
def test_batch_composition_does_not_change_an_answer(precision: Any, make_predictor: MakePredictor) -> None:
    """A text's scores are the same alone, in any batch and at any index, within a hundredth of the tolerance."""
    predictor = make_predictor(precision=precision, max_batch_tokens=300)
    alone = [response_json(response) for text in TEXTS for response in ask(predictor, text)]
    together = [response_json(response) for response in ask(predictor, *TEXTS)]
    reversed_ = [response_json(response) for response in ask(predictor, *TEXTS[::-1])][::-1]
    tolerance = predictor.engine.precision.tolerance / (100 if precision == "fp32" else 4)
    for expected, *answers in zip(alone, together, reversed_, strict=True):
        assert all(predictor.task.answers_match(expected, answer, tolerance) for answer in answers)


@pytest.mark.parametrize("precision", supported(CPU))
def test_each_precision_stays_within_its_tolerance(precision: Any, make_predictor: MakePredictor) -> None:
    """Scores lie within the stated tolerance of those in fp32."""
    exact, predictor = make_predictor(), make_predictor(precision=precision)
    for expected, response in zip(ask(exact, *TEXTS), ask(predictor, *TEXTS), strict=True):
        assert predictor.task.answers_match(
            response_json(expected), response_json(response), predictor.engine.precision.tolerance
        )


def test_auto_is_the_best_the_hardware_does(make_predictor: MakePredictor) -> None:
    """`auto` never emulates."""
    assert make_predictor(precision="auto").engine.precision.name == supported(CPU)[0]


def test_a_precision_without_instructions_is_refused() -> None:
    """fp16 has no instructions on a CPU: the message names what can be used."""
    with pytest.raises(ConfigError, match=r"precision is fp16.*accepted here: auto.*fp32"):
        choose("fp16", CPU)


def test_attention_without_boundaries_raises() -> None:
    """Without boundaries texts would attend to each other."""
    states = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ValueError, match="boundaries"):
        packed_attention(torch.nn.Identity(), states, states, states, None)


class FailingEngine(TorchEngine):
    """An engine that runs out of memory above some number of sequences, and raises for one token."""

    limit = 1_000
    failing_token = -1
    error: BaseException = RuntimeError("poison")

    def forward(self, pooler: Any, encodings: Any) -> Any:
        if any(self.failing_token in encoding.ids for encoding in encodings):
            raise self.error
        if len(encodings) > self.limit:
            raise torch.OutOfMemoryError("no memory")
        self.pause()
        return super().forward(pooler, encodings)

    def pause(self) -> None:
        """Take no time."""


@pytest.fixture
def failing(model_folder: Path, predictor: Predictor) -> FailingEngine:
    """Return an engine that can be made to fail."""
    auto_class = "AutoModelForSequenceClassification"
    failing = FailingEngine.load(model_folder, auto_class, predictor.task, ServingConfig())
    assert isinstance(failing, FailingEngine)
    return failing


def test_out_of_memory_halves_the_batch(failing: FailingEngine) -> None:
    """Sequences that do not fit together are computed apart, to the same values."""
    sequences = random_words(3, 9, 4, 4, 7)
    expected = logits_of(failing.run(sequences))
    failing.limit = 2
    np.testing.assert_allclose(logits_of(failing.run(sequences)), expected, atol=1e-5)


def test_out_of_memory_for_one_sequence_is_the_requests_error(failing: FailingEngine) -> None:
    """What does not fit even alone gets 507."""
    failing.limit = 0
    assert [type(result) for result in failing.run(random_words(3, 4))] == [OutOfMemory, OutOfMemory]


@pytest.mark.parametrize("error", [RuntimeError("poison"), KeyError("poison"), ZeroDivisionError()])
def test_an_unexpected_failure_stays_with_its_row(
    failing: FailingEngine, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that fails is run again row by row; the log holds type and source line, never the message."""
    sequences = random_words(3, 9, 4)
    expected = logits_of(failing.run(sequences))
    failing.failing_token, failing.error = sequences[1].ids[0], error
    results = failing.run(sequences)
    assert isinstance(results[1], InternalError)
    np.testing.assert_allclose(logits_of([results[0], results[2]]), expected[[0, 2]], atol=1e-5)
    assert type(error).__name__ in caplog.text
    assert "poison" not in caplog.text


def test_int8_is_refused_where_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without kernels or instructions for it, and on a GPU; `auto` then takes what else the archive holds."""
    monkeypatch.setattr(cpu, "flags", frozenset)
    for module in (int8_weights, precision):
        monkeypatch.setattr(module, "library", lambda: None)
    for device_ in (CPU, torch.device("cuda")):
        assert not int8_weights.supported(device_)
    with pytest.raises(ConfigError, match="int8 alone, which this cpu has no instructions for"):
        choose("int8", CPU, has_float_weights=False, has_int8_weights=True)
    with pytest.raises(ConfigError, match="int8, which this cpu has no instructions for; accepted here: auto, fp32"):
        choose("int8", CPU, has_int8_weights=True)
    assert choose("auto", CPU, has_int8_weights=True).name == "fp32"


def test_a_failed_device_is_reported_and_not_used_again(failing: FailingEngine) -> None:
    """Every row of the batch, and of those after it, gets 507; nothing is computed any more."""
    failing.failing_token, failing.error = random_words(4)[0].ids[0], torch.AcceleratorError("device-side assert")
    results = failing.run([*random_words(4), *random_words(6)])
    assert failing.device_failed
    assert {type(result) for result in results} == {DeviceLost}
    failing.failing_token = -1
    assert isinstance(failing.run(random_words(9))[0], DeviceLost)


def test_weights_of_another_head_are_refused(make_model: MakeModel) -> None:
    """A model without a trained head would answer noise."""
    with pytest.raises(ModelMismatch, match="belongs to no task"):
        load_predictor(make_model(architecture=transformers.BertForMultipleChoice))
    folder = make_model(architecture=transformers.BertModel)
    with pytest.raises(ModelMismatch, match=r"weights lack.*is this model fine-tuned"):
        load_predictor(folder, ServingConfig(task="text-classification"))


def test_after_the_deadline_no_batch_is_started(failing: FailingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts are answered, long ones that would take too long are refused, and nothing fails."""
    failing.max_batch_tokens = 50
    clock = Clock()
    monkeypatch.setattr(engine, "time", clock)
    monkeypatch.setattr(failing, "pause", lambda: clock.sleep(0.2))
    results = failing.run(random_words(400, 5, 300, 6), deadline=clock.monotonic() + 0.1)
    assert [isinstance(result, Overloaded) for result in results] == [True, False, True, False]
    assert all(isinstance(result, Overloaded) for result in failing.run(random_words(3, 4), deadline=0.0))


def test_a_family_whose_padding_leaks_is_refused(make_model: MakeModel) -> None:
    """FNet mixes all positions of a row: a text's answer would depend on the texts beside it."""
    with pytest.raises(ModelMismatch, match="depend on the texts beside it"):
        load_predictor(make_family("FNet", {"type_vocab_size": 4}, make_model))


def test_labels_with_gaps_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """transformers would fail on the first answer with a missing label."""
    folder = tmp_path / "gaps"
    shutil.copytree(make_model(), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "a", "1": "b", "2": "c", "5": "d"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelMismatch, match="id2label"):
        load_predictor(folder)


def test_equal_texts_are_computed_once(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetition costs nothing, and equal texts get equal bytes."""
    sizes: list[int] = []
    forward = TorchEngine.forward

    def counted(self: TorchEngine, pooler: Any, encodings: Any) -> Any:
        sizes.append(len(encodings))
        return forward(self, pooler, encodings)

    monkeypatch.setattr(TorchEngine, "forward", counted)
    first, second = random_words(4, 6)
    logits = logits_of(predictor.engine.run([first, second, first, first, second]))
    assert sum(sizes) == 2
    assert (logits[[0, 0, 0]] == logits[[0, 2, 3]]).all()
    assert (logits[1] == logits[4]).all()


def test_threads_are_shared_between_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on four cores get two threads each; an explicit number wins."""
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "usable_cores", lambda: 4)
    try:
        assert device.place(None, ServingConfig(), 2) == device.CPU
        assert torch.get_num_threads() == 2
        device.place(None, ServingConfig(threads=3), 2)
        assert torch.get_num_threads() == 3
        device.place(None, ServingConfig(), 9)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_packed_batch_is_never_padded() -> None:
    """As many tokens as the sequences have, positions restarting, and boundaries that end with the total."""
    batch = TensorBatch.packed(random_words(3, 2), CPU, first_position=2)
    assert batch.input_ids.shape == (1, 5)
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[2, 3, 4, 2, 3]]
    assert batch.varlen is not None
    assert batch.varlen.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.read_positions is None
    assert batch.counts == (3, 2)


def test_read_tokens_are_found_in_every_layout() -> None:
    """Chosen tokens, sequence by sequence: in a packed row, in a padded batch, and where the encoder dropped others."""
    sequences, reads = random_words(3, 2), [[0, 2], [1]]
    packed = TensorBatch.packed(sequences, CPU, reads=reads)
    padded = TensorBatch.padded(sequences, CPU, 0, reads)
    chosen = [sequences[0].ids[0], sequences[0].ids[2], sequences[1].ids[1]]
    assert packed.counts == padded.counts == (2, 1)
    assert packed.tokens(packed.input_ids).tolist() == chosen
    assert padded.tokens(padded.input_ids).tolist() == chosen
    assert packed.tokens(torch.tensor([chosen]).T).tolist() == chosen
    all_tokens = TensorBatch.padded(sequences, CPU, 0)
    assert all_tokens.tokens(all_tokens.input_ids).tolist() == sequences[0].ids + sequences[1].ids


def test_a_thread_that_imports_pytorch_does_not_disturb_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explanation imports it, and for half a second the module has no functions yet."""
    begun = types.ModuleType("torch")
    begun.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    begun.__spec__._initializing = True  # type: ignore[attr-defined]
    count = cpu.thread_count()
    monkeypatch.setattr(cpu, "_threads", count)
    monkeypatch.setitem(sys.modules, "torch", begun)
    assert cpu.thread_count() == count
    cpu.set_thread_count(count)
    assert not is_out_of_memory(RuntimeError())
    assert not is_device_failure(RuntimeError())
