"""Word embeddings that hold only the rows of tokens in the training data while a model is trained.

The gradient of every other row is 0, so that AdamW does nothing to it but weight decay, which multiplies all rows by
the same factors. Those rows stay as they were, beside one more row of ones that is decayed too and so holds the
product of the factors. The state dict has all rows: checkpoints look as without this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_FRACTION = 0.5  # of the vocabulary: above, there is little to gain


class CompactEmbedding(nn.Module):
    """Takes the place of an `nn.Embedding` in training; `weight` has the rows of some tokens, and a row of ones."""

    def __init__(self, embedding: nn.Embedding, tokens: Tensor) -> None:
        """Take the rows of tokens (n,), sorted, out of the weights of an embedding, which is kept and changed."""
        super().__init__()
        self._embedding = [embedding]  # in a list, which makes it no module of this one: its weights are no parameter
        self.tokens = tokens
        self.index = torch.full((embedding.num_embeddings,), -1)
        self.index[tokens] = torch.arange(len(tokens))
        padding = -1 if embedding.padding_idx is None else int(self.index[embedding.padding_idx])
        self.padding_idx = None if padding < 0 else padding
        rows = embedding.weight.detach()[tokens]
        self.weight = nn.Parameter(torch.cat([rows, torch.ones(1, rows.shape[1])]))
        self.register_state_dict_post_hook(_write_all_rows)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_read_all_rows)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (..., width) of tokens (...).

        Raises:
            ValueError: a token that is not among the rows, in training.
        """
        rows = self.index[tokens]
        is_missing = rows < 0
        if not is_missing.any():
            return functional.embedding(rows, self.weight, self.padding_idx)
        if self.training:
            raise ValueError("a token of a training batch is not among those of the training data")
        embeddings = functional.embedding(rows.clamp(min=0), self.weight)
        missing = self._embedding[0].weight.detach()[tokens[is_missing]] * self.weight.detach()[-1]
        return embeddings.index_put((is_missing,), missing)

    @torch.no_grad()
    def all_rows(self) -> Tensor:
        """Return the rows of all tokens (vocabulary, width), as training of all of them would have left them."""
        rows = self._embedding[0].weight * self.weight[-1]
        rows[self.tokens] = self.weight[:-1]
        return rows

    @torch.no_grad()
    def set_all_rows(self, rows: Tensor) -> None:
        """Start from the rows of all tokens (vocabulary, width)."""
        self._embedding[0].weight.copy_(rows)
        self.weight[:-1] = self._embedding[0].weight[self.tokens]
        self.weight[-1] = 1


def _write_all_rows(module: CompactEmbedding, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = module.all_rows()


def _read_all_rows(module: CompactEmbedding, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if (rows := state.get(f"{prefix}weight")) is not None:
        module.set_all_rows(rows)
        state[f"{prefix}weight"] = module.weight.detach()


@contextlib.contextmanager
def vocabulary(model: Any, tokens: Iterable[int]) -> Iterator[None]:
    """Let a model train only the embeddings of some tokens until the end; then it has all rows again.

    Nothing changes where tokens are most of the vocabulary, where the embeddings are not trained, or where an output
    layer has the same weights and so a gradient for every row.
    """
    embedding = model.get_input_embeddings()
    rows = torch.tensor(sorted(set(tokens)))
    is_plain = type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding.scale_grad_by_freq
    if (
        not is_plain
        or not embedding.weight.requires_grad
        or model.get_output_embeddings() is not None
        or len(rows) > MAX_FRACTION * embedding.num_embeddings
    ):
        yield
        return
    compact = CompactEmbedding(embedding, rows)
    model.set_input_embeddings(compact)
    try:
        yield
    finally:
        embedding.weight.data = compact.all_rows()
        model.set_input_embeddings(embedding)
