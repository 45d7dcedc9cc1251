"""A whole model like BERT or MPNet without PyTorch: embeddings, all layers in one call, and heads, on packed rows.

A worker that serves such a model imports of transformers only its configs and tokenizers, and PyTorch not at all, which
takes a third of the time and a quarter of the memory. It is used for archives: their self-test outputs were computed by
transformers, so a difference keeps the worker from becoming ready. Everything else loads the model of transformers and
compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.batching import PackedRow
from handler.engine import int8_weights, native_encoder
from handler.engine.kernels import Kind
from handler.engine.native_encoder import Floats, NativeBias, NativeEncoder, NativeLayer, NativeNorm, PackedLinear
from handler.engine.native_heads import NativeHead, OutputArrays
from handler.engine.native_layers import NativeEmbeddings, WordTable
from handler.engine.packing import to_bf16
from handler.engine.stored_weights import Weights, errors_as_mismatch, read_floats
from handler.engine.weight_names import FAMILIES, Family, activation_of, eps_of, supported_config, word_table
from handler.errors import ModelMismatch
from handler.tensor_files import is_mapped

if TYPE_CHECKING:
    from transformers import PretrainedConfig

QKV = ("query", "key", "value")


class NativeModel:
    """Embeddings, encoder and heads."""

    def __init__(
        self,
        config: PretrainedConfig,
        architecture: str,
        embeddings: NativeEmbeddings,
        encoder: NativeEncoder,
        heads: list[NativeHead],
    ) -> None:
        """Compose a model; `architecture` is its class in transformers."""
        self.config, self.architecture, self.encoder = config, architecture, encoder
        self._embeddings, self._heads = embeddings, heads
        self.head_width = max((head.width for head in heads), default=0)  # numbers that are computed of each token

    def states(self, row: PackedRow) -> Floats:
        """Compute the hidden states (tokens, width) of the tokens that are read of a row."""
        return self.encoder(self._embeddings(row), row.layout)

    def outputs(self, states: Floats, *, with_head: bool) -> OutputArrays:
        """Return the outputs of hidden states; what is computed of a token depends on no other one."""
        if not with_head or not self._heads:
            return OutputArrays({"last_hidden_state": lambda: states})
        named = [head.outputs(states) for head in self._heads]
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


def supports(folder: Path, kind: Kind) -> bool:
    """Tell from the files of a model folder whether this processor computes it here.

    Args:
        kind: of what linear layers read.
    """
    config = supported_config(folder)
    if config is None:
        return False
    family = FAMILIES[config["model_type"]]
    width = config.get("hidden_size", config.get("dim", family.width))
    heads = config.get("num_attention_heads", config.get("n_heads", family.n_heads))
    layers = config.get("num_hidden_layers", config.get("n_layers", 1))
    if not all(type(number) is int and number > 0 for number in (width, heads, layers)):
        return False
    return native_encoder.supports(kind, config.get(family.activation, "gelu"), width, heads)


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
            weights = Weights(rest, family.prefix)
            attentions: list[dict[str, Any]] = [{"bias": _bias(weights, config)}] * len(stored.layers)
            activation, heads = activation_of(config) or "", config.num_attention_heads
            encoder = int8_weights.native_encoder(stored, attentions, activation, heads, kv_kind)
            if encoder is None:
                raise ModelMismatch("its layers have other shapes than this processor computes")
            return _compose(weights, encoder, config, family, suffix)
    with errors_as_mismatch():
        weights = Weights(read_floats(folder), family.prefix)
        layers = list(_float_layers(weights, family, config, kind))
        encoder = NativeEncoder(layers, config.num_attention_heads, kind, kv_kind, activation_of(config) or "")
        return _compose(weights, encoder, config, family, suffix)


def _compose(
    weights: Weights, encoder: NativeEncoder, config: PretrainedConfig, family: Family, suffix: str
) -> NativeModel:
    words = WordTable(weights, word_table(weights, family, family.heads[suffix]).removesuffix(".weight"))
    embeddings = NativeEmbeddings(weights, words, eps_of(config))
    n_types = getattr(config, "type_vocab_size", 0)  # DistilBERT has none
    embeddings.require(config.vocab_size, config.max_position_embeddings, n_types, config.hidden_size)
    if encoder.width != config.hidden_size:
        raise ValueError(f"layers of width {encoder.width}, {config.hidden_size} by config.json")
    heads = [NativeHead(head, weights, words, config) for head in family.heads[suffix]]
    return NativeModel(config, f"{family.class_prefix}{suffix}", embeddings, encoder, heads)


def _float_layers(weights: Weights, family: Family, config: PretrainedConfig, kind: Kind) -> Iterator[NativeLayer]:
    """Pack the layers in fp32 or bf16; queries of the last one apart, of which few are needed."""
    bias = _bias(weights, config)
    for index in range(config.num_hidden_layers):
        parts = {field: weights.pair(f"{family.layers}.{index}.{name}") for field, name in family.layer.items()}
        is_last = index == config.num_hidden_layers - 1
        grouped: dict[str, tuple[str, ...]] = {"query": QKV[:1], "qkv": QKV[1:]} if is_last else {"qkv": QKV}
        grouped.update({name: (name,) for name in ("attention_output", "intermediate", "output")})
        linears = {name: _pack([parts[field] for field in fields], kind) for name, fields in grouped.items()}
        attention_norm, output_norm = (
            NativeNorm(*parts[name], eps_of(config)) for name in ("attention_norm", "output_norm")
        )
        yield NativeLayer(linears, attention_norm, output_norm, bias=bias)


def _bias(weights: Weights, config: PretrainedConfig) -> NativeBias | None:
    table = weights.distance_bias(config.max_position_embeddings)
    return None if table is None else NativeBias.of(table)


def _pack(parts: list[tuple[Floats, Floats]], kind: Kind) -> PackedLinear:
    """Pack linear layers side by side."""
    weight, bias = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return PackedLinear.in_floats(to_bf16(weight) if kind == "bf16" else weight, bias)
