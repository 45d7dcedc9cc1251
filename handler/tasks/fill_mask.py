"""Words for the masked places of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from handler.batching import Batch
from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput, ModelMismatch
from handler.protocol import JSON
from handler.sequences import Encoding, EncodingOptions
from handler.tasks.base import Pooler, Query, RaggedOutput, SequenceOutput, Task
from handler.tasks.parameters import Integer, StringList
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

PRETRAINED = ("bert", "megatron-bert", "mobilebert")  # whose ForPreTraining has BERT's two heads; Electra's has not
MOST_TOKENS = 100  # for one mask
MOST_FILLINGS = 200  # of one text, over all its masks: each is a text of its own in the answer
MOST_CHARACTERS = 100  # of one target


class Candidates(Pooler):
    """The likeliest tokens of each mask, among all or among some."""

    def __init__(self, mask_id: int, ids: Sequence[int] | None = None) -> None:
        self.mask_id = mask_id
        self.ids = None if ids is None else torch.tensor(ids)

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        """Return the masked places; of a text without, whatever stands first."""
        return masks(encoding, self.mask_id) or (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Keep (masks, candidates, 2): scores, best first, and tokens, whose numbers fp32 holds exactly.

        Scores are shares of the whole vocabulary; only the chosen ones are computed.
        """
        logits = batch.tokens(output["prediction_logits" if "prediction_logits" in output else "logits"])
        chosen = logits if self.ids is None else logits[:, self.ids.to(logits.device)]
        best, places = chosen.topk(min(MOST_TOKENS, chosen.shape[-1]), dim=-1)
        scores = (best - logits.logsumexp(-1, keepdim=True)).exp()
        tokens: Tensor = places if self.ids is None else self.ids.to(places.device)[places]
        return RaggedOutput(torch.stack((scores, tokens.to(scores.dtype)), dim=-1), batch.counts)


class FillMask(Task):
    """fill-mask."""

    name = "fill-mask"
    operation = "fill"
    auto_classes = ("AutoModelForMaskedLM", "AutoModelForPreTraining")
    golden_parameters: ClassVar = {"top_k": 10}

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model_config, config, tokenizer)
        if tokenizer.mask_id is None or tokenizer.mask is None:
            raise ModelMismatch(f"the tokenizer has no mask token, which {self.name} needs")
        self.mask, self.mask_id = tokenizer.mask, tokenizer.mask_id
        self.parameters = {
            "top_k": Integer(default=min(config.top_k, MOST_TOKENS), most=MOST_TOKENS, about="tokens for each mask"),
            "targets": StringList(alone="one", about="the only tokens to score; of longer words their first token"),
        }
        self.layout = EncodingOptions(self.overflow)
        self.candidates = Candidates(self.mask_id)
        # Queries with the same targets share a forward pass, and their targets are looked up once.
        self._among = lru_cache(maxsize=16)(self._candidates_among)
        self.golden_items = (
            f"The capital of France is {self.mask}.",
            f"{self.mask} is the opposite of {self.mask} - isn't it?",
            f"L'écran est {self.mask}, 屏幕{self.mask}了, экран разбит: {self.mask} 🙂",
            f"It is {self.mask}. " + "again and " * 600,
        )

    @classmethod
    def head_of(cls, model_config: PretrainedConfig) -> str | None:
        return pretraining_head(super().head_of(model_config), model_config)

    def parse(self, value: JSON, given: Mapping[str, JSON]) -> Query:
        text, options = self.read_item(value), self.read_parameters(given)
        targets = options.pop("targets")
        use = self.candidates if targets is None else self._among(tuple(targets))
        return Query(((text, None),), options, self.layout, use)

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return self.candidates.token_positions(encoding)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.candidates.pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        (window,) = windows
        ids, top_k = window.encoding.ids, query.options["top_k"]
        places = masks(window.encoding, self.mask_id)
        if not places:
            cut = f" among its first {len(ids)} tokens" if window.encoding.n_truncated else ""
            raise InvalidInput(f"text must hold at least one {self.mask}{cut}")
        if len(places) * top_k > MOST_FILLINGS:
            raise InputTooLong(
                f"text has {len(places)} masks and top_k is {top_k}, accepted: at most {MOST_FILLINGS} tokens for all"
            )
        ranked = [its[:top_k].tolist() for its in window.values]
        filled = [
            [self._filled(ids, place, int(token), score, alone=len(places) == 1) for score, token in best]
            for place, best in zip(places, ranked, strict=True)
        ]
        return filled if len(places) > 1 else filled[0]

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare by token: those of nearly one score may change places, or one may miss the cut that another makes.

        What is said of a token that both have must be the same.
        """
        if not all(isinstance(mask, list) and mask for mask in (expected, answer)):
            return False
        if isinstance(expected[0], list) or isinstance(answer[0], list):
            same = len(expected) == len(answer)
            return same and all(self.agree(*pair, tolerance) for pair in zip(expected, answer, strict=True))
        known, found = ({item["token"]: item for item in ranked} for ranked in (expected, answer))
        if any(
            abs(known[token]["score"] - found[token]["score"]) > tolerance
            or {**known[token], "score": 0} != {**found[token], "score": 0}
            for token in known.keys() & found.keys()
        ):
            return False
        lowest = [min(item["score"] for item in its.values()) for its in (known, found)]
        missing = [known[token]["score"] - lowest[1] for token in known.keys() - found.keys()]
        missing += [found[token]["score"] - lowest[0] for token in found.keys() - known.keys()]
        return len(known) == len(found) and max(missing, default=0.0) <= tolerance

    def schema(self) -> dict[str, JSON]:
        fields = {
            "score": {"type": "number"},
            "token": {"type": "integer"},
            "token_str": {"type": "string"},
            "sequence": {"type": "string"},
        }
        filling = {"type": "object", "properties": fields, "required": [*fields]}
        ranked = {"type": "array", "items": filling}
        return {
            "item": self.item_schema(),
            "answer": {"oneOf": [ranked, {"type": "array", "items": ranked}]},
            "example": f"My parcel has not {self.mask} yet.",
        }

    def _candidates_among(self, targets: Sequence[str]) -> Candidates:
        """Look up targets as transformers' pipeline does: a word that is no token stands for its first token."""
        if not 1 <= len(targets) <= self.config.max_texts:
            raise InvalidInput(f"targets are {len(targets)}, accepted: 1 to {self.config.max_texts}")
        return Candidates(self.mask_id, sorted({self._target(word, n) for n, word in enumerate(targets)}))

    def _target(self, word: str, index: int) -> int:
        word = self.read_text(word, f"targets[{index}]")
        if len(word) > MOST_CHARACTERS:
            raise InvalidInput(f"targets[{index}] has {len(word)} characters, accepted: at most {MOST_CHARACTERS}")
        token = self.tokenizer.id_of(word)
        first = [token] if token is not None else self.tokenizer.ids_of(word)[:1]
        if not first:
            raise InvalidInput(f"targets[{index}] holds nothing that this model reads")
        return first[0]

    def _filled(self, ids: Sequence[int], place: int, token: int, score: float, *, alone: bool) -> dict[str, Any]:
        """Say how a text reads with a token in one masked place; other masks stay to be seen."""
        filled = [*ids[:place], token, *ids[place + 1 :]]
        kept = [its for its in filled if its != self.tokenizer.pad_id]
        return {
            "score": score,
            "token": token,
            "token_str": self.tokenizer.text_of([token], special=True),
            "sequence": self.tokenizer.text_of(kept, special=not alone),
        }


def masks(encoding: Encoding, mask_id: int) -> list[int]:
    """Return the masked places of an encoding.

    >>> masks(Encoding([101, 103, 7, 103, 102], [0] * 5), mask_id=103)
    [1, 3]
    """
    return [place for place, token in enumerate(encoding.ids) if token == mask_id]


def pretraining_head(auto_class: str | None, model_config: PretrainedConfig) -> str | None:
    """Keep a head unless it is one for pretraining of another family than BERT's."""
    other = auto_class == "AutoModelForPreTraining" and model_config.model_type not in PRETRAINED
    return None if other else auto_class
