"""The layers of BERT-like models on unpadded batches while they are trained on a CPU.

All sequences of a batch lie end to end in one row. PyTorch computes the products, native.py what lies between them, and
one function of autograd has the gradients of all layers: no operator is called for padding, and nothing is computed of
dropout that a hash does not say. Weights are rounded once a step instead of once a use. The model stays that of
transformers, with its parameters, its embeddings and its head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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
from scripts.training.native import BiasActivation, Dropout, ResidualNorm, SequenceAttention
from scripts.training.optimizer import ClippingAdamW, PackedWeight


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
LINEARS = ("query", "key", "value", "attention_output", "intermediate", "output")
NORMS = ("attention_norm", "output_norm")
N_PARAMETERS = 2 * (len(LINEARS) + len(NORMS))  # of a layer
FIRST_TOKEN_HEADS = ("ForSequenceClassification", "ForNextSentencePrediction")  # which read no other token


class Products:
    """The four products of a layer, with its weights in fp32 or bf16: copied anew when they have changed.

    They are those of queries, keys and values as one, of the attention output, and of the two of the feed-forward.
    """

    def __init__(self, layer: LayerWeights, dtype: torch.dtype) -> None:
        """Allocate the weights (out, in)."""
        groups = [
            (layer.query, layer.key, layer.value),
            (layer.attention_output,),
            (layer.intermediate,),
            (layer.output,),
        ]
        self.sources = [[module.weight for module in group] for group in groups]
        self._versions: list[int] = []
        self._allocate(dtype)

    def update(self, is_stale: bool) -> None:
        """Copy the weights if they are stale, or another version than those that were copied."""
        # The fused optimizers of PyTorch do not count the versions up.
        versions = [source._version for group in self.sources for source in group]
        if is_stale or versions != self._versions:
            self._versions = versions
            self._copy()

    def packed(self) -> dict[Tensor, PackedWeight]:
        """Return where weights are packed, for an optimizer that packs them anew."""
        return {}

    def _allocate(self, dtype: torch.dtype) -> None:
        sizes = [[len(source) for source in group] for group in self.sources]
        widths = [group[0].shape[1] for group in self.sources]
        self._weights = [torch.empty(sum(size), width, dtype=dtype) for size, width in zip(sizes, widths, strict=True)]
        self._parts = [part for weight, size in zip(self._weights, sizes, strict=True) for part in weight.split(size)]  # type: ignore[no-untyped-call]

    def _copy(self) -> None:
        torch._foreach_copy_(self._parts, [source.detach() for group in self.sources for source in group])

    def output(self, index: int, x: Tensor) -> Tensor:
        """Return x @ weight.T (rows, out) of x (rows, in)."""
        return x @ self._weights[index].t()

    def to_input(self, index: int, gradient: Tensor) -> Tensor:
        """Return the gradient (rows, in) of x."""
        return gradient @ self._weights[index]

    def to_weight(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient (out, in) of the weight in fp32."""
        return (gradient.t() @ x).float()


class TiledProducts(Products):
    """The same by the matrix unit, in bf16, with weights that are packed for both directions."""

    def _allocate(self, dtype: torch.dtype) -> None:
        self._forward, self._backward = [], []
        for group in self.sources:
            blocks, steps = sum(len(source) for source in group) // native.SIDE, group[0].shape[1] // native.SIDE
            self._forward.append(torch.empty(blocks, steps, native.SIDE**2, dtype=dtype))
            self._backward.append(torch.empty(steps, blocks, native.SIDE**2, dtype=dtype))

    def packed(self) -> dict[Tensor, PackedWeight]:
        result: dict[Tensor, PackedWeight] = {}
        for group, forward, backward in zip(self.sources, self._forward, self._backward, strict=True):
            first = 0
            for source in group:
                result[source] = PackedWeight(forward, backward, first)
                first += len(source) // native.SIDE
        return result

    def _copy(self) -> None:
        for source, (forward, backward, first) in self.packed().items():
            native.pack(source.detach(), "along_columns", forward, first_block=first)
            native.pack(source.detach(), "along_rows", backward, first_step=first)

    def output(self, index: int, x: Tensor) -> Tensor:
        return native.product(x, self._forward[index], x.dtype)

    def to_input(self, index: int, gradient: Tensor) -> Tensor:
        return native.product(gradient, self._backward[index], gradient.dtype)

    def to_weight(self, gradient: Tensor, x: Tensor) -> Tensor:
        return native.product(native.packed(gradient, "left"), native.packed(x, "along_rows"), torch.float32)


class LayerPass:
    """One layer in one forward pass, and then backwards; of all tokens, or of the first of each sequence.

    The latter is for the last layer, where the head reads no others: they are keys and values there and nothing else.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        products: Products,
        encoder: UnpaddedEncoder,
        row: UnpaddedRow,
        first_only: bool = False,
    ) -> None:
        """Keep the parameters in the order of LINEARS and NORMS, weight and bias of each in turn."""
        self._first = row.cu_seqlens[:-1] if first_only else None
        first_rows = n_rows(row.n_sequences) if first_only else None
        biases = [bias.detach() for bias in parameters[1 : 2 * len(LINEARS) : 2]]
        attention_weight, attention_bias, output_weight, output_bias = parameters[-4:]
        eps, (attention, attention_output, output) = encoder.eps, row.dropouts()
        self._products = products
        self._attention = SequenceAttention(
            torch.cat(biases[:3]), encoder.n_heads, row.cu_seqlens, row.max_seqlen, attention, first_rows
        )
        self._attention_norm = ResidualNorm(biases[3], attention_weight, attention_bias, eps, attention_output)
        self._activation = BiasActivation(biases[4], encoder.activation)
        self._output_norm = ResidualNorm(biases[5], output_weight, output_bias, eps, output)

    def forward(self, states: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states (tokens or sequences, width) in fp32, and in the precision of the products."""
        products, self._input = self._products, rounded
        self._context = self._attention.forward(products.output(0, rounded))
        if self._first is not None:
            states = _fill_up(states.index_select(0, self._first), len(self._context))
        states, self._middle = self._attention_norm.forward(products.output(1, self._context), states)
        self._activated = self._activation.forward(products.output(2, self._middle))
        return self._output_norm.forward(products.output(3, self._activated), states)

    def backward(self, gradient: Tensor, further: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the gradients of the two inputs, from those of the two outputs, and of the parameters."""
        products = self._products
        gradient, to_output, (output_bias, *output_norm) = self._output_norm.backward(gradient, further)
        output_weight = products.to_weight(to_output, self._activated)
        to_intermediate, intermediate_bias = self._activation.backward(products.to_input(3, to_output))
        intermediate_weight = products.to_weight(to_intermediate, self._middle)
        gradient, to_attention, (attention_bias, *attention_norm) = self._attention_norm.backward(
            gradient, products.to_input(2, to_intermediate)
        )
        attention_weight = products.to_weight(to_attention, self._context)
        to_qkv, qkv_bias = self._attention.backward(products.to_input(1, to_attention))
        qkv_weight = products.to_weight(to_qkv, self._input)
        if self._first is not None:
            of_first = gradient[: len(self._first)]
            gradient = gradient.new_zeros(self._input.shape).index_copy_(0, self._first.long(), of_first)
        linears = [
            *zip(qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True),
            (attention_weight, attention_bias),
            (intermediate_weight, intermediate_bias),
            (output_weight, output_bias),
        ]
        parameters = [gradient for linear in linears for gradient in linear]
        return gradient, products.to_input(0, to_qkv), [*parameters, *attention_norm, *output_norm]


@dataclass
class UnpaddedRow:
    """The boundaries (sequences + 1,) of sequences in one row, and the dropout of one forward pass."""

    cu_seqlens: Tensor  # in int32
    max_seqlen: int
    probabilities: tuple[float, float, float]  # of attention, attention output and output
    seed: int
    n_drawn: int = 0  # how many were made

    @property
    def n_sequences(self) -> int:
        """How many sequences there are."""
        return len(self.cu_seqlens) - 1

    def dropouts(self) -> list[Dropout]:
        """Return the dropout of the next layer."""
        first = self.n_drawn
        self.n_drawn += len(self.probabilities)
        return [Dropout(p, mix(self.seed, index)) for index, p in enumerate(self.probabilities, first)]


def mix(seed: int, index: int) -> int:
    """Return a number of 64 bits for a dropout of the model, as splitmix64 does."""
    mask = (1 << 64) - 1
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


class Layers(torch.autograd.Function):
    """All layers as one function: hidden states (tokens, width) in fp32 -> the same, or of the first tokens alone."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, encoder: UnpaddedEncoder, row: UnpaddedRow, *parameters: Tensor) -> Tensor:
        passes, rounded = [], states.to(encoder.dtype)
        for index, products in enumerate(encoder.products):
            own = [parameter.detach() for parameter in parameters[index * N_PARAMETERS : (index + 1) * N_PARAMETERS]]
            first_only = encoder.first_only and index == len(encoder.products) - 1
            layer = LayerPass(own, products, encoder, row, first_only)
            states, rounded = layer.forward(states, rounded)
            if any(ctx.needs_input_grad):
                passes.append(layer)
        ctx.passes = passes
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient, further, of_layers = gradients[0].contiguous(), None, []
        while ctx.passes:  # each layer's activations are released behind it
            gradient, further, of_parameters = ctx.passes.pop().backward(gradient, further)
            of_layers.append(of_parameters)
        to_states = gradient if further is None else gradient + further
        return to_states, None, None, *(tensor for layer in reversed(of_layers) for tensor in layer)


class UnpaddedEncoder:
    """Computes the layers of a model in place of its own module."""

    def __init__(self, model: Any, layers: list[LayerWeights], family: LayerFamily, dtype: torch.dtype) -> None:
        """Keep the layers of a model with a head; `dtype` of the products is fp32 or bf16."""
        base, config = model.base_model, model.config
        # Whether no other hidden states are read than those of first tokens; the others are returned as 0.
        self.first_only = type(model).__name__.endswith(FIRST_TOKEN_HEADS)
        self._span_head = getattr(model, "qa_outputs", None)
        self.dtype, self.n_heads, self.activation = (
            dtype,
            config.num_attention_heads,
            ACTIVATIONS[_activation(base, family)],
        )
        kind = TiledProducts if dtype == torch.bfloat16 and fits_tiles(layers) else Products
        self.products = [kind(layer, dtype) for layer in layers]
        self.eps = float(cast("Any", layers[0].attention_norm).eps)
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
        return {source: packed for products in self.products for source, packed in products.packed().items()}

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
        for products in self.products:
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
        states = Layers.apply(_fill_up(states, n_rows(n_tokens)), self, row, *self._parameters)  # type: ignore[no-untyped-call]
        positions = positions[row.cu_seqlens[:-1]] if self.first_only else positions
        states = states[: len(positions)]
        if len(positions) < batch * length:
            states = states.new_zeros(batch * length, width).index_copy(0, positions, states)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states.view(batch, length, width))


def fits_tiles(layers: Sequence[LayerWeights]) -> bool:
    """Tell whether this processor multiplies the weights of these layers by its matrix unit."""
    library = native.library()
    sizes = [size for layer in layers for name in LINEARS for size in getattr(layer, name).weight.shape]
    return library is not None and library.has_tiles and all(size % native.SIDE == 0 for size in sizes)


def n_rows(n_tokens: int) -> int:
    """Return the rows for the tokens of a batch: few different numbers, because oneDNN compiles a product for each.

    >>> n_rows(5), n_rows(513), n_rows(1025)
    (32, 544, 1088)
    """
    step = max(32, (1 << n_tokens.bit_length()) // 32)
    return -(-n_tokens // step) * step


def _fill_up(x: Tensor, rows: int) -> Tensor:
    """Return x (n, width) with rows of zeros behind it."""
    return torch.nn.functional.pad(x, (0, 0, 0, rows - len(x))) if len(x) < rows else x


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
