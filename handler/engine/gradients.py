"""Integrated gradients of a score along a line of embeddings, by PyTorch; `handler.explain` says what they mean."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handler.engine.torch_engine import TorchEngine
from handler.errors import Overloaded
from handler.sequences import Encoding
from handler.tasks import Pooler


def integrate(
    engine: TorchEngine,
    pooler: Pooler,
    score_of: Callable[[Any, Any], Any],
    encoding: Encoding,
    n_steps: int,
    deadline: float,
) -> tuple[float, float, list[float]]:
    """Return the score of a sequence, that of its baseline, and the contribution of each token to their difference.

    Args:
        pooler: what the sequence is computed for.
        score_of: an output of the model and its batch, of n copies of the sequence -> scores (n,), differentiable.
        n_steps: points between baseline and sequence.
        deadline: on the clock of `time.monotonic`, after which no further step is begun.

    Raises:
        Overloaded: the deadline has passed.
    """
    text, baseline = _embeddings(engine, encoding)
    difference = text - baseline

    def score(embeddings: Tensor) -> Tensor:
        """Return the score (n,) of n embedded sequences (n, tokens, hidden)."""
        if time.monotonic() > deadline:
            raise Overloaded(
                "not enough time to explain this in one batch: ask for fewer or shorter texts, or fewer n_steps, "
                "or pack with a larger explain_seconds"
            )
        batch = engine.build_batch(pooler, [encoding] * len(embeddings))
        shaped = embeddings.reshape(*batch.input_ids.shape, -1)
        scores: Tensor = score_of(engine.call(pooler, batch, shaped), batch)
        return scores.float()

    with torch.no_grad():
        end, start = score(torch.stack([text, baseline])).tolist()
    # A backward pass keeps the activations of every layer: a quarter of the tokens of a forward pass at once.
    at_once = max(1, engine.max_batch_tokens // 4 // len(encoding))
    mean_gradient = torch.zeros_like(text)
    for steps in torch.split(_quadrature(n_steps).to(text), at_once):
        fractions, weights = steps.unbind(-1)
        with torch.enable_grad():
            points = (baseline + fractions[:, None, None] * difference).requires_grad_()
            (gradients,) = torch.autograd.grad(score(points).sum(), points)
        mean_gradient += torch.einsum("n,nth->th", weights, gradients)
    return end, start, (mean_gradient * difference).sum(-1).tolist()


@torch.no_grad()
def _embeddings(engine: TorchEngine, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Return the embeddings (tokens, hidden) of a sequence, and of padding between its special tokens."""
    sequence_ids = encoding.spans.sequence_ids if encoding.spans else [None] * len(encoding)
    padded = [
        token if sequence_id is None else engine.pad_id
        for token, sequence_id in zip(encoding.ids, sequence_ids, strict=True)
    ]
    embed: Any = engine.model.get_input_embeddings()
    embeddings = embed(torch.tensor([encoding.ids, padded], device=engine.device)).float()
    return embeddings[0], embeddings[1]


@functools.lru_cache(maxsize=16)
def _quadrature(n_steps: int) -> Tensor:
    """Return the nodes and weights (n_steps, 2) of the Gauss-Legendre rule between 0 and 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    return torch.from_numpy(np.stack([(nodes + 1) / 2, weights / 2], axis=-1))
