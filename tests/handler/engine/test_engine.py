"""The engine: packed equals padded equals transformers, whatever the company, for every family."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from handler.batching import Batch
from handler.config import ServingConfig
from handler.engine import Engine, device, int8
from handler.engine.attention import packed_attention
from handler.engine.precision import choose, supported
from handler.errors import (
    ConfigError,
    DeviceLost,
    InternalError,
    ModelMismatch,
    OutOfMemory,
    Overloaded,
    RequestError,
)
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.support.samples import TEXTS, MakeModel, MakePredictor, ask, told

CPU = torch.device("cpu")
FAIRSEQ = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 80}
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": FAIRSEQ,
    "XLMRoberta": FAIRSEQ,
    "Camembert": FAIRSEQ,
    "Electra": {"embedding_size": 32},
    "Albert": {"embedding_size": 32},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
}
PADDED_FAMILIES: dict[str, dict[str, Any]] = {"MPNet": FAIRSEQ, "DebertaV2": {}}


def encodings(*lengths: int) -> list[Encoding]:
    """Return sequences of random words."""
    generator = np.random.default_rng(1)
    return [Encoding(generator.integers(1000, 2000, length).tolist(), [0] * length) for length in lengths]


def logits(found: list[Any]) -> np.ndarray[Any, Any]:
    """Return the logits of every sequence, (n, labels)."""
    assert not [values for values in found if isinstance(values, RequestError)]
    return np.concatenate(found)


def family(name: str, settings: dict[str, Any], make_model: MakeModel) -> Path:
    """Make a model of a family."""
    return make_model(
        architecture=getattr(transformers, f"{name}ForSequenceClassification"),
        config_class=getattr(transformers, f"{name}Config"),
        **settings,
    )


def reference(folder: Path, sequences: list[Encoding]) -> np.ndarray[Any, Any]:
    """Return what transformers computes for each sequence alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.concatenate([model(torch.tensor([sequence.ids])).logits.numpy() for sequence in sequences])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa's own module
@pytest.mark.parametrize("name", [*FAMILIES, *PADDED_FAMILIES])
def test_every_family_equals_transformers(name: str, make_model: MakeModel) -> None:
    """Families whose attention can be replaced travel packed, the others padded; both give the same numbers."""
    folder = family(name, {**FAMILIES, **PADDED_FAMILIES}[name], make_model)
    predictor = load_predictor(folder)
    assert predictor.engine.packed == (name in FAMILIES)
    sequences = encodings(3, 20, 20, 7, 50, 20)
    np.testing.assert_allclose(logits(predictor.engine.run(sequences)), reference(folder, sequences), atol=1e-5)


def test_type_ids_reach_the_model(predictor: Predictor, model_folder: Path) -> None:
    """The second text of a pair has segment 1, packed as well as alone."""
    ids = encodings(12)[0].ids
    pair, single = Encoding(ids, [0] * 6 + [1] * 6), Encoding(ids, [0] * 12)
    got = logits(predictor.engine.run([single, pair, single]))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), token_type_ids=torch.tensor([pair.type_ids])).logits.numpy()
    np.testing.assert_allclose(got[1:2], expected, atol=1e-5)
    assert np.abs(got[1] - got[0]).max() > 1e-3


def test_packed_equals_padded(model_folder: Path, make_predictor: MakePredictor) -> None:
    """One model, two ways to lay out a batch."""
    padded = load_predictor(model_folder, packed=False)
    assert not padded.engine.packed
    sequences = encodings(*range(1, 40), 512)
    np.testing.assert_allclose(
        logits(make_predictor().engine.run(sequences)), logits(padded.engine.run(sequences)), atol=1e-5
    )


@pytest.mark.parametrize("precision", supported(CPU))
def test_company_does_not_change_an_answer(precision: Any, make_predictor: MakePredictor) -> None:
    """A text's scores are the same alone, in any batch and at any place, within a hundredth of the tolerance."""
    predictor = make_predictor(precision=precision, max_batch_tokens=300)
    alone = [told(reply) for text in TEXTS for reply in ask(predictor, text)]
    together = [told(reply) for reply in ask(predictor, *TEXTS)]
    reversed_ = [told(reply) for reply in ask(predictor, *TEXTS[::-1])][::-1]
    tolerance = predictor.engine.precision.tolerance / (100 if precision == "fp32" else 4)
    for one, two, three in zip(alone, together, reversed_, strict=True):
        assert predictor.task.answers_match(one, two, tolerance)
        assert predictor.task.answers_match(one, three, tolerance)


@pytest.mark.parametrize("precision", supported(CPU))
def test_each_precision_stays_within_its_tolerance(precision: Any, make_predictor: MakePredictor) -> None:
    """Scores lie within the stated tolerance of those in fp32."""
    exact, tried = make_predictor(), make_predictor(precision=precision)
    for expected, got in zip(ask(exact, *TEXTS), ask(tried, *TEXTS), strict=True):
        assert tried.task.answers_match(told(expected), told(got), tried.engine.precision.tolerance)


def test_auto_is_the_best_the_hardware_does(make_predictor: MakePredictor) -> None:
    """`auto` never emulates."""
    assert make_predictor(precision="auto").engine.precision.name == supported(CPU)[0]


def test_a_precision_without_instructions_is_refused() -> None:
    """fp16 has no instructions on a CPU: the message names what can be used."""
    with pytest.raises(ConfigError, match=r"precision is fp16.*accepted here: auto.*fp32"):
        choose("fp16", CPU)


def test_attention_without_boundaries_raises() -> None:
    """Without boundaries texts would attend to each other: that must never pass in silence."""
    states = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ValueError, match="boundaries"):
        packed_attention(torch.nn.Identity(), states, states, states, None)


class Fragile(Engine):
    """An engine that runs out of memory above some number of sequences, and breaks on one token."""

    limit = 1_000
    poison = -1
    raises: BaseException = RuntimeError("poison")
    pause_s = 0.0

    def _forward(self, use: Any, encodings: Any) -> Any:
        if any(self.poison in encoding.ids for encoding in encodings):
            raise self.raises
        if len(encodings) > self.limit:
            raise torch.OutOfMemoryError("no room")
        time.sleep(self.pause_s)
        return super()._forward(use, encodings)


@pytest.fixture
def fragile(model_folder: Path, predictor: Predictor) -> Fragile:
    """Return an engine that can be made to fail."""
    auto_class = "AutoModelForSequenceClassification"
    return Fragile.load(model_folder, auto_class, predictor.task, ServingConfig())  # type: ignore[return-value]


def test_out_of_memory_halves_the_batch(fragile: Fragile) -> None:
    """Sequences that do not fit together are computed apart, to the same values."""
    sequences = encodings(3, 9, 4, 4, 7)
    whole = logits(fragile.run(sequences))
    fragile.limit = 2
    np.testing.assert_allclose(logits(fragile.run(sequences)), whole, atol=1e-5)


def test_out_of_memory_alone_is_the_requests_error(fragile: Fragile) -> None:
    """What does not fit even alone gets 507."""
    fragile.limit = 0
    assert [type(found) for found in fragile.run(encodings(3, 4))] == [OutOfMemory, OutOfMemory]


@pytest.mark.parametrize("error", [RuntimeError("poison"), KeyError("poison"), ZeroDivisionError()])
def test_an_unexpected_failure_stays_with_its_row(
    fragile: Fragile, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that fails is retried row by row; the log tells type and place, never the message."""
    sequences = encodings(3, 9, 4)
    expected = logits(fragile.run(sequences))
    fragile.poison, fragile.raises = sequences[1].ids[0], error
    found = fragile.run(sequences)
    assert isinstance(found[1], InternalError)
    np.testing.assert_allclose(logits([found[0], found[2]]), expected[[0, 2]], atol=1e-5)
    assert type(error).__name__ in caplog.text
    assert "poison" not in caplog.text.replace("test_engine.py", "")


def test_int8_is_refused_where_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without instructions for it, and on a GPU; `auto` then takes what else the archive holds."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    for place in (CPU, torch.device("cuda")):
        assert not int8.supported(place)
    with pytest.raises(ConfigError, match="int8 alone, which this cpu has no instructions for"):
        choose("int8", CPU, floats=False, integers=True)
    with pytest.raises(ConfigError, match="int8, which this cpu has no instructions for; accepted here: auto, fp32"):
        choose("int8", CPU, integers=True)
    assert choose("auto", CPU, integers=True).name == "fp32"


def test_a_lost_device_is_told_and_not_asked_again(fragile: Fragile) -> None:
    """Every row of the batch, and of those after it, gets 507; nothing is computed any more."""
    fragile.poison, fragile.raises = encodings(4)[0].ids[0], torch.AcceleratorError("device-side assert")
    found = fragile.run([*encodings(4), *encodings(6)])
    assert fragile.device_failed
    assert {type(value) for value in found} == {DeviceLost}
    fragile.poison = -1
    assert isinstance(fragile.run(encodings(9))[0], DeviceLost)


def test_weights_of_another_head_are_refused(make_model: MakeModel) -> None:
    """A model without a trained head would answer noise."""
    with pytest.raises(ModelMismatch, match="belongs to no task"):
        load_predictor(make_model(architecture=transformers.BertForMultipleChoice))
    folder = make_model(architecture=transformers.BertModel)
    with pytest.raises(ModelMismatch, match=r"weights lack.*is this model fine-tuned"):
        load_predictor(folder, ServingConfig(task="text-classification"))


def test_after_the_deadline_no_batch_is_begun(fragile: Fragile) -> None:
    """Short texts are answered, the giant that takes too long is refused, and nothing fails."""
    fragile.max_batch_tokens = 50
    fragile.pause_s = 0.2
    found = fragile.run(encodings(400, 5, 300, 6), deadline=time.monotonic() + 0.1)
    assert [isinstance(values, Overloaded) for values in found] == [True, False, True, False]
    assert all(isinstance(values, Overloaded) for values in fragile.run(encodings(3, 4), deadline=0.0))


def test_a_family_whose_padding_leaks_is_refused(make_model: MakeModel) -> None:
    """FNet mixes all places of a row: a text's answer would depend on its company."""
    with pytest.raises(ModelMismatch, match="depend on its company"):
        load_predictor(family("FNet", {"type_vocab_size": 4}, make_model))


def test_labels_with_gaps_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """transformers would fail on the first answer in the gap."""
    folder = tmp_path / "gaps"
    shutil.copytree(make_model(), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "a", "1": "b", "2": "c", "5": "d"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelMismatch, match="id2label"):
        load_predictor(folder)


def test_equal_texts_are_computed_once(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetition costs nothing, and equal texts get equal bytes."""
    seen: list[int] = []
    forward = Engine._forward

    def counted(self: Engine, use: Any, encodings: Any) -> Any:
        seen.append(len(encodings))
        return forward(self, use, encodings)

    monkeypatch.setattr(Engine, "_forward", counted)
    one, two = encodings(4, 6)
    found = logits(predictor.engine.run([one, two, one, one, two]))
    assert sum(seen) == 2
    assert (found[[0, 0, 0]] == found[[0, 2, 3]]).all()
    assert (found[1] == found[4]).all()


def test_threads_are_shared_between_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on four cores get two threads each; an explicit number wins."""
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "usable_cores", lambda: 4)
    try:
        assert device.place(None, ServingConfig(), 2) == CPU
        assert torch.get_num_threads() == 2
        device.place(None, ServingConfig(threads=3), 2)
        assert torch.get_num_threads() == 3
        device.place(None, ServingConfig(), 9)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_packed_batch_is_never_padded() -> None:
    """As many tokens as the sequences have, positions restarting, and boundaries that end with the total."""
    batch = Batch.packed(encodings(3, 2), CPU, first_position=2)
    assert batch.input_ids.shape == (1, 5)
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[2, 3, 4, 2, 3]]
    assert batch.varlen is not None
    assert batch.varlen.offsets.tolist() == [0, 3, 5]
    assert batch.read is None
    assert batch.counts == (3, 2)


def test_what_is_read_is_found_in_every_layout() -> None:
    """Chosen tokens, sequence by sequence: in a packed row, in a padded batch, and where the others were left out."""
    sequences, reads = encodings(3, 2), [[0, 2], [1]]
    packed = Batch.packed(sequences, CPU, reads=reads)
    padded = Batch.padded(sequences, CPU, 0, reads)
    chosen = [sequences[0].ids[0], sequences[0].ids[2], sequences[1].ids[1]]
    assert packed.counts == padded.counts == (2, 1)
    assert packed.tokens(packed.input_ids).tolist() == chosen
    assert padded.tokens(padded.input_ids).tolist() == chosen
    assert packed.tokens(torch.tensor([chosen]).T).tolist() == chosen
    every = Batch.padded(sequences, CPU, 0)
    assert every.tokens(every.input_ids).tolist() == sequences[0].ids + sequences[1].ids
