"""Predict tokens for the masks of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from handler.arrays import integers, largest, logsumexp, namespace
from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput, ModelMismatch
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import Encoding, EncodingOptions
from handler.tasks.base import Task
from handler.tasks.parameters import Integer, StringList
from handler.tasks.queries import Pooler, Query, RaggedOutput, SequenceOutput
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

# Model types whose ForPreTraining class has BERT's two heads; Electra's has a discriminator instead.
BERT_PRETRAINING = ("bert", "megatron-bert", "mobilebert")
MAX_TOP_K = 100  # tokens for one mask
MAX_SEQUENCES = 200  # of one text, over all its masks: each is a whole text in the answer
MAX_TARGET_CHARS = 100


class TopTokens(Pooler):
    """Compute the most probable tokens for each mask."""

    def __init__(self, mask_id: int, target_ids: Sequence[int] | None = None) -> None:
        """Choose among `target_ids`, by default among the whole vocabulary."""
        self.mask_id = mask_id
        self.target_ids = target_ids

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        """Return the indices of the masks; of a text without masks, the first token."""
        return mask_positions(encoding, self.mask_id) or (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Return (masks, tokens, 2): scores, best first, and token ids, which fp32 represents exactly.

        Scores are probabilities over the whole vocabulary; only those of the chosen tokens are computed.
        """
        logits = batch.tokens(output["prediction_logits" if "prediction_logits" in output else "logits"])
        targets = None if self.target_ids is None else integers(self.target_ids, logits)
        target_logits = logits if targets is None else logits[:, targets]
        best, tokens = largest(target_logits, min(MAX_TOP_K, target_logits.shape[-1]))
        arrays = namespace(logits)
        scores = arrays.exp(best - logsumexp(logits))
        tokens = tokens if targets is None else targets[tokens]
        return RaggedOutput(arrays.stack((scores, arrays.asarray(tokens, dtype=scores.dtype)), -1), batch.counts)


class FillMask(Task):
    """fill-mask."""

    name = "fill-mask"
    operation = "fill"
    auto_classes = ("AutoModelForMaskedLM", "AutoModelForPreTraining")
    self_test_parameters: ClassVar = {"top_k": 10}

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        if tokenizer.mask_id is None or tokenizer.mask_token is None:
            raise ModelMismatch(f"the tokenizer has no mask token, which {self.name} needs")
        self.mask, self.mask_id = tokenizer.mask_token, tokenizer.mask_id
        self.parameters = {
            "top_k": Integer(default=min(config.top_k, MAX_TOP_K), le=MAX_TOP_K, description="tokens for each mask"),
            "targets": StringList(
                string="one", description="the only tokens to score; of longer words their first token"
            ),
        }
        self.encoding_options = EncodingOptions(self.overflow, return_spans=True)
        self.top_tokens = TopTokens(self.mask_id)
        # Cached, so that queries with the same targets share a forward pass and a lookup.
        self._pooler_for = lru_cache(maxsize=16)(self._top_tokens_among)
        self.self_test_items = (
            f"The capital of France is {self.mask}.",
            f"{self.mask} is the opposite of {self.mask} - isn't it?",
            f"L'écran est {self.mask}, 屏幕{self.mask}了, экран разбит: {self.mask} 🙂",
            f"It is {self.mask}. " + "again and " * 600,
        )

    @classmethod
    def auto_class_of(cls, model_config: PretrainedConfig) -> str | None:
        return pretraining_head(super().auto_class_of(model_config), model_config)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        text, values = self.read_item(value), self.read_parameters(parameters)
        targets = values.pop("targets")
        pooler = self.top_tokens if targets is None else self._pooler_for(tuple(targets))
        return Query(((text, None),), values, self.encoding_options, pooler)

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return self.top_tokens.token_positions(encoding)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.top_tokens.pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        (window,) = windows
        top_k, n_tokens = query.parameters["top_k"], len(window.encoding)
        positions = mask_positions(window.encoding, self.mask_id)
        if not positions:
            among = f" among its first {n_tokens} tokens" if window.encoding.n_truncated else ""
            raise InvalidInput(f"text must hold at least one {self.mask}{among}")
        if len(positions) * top_k > MAX_SEQUENCES:
            raise InputTooLong(
                f"text has {len(positions)} masks and top_k is {top_k}, "
                f"accepted: at most {MAX_SEQUENCES} tokens for all"
            )
        unknown = self._unknown_words(query.texts[0][0], window.encoding)
        rankings = [mask_values[:top_k].tolist() for mask_values in window.values]
        answers = [
            [
                self._filled(window.encoding, unknown, position, int(token), score, n_masks=len(positions))
                for score, token in ranking
            ]
            for position, ranking in zip(positions, rankings, strict=True)
        ]
        return answers if len(positions) > 1 else answers[0]

    def n_repeated(self, answer: JSON) -> int:
        rankings = answer if answer and isinstance(answer[0], list) else [answer]
        return sum(len(item["sequence"]) for ranking in rankings for item in ranking)

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare by token: tokens of nearly one score may change places, or replace one another at the end.

        The other fields of a token that is in both must be equal.
        """
        if not all(isinstance(ranking, list) and ranking for ranking in (expected, answer)):
            return False
        if isinstance(expected[0], list) or isinstance(answer[0], list):
            if len(expected) != len(answer):
                return False
            return all(self.answers_match(*pair, tolerance) for pair in zip(expected, answer, strict=True))
        by_token, other = ({item["token"]: item for item in ranking} for ranking in (expected, answer))
        if any(
            abs(by_token[token]["score"] - other[token]["score"]) > tolerance
            or {**by_token[token], "score": 0} != {**other[token], "score": 0}
            for token in by_token.keys() & other.keys()
        ):
            return False
        lowest = [min(item["score"] for item in items.values()) for items in (by_token, other)]
        excess = [by_token[token]["score"] - lowest[1] for token in by_token.keys() - other.keys()]
        excess += [other[token]["score"] - lowest[0] for token in other.keys() - by_token.keys()]
        return len(by_token) == len(other) and max(excess, default=0.0) <= tolerance

    def schema(self) -> dict[str, JSON]:
        fields = {
            "score": {"type": "number"},
            "token": {"type": "integer"},
            "token_str": {"type": "string"},
            "sequence": {"type": "string"},
        }
        prediction = {"type": "object", "properties": fields, "required": [*fields]}
        ranking = {"type": "array", "items": prediction}
        return {
            "item": self.item_schema(),
            "answer": {"oneOf": [ranking, {"type": "array", "items": ranking}]},
            "example": f"My parcel has not {self.mask} yet.",
        }

    def _top_tokens_among(self, targets: Sequence[str]) -> TopTokens:
        """Look up targets as transformers' pipeline does: a word that is no token is scored by its first token."""
        if not 1 <= len(targets) <= self.config.max_texts:
            raise InvalidInput(f"targets are {len(targets)}, accepted: 1 to {self.config.max_texts}")
        return TopTokens(self.mask_id, sorted({self._target_id(word, n) for n, word in enumerate(targets)}))

    def _target_id(self, word: str, index: int) -> int:
        word = self.read_text(word, f"targets[{index}]")
        if len(word) > MAX_TARGET_CHARS:
            raise InvalidInput(f"targets[{index}] has {len(word)} characters, accepted: at most {MAX_TARGET_CHARS}")
        token = self.tokenizer.token_to_id(word)
        ids = [token] if token is not None else self.tokenizer.text_to_ids(word)
        if not ids:
            raise InvalidInput(f"targets[{index}] holds nothing that this model reads")
        return ids[0]

    def _filled(
        self, encoding: Encoding, unknown: Mapping[int, str], position: int, token: int, score: float, *, n_masks: int
    ) -> dict[str, Any]:
        """Return one prediction, with the text in which the token replaces one mask and other masks stay.

        Args:
            encoding: of the text.
            unknown: the words of the text that the vocabulary does not have, by their indices in the encoding.
            position: of the mask.
            token: that replaces it.
            score: of the token.
            n_masks: of the text.
        """
        ids = [*encoding.ids[:position], token, *encoding.ids[position + 1 :]]
        kept = [index for index, token_id in enumerate(ids) if token_id != self.tokenizer.pad_id]
        words = {new: unknown[index] for new, index in enumerate(kept) if index in unknown}
        ids, skip = [ids[index] for index in kept], n_masks == 1
        decode_with = self.tokenizer.decode_with
        return {
            "score": score,
            "token": token,
            "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
            "sequence": (
                decode_with(ids, words, skip_special_tokens=skip)
                if words
                else self.tokenizer.decode(ids, skip_special_tokens=skip)
            ),
        }

    def _unknown_words(self, text: str, encoding: Encoding) -> dict[int, str]:
        """Return the words of the text that the vocabulary does not have, by their indices in the encoding."""
        if encoding.spans is None or self.tokenizer.unknown_id not in encoding.ids:
            return {}
        spans = zip(encoding.ids, encoding.spans.offsets, strict=True)
        return {
            index: text[start:end]
            for index, (token, (start, end)) in enumerate(spans)
            if token == self.tokenizer.unknown_id and start < end
        }


def mask_positions(encoding: Encoding, mask_id: int) -> list[int]:
    """Return the indices of the masks of an encoding.

    >>> mask_positions(Encoding([101, 103, 7, 103, 102], [0] * 5), mask_id=103)
    [1, 3]
    """
    return [position for position, token in enumerate(encoding.ids) if token == mask_id]


def pretraining_head(auto_class: str | None, model_config: PretrainedConfig) -> str | None:
    """Return an auto class, or None for a pretraining head of another family than BERT's."""
    is_other = auto_class == "AutoModelForPreTraining" and model_config.model_type not in BERT_PRETRAINING
    return None if is_other else auto_class
