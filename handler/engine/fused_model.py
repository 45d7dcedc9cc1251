"""A whole model without the modules of transformers: embeddings, our encoder, and a head, on packed rows.

A worker that serves such a model imports of transformers only its configs and tokenizers, which takes a third of the
time and memory of its models. It is used for archives: their self-test outputs were computed by transformers, so a
difference keeps the worker from becoming ready. Everything else loads the model of transformers and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from handler.engine import int8, int8_file
from handler.engine.encoder import PackedEncoder, packed_encoder_of
from handler.engine.layer_attention import LayerAttention
from handler.engine.layer_weights import BERT_LAYER, DISTILBERT_LAYER, LayerWeights
from handler.engine.linear import ACTIVATIONS, LoadedLinear
from handler.engine.varlen import current_varlen
from handler.errors import ModelMismatch, RequestError
from handler.protocol import loads
from handler.weight_files import weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


M = TypeVar("M", nn.Linear, nn.LayerNorm)


class Family(NamedTuple):
    """Where a family of transformers keeps its weights."""

    prefix: str  # of the names of everything but the head
    class_prefix: str  # of the classes of its models
    dense: str  # of a sequence classifier, computed of the first token
    activation: Callable[[Tensor], Tensor]  # of that
    classifier: str  # of a sequence classifier
    layer: Mapping[str, str]  # fields of LayerWeights -> names, after `layers`
    layers: str = "encoder.layer"


def _roberta(class_prefix: str) -> Family:
    return Family("roberta", class_prefix, "classifier.dense", torch.tanh, "classifier.out_proj", BERT_LAYER)


FAMILIES = {  # by `model_type`
    "bert": Family("bert", "Bert", "bert.pooler.dense", torch.tanh, "classifier", BERT_LAYER),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "electra": Family("electra", "Electra", "classifier.dense", functional.gelu, "classifier.out_proj", BERT_LAYER),
    "distilbert": Family(
        "distilbert",
        "DistilBert",
        "pre_classifier",
        functional.relu,
        "classifier",
        DISTILBERT_LAYER,
        "transformer.layer",
    ),
}


class Outputs(dict[str, Tensor]):
    """Tensors by name, or by their index, as the outputs of transformers are."""

    def __getitem__(self, key: Any) -> Tensor:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Embeddings(nn.Module):
    """Word, type and position embeddings, added and normalized; ELECTRA's are projected to the width of its layers."""

    def __init__(self, weights: Weights, eps: float) -> None:
        super().__init__()
        self.word_embeddings = weights.embedding("embeddings.word_embeddings")
        self.position_embeddings = weights.embedding("embeddings.position_embeddings")
        has_types = "embeddings.token_type_embeddings.weight" in weights
        self.token_type_embeddings = weights.embedding("embeddings.token_type_embeddings") if has_types else None
        self.norm = weights.layer_norm("embeddings.LayerNorm", eps)
        is_projected = "embeddings_project.weight" in weights
        self.project = weights.linear("embeddings_project") if is_projected else None

    def forward(self, words: Tensor, type_ids: Tensor | None, position_ids: Tensor) -> Tensor:
        """Add to word embeddings (1, tokens, width of an embedding); returns (1, tokens, width)."""
        if self.token_type_embeddings is not None:
            words = words + self.token_type_embeddings(torch.zeros_like(position_ids) if type_ids is None else type_ids)
        states: Tensor = self.norm(words + self.position_embeddings(position_ids))
        return states if self.project is None else self.project(states)


class Base(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, embeddings: Embeddings, encoder: PackedEncoder) -> None:
        super().__init__()
        self.embeddings, self.encoder = embeddings, encoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        position_ids: Tensor,
    ) -> Outputs:
        """Return the hidden states of the tokens that are read, as `PackedEncoder.encode`."""
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        states = self.encoder.encode(self.embeddings(words, token_type_ids, position_ids), current_varlen())
        return Outputs(last_hidden_state=states)


class SequenceHead(nn.Module):
    """A classifier over the first token of each sequence."""

    def __init__(self, dense: nn.Linear, activation: Callable[[Tensor], Tensor], classifier: nn.Linear) -> None:
        super().__init__()
        self.dense, self.activation, self.classifier = dense, activation, classifier

    def forward(self, states: Tensor) -> Outputs:
        return Outputs(logits=self.classifier(self.activation(self.dense(states[:, 0]))))


class TokenHead(nn.Module):
    """A classifier over every token."""

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, states: Tensor) -> Outputs:
        return Outputs(logits=self.classifier(states))


class SpanHead(nn.Module):
    """Two logits of every token: start and end of an answer."""

    def __init__(self, qa_outputs: nn.Linear) -> None:
        super().__init__()
        self.qa_outputs = qa_outputs

    def forward(self, states: Tensor) -> Outputs:
        start, end = (edge.squeeze(-1).contiguous() for edge in self.qa_outputs(states).split(1, dim=-1))
        return Outputs(start_logits=start, end_logits=end)


class FusedModel(nn.Module):
    """A model with the interface of those of transformers, as far as the engine uses it."""

    def __init__(self, config: PretrainedConfig, architecture: str, base: Base, head: nn.Module | None) -> None:
        super().__init__()
        self.config, self.architecture, self.base_model, self.head = config, architecture, base, head

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        words: nn.Module = self.base_model.embeddings.word_embeddings
        return words

    def forward(self, **inputs: Any) -> Outputs:
        """Return the outputs of the head; arguments as of `Base.forward`."""
        output = self.base_model(**inputs)
        states: Outputs = output if self.head is None else self.head(output["last_hidden_state"])
        return states


class LoadedLayerNorm(nn.LayerNorm):
    """A layer norm whose weights are given."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Weights(dict[str, Tensor]):
    """Tensors by their names in transformers; a module raises KeyError where one is missing."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Name everything but the head as in a base model, which may have been saved alone.

        The norms of the first BERTs (google-bert/bert-base-uncased) have gamma and beta.
        """
        now = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
        named = {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}
        for old, new in now.items():
            named = {name.replace(old, new): tensor for name, tensor in named.items()}
        super().__init__(named)

    def linear(self, name: str) -> nn.Linear:
        """Return a linear module."""
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        return _with_tensors(LoadedLinear(weight.shape[1], weight.shape[0], device="meta"), weight, bias)

    def layer_norm(self, name: str, eps: float) -> nn.LayerNorm:
        """Return a layer norm."""
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        return _with_tensors(LoadedLayerNorm(len(weight), eps=eps, device="meta"), weight, bias)

    def embedding(self, name: str) -> nn.Module:
        """Return an embedding table; one in int8 stays so unless it is small, see `int8.embedding`."""
        weight, scale = self[f"{name}.weight"], self.get(f"{name}.scale")
        if scale is not None:
            return int8.embedding(weight, scale)
        return int8.float_embedding(weight.float())


def supports(folder: Path) -> bool:
    """Tell from the files of a model folder whether it can be served so, without transformers."""
    try:
        config: Any = loads((folder / "config.json").read_text(encoding="utf-8"))
        family, suffix = FAMILIES[config["model_type"]], _suffix_of(config["architectures"][0])
        names = set(_tensor_names(folder))
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError, RequestError):
        return False
    activation = config.get("hidden_act", config.get("activation", "gelu"))
    is_plain = config.get("position_embedding_type", "absolute") == "absolute" and not config.get("is_decoder")
    if suffix is None or activation not in ACTIVATIONS or not is_plain or config.get("pruned_heads"):
        return False
    needed = {f"{name}.weight" for name in _head_names(family, suffix)}
    return needed <= names and bool(names & _word_embeddings(family))


def load(folder: Path, auto_class: str, config: PretrainedConfig, *, is_int8: bool, dtype: torch.dtype) -> FusedModel:
    """Load a supported model folder.

    Args:
        auto_class: class of transformers with the head that is needed.
        is_int8: whether to read the file for int8, or else the weights in floating point, in fp32.
        dtype: of queries, keys and values in int8.

    Raises:
        ModelMismatch: a tensor is missing, or no such file.
    """
    family = FAMILIES[config.model_type]
    suffix = auto_class.removeprefix("AutoModel") or "Model"
    encoder: PackedEncoder
    if is_int8:
        path = folder / int8.FILE
        with int8_file.errors_as_mismatch(path):
            rest, stored = int8_file.read_tensors(path, config.num_hidden_layers)
            weights, encoder = Weights(rest, family.prefix), _int8_encoder(stored, config, dtype)
            base, head = Base(Embeddings(weights, _eps(config)), encoder), _head(weights, family, suffix)
    else:
        try:
            weights = Weights(_read_tensors(folder), family.prefix)
            encoder = packed_encoder_of(list(_layers(weights, family, config)), config)
            base, head = Base(Embeddings(weights, _eps(config)), encoder), _head(weights, family, suffix)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelMismatch(f"the weights cannot be loaded: {type(error).__name__} {reason}") from error
    return FusedModel(config, f"{family.class_prefix}{suffix}", base, head)


def _int8_encoder(stored: int8.StoredEncoder, config: PretrainedConfig, dtype: torch.dtype) -> PackedEncoder:
    return int8_file.encoder_of_stored(stored, [LayerAttention()] * len(stored.layers), config, dtype)


def _head(weights: Weights, family: Family, suffix: str) -> nn.Module | None:
    names = [name.removeprefix(f"{family.prefix}.") for name in _head_names(family, suffix)]
    linears = [weights.linear(name) for name in names]
    if suffix == "ForSequenceClassification":
        return SequenceHead(linears[0], family.activation, linears[1])
    if suffix == "ForTokenClassification":
        return TokenHead(*linears)
    return SpanHead(*linears) if suffix == "ForQuestionAnswering" else None


def _head_names(family: Family, suffix: str) -> list[str]:
    return {
        "ForSequenceClassification": [family.dense, family.classifier],
        "ForTokenClassification": ["classifier"],
        "ForQuestionAnswering": ["qa_outputs"],
        "Model": [],
    }[suffix]


def _suffix_of(architecture: str) -> str | None:
    return next((suffix for suffix in HEADS if architecture.endswith(suffix)), None)


def _word_embeddings(family: Family) -> set[str]:
    name = "embeddings.word_embeddings.weight"
    return {name, f"{family.prefix}.{name}"}


def _layers(weights: Weights, family: Family, config: PretrainedConfig) -> Iterator[LayerWeights]:
    for index in range(config.num_hidden_layers):
        modules: dict[str, Any] = {}
        for field, name in family.layer.items():
            path = f"{family.layers}.{index}.{name}"
            modules[field] = weights.layer_norm(path, _eps(config)) if "norm" in field else weights.linear(path)
        yield LayerWeights(**modules)


def _eps(config: PretrainedConfig) -> float:
    return float(getattr(config, "layer_norm_eps", 1e-12))  # DistilBERT's config has none


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in weight_files(folder)]
        return {name: file.get_tensor(name).float() for file in files for name in file.keys()}  # noqa: SIM118


def _tensor_names(folder: Path) -> Iterator[str]:
    """Yield the names of the tensors of everything but the layers, in the file for int8 or in the others."""
    for path in weight_files(folder) or [folder / int8.FILE]:
        with safe_open(path, framework="pt") as file:
            yield from (name.removeprefix("rest.") for name in file.keys())  # noqa: SIM118


def _with_tensors(module: M, weight: Tensor, bias: Tensor) -> M:
    module.weight = nn.Parameter(weight.float(), requires_grad=False)
    module.bias = nn.Parameter(bias.float(), requires_grad=False)
    return module
