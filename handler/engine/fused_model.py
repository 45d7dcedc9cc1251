"""The model of an archive as modules of PyTorch, without those of transformers: embeddings, our encoder, and a head.

Its scores have gradients, which those of `NativeModel` have not: explanations are computed by it. A serving process has
imported the configs and tokenizers of transformers alone, and has no models of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from handler.engine.encoder import PackedEncoder, packed_encoder_of
from handler.engine.int8 import float_embedding
from handler.engine.kernel_operators import to_array, to_tensor
from handler.engine.layer_attention import LayerAttention
from handler.engine.layer_weights import LayerWeights
from handler.engine.linear import ACTIVATIONS, LoadedLinear
from handler.engine.positions import LayerPositions, layer_positions
from handler.engine.relative import DistanceBias, Rotary
from handler.engine.runner import mask_of, repad
from handler.engine.stored_weights import Rows, Weights, errors_as_mismatch
from handler.engine.varlen import current_varlen
from handler.engine.weight_names import (
    FAMILIES,
    Family,
    HeadNames,
    TransformNames,
    activation_of_transform,
    eps_of,
    layer_names,
    pools_all_tokens,
    word_table,
)
from handler.weight_files import weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

M = TypeVar("M", nn.Linear, nn.LayerNorm)


class Outputs(dict[str, Tensor]):
    """Tensors by name, or by their index, as the outputs of transformers are."""

    def __getitem__(self, key: Any) -> Tensor:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Embeddings(nn.Module):
    """Word, type and position embeddings, added and normalized; ELECTRA's are projected to the width of its layers."""

    def __init__(self, weights: Weights, family: Family, words: str, eps: float) -> None:
        """Take the weights of a family whose words have a name."""
        super().__init__()
        self.word_embeddings = _embedding(weights, words)
        self.position_embeddings = None if family.positions is None else _embedding(weights, family.positions)
        has_types = "embeddings.token_type_embeddings.weight" in weights
        self.token_type_embeddings = _embedding(weights, "embeddings.token_type_embeddings") if has_types else None
        self.norm = _layer_norm(weights, family.embedding_norm, eps)
        is_projected = "embeddings_project.weight" in weights
        self.project = _linear(weights, "embeddings_project") if is_projected else None

    def forward(self, words: Tensor, type_ids: Tensor | None, position_ids: Tensor) -> Tensor:
        """Add to word embeddings (1, tokens, width of an embedding); returns (1, tokens, width)."""
        if self.token_type_embeddings is not None:
            words = words + self.token_type_embeddings(torch.zeros_like(position_ids) if type_ids is None else type_ids)
        if self.position_embeddings is not None:
            words = words + self.position_embeddings(position_ids)
        states: Tensor = self.norm(words)
        return states if self.project is None else self.project(states)


class Base(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, embeddings: Embeddings, encoder: PackedEncoder, final_norm: nn.Module | None) -> None:
        super().__init__()
        self.embeddings, self.encoder, self.final_norm = embeddings, encoder, final_norm

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        position_ids: Tensor,
    ) -> Outputs:
        """Return the hidden states of the tokens that are read, as `PackedEncoder.encode`."""
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        states = self.encoder.encode(self.embeddings(words, token_type_ids, position_ids), current_varlen())
        return Outputs(last_hidden_state=states if self.final_norm is None else self.final_norm(states))


class FusedTransform(nn.Module):
    """What a head computes before its last product."""

    def __init__(self, transform: TransformNames, weights: Weights, config: PretrainedConfig) -> None:
        super().__init__()
        activation = activation_of_transform(transform, config)
        self.activation: Callable[[Tensor], Tensor] = torch.tanh if activation == "tanh" else ACTIVATIONS[activation][2]
        self.dense = _linear(weights, transform.dense)
        self.norm = None if transform.norm is None else _layer_norm(weights, transform.norm, eps_of(config))

    def forward(self, states: Tensor) -> Tensor:
        states = self.activation(self.dense(states))
        return states if self.norm is None else self.norm(states)


class FusedHead(nn.Module):
    """A head whose answers are explained: not one that decodes words."""

    def __init__(self, head: HeadNames, weights: Weights, config: PretrainedConfig) -> None:
        super().__init__()
        self.of_sequence, self.names = head.of_sequence, head.outputs
        self.pools_all = head.of_sequence and pools_all_tokens(config)
        self.transform = None if head.transform is None else FusedTransform(head.transform, weights, config)
        self.linear = _linear(weights, head.linear)

    def forward(self, states: Tensor) -> Outputs:
        if self.pools_all:
            mask = mask_of(current_varlen()).unsqueeze(-1)
            states = (repad(states, current_varlen()) * mask).sum(1) / mask.sum(1)
        elif self.of_sequence:
            states = states[:, 0]
        logits = self.linear(states if self.transform is None else self.transform(states))
        if len(self.names) == 1:
            return Outputs({self.names[0]: logits})
        columns = (column.squeeze(-1).contiguous() for column in logits.split(1, dim=-1))
        return Outputs(zip(self.names, columns, strict=True))


class FusedModel(nn.Module):
    """A model with the interface of those of transformers, as far as the engine uses it."""

    def __init__(self, config: PretrainedConfig, architecture: str, base: Base, head: nn.Module | None) -> None:
        super().__init__()
        self.config, self.architecture, self.base_model, self.head = config, architecture, base, head

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        words: nn.Module = self.base_model.embeddings.word_embeddings
        return words

    def forward(self, attention_mask: Tensor | None = None, **inputs: Any) -> Outputs:
        """Return the outputs of the head; other arguments as of `Base.forward`."""
        output = self.base_model(**inputs)
        states: Outputs = output if self.head is None else self.head(output["last_hidden_state"])
        return states


class LoadedLayerNorm(nn.LayerNorm):
    """A layer norm whose weights are given."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


def load(folder: Path, auto_class: str, config: PretrainedConfig) -> FusedModel:
    """Load the weights of a supported model folder in floating point, in fp32.

    Args:
        auto_class: class of transformers with the head that is needed.

    Raises:
        ModelMismatch: a tensor is missing, or no such file.
    """
    family, suffix = FAMILIES[config.model_type], auto_class.removeprefix("AutoModel") or "Model"
    with errors_as_mismatch():
        weights = family.weights(_read_tensors(folder))
        encoder = packed_encoder_of(list(_layers(weights, family, config)), config)
        words = word_table(weights, family, family.heads[suffix]).removesuffix(".weight")
        norm = None if family.final_norm is None else _layer_norm(weights, family.final_norm, eps_of(config))
        base = Base(Embeddings(weights, family, words, eps_of(config)), encoder, norm)
        head = next((FusedHead(head, weights, config) for head in family.heads[suffix]), None)
    return FusedModel(config, f"{family.class_prefix}{suffix}", base, head)


def _read_tensors(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a model folder in fp32, where PyTorch's reader lays them.

    transformers takes them from there too, and the last bits of PyTorch's products depend on the alignment.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in weight_files(folder)]
        return {name: to_array(file.get_tensor(name).float()) for file in files for name in file.keys()}  # noqa: SIM118


def _layers(weights: Weights, family: Family, config: PretrainedConfig) -> Iterator[LayerWeights]:
    for index, positions in enumerate(layer_positions(config, weights)):
        modules: dict[str, Any] = {}
        for field, where in layer_names(family, index, weights).items():
            is_norm = "norm" in field
            modules[field] = _layer_norm(weights, where, eps_of(config)) if is_norm else _linear(weights, where)
        modules.setdefault("attention_norm", None)
        yield LayerWeights(**modules, pre_norm=family.pre_norm, attention=_attention(positions))


def _attention(positions: LayerPositions) -> LayerAttention:
    rotary = None if positions.angles is None else Rotary(*map(to_tensor, positions.angles))
    bias = None if positions.bias is None else DistanceBias(to_tensor(positions.bias))
    return LayerAttention(rotary, positions.window, bias)


def _linear(weights: Weights, where: str | Rows) -> nn.Linear:
    weight, bias = map(to_tensor, weights.pair(where))
    return _with_tensors(LoadedLinear(weight.shape[1], weight.shape[0], device="meta"), weight, bias)


def _layer_norm(weights: Weights, where: str | Rows, eps: float) -> nn.LayerNorm:
    weight, bias = map(to_tensor, weights.pair(where))
    return _with_tensors(LoadedLayerNorm(len(weight), eps=eps, device="meta"), weight, bias)


def _embedding(weights: Weights, name: str) -> nn.Module:
    return float_embedding(to_tensor(weights.floats(f"{name}.weight")))


def _with_tensors(module: M, weight: Tensor, bias: Tensor) -> M:
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = nn.Parameter(bias, requires_grad=False)
    return module
