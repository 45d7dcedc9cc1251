"""Operations and tokens of a forward pass, from the shape of an encoder and the lengths of its sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

GATED = {"modernbert", "gte", "nomic_bert", "eurobert", "ultrabert"}  # feed-forward of three matrices, not two


@dataclass(frozen=True)
class EncoderShape:
    """Number of layers and widths of an encoder."""

    layers: int
    width: int
    inner: int  # intermediate size, of the feed-forward part
    gated: bool = False  # whether a gate, a matrix like that of the intermediate, multiplies it
    shared: int = 1  # query heads that share one head of keys and values

    @classmethod
    def of(cls, config: Any) -> EncoderShape:
        """Read the shape from a config of transformers; DistilBERT has its own attribute names."""
        layers = [getattr(config, name, None) for name in ("num_hidden_layers", "n_layers")]
        inner = [getattr(config, name, None) for name in ("intermediate_size", "hidden_dim")]
        key_heads = getattr(config, "num_key_value_heads", None)
        shared = config.num_attention_heads // key_heads if key_heads else 1
        gated = config.model_type in GATED
        return cls(next(filter(None, layers)), config.hidden_size, next(filter(None, inner)), gated, shared)

    @property
    def weights(self) -> int:
        """The elements of the matrices of one layer."""
        return sum(count * k * n for count, k, n in self.products())

    def flops(self, lengths: Iterable[int]) -> int:
        """Count the operations of sequences: F(L) = 2n(4h^2 + 2hf)L + 4nhL^2 of each, 3hf with a gate.

        This is the nominal work: embeddings and head do not count, and what the last layer skips counts.

        >>> EncoderShape(12, 768, 3072).flops([1]) // 10**6
        169
        """
        linear = 2 * self.layers * self.weights
        square = 4 * self.layers * self.width
        return sum(linear * length + square * length**2 for length in lengths)

    def computed_flops(self, lengths: Iterable[int]) -> int:
        """Count the operations of an engine whose last layer computes one token of each sequence.

        That layer has keys and values of all tokens, and the rest of one.

        >>> shape = EncoderShape(24, 1024, 4096)
        >>> round(1 - shape.computed_flops([175]) / shape.flops([175]), 3)
        0.035
        """
        skipped = 2 * (self.weights - 2 * self.width**2 // self.shared)
        attention = 4 * self.width
        lengths = list(lengths)
        return self.flops(lengths) - sum((skipped + attention * length) * (length - 1) for length in lengths)

    def products(self) -> list[tuple[int, int, int]]:
        """Return (count, K, N) of the matrix products of one layer, as engines have them.

        They are queries, keys and values in one; the output of attention; those of the feed-forward part.
        """
        return [
            (1, self.width, self.width + 2 * self.width // self.shared),
            (1, self.width, self.width),
            (2 if self.gated else 1, self.width, self.inner),
            (1, self.inner, self.width),
        ]

    def layer_flops(self, tokens: int) -> int:
        """Count the operations of the matrix products of one layer on `tokens` rows."""
        return sum(2 * count * tokens * k * n for count, k, n in self.products())


def padded_tokens(lengths: Sequence[int], *, to: int | None = None, batch: int = 32, in_order: bool = False) -> int:
    """Count the tokens that are computed where sequences are padded, in batches of `batch` sequences.

    Args:
        to: a fixed length; None pads to the longest of each batch.
        in_order: whether sequences are sorted by length before.

    >>> padded_tokens([2, 8, 2, 8], batch=2), padded_tokens([2, 8, 2, 8], batch=2, in_order=True)
    (32, 20)
    """
    ordered = sorted(lengths) if in_order else list(lengths)
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    return sum(len(sequences) * (to or max(sequences)) for sequences in batches)
