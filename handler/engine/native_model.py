"""A whole model like BERT or MPNet without PyTorch: embeddings, all layers in one call, and heads, on packed rows.

A worker that serves such a model imports of transformers only its configs and tokenizers, and PyTorch not at all, which
takes a third of the time and a quarter of the memory. It is used for archives: their self-test outputs were computed by
transformers, so a difference keeps the worker from becoming ready. Everything else loads the model of transformers and
compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from handler.batching import PackedRow
from handler.engine import int8_weights
from handler.engine.kernels import Kind
from handler.engine.native_encoder import Floats, NativeEncoder, NativeLayer, NativeNorm, PackedLinear
from handler.engine.native_heads import NativeHead, OutputArrays
from handler.engine.native_layers import NativeEmbeddings, NativeLayerNorm, WordTable
from handler.engine.packing import to_bf16
from handler.engine.positions import layer_positions
from handler.engine.stored_weights import Weights, errors_as_mismatch, read_floats
from handler.engine.weight_names import (
    FAMILIES,
    Family,
    activation_of,
    eps_of,
    layer_names,
    word_table,
)
from handler.errors import ModelMismatch
from handler.tensor_files import is_mapped

if TYPE_CHECKING:
    from transformers import PretrainedConfig

QKV = ("query", "key", "value")
NORMS = ("attention_norm", "output_norm")


class NativeModel:
    """Embeddings, encoder and heads."""

    def __init__(
        self,
        config: PretrainedConfig,
        architecture: str,
        embeddings: NativeEmbeddings,
        encoder: NativeEncoder,
        final_norm: NativeLayerNorm | None,
        heads: list[NativeHead],
    ) -> None:
        """Compose a model; `architecture` is its class in transformers."""
        self.config, self.architecture, self.encoder = config, architecture, encoder
        self._embeddings, self._final_norm, self._heads = embeddings, final_norm, heads
        self.pools_all = any(head.pools_all for head in heads)  # whether a head reads all tokens of a sequence
        self.head_width = max((head.width for head in heads), default=0)  # numbers that are computed of each token

    def states(self, row: PackedRow) -> Floats:
        """Compute the hidden states (tokens, width) of the tokens that are read of a row."""
        states = self.encoder(self._embeddings(row), row.layout)
        return states if self._final_norm is None else self._final_norm(states)

    def outputs(self, states: Floats, counts: Sequence[int], *, with_head: bool) -> OutputArrays:
        """Return the outputs of hidden states, so many of each sequence, on which those of no other depend."""
        if not with_head or not self._heads:
            return OutputArrays({"last_hidden_state": lambda: states})
        named = [head.outputs(states, counts) for head in self._heads]
        return OutputArrays({name: compute for outputs in named for name, compute in outputs.items()})

    def share(self, folder: Path) -> None:
        """Share the weights of the layers by a file of a folder, and words that are no view of their file already.

        Those that were stored in 16 bits are not: 0.8 GB of a multilingual model in each worker.
        """
        tables = {id(table): table for table in self._tables() if not is_mapped(table.rows)}
        rows = self.encoder.share(folder, [table.rows for table in tables.values()])
        for table, shared in zip(tables.values(), rows, strict=True):
            table.rows = shared

    def _tables(self) -> list[WordTable]:
        return [self._embeddings.words, *(head.table for head in self._heads if head.table is not None)]


def load(folder: Path, auto_class: str, config: PretrainedConfig, kind: Kind, kv_kind: Kind) -> NativeModel:
    """Load a supported model folder.

    Args:
        auto_class: class of transformers with the head that is needed.
        kind: of what linear layers read; for uint8 the file for int8 is read.
        kv_kind: of queries, keys and values.

    Raises:
        ModelMismatch: a tensor is missing, or no such file.
    """
    family, suffix = FAMILIES[config.model_type], auto_class.removeprefix("AutoModel") or "Model"
    encoder: NativeEncoder | None
    if kind == "uint8":
        path = folder / int8_weights.FILE
        with int8_weights.errors_as_mismatch(path):
            rest, stored = int8_weights.read(path, config.num_hidden_layers)
            weights = family.weights(rest)
            attentions = [positions.native() for positions in layer_positions(config, weights)]
            activation, heads = activation_of(config) or "", config.num_attention_heads
            encoder = int8_weights.native_encoder(stored, attentions, activation, heads, kv_kind)
            if encoder is None:
                raise ModelMismatch("its layers have other shapes than this processor computes")
            return _compose(weights, encoder, config, family, suffix)
    with errors_as_mismatch():
        weights = family.weights(read_floats(folder))
        layers = list(_float_layers(weights, family, config, kind))
        activation, heads = activation_of(config) or "", config.num_attention_heads
        encoder = NativeEncoder(layers, heads, kind, kv_kind, activation, pre_norm=family.pre_norm)
        return _compose(weights, encoder, config, family, suffix)


def _compose(
    weights: Weights, encoder: NativeEncoder, config: PretrainedConfig, family: Family, suffix: str
) -> NativeModel:
    words = WordTable(weights, word_table(weights, family, family.heads[suffix]).removesuffix(".weight"))
    embeddings = NativeEmbeddings(weights, family, words, eps_of(config))
    n_types = getattr(config, "type_vocab_size", 0)  # DistilBERT has none
    embeddings.require(config.vocab_size, config.max_position_embeddings, n_types, config.hidden_size)
    if encoder.width != config.hidden_size:
        raise ValueError(f"layers of width {encoder.width}, {config.hidden_size} by config.json")
    norm = None if family.final_norm is None else NativeLayerNorm(*weights.pair(family.final_norm), eps_of(config))
    if norm is not None and norm.width != config.hidden_size:
        raise ValueError(f"{family.final_norm} has not {config.hidden_size} weights")
    heads = [NativeHead(head, weights, words, config) for head in family.heads[suffix]]
    return NativeModel(config, f"{family.class_prefix}{suffix}", embeddings, encoder, norm, heads)


def _float_layers(weights: Weights, family: Family, config: PretrainedConfig, kind: Kind) -> Iterator[NativeLayer]:
    """Pack the layers in fp32 or bf16; queries of the last one apart, of which few are needed."""
    for index, positions in enumerate(layer_positions(config, weights)):
        parts = {field: weights.pair(where) for field, where in layer_names(family, index, weights).items()}
        norms = {field: NativeNorm(*parts.pop(field), eps_of(config)) for field in NORMS if field in parts}
        grouped: dict[str, tuple[str, ...]] = {name: (name,) for name in parts if name not in QKV}
        is_last = index == config.num_hidden_layers - 1
        grouped.update({"query": QKV[:1], "qkv": QKV[1:]} if is_last else {"qkv": QKV})
        linears = {name: _pack([parts[field] for field in fields], kind) for name, fields in grouped.items()}
        yield NativeLayer(linears, norms.get("attention_norm"), norms["output_norm"], **positions.native())


def _pack(parts: list[tuple[Floats, Floats]], kind: Kind) -> PackedLinear:
    """Pack linear layers side by side."""
    weight, bias = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return PackedLinear.in_floats(to_bf16(weight) if kind == "bf16" else weight, bias)
