"""Masking of tokens or whole words, and the metrics of their predictions.

Of the tokens of a text (or of its words, all tokens of a word together) 15 % are chosen, at least one. Of the chosen
ones 80 % become the mask token, 10 % another token and 10 % stay; the model predicts them all (Devlin et al. 2018).
Training masks other tokens each time a text is read; evaluation masks the same ones, chosen by the seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.cli.console import ScriptError
from scripts.training.tasks.base import IGNORE_INDEX, Feature, TokenLimits, to_features

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MLM_PROBABILITY, MASK_FRACTION, RANDOM_FRACTION = 0.15, 0.8, 0.1
METRICS = {"accuracy": "masked accuracy", "perplexity": "perplexity"}


class MaskingCollator:
    """Mask features and make padded batches of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        import transformers

        self.mask_token = tokenizer.mask_token_id
        self.n_tokens = len(tokenizer)
        self.pad = transformers.DataCollatorForTokenClassification(tokenizer)

    def __call__(self, features: list[Feature]) -> Any:
        """Return a padded batch; a feature without labels is masked first."""
        return self.pad([feature if "labels" in feature else self.mask_feature(feature) for feature in features])

    def mask_feature(self, feature: Feature, generator: torch.Generator | None = None) -> Feature:
        """Return a feature with some of its units masked, and their tokens as labels."""
        import torch

        tokens, units = torch.tensor(feature["input_ids"]), torch.tensor(feature["units"])
        n_units = int(units.max()) + 1
        chosen = torch.randperm(n_units, generator=generator)[: max(1, round(MLM_PROBABILITY * n_units))]
        selected = torch.isin(units, chosen)
        labels = torch.where(selected, tokens, IGNORE_INDEX)
        draw = torch.rand(len(tokens), generator=generator)
        random_tokens = torch.randint(self.n_tokens, tokens.shape, generator=generator)
        tokens = torch.where(selected & (draw < MASK_FRACTION), self.mask_token, tokens)
        tokens = torch.where(selected & (draw >= 1 - RANDOM_FRACTION), random_tokens, tokens)
        kept = {name: values for name, values in feature.items() if name != "units"}
        return {**kept, "input_ids": tokens.tolist(), "labels": labels.tolist()}


def with_mask_units(encoding: Any, tokenizer: PreTrainedTokenizerBase, *, whole_words: bool) -> list[Feature]:
    """Return features with `units`: a number for each token or word that is masked as one, -1 for the others."""
    features = to_features(encoding)
    for number, feature in enumerate(features):
        numbers: dict[object, int] = {}
        words = zip(encoding.sequence_ids(number), encoding.word_ids(number), strict=True)
        feature["units"] = [
            -1
            if word is None or token == tokenizer.unk_token_id
            else numbers.setdefault((part, word) if whole_words else position, len(numbers))
            for position, (token, (part, word)) in enumerate(zip(feature["input_ids"], words, strict=True))
        ]
    return features


def prepare(
    features: list[Feature], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
) -> list[Feature]:
    """Return the features that have a token to mask; for evaluation they are masked already."""
    import torch

    collator, generator = MaskingCollator(tokenizer), torch.Generator().manual_seed(limits.seed)
    maskable = [feature for feature in features if max(feature["units"]) >= 0]
    if not maskable:
        raise ScriptError("the tokenizer of this model knows no word of these texts")
    return maskable if training else [collator.mask_feature(feature, generator) for feature in maskable]


def token_losses(logits: Any, labels: Any) -> Any:
    """Return the negative log-likelihood and the correctness (0 or 1) of each token: (batch, tokens, 2).

    Both are IGNORE_INDEX for a token without a label.
    """
    import torch

    labelled = labels != IGNORE_INDEX
    scores, targets = logits[labelled].float(), labels[labelled]
    outputs = torch.full((*labels.shape, 2), float(IGNORE_INDEX), device=labels.device)
    losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
    outputs[labelled] = torch.stack([losses, (scores.argmax(-1) == targets).float()], dim=-1)
    return outputs


def masked_lm_metrics(outputs: np.ndarray) -> dict[str, float]:
    """Return the metrics of the outputs of `token_losses`, over all tokens with a label."""
    losses, correct = outputs[outputs[..., 1] != IGNORE_INDEX].T
    return {"accuracy": float(correct.mean()), "perplexity": math.exp(min(float(losses.mean()), 700))}
