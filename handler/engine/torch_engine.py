"""Models by PyTorch: every family that is served, on CPUs and, by `CudaEngine`, on GPUs.

Batches are packed, without padding; a model whose attention cannot be replaced is detected by a probe at load and runs
padded, sorted by length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from handler.config import ServingConfig
from handler.engine import cpu, fp8
from handler.engine.batch import TensorBatch
from handler.engine.device import AnyDevice, to_torch
from handler.engine.encoder import PackedEncoder
from handler.engine.engine import Engine
from handler.engine.families import encoder_of
from handler.engine.fused_model import FusedModel
from handler.engine.int8 import Int8Encoder
from handler.engine.native_encoder import NativeEncoder
from handler.engine.precision import FP8, choose
from handler.engine.probe import outputs_allclose, probe_of, probe_outputs
from handler.engine.runner import ModelRunner
from handler.engine.threads import Threads
from handler.engine.vector_math import choose_code
from handler.engine.weights import load_weights
from handler.errors import ModelMismatch
from handler.sequences import Encoding
from handler.tasks import Output, Pooler

if TYPE_CHECKING:
    from transformers import PreTrainedModel

choose_code()
cpu.give_thread_count_to_torch()  # a worker may import PyTorch after it was placed


class TorchEngine(Engine):
    """One model on one device.

    Engines for other devices override `forward`, `run_batches`, `prepack`, `warm_up` and `device_usage`.
    """

    device: torch.device

    def __init__(
        self,
        model: PreTrainedModel | FusedModel,
        main: Pooler,
        config: ServingConfig,
        device: AnyDevice | None = None,
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
        device = to_torch(device)
        encoder, is_fused = encoder_of(model.base_model), isinstance(model, FusedModel)
        is_int8 = isinstance(encoder, Int8Encoder)
        precision = choose(config.precision, device, has_float_weights=not is_int8, has_int8_weights=is_int8)
        super().__init__(model, main, config, precision, device)
        self.threads = Threads()
        model.train(False).requires_grad_(False).to(device)
        self._runner = ModelRunner(model, device, packed=is_int8 or is_fused, pad_id=pad_id, type_ids=type_ids)
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
        device: AnyDevice | None = None,
        *,
        fused: bool = False,
        **options: Any,
    ) -> TorchEngine:
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

    def with_gradients(self) -> TorchEngine:
        """Return this engine."""
        return self

    def forward(self, pooler: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        """Run one batch."""
        with self.threads.limit(sum(map(len, encodings))):
            return self._runner.forward(pooler, encodings)

    def build_batch(self, pooler: Pooler, encodings: Sequence[Encoding]) -> TensorBatch:
        """Put encodings on the device, packed or padded."""
        return self._runner.build_batch(pooler, encodings)

    def call(self, pooler: Pooler, batch: TensorBatch, embeddings: Tensor | None = None) -> Any:
        """Run the model, or its encoder alone, on a batch; see `ModelRunner.call`."""
        return self._runner.call(pooler, batch, embeddings)

    def warm_up(self, max_length: int) -> None:
        """Run the smallest and the largest batches once, and measure up to how many tokens one thread is faster."""
        super().warm_up(max_length)
        if self.device.type == "cpu" and self._native() is None:
            eight_tokens = Encoding([probe_of(self.model.config)[0].ids[0]] * 8, [0] * 8)
            self.threads.calibrate(lambda n_tokens: self.forward(self.main, [eight_tokens] * (n_tokens // 8)))

    def share_weights(self, folder: Path) -> None:
        """Share the weights of the layers with other processes by a file of a folder, where the layers can."""
        if native := self._native():
            native.share(folder)

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
