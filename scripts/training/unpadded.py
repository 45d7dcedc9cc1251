"""The encoder of a BERT-like model on unpadded batches while it is trained on a CPU.

All sequences of a batch lie end to end in one row, and one function of autograd has the gradients of all layers
(unpadded_layers.py): no operator is called for padding, and nothing is computed of dropout that a hash does not say.
Weights are rounded once a step instead of once a use. The model stays that of transformers, with its parameters, its
embeddings and its head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from handler.engine.layer_attention import LayerAttention
from handler.engine.layer_weights import LayerWeights, layer_weights_of
from handler.engine.native_encoder import ACTIVATIONS
from scripts.training import native
from scripts.training.layer_products import LINEARS, Products, TiledProducts, fits_tiles
from scripts.training.optimizer import ClippingAdamW, PackedWeight
from scripts.training.unpadded_layers import NORMS, Layers, LayerStack, UnpaddedRow, fill_up, n_rows


@dataclass(frozen=True)
class LayerFamily:
    """Where a family has its layers and its probabilities of dropout, by their names in its config."""

    encoder: str = "encoder"
    attention_dropout: str = "attention_probs_dropout_prob"
    attention_output_dropout: str | None = "hidden_dropout_prob"
    output_dropout: str = "hidden_dropout_prob"
    activation: str = "hidden_act"


FAMILIES = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "data2vec-text"), LayerFamily()
    ),
    "distilbert": LayerFamily("transformer", "attention_dropout", None, "dropout", "activation"),
}
FIRST_TOKEN_HEADS = ("ForSequenceClassification", "ForNextSentencePrediction")  # the other hidden states are 0


class UnpaddedEncoder:
    """Computes the layers of a model in place of its own module."""

    def __init__(self, model: Any, layers: list[LayerWeights], family: LayerFamily, dtype: torch.dtype) -> None:
        """Keep the layers of a model with a head; `dtype` of the products is fp32 or bf16."""
        base, config = model.base_model, model.config
        self._span_head = getattr(model, "qa_outputs", None)
        kind = TiledProducts if dtype == torch.bfloat16 and fits_tiles(layers) else Products
        self.stack = LayerStack(
            products=[kind(layer, dtype) for layer in layers],
            n_heads=config.num_attention_heads,
            activation=ACTIVATIONS[_activation(base, family)],
            eps=float(cast("Any", layers[0].attention_norm).eps),
            dtype=dtype,
            first_only=type(model).__name__.endswith(FIRST_TOKEN_HEADS),
        )
        names = (family.attention_dropout, family.attention_output_dropout, family.output_dropout)
        self._probabilities = tuple(0.0 if name is None else float(getattr(config, name)) for name in names)
        self._base, self._module = base, getattr(base, family.encoder)
        modules = [getattr(layer, name) for layer in layers for name in (*LINEARS, *NORMS)]
        self._parameters = [parameter for module in modules for parameter in (module.weight, module.bias)]
        self._mask: Tensor | None = None
        self._is_stale = True

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Compute the layers here until the end."""
        hooks = [
            self._base.register_forward_pre_hook(self._read_mask, with_kwargs=True),
            register_optimizer_step_post_hook(self._note_step),
        ]
        if self._span_head is not None:
            hooks.append(self._span_head.register_forward_hook(self._leave_padding_out))
        self._module.forward = self
        try:
            yield
        finally:
            del self._module.forward
            for hook in hooks:
                hook.remove()

    def packed(self) -> dict[Tensor, PackedWeight]:
        """Return where the weights of all layers are packed."""
        return {source: packed for products in self.stack.products for source, packed in products.packed().items()}

    def _note_step(self, optimizer: Any, *_: Any) -> None:
        own = self.packed()
        is_packed = isinstance(optimizer, ClippingAdamW) and bool(own) and own.keys() <= optimizer.packed.keys()
        self._is_stale = self._is_stale or not is_packed

    def _read_mask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)

    def _leave_padding_out(self, module: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        """Return the logits (batch, length, 2) of starts and ends, with padding as no possible answer.

        The softmax of the loss is over all positions. Transformers' layers compute something for padding, which learns
        to be unlikely; 0 cannot.
        """
        return logits if self._mask is None else logits.masked_fill(~self._mask.bool()[..., None], -1e4)

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the module of the model would: hidden states (batch, length, width), 0 where padding is."""
        batch, length, width = hidden_states.shape
        mask = torch.ones(batch, length, dtype=torch.bool) if self._mask is None else self._mask.bool()
        lengths, positions = mask.sum(1), mask.view(-1).nonzero().view(-1)
        for products in self.stack.products:
            products.update(self._is_stale)
        self._is_stale, is_training = False, self._module.training
        row = UnpaddedRow(
            cu_seqlens=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int(),
            max_seqlen=int(lengths.max()),
            probabilities=cast("Any", self._probabilities if is_training else (0.0, 0.0, 0.0)),
            seed=int(torch.randint(1 << 62, ())) if is_training else 0,
        )
        states, n_tokens = hidden_states.reshape(-1, width).float(), len(positions)
        states = states.index_select(0, positions) if n_tokens < batch * length else states
        states = Layers.apply(fill_up(states, n_rows(n_tokens)), self.stack, row, *self._parameters)  # type: ignore[no-untyped-call]
        positions = positions[row.cu_seqlens[:-1]] if self.stack.first_only else positions
        states = states[: len(positions)]
        if len(positions) < batch * length:
            states = states.new_zeros(batch * length, width).index_copy(0, positions, states)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states.view(batch, length, width))


def _activation(base: Any, family: LayerFamily) -> str:
    return str(getattr(base.config, family.activation))


def encoder_of(model: Any, dtype: torch.dtype) -> UnpaddedEncoder | None:
    """Return what computes the layers of a model; None where they are others, or there are no kernels."""
    base = model.base_model
    family = FAMILIES.get(model.config.model_type) if isinstance(model, PreTrainedModel) else None  # not peft's
    if family is None or native.library() is None or _activation(base, family) not in ACTIVATIONS:
        return None
    layers = layer_weights_of(base)
    widths = {base.config.hidden_size // base.config.num_attention_heads}
    for layer in layers:
        linears, norms = [getattr(layer, name) for name in LINEARS], [getattr(layer, name) for name in NORMS]
        is_plain = all(type(module) is nn.Linear and module.bias is not None for module in linears)  # none of peft
        if not is_plain or layer.attention != LayerAttention() or layer.pre_norm:
            return None
        if any(type(norm) is not nn.LayerNorm or norm.eps != norms[0].eps for norm in norms):
            return None
        widths |= {module.out_features for module in linears}
    if any(width % native.LANES for width in widths) or not all(p.requires_grad for p in base.parameters()):
        return None
    return UnpaddedEncoder(model, layers, family, dtype)


@contextlib.contextmanager
def layers(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Compute the layers of a model here until the end, where that is possible; else the model computes them itself."""
    encoder = encoder_of(model, dtype)
    with contextlib.nullcontext() if encoder is None else encoder.in_place():
        yield


def packed_weights(model: Any) -> dict[Tensor, PackedWeight]:
    """Return where the weights are packed while `layers` computes those of a model; empty where it does not."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    encoder = next((forward for forward in forwards if isinstance(forward, UnpaddedEncoder)), None)
    return {} if encoder is None else encoder.packed()
