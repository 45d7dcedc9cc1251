"""Archives of the BERT family on CPUs, by compiled kernels and numpy, without PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.arrays import use_product
from handler.batching import PackedRow, split
from handler.config import ServingConfig
from handler.engine import native_model
from handler.engine.config_problems import read_config
from handler.engine.device import CPU, AnyDevice
from handler.engine.engine import Engine
from handler.engine.int8_weights import FILE, has_float_weights
from handler.engine.kernels import Kind, library
from handler.engine.native_layers import multiply
from handler.engine.native_model import NativeModel
from handler.engine.native_support import supported_config, supports
from handler.engine.precision import INT8, Precision, choose, supported
from handler.sequences import Encoding
from handler.tasks import Output, Pooler
from handler.tokenization import first_position, padding_position
from handler.torch_presence import MISSING, has_torch, require_torch

if TYPE_CHECKING:
    from handler.engine.torch_engine import TorchEngine


HEAD_NUMBERS = 1 << 23  # that a head computes before they are pooled: 32 MB of the logits of all words
KINDS: dict[str, Kind] = {"fp32": "fp32", "bf16": "bf16", "int8": "uint8"}  # of what linear layers read, by precision


def precision_of(folder: Path, config: ServingConfig, device: AnyDevice) -> Precision | None:
    """Return the precision in which a model folder is computed here; None: `TorchEngine` computes it.

    Raises:
        ConfigError: a precision that the device does not have.
    """
    model_config = supported_config(folder) if device.type == "cpu" and library() is not None else None
    if model_config is None:
        return None
    available = {"has_float_weights": has_float_weights(folder), "has_int8_weights": (folder / FILE).is_file()}
    precision = choose(config.precision, device, **available)
    return precision if supports(model_config, KINDS[precision.name]) else None


class NativeEngine(Engine):
    """One model on the CPU."""

    def __init__(
        self,
        model: NativeModel,
        main: Pooler,
        config: ServingConfig,
        precision: Precision,
        load_with_gradients: Callable[[], TorchEngine],
        *,
        pad_id: int = 0,
        type_ids: bool = True,
    ) -> None:
        """Keep a loaded model.

        Args:
            main: the pooler that the model's head is for.
            load_with_gradients: loads the same model by PyTorch; called when the first explanation is asked for.
            pad_id: the padding token.
            type_ids: whether the model's tokenizer returns type ids.
        """
        super().__init__(model, main, config, precision, CPU)
        use_product(multiply)
        self._pad_id = pad_id
        self._takes_type_ids = type_ids and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self._first_position, self._padding_position = first_position(model.config), padding_position(model.config)
        self._load_with_gradients = load_with_gradients
        self._with_gradients: TorchEngine | None = None
        self._loading = threading.Lock()

    @classmethod
    def load(
        cls, folder: Path, auto_class: str, main: Pooler, config: ServingConfig, precision: Precision, **options: Any
    ) -> NativeEngine:
        """Load a model folder in a precision that `precision_of` chose; options as of the engine.

        Raises:
            ModelMismatch: weights that are not all of this architecture.
        """
        kv_kind: Kind = "bf16" if supported(CPU)[0] == "bf16" else "fp32"
        kind = KINDS[precision.name]
        kinds = kind, kv_kind if precision is INT8 else kind
        model = native_model.load(folder, auto_class, read_config(folder), *kinds)

        def load_with_gradients() -> TorchEngine:
            from handler.engine.torch_engine import TorchEngine

            return TorchEngine.load(folder, auto_class, main, config, fused=True, **options)

        return cls(model, main, config, precision, load_with_gradients, **options)

    @property
    def architecture(self) -> str:
        return str(self.model.architecture)

    @property
    def pad_id(self) -> int:
        return self._pad_id

    @property
    def packed(self) -> bool:
        return True

    @property
    def gradient_problem(self) -> str:
        return super().gradient_problem or ("" if has_torch() else MISSING)

    def forward(self, pooler: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        if pooler.forward_scope == "nothing":
            return [np.empty(0, np.float32)] * len(encodings)
        with_head = pooler.forward_scope == "head"
        pools_all = with_head and self.model.pools_all
        positions = [None if pools_all else pooler.token_positions(encoding) for encoding in encodings]
        reads = [read for read in positions if read is not None] or None
        row = PackedRow.of(encodings, self._first_position, self._padding_position, reads)
        if not self._takes_type_ids:
            row = row.without_types()
        states = self.model.states(row)
        outputs: list[Output] = []
        for tokens, part in row.parts(HEAD_NUMBERS // max(1, self.model.head_width) if with_head else None):
            ragged = pooler.pool(self.model.outputs(states[tokens], part.counts, with_head=with_head), part)
            outputs += split(np.asarray(ragged.values, np.float32), ragged.counts)
        return outputs

    def share_weights(self, folder: Path) -> None:
        self.model.share(folder)

    def with_gradients(self) -> TorchEngine:
        """Load the model by PyTorch, once: two seconds and a second copy of the weights, for explanations alone."""
        with self._loading:
            if self._with_gradients is None:
                require_torch("an explanation")
                self._with_gradients = self._load_with_gradients()
            return self._with_gradients
