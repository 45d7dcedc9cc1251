"""The reference of a model: what the library that it comes from answers to the inputs of the self-test.

The forward pass is that of plain `transformers`: the class of its head, eager attention, fp32, one sequence at a time.
The tokens are those of `reference_tokens`, embeddings those of `reference_modules`. Nothing here calls the handler's
tokenization, its engine or its pooling, so that a fault in them keeps an archive from being packed. Of the handler it
takes what is no computation of the model: the config and, for entities, answers and masked words, how spans and words
are made of the numbers of the tokens (`Task.decode`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Encoding
from torch import Tensor

from handler import sequences
from handler.config import ServingConfig
from handler.engine.config_problems import read_config
from handler.labels import label_names
from handler.protocol import JSON
from handler.sequences import TokenSpans
from handler.tasks import SequenceOutput, Task
from scripts.archives.reference_modules import ReferenceModules, cross_encoder_activation
from scripts.archives.reference_tokens import Pair, ReferenceTokenizer, Strategy, Window

CLASSIFIER = "AutoModelForSequenceClassification"
AUTO_CLASSES = {
    "text-classification": CLASSIFIER,
    "zero-shot-classification": CLASSIFIER,
    "rerank": CLASSIFIER,
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "next-sentence-prediction": "AutoModelForNextSentencePrediction",
    "feature-extraction": "AutoModel",
    "sparse-embedding": "AutoModelForMaskedLM",
    "sentence-similarity": "AutoModel",
    "tokenize": "AutoModel",
}
STRATEGIES: dict[str, Strategy] = {
    "zero-shot-classification": "only_first",
    "rerank": "only_second",
    "question-answering": "only_second",
}
EMBEDDINGS = ("feature-extraction", "sparse-embedding")
NEXT_SENTENCE = ["is_next", "not_next"]  # the order of BERT's pretraining
MAX_TOKENS_OF_MASK = 100  # whose probabilities are kept


@dataclass
class Reference:
    """One model, loaded by plain transformers."""

    task: Task
    folder: Path
    config: ServingConfig

    def __post_init__(self) -> None:
        self.model_config = read_config(self.folder)
        self.name = self.task.name
        # Eager: the attention that every architecture has, written out.
        self.modules = ReferenceModules(self.folder)
        self.model: Any = (
            getattr(transformers, self._auto_class())
            .from_pretrained(
                self.folder,
                config=self.model_config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
            )
            .eval()
        )
        n_segments = getattr(self.model_config, "type_vocab_size", 0) or 0
        positions = max_positions(self.model)
        self.tokenizer = ReferenceTokenizer(self.folder, self.config, positions, n_segments)
        self.strategy: Strategy = STRATEGIES.get(self.name, "longest_first")

    def _auto_class(self) -> str:
        is_pooled = self.name == "text-classification" and self.modules.classifier is not None
        return "AutoModel" if is_pooled else AUTO_CLASSES[self.name]

    def texts(self, item: JSON, parameters: Mapping[str, JSON]) -> list[Pair]:
        """Return the texts that the model reads of an item."""
        if self.name == "zero-shot-classification":
            return [(item, f"This example is {label}.") for label in parameters["candidate_labels"]]
        if self.name == "rerank":
            return [(item["query"], text) for text in item["texts"]]
        if self.name == "sentence-similarity":
            texts = [item["source_sentence"], *item["sentences"]]
            return [(self.modules.prompt + text, None) for text in texts]
        if self.name in EMBEDDINGS:
            text = item["text"] if isinstance(item, dict) else item
            return [(self.modules.prompt_of(_input_type(item, parameters)) + text, None)]
        if isinstance(item, str):
            prompt = self.modules.prompt if self.modules.classifier else ""
            return [(prompt + item, None)]
        first, second = self.task.fields
        return [(item[first], item[second])]

    def sequences(self, item: JSON, parameters: Mapping[str, JSON]) -> list[list[Window]]:
        """Return the sequences of each text of an item."""
        texts, table = self.texts(item, parameters), self.modules.table
        if table is None or not self.modules.reads_table(_input_type(item, parameters)):
            return [self.encode(text) for text in texts]
        tokenizer = ReferenceTokenizer(table, self.config, None, 0)
        return [tokenizer.bare(text, split=self.task.overflow == "window") for text in texts]

    def encode(self, text: Pair) -> list[Window]:
        """Return the sequences of a text: one, or its windows."""
        max_first = 64 if self.name == "question-answering" else None
        if self.task.overflow != "window":
            return [self.tokenizer.encode(text, self.strategy, max_first)]
        stride = 0 if self.name in (*EMBEDDINGS, "sentence-similarity") else self.config.stride
        return self.tokenizer.windows(text, stride, self.strategy, max_first)

    @torch.inference_mode()
    def forward(self, encoding: Encoding) -> Any:
        """Run the model on one sequence; returns its output as transformers has it."""
        ids = torch.tensor([encoding.ids])
        arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.tokenizer.has_segments:
            arguments["token_type_ids"] = torch.tensor([encoding.type_ids])
        return self.model(**arguments)

    def answer(self, item: JSON, parameters: Mapping[str, JSON]) -> JSON:
        """Return the answer to an item."""
        windows = self.sequences(item, parameters)
        if self.name == "tokenize":
            return self._tokens(self.texts(item, parameters)[0], windows[0][0])
        if self.name in ("token-classification", "question-answering", "fill-mask"):
            return self._decode(item, parameters, windows[0])
        if self.name == "feature-extraction":
            return self._embedding(windows[0]).tolist()
        if self.name == "sparse-embedding":
            weights = self._weights(windows[0], _input_type(item, parameters))
            return [{"index": index, "value": float(weights[index])} for index in weights.nonzero()[:, 0].tolist()]
        if self.name == "sentence-similarity":
            source, *others = [self._embedding(of_text) for of_text in windows]
            return [float(self.modules.similarity(source, other)) for other in others]
        return self._ranking(windows, parameters)

    def _ranking(self, windows: list[list[Window]], parameters: Mapping[str, JSON]) -> JSON:
        """Return labels, or texts, by their scores."""
        logits = [torch.cat([self._logits(window) for window in of_text]) for of_text in windows]
        key = "label"
        names: list[Any] = NEXT_SENTENCE if self.name == "next-sentence-prediction" else label_names(self.model_config)
        if self.name == "zero-shot-classification":
            names, labels = parameters["candidate_labels"], label_names(self.model_config)
            entailment = next(index for index, label in enumerate(labels) if label.lower().startswith("entail"))
            scores: Tensor = torch.cat(logits)[:, entailment].softmax(-1)
        elif self.name == "rerank":
            key, names = "index", list(range(len(logits)))
            scores = self._activation()(torch.cat(logits)[:, 0])
        else:
            scores = self._merged(logits[0], [len(window.encoding) for window in windows[0]])
        order = scores.argsort(descending=True, stable=True).tolist()
        return [{key: names[index], "score": float(scores[index])} for index in order]

    def _merged(self, logits: Tensor, lengths: list[int]) -> Tensor:
        """Return the scores of a text from the logits (windows, labels) of its windows."""
        activation = self._activation()
        if len(lengths) == 1:
            return activation(logits[0])
        if self.config.window_merge == "weighted":
            weights = torch.tensor(lengths, dtype=logits.dtype).unsqueeze(-1)
            return activation((logits * weights).sum(0) / weights.sum())
        scores = torch.stack([activation(window) for window in logits])
        if self.config.window_merge == "mean":
            return scores.mean(0)
        best = scores.max(0).values
        return best / best.sum() if activation is _softmax else best

    def _activation(self) -> Callable[[Tensor], Tensor]:
        n_labels, problem = self.model_config.num_labels or 0, self.model_config.problem_type
        own = cross_encoder_activation(self.folder, self.model_config.to_dict(), n_labels)
        if own is not None:
            return _softmax if isinstance(own, torch.nn.Softmax) else own
        if self.name == "next-sentence-prediction":
            return _softmax
        if self.name == "rerank":
            return torch.sigmoid
        if problem == "regression":
            return torch.nn.Identity()
        return torch.sigmoid if problem == "multi_label_classification" or n_labels == 1 else _softmax

    def _weights(self, windows: list[Window], input_type: str | None) -> Tensor:
        """Return the weights (vocabulary,) of a text of a sparse encoder."""
        if self.modules.reads_table(input_type):
            return self.modules.look_up([token for window in windows for token in window.encoding.ids])
        return self.modules.pool_logits([self.forward(window.encoding).logits[0] for window in windows])

    def _embedding(self, windows: list[Window]) -> Tensor:
        """Return the vector of a text: the mean of those of its windows by their lengths, then the later modules."""
        pooled = [self._pooled(window) for window in windows]
        if len(pooled) == 1:
            return self.modules.project(pooled[0])
        lengths = torch.tensor([len(window.encoding) for window in windows], dtype=pooled[0].dtype)
        return self.modules.project((torch.stack(pooled) * lengths.unsqueeze(-1)).sum(0) / lengths.sum())

    def _pooled(self, window: Window) -> Tensor:
        """Return the vector (width,) of the pooled tokens of a sequence."""
        prompt = "" if self.modules.include_prompt else self.modules.prompt
        n_excluded = self.tokenizer.prompt_length(prompt) if prompt else 0
        return self.modules.pool(self.forward(window.encoding)[0][0], n_excluded)

    def _logits(self, window: Window) -> Tensor:
        """Return the logits (1, labels) of a sequence: of the head, or of the classifier over its pooled tokens."""
        if self.modules.classifier is None:
            logits: Tensor = self.forward(window.encoding).logits
            return logits
        return self.modules.logits(self._pooled(window)).unsqueeze(0)

    def _decode(self, item: JSON, parameters: Mapping[str, JSON], windows: list[Window]) -> JSON:
        """Let the task make spans or words of the numbers of the tokens."""
        outputs = []
        for window in windows:
            encoding = window.encoding
            positions = range(window.start, window.start + len(encoding))
            spans = TokenSpans(encoding.offsets, encoding.word_ids, encoding.sequence_ids, positions)
            values = self._values(self.forward(encoding), encoding).numpy()
            outputs.append(SequenceOutput(0, sequences.Encoding(encoding.ids, encoding.type_ids, 0, spans), values))
        return self.task.decode(self.task.parse(item, parameters), outputs)

    def _values(self, output: Any, encoding: Encoding) -> Tensor:
        """Return what `Task.decode` takes for a sequence, from the output of transformers."""
        if self.name == "question-answering":
            return torch.stack((output.start_logits[0], output.end_logits[0]), -1)
        logits: Tensor = output.logits[0]
        if self.name == "token-classification":
            return logits
        mask = self.task.tokenizer.mask_id
        masked = [index for index, token in enumerate(encoding.ids) if token == mask] or [0]
        best = logits[masked].softmax(-1).topk(min(MAX_TOKENS_OF_MASK, logits.shape[-1]))
        return torch.stack((best.values, best.indices.to(best.values.dtype)), -1)

    def _tokens(self, text: Pair, window: Window) -> JSON:
        encoding = window.encoding
        pairs = zip(encoding.sequence_ids, encoding.offsets, strict=True)
        return {
            "tokens": encoding.tokens,
            "ids": encoding.ids,
            "offsets": [None if sequence_id is None else list(offsets) for sequence_id, offsets in pairs],
            "sequence_ids": encoding.sequence_ids,
            "n_tokens": len(encoding),
            "n_truncated": self.tokenizer.length(text) - len(encoding),
        }


def _input_type(item: JSON, parameters: Mapping[str, JSON]) -> Any:
    """Return what an item says that it is, query or document, else what its request says; None: neither does."""
    return (item.get("input_type") if isinstance(item, dict) else None) or parameters.get("input_type")


def max_positions(model: Any) -> int | None:
    """Return how many tokens a model has positions for; RoBERTa's begin behind that of its padding token."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    return positions if positions is None or positions > 0 else None


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)
