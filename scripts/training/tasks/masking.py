"""Hiding words, and how well they are guessed.

Of the tokens of a text (or of its words, all tokens of a word together) 15 % are chosen, at least one. Of the chosen
ones 80 % become the mask token, 10 % another token and 10 % stay; the model has to guess them all (Devlin et al. 2018).
Training hides others each time a text is seen; for evaluation they are chosen once, from the seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.cli.console import ScriptError
from scripts.training.tasks.base import IGNORED, Feature, Limits, require_offsets, unpacked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

CHOSEN, MASKED, REPLACED = 0.15, 0.8, 0.1
TITLES = {"accuracy": "masked accuracy", "perplexity": "perplexity"}


class Hider:
    """Hides words in features, and makes batches of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        import transformers

        if tokenizer.mask_token_id is None:
            raise ScriptError("this tokenizer has no mask token")
        self.mask_token = tokenizer.mask_token_id
        self.n_tokens = len(tokenizer)
        self.pad = transformers.DataCollatorForTokenClassification(tokenizer)

    def __call__(self, features: list[Feature]) -> Any:
        """Return a padded batch; what was not hidden before is hidden now."""
        return self.pad([feature if "labels" in feature else self.hide(feature) for feature in features])

    def hide(self, feature: Feature, generator: torch.Generator | None = None) -> Feature:
        """Return a feature with some of its units hidden, and labels that tell what was there."""
        import torch

        tokens, units = torch.tensor(feature["input_ids"]), torch.tensor(feature["units"])
        n_units = int(units.max()) + 1
        chosen = torch.randperm(n_units, generator=generator)[: max(1, round(CHOSEN * n_units))]
        hidden = torch.isin(units, chosen)
        labels = torch.where(hidden, tokens, IGNORED)
        fate = torch.rand(len(tokens), generator=generator)
        others = torch.randint(self.n_tokens, tokens.shape, generator=generator)
        tokens = torch.where(hidden & (fate < MASKED), self.mask_token, tokens)
        tokens = torch.where(hidden & (fate >= 1 - REPLACED), others, tokens)
        kept = {name: values for name, values in feature.items() if name != "units"}
        return {**kept, "input_ids": tokens.tolist(), "labels": labels.tolist()}


def with_units(encoding: Any, tokenizer: PreTrainedTokenizerBase, *, whole_words: bool) -> list[Feature]:
    """Return features that number what is hidden together: each token, or each word; -1 is never hidden."""
    require_offsets(tokenizer)
    features = unpacked(encoding)
    for number, feature in enumerate(features):
        numbers: dict[object, int] = {}
        words = zip(encoding.sequence_ids(number), encoding.word_ids(number), strict=True)
        feature["units"] = [
            -1
            if word is None or token == tokenizer.unk_token_id
            else numbers.setdefault((part, word) if whole_words else place, len(numbers))
            for place, (token, (part, word)) in enumerate(zip(feature["input_ids"], words, strict=True))
        ]
    return features


def prepared(
    features: list[Feature], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
) -> list[Feature]:
    """Return the features that have something to hide, hidden already unless they are for training."""
    import torch

    hider, generator = Hider(tokenizer), torch.Generator().manual_seed(limits.seed)
    useful = [feature for feature in features if max(feature["units"]) >= 0]
    if not useful:
        raise ScriptError("the tokenizer of this model knows no word of these texts")
    return useful if training else [hider.hide(feature, generator) for feature in useful]


def reduce(logits: Any, labels: Any) -> Any:
    """Return of each token (batch, tokens, 2) its negative log-likelihood and whether the guess is right.

    What was not to be guessed gets IGNORED twice.
    """
    import torch

    guessed = labels != IGNORED
    scores, wanted = logits[guessed].float(), labels[guessed]
    found = torch.full((*labels.shape, 2), float(IGNORED), device=labels.device)
    losses = torch.nn.functional.cross_entropy(scores, wanted, reduction="none")
    found[guessed] = torch.stack([losses, (scores.argmax(-1) == wanted).float()], dim=-1)
    return found


def measure(outputs: np.ndarray) -> dict[str, float]:
    """Return the metrics of what `reduce` returned, over all tokens that were to be guessed."""
    losses, right = outputs[outputs[..., 1] != IGNORED].T
    return {"accuracy": float(right.mean()), "perplexity": math.exp(min(float(losses.mean()), 700))}
