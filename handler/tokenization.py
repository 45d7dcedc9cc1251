"""Text -> Encodings, never padded.

All texts of a TorchServe batch go through one call of the model's own fast tokenizer, which works on them in parallel.
This room owns lengths: how many tokens a model can read, and so what is cut, seen through windows or refused. It also
knows the other way: tokens -> text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from handler.config import ServingConfig
from handler.errors import ConfigError, InputTooLong, InvalidInput, ModelMismatch, RequestError
from handler.sequences import (
    Encoding,
    EncodingOptions,
    Text,
    TokenSpans,
    TruncationStrategy,
    cut,
    shorten,
    take,
    windows,
)

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


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
        self.mask_id: int | None = tokenizer.mask_token_id
        self.mask: str | None = None if tokenizer.mask_token is None else str(tokenizer.mask_token)
        self.unknown_id: int | None = tokenizer.unk_token_id
        self.has_type_ids: bool = "token_type_ids" in tokenizer.model_input_names
        self.max_length = _max_length(tokenizer, model_config, config)
        self._cuts_tail: bool = tokenizer.truncation_side == "right"
        self._full = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        # Not the backend's own truncation: of a long pair it builds every combination of the pieces it cuts off
        # (6.5 s and 1.7 GB for two texts of 40,000 characters, 2026-11-24).
        self._backend.no_truncation()

    @property
    def joins_words_by_prefix(self) -> bool:
        """Whether a token says that it continues a word (WordPiece's ##)."""
        return bool(getattr(self._backend.model, "continuing_subword_prefix", None))

    def encode(self, texts: Sequence[Text], layouts: Sequence[EncodingOptions]) -> list[list[Encoding] | RequestError]:
        """Encode texts in one call; one encoding each, or several where a long text is read through windows.

        In the place of a text stands an InputTooLong where its layout refuses what is longer than `max_length`, and an
        InvalidInput where it has no token at all.
        """
        found: list[list[Encoding] | RequestError] = [InvalidInput("no text")] * len(texts)
        for spans in (False, True):  # counting characters costs a third more: only for those who ask
            chosen = [index for index, layout in enumerate(layouts) if layout.spans is spans]
            batch = [text if pair is None else (text, pair) for text, pair in (texts[index] for index in chosen)]
            if not batch:
                continue
            read = self._backend.encode_batch if spans else self._backend.encode_batch_fast
            for index, tokens in zip(chosen, read(batch), strict=True):
                found[index] = self._fit(tokens, layouts[index])
        return found

    def text_of(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text that tokens spell; special tokens are left out unless asked for."""
        return str(self._full.decode(list(ids), skip_special_tokens=not special))

    def token(self, token_id: int) -> str:
        """Return a token as it stands in the vocabulary."""
        return str(self._full.convert_ids_to_tokens(token_id))

    def id_of(self, token: str) -> int | None:
        """Return the number of a token as it stands in the vocabulary; None: it does not."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens of the vocabulary spell."""
        return str(self._full.convert_tokens_to_string(list(tokens)))

    def ids_of(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around it."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _fit(self, found: Any, layout: EncodingOptions) -> list[Encoding] | RequestError:
        ids, type_ids = found.ids, found.type_ids
        if not ids:
            return InvalidInput("text holds nothing that this model reads")
        room = min(layout.max_length or self.max_length, self.max_length)
        spans = TokenSpans(found.offsets, found.word_ids, found.sequence_ids, range(len(ids))) if layout.spans else None
        if len(ids) <= room and layout.max_first is None:
            return [Encoding(ids, type_ids, 0, spans)]
        owners = spans.owners if spans else found.sequence_ids
        kept = list(range(len(ids)))
        if layout.max_first is not None:  # leaves the second text at least half of a sequence
            kept = shorten(owners, 0, min(layout.max_first, (room - owners.count(None)) // 2), tail=self._cuts_tail)
        n_cut = len(ids) - len(kept)
        if len(kept) <= room:
            pieces = [kept]
        elif layout.overflow == "refuse":
            return InputTooLong(f"text has {len(ids)} tokens, accepted: at most {room}")
        elif layout.overflow == "window":
            pieces = windows([owners[place] for place in kept], room, layout.stride, layout.gives)
            pieces = [[kept[place] for place in piece] for piece in pieces]
            n_cut = len(ids) - len({place for piece in pieces for place in piece})
        else:
            pieces = [self._cut([owners[place] for place in kept], room, layout.gives)]
            pieces = [[kept[place] for place in piece] for piece in pieces]
            n_cut = len(ids) - len(pieces[0])
        cuts = [n_cut] + [0] * (len(pieces) - 1)  # what no window holds is counted once
        return [
            Encoding([ids[i] for i in piece], [type_ids[i] for i in piece], n, spans and take(spans, piece))
            for piece, n in zip(pieces, cuts, strict=True)
        ]

    def _cut(self, owners: Sequence[int | None], room: int, gives: TruncationStrategy) -> list[int]:
        other = {"first": 1, "second": 0}.get(gives)
        left = room - owners.count(None) - (0 if other is None else owners.count(other))
        if other is None or left < 1:
            return cut(owners, room, tail=self._cuts_tail)
        return shorten(owners, 1 - other, left, tail=self._cuts_tail)


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
