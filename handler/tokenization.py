"""Text -> Encoding, never padded.

All texts of a TorchServe batch go through one call of the model's own fast tokenizer, which works on them in parallel.
This room owns lengths: how many tokens a model can read, what is cut, and what is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from handler.config import ServingConfig
from handler.errors import ConfigError, InputTooLong, InvalidInput, ModelMismatch, RequestError

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")

Text: TypeAlias = tuple[str, str | None]  # a text, or a pair


@dataclass(frozen=True, slots=True)
class Encoding:
    """One sequence of tokens, special tokens included; nothing is padded here."""

    ids: list[int]
    type_ids: list[int]
    n_truncated: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """The tokenizer of one model, and the limits it holds."""

    def __init__(self, folder: Path, model_config: PretrainedConfig, config: ServingConfig) -> None:
        """Load the tokenizer of a model folder.

        Raises:
            ModelMismatch: no fast tokenizer in the folder.
            ConfigError: `max_length` is more than the model can read.
        """
        if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
            # transformers would make an empty tokenizer of the model's type
            raise ModelMismatch(f"no tokenizer in the model folder: none of {', '.join(VOCABULARIES)}")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelMismatch(f"no tokenizer can be loaded from the model folder: {error}") from error
        if not tokenizer.is_fast:
            raise ModelMismatch(
                f"{type(tokenizer).__name__} has no fast version: save one (tokenizer.json) and pack again"
            )
        largest = max(tokenizer.get_vocab().values(), default=0)
        if largest >= model_config.vocab_size:
            raise ModelMismatch(
                f"the tokenizer has a token {largest}, the model only embeddings for {model_config.vocab_size}: "
                "they do not belong together"
            )
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.has_type_ids: bool = "token_type_ids" in tokenizer.model_input_names
        self.max_length = _max_length(tokenizer, model_config, config)
        self.refuses_long = config.overflow == "refuse"
        self._cuts_tail: bool = tokenizer.truncation_side == "right"
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        # Not the backend's own truncation: of a long pair it builds every combination of the pieces it cuts off
        # (6.5 s and 1.7 GB for two texts of 40,000 characters, 2026-11-24).
        self._backend.no_truncation()

    def encode(self, texts: Sequence[Text]) -> list[Encoding | RequestError]:
        """Encode texts in one call.

        What is longer than `max_length` is cut, or an InputTooLong in its place; a text without any token is an
        InvalidInput.
        """
        batch = [text if pair is None else (text, pair) for text, pair in texts]
        return [self._fit(found) for found in self._backend.encode_batch_fast(batch)]

    def _fit(self, found: Any) -> Encoding | RequestError:
        ids, type_ids = found.ids, found.type_ids
        if not ids:
            return InvalidInput("text holds nothing that this model reads")
        if len(ids) <= self.max_length:
            return Encoding(ids, type_ids)
        if self.refuses_long:
            return InputTooLong(f"text has {len(ids)} tokens, accepted: at most {self.max_length}")
        kept = cut(found.sequence_ids, self.max_length, tail=self._cuts_tail)
        return Encoding([ids[i] for i in kept], [type_ids[i] for i in kept], len(ids) - len(kept))


def cut(owners: Sequence[int | None], room: int, *, tail: bool = True) -> list[int]:
    """Return the places of the tokens that stay, as transformers' `longest_first` chooses them.

    Args:
        owners: for each token the text it belongs to, 0 or 1; None for special tokens, which always stay.
        room: tokens that may stay.
        tail: whether the ends of texts are cut off, or their beginnings.

    >>> cut([None, 0, 0, 0, None, 1, None], room=6)
    [0, 1, 2, 4, 5, 6]
    """
    left = dict(enumerate(_shares(owners.count(0), owners.count(1), room - owners.count(None))))
    kept = []
    for place in range(len(owners)) if tail else reversed(range(len(owners))):
        owner = owners[place]
        if owner is not None:
            left[owner] -= 1
        if owner is None or left[owner] >= 0:
            kept.append(place)
    return sorted(kept)


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Divide room between two texts as the `tokenizers` library does: cut the longer one, then both to halves."""
    if second == 0:
        return min(first, room), 0
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = room - short
    return (short, long) if first <= second else (long, short)


def first_position(model_config: PretrainedConfig) -> int:
    """Return the position id of a sequence's first token: after the padding id in the RoBERTa family, else 0.

    RoBERTa, XLM-R, CamemBERT, MPNet and Longformer count positions from `pad_token_id + 1` (fairseq's convention).
    """
    fairseq = ("roberta", "camembert", "xlm-roberta", "mpnet", "longformer", "luke", "ibert", "xmod", "data2vec-text")
    family = str(model_config.model_type).startswith(fairseq)
    return (model_config.pad_token_id or 0) + 1 if family else 0


def _max_length(tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig, config: ServingConfig) -> int:
    positions = getattr(model_config, "max_position_embeddings", None)
    declared = tokenizer.model_max_length
    limits = [declared] if declared < 1_000_000 else []  # transformers' "no limit" is 1e30
    if positions and positions > 0:  # -1 where positions are relative
        limits.append(positions - first_position(model_config))
    limit = min(limits, default=512)
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2  # a token of each text
    if config.max_length and not least <= config.max_length <= limit:
        raise ConfigError(f"handler.max_length is {config.max_length}, but this model reads {least} to {limit} tokens")
    return config.max_length or limit
