"""The engine: encodings -> outputs.

An `Engine` holds one model on one device. The encoder, nearly all of the work, computes in the chosen precision; the
embeddings before it and the head after it stay in fp32. Batches are packed, without padding; a model whose attention
cannot be replaced is detected by a probe at load and runs padded, sorted by length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.batching import Batch, group_equal, plan
from handler.config import ServingConfig
from handler.engine import fp8
from handler.engine.encoder import PackedEncoder
from handler.engine.families import encoder_of
from handler.engine.fused_model import FusedModel
from handler.engine.int8 import Int8Encoder
from handler.engine.isolation import FailureIsolation, Results
from handler.engine.native_encoder import NativeEncoder
from handler.engine.precision import FP8, Precision, choose
from handler.engine.probe import outputs_allclose, probe_of, probe_outputs
from handler.engine.runner import ModelRunner
from handler.engine.threads import Threads
from handler.engine.weights import load_weights
from handler.errors import ConfigError, DeviceLost, ModelMismatch, Overloaded, RequestError
from handler.sequences import Encoding
from handler.tasks import Output, Pooler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
BATCH_LOGITS = 2**27  # half a gigabyte in fp32


class DeviceUsage(NamedTuple):
    """How busy a device was."""

    device: str  # its index among those of its kind, as TorchServe numbers it
    seconds: float  # that it computed for this engine
    used_bytes: int  # of its memory, by all processes


class Engine:
    """One model on one device, ready to run.

    Engines for other devices override `forward`, `run_batches`, `prepack`, `warm_up` and `device_usage`.
    """

    def __init__(
        self,
        model: PreTrainedModel | FusedModel,
        main: Pooler,
        config: ServingConfig,
        device: torch.device | None = None,
        *,
        pad_id: int = 0,
        type_ids: bool = True,
        packed: bool = True,
    ) -> None:
        """Put a model in fp32 on a device, choose its precision, and choose whether its batches are packed.

        Args:
            main: the pooler that the model's head is for.
            pad_id: the padding token of a padded batch.
            type_ids: whether the model's tokenizer returns type ids, as transformers' own callers would see it.
            packed: False keeps the attention that transformers chose, for a reference to compare with.

        Raises:
            ConfigError: a precision that the device does not have.
            ModelMismatch: a text's outputs would depend on the padding beside it.
        """
        self.device = device or torch.device("cpu")
        self.main = main
        encoder, is_fused = encoder_of(model.base_model), isinstance(model, FusedModel)
        is_int8 = isinstance(encoder, Int8Encoder)
        self.precision: Precision = choose(
            config.precision, self.device, has_float_weights=not is_int8, has_int8_weights=is_int8
        )
        self.max_batch_tokens = config.max_batch_tokens or BATCH_TOKENS[self.device.type]
        self.threads = Threads()
        self._isolation = FailureIsolation(self.device)
        model.train(False).requires_grad_(False).to(self.device)
        self._runner = ModelRunner(model, self.device, packed=is_int8 or is_fused, pad_id=pad_id, type_ids=type_ids)
        if isinstance(model, FusedModel):  # compared with transformers by the self-test of its archive
            if not is_int8:
                outputs = probe_outputs(self._runner, main, probe_of(model.config))
                self.prepack(model.base_model.encoder, outputs, outputs)
            return
        from handler.engine.selection import (
            add_repadding_hook,
            install,
            select,
        )  # and with it the models of transformers
        from handler.engine.transformers_attention import PACKED

        del encoder  # its weights are released layer by layer when ours is prepacked
        if is_int8:  # compared with fp32 when it was packed, and by its golden answers at load
            model.set_attn_implementation(PACKED)
            add_repadding_hook(model)
            return
        selection = select(self._runner, main, allow_packed=packed)
        self._runner.packed = selection.packed
        self.prepack(install(selection, model, self.precision.dtype), selection.outputs, selection.reference)

    @classmethod
    def load(
        cls,
        folder: Path,
        auto_class: str,
        main: Pooler,
        config: ServingConfig,
        device: torch.device | None = None,
        *,
        fused: bool = False,
        **options: Any,
    ) -> Engine:
        """Load the weights of a model folder with a class of transformers, from safetensors only.

        Weights in int8 have a file of their own, which is read where the precision asks for it.

        Args:
            fused: whether to compute without the modules of transformers, see `FusedModel`.

        Raises:
            ModelMismatch: no weights, or weights that are not all of this architecture.
            ConfigError: a precision that the device does not have.
        """
        model = load_weights(folder, auto_class, main, config, device, fused=fused)
        return cls(model, main, config, device, **options)

    @property
    def model(self) -> Any:
        """The model, with the chosen encoder installed; Any, for the modules of transformers are untyped."""
        return self._runner.model

    @property
    def architecture(self) -> str:
        """The class of the model in transformers."""
        return self.model.architecture if isinstance(self.model, FusedModel) else type(self.model).__name__

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return self._runner.pad_id

    @property
    def packed(self) -> bool:
        """Whether batches are packed, without padding."""
        return self._runner.packed

    @property
    def device_failed(self) -> bool:
        """Whether the device failed for good, as a GPU does for a process after some errors."""
        return self._isolation.device_failed

    @property
    def differentiable(self) -> bool:
        """Whether scores have gradients, from which explanations are computed."""
        return self.precision.has_gradients

    def mark_device_failed(self) -> DeviceLost:
        """Compute nothing any more; return the error to answer with."""
        return self._isolation.mark_device_failed()

    def run(
        self, encodings: Sequence[Encoding], poolers: Sequence[Pooler] | None = None, deadline: float = math.inf
    ) -> Results:
        """Compute the output of every encoding, in order; equal ones are computed once, short ones first.

        Args:
            poolers: what each encoding is computed for; by default all for the main pooler.
            deadline: on the clock of `time.monotonic`. Later no further batch is started: the rest is Overloaded.

        A batch that fails is split: by halves where memory ran out, row by row otherwise, so that an error stays with
        the rows that cause it.
        """
        poolers = poolers or [self.main] * len(encodings)
        results: dict[int, Output | RequestError] = {}
        planned = self._plan(encodings, poolers)
        batches = ((pooler, [encodings[indices[0]] for indices in rows]) for pooler, rows in planned)
        for (_, rows), outputs in zip(planned, self.run_batches(batches, deadline), strict=True):
            results.update((index, output) for row, output in zip(rows, outputs, strict=True) for index in row)
        return [results[index] for index in range(len(encodings))]

    def run_batches(self, batches: Iterable[tuple[Pooler, list[Encoding]]], deadline: float) -> Iterator[Results]:
        """Yield the outputs of every batch, in order."""
        for pooler, encodings in batches:
            is_late = time.monotonic() >= deadline
            yield self.refuse_late(encodings) if is_late else self.attempt(pooler, encodings)

    def attempt(self, pooler: Pooler, encodings: list[Encoding]) -> Results:
        """Run one batch; split it where it fails."""
        return self._isolation.attempt(partial(self.forward, pooler), encodings)

    def refuse_late(self, encodings: list[Encoding]) -> Results:
        """Return the error of a batch that is not started: TorchServe would kill the worker and all its answers."""
        return [Overloaded("too much for one batch: send fewer or shorter texts at once")] * len(encodings)

    def forward(self, pooler: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        """Run one batch."""
        with self.threads.limit(sum(map(len, encodings))):
            return self._runner.forward(pooler, encodings)

    def build_batch(self, pooler: Pooler, encodings: Sequence[Encoding]) -> Batch:
        """Put encodings on the device, packed or padded."""
        return self._runner.build_batch(pooler, encodings)

    def call(self, pooler: Pooler, batch: Batch, embeddings: Tensor | None = None) -> Any:
        """Run the model, or its encoder alone, on a batch; see `ModelRunner.call`."""
        return self._runner.call(pooler, batch, embeddings)

    def warm_up(self, max_length: int) -> None:
        """Run the smallest and the largest batches once, so that no request pays for first-time work.

        Raises:
            ConfigError: the model cannot compute in this precision.
        """
        token = probe_of(self.model.config)[0].ids[0]
        for lengths in ([2], [max_length], [8] * max(1, self._batch_tokens(self.main) // 8)):
            try:
                self.forward(self.main, [Encoding([token] * length, [0] * length) for length in lengths])
            except (RuntimeError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"{self.architecture} does not run with handler.precision {self.precision.name} and "
                    f"handler.max_batch_tokens {self.max_batch_tokens}: {' '.join(str(error).split())[:200]}"
                ) from error
        if self.device.type == "cpu" and self._native() is None:
            eight_tokens = Encoding([token] * 8, [0] * 8)
            self.threads.calibrate(lambda n_tokens: self.forward(self.main, [eight_tokens] * (n_tokens // 8)))

    def share_weights(self, folder: Path) -> None:
        """Share the weights of the layers with other processes by a file of a folder, where the layers can."""
        if native := self._native():
            native.share(folder)

    def device_usage(self) -> DeviceUsage | None:
        """Return how the device was used since the previous call; None: this device does not measure it."""
        return None

    def prepack(self, encoder: nn.Module, outputs: list[Output], reference: list[Output]) -> None:
        """Convert the encoder to its precision.

        Args:
            encoder: the module that holds the layers, or the whole model.
            outputs: of the probe, computed by this encoder in fp32.
            reference: of the probe, computed by transformers in fp32, padded.

        Raises:
            ModelMismatch: weights in another order change outputs in fp32.
        """
        if not isinstance(encoder, PackedEncoder):
            encoder.to(dtype=self.precision.dtype)
            return
        encoder.prepack(self.precision.dtype, self.device)
        if self.precision.dtype == torch.float32:
            prepacked = probe_outputs(self._runner, self.main, probe_of(self.model.config))
            if not all(map(outputs_allclose, outputs, prepacked)):
                raise ModelMismatch(f"{self.architecture} is computed differently with prepacked weights")

    def quantize_to_fp8(self, *, fuse: bool = False) -> None:
        """Quantize a prepacked encoder; see `fp8.unsupported_reason` for those that cannot be."""
        fp8.install(self.model, fuse=fuse)
        self.precision = FP8

    def _native(self) -> NativeEncoder | None:
        """Return what computes all layers in one call, with threads that it chooses; None: operators do."""
        encoder = encoder_of(self.model.base_model)
        return encoder.native if isinstance(encoder, PackedEncoder) else None

    def _batch_tokens(self, pooler: Pooler) -> int:
        """Return how many tokens a batch may have: fewer where the head computes many logits of each."""
        return min(self.max_batch_tokens, BATCH_LOGITS // max(1, pooler.logits_per_token))

    def _plan(self, encodings: Sequence[Encoding], poolers: Sequence[Pooler]) -> list[tuple[Pooler, list[list[int]]]]:
        """Plan forward passes, short ones first; a row is the indices of all encodings equal to each other."""
        planned = []
        for pooler in dict.fromkeys(poolers):
            members = [index for index, other in enumerate(poolers) if other is pooler]
            groups = [[members[i] for i in group] for group in group_equal([encodings[index] for index in members])]
            lengths = [len(encodings[group[0]]) for group in groups]
            for rows in plan(lengths, self._batch_tokens(pooler), padded=not self.packed):
                planned.append((pooler, [groups[row] for row in rows]))
        return sorted(planned, key=lambda batch: len(encodings[batch[1][0][0]]))  # a plan's rows: longest first


def engine_for(device: torch.device | None) -> type[Engine]:
    """Return the engine of a kind of device."""
    if device is None or device.type != "cuda":
        return Engine
    from handler.engine.cuda import CudaEngine  # of no use to a machine without a GPU

    return CudaEngine
