"""One way to run a model: encodings -> one forward pass -> outputs, on one device."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from handler.batching import split
from handler.engine.batch import TensorBatch, VarlenMetadata
from handler.engine.varlen import running
from handler.engine.weight_names import pools_all_tokens
from handler.sequences import Encoding
from handler.tasks import Output, Pooler
from handler.tokenization import first_position, padding_position

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from handler.engine.fused_model import FusedModel


class ModelRunner:
    """A model and the layout of the batches that it takes."""

    def __init__(
        self,
        model: PreTrainedModel | FusedModel,
        device: torch.device,
        *,
        packed: bool,
        pad_id: int = 0,
        type_ids: bool = True,
    ) -> None:
        """Refer to a model.

        Args:
            packed: whether batches are packed, without padding; the model's attention must then read `varlen`.
            pad_id: the padding token of a padded batch.
            type_ids: whether the model's tokenizer returns type ids, as transformers' own callers would see it.
        """
        self.model: Any = model
        self.device, self.packed, self.pad_id = device, packed, pad_id
        self.first_position, self.padding_position = first_position(model.config), padding_position(model.config)
        self.takes_type_ids = type_ids and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        self.pools_all_tokens = head_pools_all_tokens(model)

    def build_batch(self, pooler: Pooler, encodings: Sequence[Encoding]) -> TensorBatch:
        """Put encodings on the device, packed or padded."""
        pools_all = self.pools_all_tokens and pooler.forward_scope == "head"
        positions = [None if pools_all else pooler.token_positions(encoding) for encoding in encodings]
        reads = [read for read in positions if read is not None] or None
        if self.packed:
            return TensorBatch.packed(encodings, self.device, self.first_position, self.padding_position, reads)
        return TensorBatch.padded(encodings, self.device, self.pad_id, reads)

    def call(self, pooler: Pooler, batch: TensorBatch, embeddings: Tensor | None = None) -> Any:
        """Run the model, or its encoder alone, on a batch.

        Args:
            embeddings: word embeddings in the place of those of `batch.input_ids`: (*batch.input_ids.shape, width).

        Returns:
            The output of the model of transformers.
        """
        words = {"input_ids": batch.input_ids} if embeddings is None else {"inputs_embeds": embeddings}
        arguments: dict[str, Any] = dict(words)
        if self.takes_type_ids:
            arguments["token_type_ids"] = batch.type_ids
        model = self.model if pooler.forward_scope == "head" else self.model.base_model
        if batch.varlen is None:
            return model(**arguments, attention_mask=batch.attention_mask)
        if takes_position_ids(model.__class__):
            arguments["position_ids"] = batch.position_ids
        if self.pools_all_tokens and pooler.forward_scope == "head":
            arguments["attention_mask"] = mask_of(batch.varlen)  # for the head alone; it gets what `repad` returns
        with running(batch.varlen):
            return model(**arguments)

    @torch.inference_mode()
    def forward(self, pooler: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        """Run one batch; the outputs leave the device in one copy."""
        if pooler.forward_scope == "nothing":
            return [np.empty(0, np.float32)] * len(encodings)
        batch = self.build_batch(pooler, encodings)
        ragged = pooler.pool(self.call(pooler, batch), batch)
        return split(ragged.values.float().cpu().numpy(), ragged.counts)


@cache
def takes_position_ids(kind: Any) -> bool:
    """Tell whether models of a class have the argument, by name or among any others."""
    parameters = inspect.signature(kind.forward).parameters
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return is_open or "position_ids" in parameters


def head_pools_all_tokens(model: Any) -> bool:
    """Tell whether the head of a classifier reads all tokens of a sequence, e.g. their mean (ModernBERT, EuroBERT)."""
    architecture = getattr(model, "architecture", type(model).__name__)  # of a FusedModel, or its class
    return pools_all_tokens(model.config) and architecture.endswith("ForSequenceClassification")


def mask_of(varlen: VarlenMetadata) -> Tensor:
    """Return the mask (n, longest) of a padded batch of the same sequences: 1 for their tokens."""
    lengths = varlen.cu_seqlens.diff()
    return (torch.arange(varlen.max_seqlen, device=lengths.device) < lengths[:, None]).long()


def repad(states: Tensor, varlen: VarlenMetadata) -> Tensor:
    """Return the states of a packed row (1, tokens, width) as those of a padded batch (n, longest, width)."""
    padded = states.new_zeros((len(varlen.seq_lens), varlen.max_seqlen, states.shape[-1]))
    return padded.masked_scatter(mask_of(varlen).bool().unsqueeze(-1), states)
