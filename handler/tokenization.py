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
from handler.errors import ConfigError, InputTooLong, ModelMismatch, RequestError

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
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.max_length = _max_length(tokenizer, model_config, config)
        self.refuses_long = config.overflow == "refuse"
        self._side: str = tokenizer.truncation_side
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._cut_long_texts()

    def encode(self, texts: Sequence[Text]) -> list[Encoding | RequestError]:
        """Encode texts in one call; what is longer than `max_length` is cut, or an InputTooLong in its place."""
        batch = [text if pair is None else (text, pair) for text, pair in texts]
        encoded = self._backend.encode_batch_fast(batch)
        return [
            self._cut(text, found) if found.overflowing else Encoding(found.ids, found.type_ids)
            for text, found in zip(batch, encoded, strict=True)
        ]

    def _cut_long_texts(self) -> None:
        self._backend.enable_truncation(self.max_length, strategy="longest_first", direction=self._side)

    def _cut(self, text: str | tuple[str, str], found: Any) -> Encoding | RequestError:
        self._backend.no_truncation()
        try:
            n_tokens = len(self._backend.encode_batch_fast([text])[0].ids)
        finally:
            self._cut_long_texts()
        if self.refuses_long:
            return InputTooLong(f"text has {n_tokens} tokens, accepted: at most {self.max_length}")
        return Encoding(found.ids, found.type_ids, n_tokens - len(found.ids))


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
    if positions:
        limits.append(positions - first_position(model_config))
    limit = min(limits, default=512)
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2  # a token of each text
    if config.max_length and not least <= config.max_length <= limit:
        raise ConfigError(f"handler.max_length is {config.max_length}, but this model reads {least} to {limit} tokens")
    return config.max_length or limit
