"""Choose how a model runs: packed through our encoder, packed through that of transformers, or padded.

Every candidate is a model of its own that shares the weights of the first. Each computes the same probe in fp32, and
the first whose outputs equal the padded ones is installed, once, in the model that serves.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from handler.engine.encoder import PackedEncoder, packed_encoder
from handler.engine.families import encoder_of, in_place_of, replace_encoder, unsupported_reason
from handler.engine.probe import outputs_allclose, probe_of, probe_outputs
from handler.engine.runner import ModelRunner, head_pools_all_tokens, repad
from handler.engine.transformers_attention import PACKED
from handler.engine.varlen import current_varlen
from handler.errors import ModelMismatch
from handler.sequences import Encoding
from handler.tasks import Output, Pooler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The chosen way to run a model, and what the probe's outputs were in fp32."""

    packed: bool
    encoder: PackedEncoder | None  # ours, if it is the chosen one
    outputs: list[Output]  # of the chosen way: those of `probe_outputs`
    reference: list[Output]  # of the padded model of transformers


def select(padded: ModelRunner, main: Pooler, *, allow_packed: bool = True) -> Selection:
    """Compare the candidates on a probe.

    Args:
        padded: the model as transformers loaded it, in fp32.
        main: the pooler that the model's head is for.
        allow_packed: False chooses the padded model, for a reference to compare with.

    Raises:
        ModelMismatch: padding changes the output for a text, the model cannot be called as a BERT, or tokens are not
            all that it reads.
    """
    name = type(padded.model).__name__
    if reason := unsupported_reason(padded.model.config):
        raise ModelMismatch(f"{name} cannot be served: {reason}")
    probe = probe_of(padded.model.config)
    try:
        reference = probe_outputs(padded, main, probe)
        if any(np.isnan(output).any() for output in reference):
            raise ModelMismatch(
                f"{name} computes NaN of a few tokens: the weights or the numbers of config.json are out of "
                "range, as after a training that diverged or a save in fp16 that overflowed"
            )
        per_sequence = (probe_outputs(padded, main, [encoding]) for encoding in probe)
        alone = [output for outputs in zip(*per_sequence, strict=True) for output in outputs]
        if not all(map(outputs_allclose, reference, alone)):
            raise ModelMismatch(
                f"{name} lets padding change the answer to a text, which would then depend on the texts beside it: "
                "this family cannot be served"
            )
        if allow_packed and encoder_of(padded.model.base_model) is not None:
            ours = packed_encoder(padded.model)
            for encoder in (None,) if ours is None else (ours, None):
                outputs = _packed_outputs(padded, encoder, main, probe)
                if outputs is not None and all(map(outputs_allclose, outputs, reference)):
                    return Selection(packed=True, encoder=encoder, outputs=outputs, reference=reference)
                if outputs is not None:
                    _log_refusal(name, encoder, "its outputs differ from padded ones")
        return Selection(packed=False, encoder=None, outputs=reference, reference=reference)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ModelMismatch(f"{name} cannot be run as a BERT: {type(error).__name__} on a few tokens") from error


def install(selection: Selection, model: PreTrainedModel, dtype: torch.dtype) -> nn.Module:
    """Give a model the chosen encoder and attention; return the module that holds its layers, or the whole model.

    Args:
        dtype: that the encoder of transformers will compute in.
    """
    base = model.base_model
    theirs = encoder_of(base)
    if selection.packed:
        model.set_attn_implementation(PACKED)
        add_repadding_hook(model)
    if theirs is None:
        return model
    if selection.encoder is not None:
        replace_encoder(base, selection.encoder)
        return selection.encoder
    add_boundary_hooks(theirs, dtype)
    return theirs


def add_boundary_hooks(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Make an encoder of transformers, or a list of layers, compute in `dtype`, and return the tokens read in fp32.

    What enters is cast: hidden states, additive masks, and angles of rotary positions.
    """

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _cast(args, dtype), {name: _cast(kwargs[name], dtype) for name in kwargs}

    def leave(module: nn.Module, __: Any, output: Any) -> Any:
        states = output if isinstance(output, Tensor) else output[0]
        read_positions = _read_positions() if module is last else None
        if read_positions is not None:
            states = states[0, read_positions].unsqueeze(1)  # (tokens read, 1, width)
        if isinstance(output, Tensor):
            return states.float()
        if isinstance(output, tuple):
            return (states.float(), *output[1:])
        output[next(iter(output))] = states.float()
        return output

    modules = list(encoder) if isinstance(encoder, nn.ModuleList) else [encoder]
    last = modules[-1]
    for module in modules:
        module.register_forward_pre_hook(enter, with_kwargs=True)
    last.register_forward_hook(leave)


def add_repadding_hook(model: PreTrainedModel) -> None:
    """Pad the states of a packed row for a head that reads all tokens of a sequence; see `ModelRunner.call`."""
    if not head_pools_all_tokens(model):
        return

    def leave(_: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("attention_mask") is not None:
            output[next(iter(output))] = repad(output[0], current_varlen())
        return output

    model.base_model.register_forward_hook(leave, with_kwargs=True)


def _read_positions() -> Tensor | None:
    try:
        return current_varlen().read_positions
    except ValueError:  # a padded batch
        return None


def _packed_outputs(
    padded: ModelRunner, encoder: PackedEncoder | None, main: Pooler, probe: list[Encoding]
) -> list[Output] | None:
    """Run the probe packed through an encoder, None: that of transformers; return None where that fails."""
    try:
        candidate = _packed_candidate(padded, encoder)
        return probe_outputs(candidate, main, probe)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        _log_refusal(type(padded.model).__name__, encoder, f"{type(error).__name__} in its packed forward")
        return None


def _packed_candidate(padded: ModelRunner, encoder: PackedEncoder | None) -> ModelRunner:
    """Return a runner of a copy of the model that shares its weights, with packed attention."""
    original, theirs = padded.model, encoder_of(padded.model.base_model)
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*original.parameters(), *original.buffers())}
    if encoder is not None and theirs is not None:
        shared[id(theirs)] = in_place_of(original.base_model, encoder)  # takes the place of the original in the copy
    model = copy.deepcopy(original, shared)
    model.set_attn_implementation(PACKED)
    add_repadding_hook(model)
    copied = encoder_of(model.base_model)
    if encoder is None and copied is not None:
        add_boundary_hooks(copied, torch.float32)
    return ModelRunner(model, padded.device, packed=True, pad_id=padded.pad_id, type_ids=padded.takes_type_ids)


def _log_refusal(model_name: str, encoder: PackedEncoder | None, reason: str) -> None:
    whose = "of transformers" if encoder is None else "of ours"
    logger.warning("%s cannot run packed through the encoder %s: %s", model_name, whose, reason)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_cast(part, dtype) for part in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
