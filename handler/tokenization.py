"""Encode texts as sequences of tokens, without padding, and decode tokens to text.

Many texts go through one call of the model's own fast tokenizer, which works on them in parallel.
This module owns lengths: how many tokens a model can read, and so what is truncated, split into windows or refused.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from tokenizers.models import Unigram

from handler import python_tokenizer
from handler.config import ServingConfig
from handler.errors import ConfigError, InputTooLong, InvalidInput, ModelMismatch, RequestError
from handler.sentence_modules import EmbeddingModules
from handler.sequences import (
    Encoding,
    EncodingOptions,
    Text,
    TokenSpans,
    TruncationSide,
    TruncationStrategy,
    truncate,
    truncate_sequence,
    windows,
)
from handler.tokenizer_files import check_files, check_vocabulary, deciding_parts, loading_problem

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Of all texts, up to which each is encoded by a call of its own: the threads of the tokenizer's pool would have to wake
# up, which takes more processor time than they save, and an event loop would wait for them.
SERIAL_CHARACTERS = 16_384

logger = logging.getLogger(__name__)


class Tokenizer:
    """The fast tokenizer of one model, and the limits of the lengths of its sequences."""

    def __init__(
        self,
        folder: Path,
        model_config: PretrainedConfig,
        config: ServingConfig,
        embedding: EmbeddingModules | None = None,
    ) -> None:
        """Load the tokenizer of a model folder.

        Args:
            embedding: what a sentence-transformers folder says of the length and the case of texts.

        Raises:
            ModelMismatch: no tokenizer in the folder that can be used.
            ConfigError: `max_length` is more than the model can read.
        """
        loaded = load_tokenizer(folder)
        tokenizer: Any = as_in_file(folder / "tokenizer.json", loaded)
        vocabulary = tokenizer.get_vocab()
        check_vocabulary(folder, python_tokenizer.name_of(loaded), vocabulary.keys())
        max_id = max(vocabulary.values(), default=0)
        if max_id >= model_config.vocab_size:
            raise ModelMismatch(
                f"the tokenizer has a token {max_id}, the model only embeddings for {model_config.vocab_size}: take "
                "both from the same model; if tokens were added, call model.resize_token_embeddings(len(tokenizer)), "
                "train, and save both"
            )
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.mask_id: int | None = tokenizer.mask_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        self.mask_token: str | None = None if tokenizer.mask_token is None else str(tokenizer.mask_token)
        self.unknown_id: int | None = tokenizer.unk_token_id
        # Of a text; texts of a role of late interaction may have a length of their own.
        self.declared_length = (embedding.max_length if embedding else None) or int(tokenizer.model_max_length)
        lengths = embedding.late.max_lengths if embedding and embedding.late else (None,)
        longest = max(length or self.declared_length for length in lengths)
        self.max_length = _max_length(tokenizer, model_config, config, longest)
        self._truncation_side: TruncationSide = "right" if tokenizer.truncation_side == "right" else "left"
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._n_special_tokens: int = tokenizer.num_special_tokens_to_add(pair=False)
        self._backend.no_padding()
        self.max_table_length = self.max_length
        if embedding and embedding.table:
            self.max_table_length = table_length(folder / embedding.table.path, tokenizer, config)
        if embedding and embedding.lowercase:  # before the model's own normaliser, as sentence-transformers does
            own = [self._backend.normalizer] if self._backend.normalizer else []
            self._backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        # Not the backend's own truncation: of a long pair it builds every combination of the pieces it cuts off
        # (6.5 s and 1.7 GB for two texts of 40,000 characters, 2026-11-24).
        self._backend.no_truncation()
        self.has_type_ids = has_type_ids(tokenizer, model_config)

    @property
    def has_subword_prefix(self) -> bool:
        """Whether tokens that continue a word are marked by a prefix (WordPiece's ##)."""
        return bool(getattr(self._backend.model, "continuing_subword_prefix", None))

    @property
    def kind(self) -> str:
        """The model of the tokenizer: WordPiece, BPE, Unigram or WordLevel."""
        return type(self._backend.model).__name__

    @property
    def n_tokens(self) -> int:
        """How many tokens it has, added ones included."""
        return int(self._backend.get_vocab_size())

    def encode(self, texts: Sequence[Text], options: Sequence[EncodingOptions]) -> list[list[Encoding] | RequestError]:
        """Encode texts, many in one call; one encoding for each, or several for a long text that is split into windows.

        Args:
            texts: texts or pairs.
            options: of each text.

        Returns:
            For each text its encodings; or InputTooLong where its options refuse more than `max_length` tokens, and
            InvalidInput where it has no token at all.
        """
        encoded: list[list[Encoding] | RequestError] = [InvalidInput("no text")] * len(texts)
        kinds = [(option.return_spans, option.by_table) for option in options]
        for return_spans, by_table in dict.fromkeys(kinds):  # offsets take a third more time: for those that need them
            indices = [index for index, kind in enumerate(kinds) if kind == (return_spans, by_table)]
            batch = [text if pair is None else (text, pair) for text, pair in (texts[index] for index in indices)]
            encode_batch = self._backend.encode_batch if return_spans else self._backend.encode_batch_fast
            n_characters = sum(len(text) + len(pair or "") for text, pair in (texts[index] for index in indices))
            calls = [[text] for text in batch] if n_characters <= SERIAL_CHARACTERS else [batch]
            encodings = [each for call in calls for each in encode_batch(call, add_special_tokens=not by_table)]
            for index, tokens in zip(indices, encodings, strict=True):
                fitted = self._fit(tokens, options[index])
                prefix_id, filling = options[index].prefix_id, options[index].filling
                if isinstance(fitted, list) and (prefix_id is not None or filling is not None):
                    fitted = [encoding.with_tokens(prefix_id, filling) for encoding in fitted]
                encoded[index] = fitted
        return encoded

    def prompt_length(self, prompt: str) -> int:
        """Return how many tokens a prompt takes at the beginning of a text, special tokens before it included."""
        encoding = self._backend.encode(prompt)
        ends_special = bool(encoding.ids) and encoding.special_tokens_mask[-1] == 1
        return len(encoding.ids) - ends_special

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def decode_with(self, ids: Sequence[int], words: Mapping[int, str], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens as `decode` does, with words in the place of the tokens at some indices."""
        special = set(self._tokenizer.all_special_ids) if skip_special_tokens else set()
        kept = [index for index, token in enumerate(ids) if index in words or token not in special]
        text = self.tokens_to_string([words.get(index) or self.id_to_token(ids[index]) for index in kept])
        if self._tokenizer.clean_up_tokenization_spaces and type(self._backend.model).__name__ != "BPE":
            text = self._tokenizer.clean_up_tokenization(text)
        return str(text)

    def id_to_token(self, token_id: int) -> str:
        """Return a token as the vocabulary has it."""
        return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token as the vocabulary has it; None where it does not."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens as the vocabulary has them."""
        return str(self._tokenizer.convert_tokens_to_string(list(tokens)))

    def text_to_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens around it."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _fit(self, encoded: Any, options: EncodingOptions) -> list[Encoding] | RequestError:
        """Truncate, split or refuse one encoding of the backend as its options say."""
        ids, type_ids = encoded.ids, encoded.type_ids
        without_tokens = self._without_tokens(encoded, 0 if options.by_table else self._n_special_tokens)
        if without_tokens is not None:
            return InvalidInput(f"{options.fields[without_tokens]} holds nothing that this model reads")
        limit = self.max_table_length if options.by_table else self.max_length
        max_tokens = min(options.max_length or limit, limit) - (options.prefix_id is not None)
        spans = None
        if options.return_spans:
            spans = TokenSpans(encoded.offsets, encoded.word_ids, encoded.sequence_ids, range(len(ids)))
        if len(ids) <= max_tokens and options.max_first is None:
            return [Encoding(ids, type_ids, 0, spans)]
        sequence_ids = encoded.sequence_ids
        kept = list(range(len(ids)))
        if options.max_first is not None:  # leaves the second text at least half of a sequence
            max_first = min(options.max_first, (max_tokens - sequence_ids.count(None)) // 2)
            kept = truncate_sequence(sequence_ids, 0, max_first, truncation_side=self._truncation_side)
        n_truncated = len(ids) - len(kept)
        kept_ids = [sequence_ids[index] for index in kept]
        if len(kept) <= max_tokens:
            pieces = [kept]
        elif options.overflow == "refuse":
            return InputTooLong(f"text has {len(ids)} tokens, accepted: at most {max_tokens}")
        elif options.overflow == "window":
            pieces = windows(kept_ids, max_tokens, options.stride, options.truncation_strategy)
            pieces = [[kept[index] for index in piece] for piece in pieces]
            n_truncated = len(ids) - len({index for piece in pieces for index in piece})
        else:
            pieces = [[kept[index] for index in self._truncate(kept_ids, max_tokens, options.truncation_strategy)]]
            n_truncated = len(ids) - len(pieces[0])
        n_by_piece = [n_truncated] + [0] * (len(pieces) - 1)  # tokens that are in no window are counted once
        return [
            Encoding([ids[i] for i in piece], [type_ids[i] for i in piece], n, spans and spans.take(piece))
            for piece, n in zip(pieces, n_by_piece, strict=True)
        ]

    def _without_tokens(self, encoded: Any, n_special_tokens: int) -> int | None:
        """Return which text of an encoding, 0 or 1, has special tokens alone, from which any answer would come."""
        if encoded.n_sequences > 1:
            return next((text for text in (0, 1) if text not in encoded.sequence_ids), None)
        return 0 if len(encoded.ids) <= n_special_tokens else None

    def _truncate(self, sequence_ids: Sequence[int | None], max_tokens: int, strategy: TruncationStrategy) -> list[int]:
        side = self._truncation_side
        if strategy != "longest_first":
            sequence_id = int(strategy == "only_second")
            remaining = max_tokens - sequence_ids.count(None) - sequence_ids.count(1 - sequence_id)
            if remaining >= 1:
                return truncate_sequence(sequence_ids, sequence_id, remaining, truncation_side=side)
        return truncate(sequence_ids, max_tokens, truncation_side=side)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a fast tokenizer as transformers makes it of a folder; raises ModelMismatch with the reason."""
    check_files(folder)
    from transformers import AutoTokenizer

    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers and the classes of transformers raise bare ones too
        raise ModelMismatch(loading_problem(folder, error)) from error
    return loaded if loaded.is_fast else python_tokenizer.converted(loaded)


def as_in_file(path: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose tokens are those of tokenizer.json, or of a sentencepiece model without that file.

    The tokenizer classes of transformers 5 take only the vocabulary from it and build the rest anew: a cased model is
    lower-cased where tokenizer_config.json does not have `do_lower_case`. Tokenizers in Python do not read that file.

    Args:
        path: of tokenizer.json.
        tokenizer: as transformers loads it.

    Raises:
        ModelMismatch: the file cannot be read.
    """
    if not path.is_file() and python_tokenizer.has_jieba(tokenizer):
        return python_tokenizer.with_jieba(tokenizer, tokenizer.backend_tokenizer)
    if not path.is_file() or python_tokenizer.is_converted(tokenizer):
        return _with_character_map(path.parent, tokenizer)
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises no other class
        raise ModelMismatch(f"tokenizer.json cannot be read: {' '.join(str(error).split())[:200]}") from error
    if python_tokenizer.has_jieba(tokenizer):
        return python_tokenizer.with_jieba(tokenizer, backend)
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    different = [part for part in parts if _state(backend, part) != _state(tokenizer.backend_tokenizer, part)]
    same_model = type(backend.model) is type(tokenizer.backend_tokenizer.model)
    if not same_model or backend.get_vocab() != tokenizer.get_vocab():
        different.append("vocabulary")
    if not different:
        return tokenizer
    name = type(tokenizer).__name__
    logger.warning("%s of transformers has another %s than tokenizer.json, which counts", name, ", ".join(different))
    special = {key: token for key, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    special = {key: token for key, token in special.items() if backend.token_to_id(token) is not None}
    from transformers import PreTrainedTokenizerFast

    as_in_file: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        model_max_length=tokenizer.model_max_length,
        truncation_side=tokenizer.truncation_side,
        **special,
    )
    return as_in_file


def table_length(folder: Path, tokenizer: PreTrainedTokenizerBase, config: ServingConfig) -> int:
    """Return how many tokens of a text a table of weights reads, whose module has a tokenizer of its own.

    Args:
        folder: of the module.
        tokenizer: of the model beside it.

    Raises:
        ModelMismatch: the two make different tokens of a text.
    """
    own: Any = as_in_file(folder / "tokenizer.json", load_tokenizer(folder))
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if own.truncation_side != tokenizer.truncation_side or deciding_parts(own.backend_tokenizer) != deciding_parts(
        backend
    ):
        raise ModelMismatch(
            f"{folder.name} has another tokenizer than the Transformer beside it, which is not served: save the model "
            "with one tokenizer for both"
        )
    return min(config.max_length or sys.maxsize, int(own.model_max_length))


def _with_character_map(folder: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Add the character map of a sentencepiece model to a normaliser that lacks it, as that of DeBERTa v2 and v3 does.

    Without it a full-width comma or the ligature of "fi" is an unknown token.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    file = next(iter(sorted(folder.glob("*.model"))), None)
    if file is None or not isinstance(getattr(backend, "model", None), Unigram):
        return tokenizer
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    extractor: Any = SentencePieceExtractor(str(file))
    character_map = extractor.proto.normalizer_spec.precompiled_charsmap
    if character_map and '"Precompiled"' not in backend.to_str():
        own = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Precompiled(character_map), *own])
        name = type(tokenizer).__name__
        logger.warning("%s of transformers leaves out the character map of %s, which counts", name, file.name)
    return tokenizer


def has_type_ids(tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig) -> bool:
    """Return whether a model gets the segment ids of its tokenizer's template, to tell the texts of a pair apart.

    transformers 5 passes them only where the tokenizer class lists them, which those of ALBERT and generic ones do not.
    A list in tokenizer_config.json itself counts.

    Raises:
        ModelMismatch: the template has more segments than the model.
    """
    listed = tokenizer.init_kwargs.get("model_input_names")
    backend = tokenizer.backend_tokenizer
    type_ids = {*backend.encode("a").type_ids, *backend.encode("a", "b").type_ids}
    type_vocab_size = getattr(model_config, "type_vocab_size", 0) or 0
    if type_vocab_size < 2 or max(type_ids, default=0) == 0 or (listed and "token_type_ids" not in listed):
        return False
    if max(type_ids) >= type_vocab_size:
        raise ModelMismatch(
            f"the tokenizer's template has segment id {max(type_ids)}, the model only embeddings for "
            f"{type_vocab_size}: they do not belong together"
        )
    return True


def _state(backend: Any, part: str) -> bytes | None:
    value = getattr(backend, part)
    return None if value is None else value.__getstate__()


def padding_position(model_config: PretrainedConfig) -> int | None:
    """Return the position of padding tokens, which is their id, where the others count from the next; None: from 0.

    RoBERTa, XLM-R, CamemBERT and Longformer do so (fairseq's convention); MPNet too, from 2 whatever its padding token.
    """
    if model_config.model_type == "mpnet":
        return 1
    family = ("roberta", "camembert", "xlm-roberta", "longformer", "luke", "ibert", "xmod", "data2vec-text")
    return (model_config.pad_token_id or 0) if str(model_config.model_type).startswith(family) else None


def first_position(model_config: PretrainedConfig) -> int:
    """Return the position id of a sequence's first token."""
    padding = padding_position(model_config)
    return 0 if padding is None else padding + 1


def _max_length(
    tokenizer: PreTrainedTokenizerBase,
    model_config: PretrainedConfig,
    config: ServingConfig,
    declared: int,
) -> int:
    positions = getattr(model_config, "max_position_embeddings", None)
    limits = [declared] if declared < 1_000_000 else []  # transformers' "no limit" is 1e30
    if positions and positions > 0:  # -1 where positions are relative
        limits.append(positions - first_position(model_config))
    limit = min(limits, default=512)
    min_length = tokenizer.num_special_tokens_to_add(pair=True) + 2  # a token of each text
    if config.max_length and not min_length <= config.max_length <= limit:
        raise ConfigError(
            f"handler.max_length is {config.max_length}, but this model reads {min_length} to {limit} tokens"
        )
    return config.max_length or limit
