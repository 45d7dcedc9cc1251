"""The heads of a model without PyTorch: states of the tokens that are read -> outputs, by transformers' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from handler.arrays import ArraySegments
from handler.engine.native_encoder import Floats
from handler.engine.native_layers import NativeDecoder, NativeLayerNorm, NativeLinear, WordTable
from handler.engine.stored_weights import Weights
from handler.engine.weight_names import HeadNames, TransformNames, activation_of_transform, eps_of, pools_all_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Compute: TypeAlias = Callable[[], Floats]


class OutputArrays(Mapping[str, Floats]):
    """Arrays by name, or by their index, as the outputs of transformers are, each computed when it is read.

    They are (tokens, ...) or (sequences, ...).
    """

    def __init__(self, computations: Mapping[str, Compute]) -> None:
        self._computations = computations

    def __getitem__(self, key: Any) -> Floats:
        return self._computations[list(self)[key] if isinstance(key, int) else key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._computations)

    def __len__(self) -> int:
        return len(self._computations)


class NativeHead:
    """A linear layer of labels or words, behind another with an activation and a norm where the head has these."""

    def __init__(self, head: HeadNames, weights: Weights, words: WordTable, config: PretrainedConfig) -> None:
        self._names = head.outputs
        self.pools_all = head.of_sequence and pools_all_tokens(config)
        self.table: WordTable | None = None  # of a decoder
        self._transform = None if head.transform is None else _Transform(head.transform, weights, config)
        self._linear = self._linear_of(head, weights, words)
        read = config.hidden_size if self._transform is None else self._transform.width
        if self._linear.n_in != read:
            raise ValueError(f"{head.linear} is no weight of width {read}")

    def _linear_of(self, head: HeadNames, weights: Weights, words: WordTable) -> NativeLinear | NativeDecoder:
        if not head.is_decoder:
            linear = NativeLinear(*weights.pair(head.linear))
            self.width = linear.n_out
            return linear
        bias = next((name for name in (f"{head.linear}.bias", head.bias) if name in weights), None)
        self.table = WordTable(weights, head.linear) if f"{head.linear}.weight" in weights else words
        self.table.require_shape(*words.rows.shape)
        self.width = len(words.rows)
        return NativeDecoder(self.table, None if bias is None else weights.floats(bias))

    def outputs(self, states: Floats, counts: Sequence[int]) -> dict[str, Compute]:
        """Return what computes each output of states (sum of counts, width), so many of each sequence."""

        @cache
        def logits() -> Floats:
            segments = ArraySegments(counts)
            read = segments.sum(states) / segments.sizes() if self.pools_all else states
            return self._linear(read if self._transform is None else self._transform(read))

        if len(self._names) == 1:
            return {self._names[0]: logits}
        return {name: partial(_column, logits, column) for column, name in enumerate(self._names)}


def _column(logits: Compute, column: int) -> Floats:
    return logits()[:, column]


class _Transform:
    """A linear layer, its activation, and a norm where there is one."""

    def __init__(self, transform: TransformNames, weights: Weights, config: PretrainedConfig) -> None:
        self._dense = NativeLinear(*weights.pair(transform.dense))
        self._activation = activation_of_transform(transform, config)
        self._norm: NativeLayerNorm | None = None
        if transform.norm is not None:
            self._norm = NativeLayerNorm(*weights.pair(transform.norm), eps_of(config))
        self.width = self._dense.n_out
        if self._dense.n_in != config.hidden_size or (self._norm is not None and self._norm.width != self.width):
            raise ValueError(
                f"{transform.dense} of shape {(self.width, self._dense.n_in)} does not fit what is beside it"
            )

    def __call__(self, states: Floats) -> Floats:
        states = self._dense(states, self._activation)
        return states if self._norm is None else self._norm(states)
