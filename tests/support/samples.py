"""Texts that are difficult for tokenizers, models of every task, and two functions that most tests use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from transformers import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
)

from handler.predictor import Predictor
from handler.protocol import Body, loads, serialize_value
from handler.request_state import Request, Response
from scripts.cli.console import ROOT as ROOT  # tests import it from here
from scripts.client.settings import effective
from tests.support.late import write_pylate

BASE = ROOT / "models" / "base"
JSON_TYPE = "application/json"

MakeModel: TypeAlias = Callable[..., Path]
MakePredictor: TypeAlias = Callable[..., Predictor]
LoadMain: TypeAlias = Callable[..., Predictor]  # by the name of the main task
SetKernelLevels: TypeAlias = Callable[[dict[str, tuple[str, ...]]], None]

TEXTS = [
    "Where is my parcel?",
    "no",
    "The screen went black after two days and the shop does not answer my letters.",
    "L'écran est rayé: qui m'aide?",
    "屏幕坏了，怎么办",
    "لا يعمل الجهاز",
    "👩‍👩‍👧‍👦 family plan, please 🙂",
    "Z̷̢͎a̵l̷g̵o combining  marks   and   spaces",
    "a\nb\tc\r\nd",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "word " * 700,
    "It costs 1,299.00 € (incl. VAT) - is that right???",
]


# Of each task a model that can be used so.
MODELS: dict[str, dict[str, Any]] = {
    "text-classification": {},
    "token-classification": {"architecture": BertForTokenClassification, "labels": ("O", "B-PER", "I-PER")},
    "question-answering": {"architecture": BertForQuestionAnswering, "labels": ("LABEL_0", "LABEL_1")},
    "fill-mask": {"architecture": BertForMaskedLM},
    "next-sentence-prediction": {"architecture": BertForNextSentencePrediction},
    "feature-extraction": {"architecture": BertModel},
    "sparse-embedding": {"architecture": BertForMaskedLM},
    "late-interaction": {"architecture": BertModel, "add_files": write_pylate},
    "zero-shot-classification": {"labels": ("contradiction", "neutral", "entailment")},
    "sentence-similarity": {"architecture": BertModel},
    "rerank": {"labels": ("relevant",), "problem_type": None},
    "tokenize": {"architecture": BertModel},
}


# Models by name on the server: how each is made and the task it is packed for; `tiny`, a classifier, is there already.
HEADS: dict[str, tuple[dict[str, Any], str | None]] = {
    "entities": (MODELS["token-classification"], None),
    "answers": (MODELS["question-answering"], None),
    "pretrained": ({"architecture": BertForPreTraining}, None),
    "entailment": (MODELS["zero-shot-classification"], "zero-shot-classification"),
    "reranker": (MODELS["rerank"], "rerank"),
    "encoder": (MODELS["feature-extraction"], None),
    "sparse": (MODELS["sparse-embedding"], "sparse-embedding"),
    "late": (MODELS["late-interaction"], None),
}


def check_codecs(predictor: Predictor, items: list[Any], responses: list[Response]) -> None:
    """Compare the answers in every codec with those to the items one by one.

    Args:
        replies: to the items as a list, to the first of them as `inputs`, to all of them as `inputs`, as `instances`
            and as tensors.
    """
    singles = [response_json(response) for response in ask(predictor, *items)]
    plain, single, many, kserve, v2 = map(response_json, responses)
    for answers in (plain, [single], many, kserve["predictions"]):
        for answer, single in zip(answers, singles, strict=False):
            assert predictor.task.answers_match(single, answer, 1e-5)
    (tensor,) = v2["outputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("answer", "BYTES", [len(items)])


def read_settings(path: Path) -> dict[str, str]:
    """Return what a settings file sets, with what the environment says put over it where the file allows that."""
    return {key: setting.value for key, setting in effective(path).items() if setting.is_set}


def ask(predictor: Predictor, *values: Any, **request: Any) -> list[Response]:
    """Answer JSON values, each as a request of its own, in one batch."""
    return predictor.answer([Request(Body(serialize_value(value), JSON_TYPE), **request) for value in values])


def response_json(response: Response) -> Any:
    """Return the JSON value of a response."""
    return loads(response.content.decode())
