"""What the attention of each layer knows of positions beside the embeddings: angles, a window, a bias; as arrays.

BERT adds positions to the embeddings. ModernBERT rotates queries and keys by angles, and most of its layers attend to
near tokens only; MPNet has a bias for each distance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.engine.native_encoder import Floats, NativeBias
from handler.engine.stored_weights import Weights
from handler.engine.weight_names import FAMILIES

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BIAS = "encoder.relative_attention_bias"  # of attention, for each of some ranges of distances and each head
RANGES = 32  # whatever `relative_attention_num_buckets` says, as in transformers
FARTHEST = 128  # from this distance on all have the same bias


class LayerPositions(NamedTuple):
    """What the attention of one layer knows."""

    angles: tuple[Floats, Floats] | None = None  # cos and sin (positions, head width / 2)
    window: int | None = None  # a token attends to those at most so far away; None: to all
    bias: Floats | None = None  # (heads, 2 * longest - 1) of each distance, from a key longest - 1 before its query on

    def native(self) -> dict[str, Any]:
        """Return it as arguments of `NativeLayer`."""
        bias = None if self.bias is None else NativeBias.of(self.bias)
        return {"angles": self.angles, "window": self.window or 0, "bias": bias}


def layer_positions(config: PretrainedConfig, weights: Weights) -> list[LayerPositions]:
    """Return what each layer knows; equal layers share it. Of rotary positions as `are_computed` accepts them."""
    ropes = getattr(config, "rope_parameters", None)
    if ropes is None or FAMILIES[config.model_type].positions is not None:  # config.json may hold what nothing reads
        return [LayerPositions(bias=distance_bias(weights, config.max_position_embeddings))] * config.num_hidden_layers
    if "rope_theta" in ropes:
        return [LayerPositions(_angles(config, ropes["rope_theta"]))] * config.num_hidden_layers
    windows = {"full_attention": None, "sliding_attention": getattr(config, "sliding_window", None)}
    types = {
        name: LayerPositions(_angles(config, ropes[name]["rope_theta"]), windows[name])
        for name in sorted(set(config.layer_types))
    }
    if len(config.layer_types) != config.num_hidden_layers:
        raise ValueError(f"{len(config.layer_types)} layer_types for {config.num_hidden_layers} layers")
    return [types[name] for name in config.layer_types]


def are_computed(config: Mapping[str, Any]) -> bool:
    """Tell from a config.json whether the positions of the layers are computed here, all of them or of no kind."""
    if config.get("position_embedding_type", "absolute") not in ("absolute", "rope"):
        return False
    width, heads, head_width = (config.get(name) for name in ("hidden_size", "num_attention_heads", "head_dim"))
    if head_width is not None and (width is None or heads is None or head_width * heads != width):
        return False
    if config.get("rope_scaling") or config.get("partial_rotary_factor", 1) != 1:
        return False
    ropes = config.get("rope_parameters") or {}
    kinds = [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]
    if any(
        rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1 for rope in kinds
    ):
        return False
    types = set(config.get("layer_types") or ())
    return types <= {"full_attention", "sliding_attention"} and config.get("local_attention", 2) >= 2


def distance_bias(weights: Weights, longest: int) -> Floats | None:
    """Return the bias of each head at each distance, (heads, 2 * longest - 1), as of `DistanceBias`; None: none.

    Args:
        longest: tokens of the longest sequence.
    """
    if f"{BIAS}.weight" not in weights:
        return None
    biases = weights.floats(f"{BIAS}.weight")  # (ranges, heads)
    if len(biases) < RANGES:
        raise ValueError(f"{BIAS}.weight has {len(biases)} rows, of which {RANGES} are read")
    return np.ascontiguousarray(biases[range_of(np.arange(1 - longest, longest), RANGES)].T)


def range_of(distances: NDArray[np.int64], n_ranges: int) -> NDArray[np.int64]:
    """Return the range that each distance of a key from its query is in, as T5 and MPNet number them.

    Half of the ranges are for keys after the query. Of a half, the first half are single distances, the others grow
    with the logarithm (Raffel et al. 2020, "Exploring the Limits of Transfer Learning").

    >>> range_of(np.array([0, -1, 1, -200, 200]), 32).tolist()
    [0, 1, 17, 15, 31]
    """
    half = n_ranges // 2
    exact, sizes = half // 2, np.abs(distances)
    logarithms = np.log(np.maximum(sizes, 1) / np.float32(exact), dtype=np.float32) / np.float32(
        math.log(FARTHEST / exact)
    )
    far = np.minimum(exact + (logarithms * (half - exact)).astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(sizes < exact, sizes, far)


def _angles(config: PretrainedConfig, theta: float) -> tuple[Floats, Floats]:
    """Return cos and sin of the angles at every position that the model has; those of transformers to the last bit."""
    width = config.hidden_size // config.num_attention_heads
    frequencies = 1 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles = np.arange(config.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles, dtype=np.float64).astype(np.float32), np.sin(angles, dtype=np.float64).astype(np.float32)
