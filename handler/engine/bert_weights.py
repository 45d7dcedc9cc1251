"""Where the families like BERT keep their weights, and which model folders are computed without transformers' models.

The names of tensors are those of transformers; arrays are numpy's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from handler.engine import int8_weights
from handler.engine.native_encoder import ACTIVATIONS
from handler.errors import ModelMismatch, RequestError
from handler.protocol import loads
from handler.tensor_files import read_safetensors
from handler.weight_files import weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

# Fields of a layer -> names in transformers.
BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
DISTILBERT_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}

MPNET_LAYER = BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "attention_output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}

BIAS = "encoder.relative_attention_bias.weight"  # of attention, for each of some ranges of distances and each head
RANGES = 32  # whatever `relative_attention_num_buckets` says, as in transformers
FARTHEST = 128  # from this distance on all have the same bias


class Family(NamedTuple):
    """Where a family of transformers keeps its weights."""

    prefix: str  # of the names of everything but the head
    class_prefix: str  # of the classes of its models
    dense: str  # of a sequence classifier, computed of the first token
    activation: str  # of that: tanh, gelu or relu
    classifier: str  # of a sequence classifier
    layer: Mapping[str, str]  # fields of a layer -> names, after `layers`
    layers: str = "encoder.layer"
    width: int = 768  # of its states and its heads, where config.json does not say
    n_heads: int = 12

    def head_names(self, suffix: str) -> list[str]:
        """Return the names of the linear layers of a head."""
        return {
            "ForSequenceClassification": [self.dense, self.classifier],
            "ForTokenClassification": ["classifier"],
            "ForQuestionAnswering": ["qa_outputs"],
            "Model": [],
        }[suffix]


def _roberta(class_prefix: str) -> Family:
    return Family("roberta", class_prefix, "classifier.dense", "tanh", "classifier.out_proj", BERT_LAYER)


ACTIVATION_FIELDS = {"distilbert": "activation", "modernbert": "hidden_activation"}  # where it is not `hidden_act`
FAMILIES = {  # by `model_type`
    "bert": Family("bert", "Bert", "bert.pooler.dense", "tanh", "classifier", BERT_LAYER),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "electra": Family(
        *("electra", "Electra", "classifier.dense", "gelu", "classifier.out_proj", BERT_LAYER), width=256, n_heads=4
    ),
    "distilbert": Family(
        "distilbert",
        "DistilBert",
        "pre_classifier",
        "relu",
        "classifier",
        DISTILBERT_LAYER,
        "transformer.layer",
    ),
    "mpnet": Family("mpnet", "MPNet", "classifier.dense", "tanh", "classifier.out_proj", MPNET_LAYER),
}


class Weights(dict[str, NDArray[Any]]):
    """Arrays by their names in transformers, everything but the head as in a base model, which may be saved alone."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Rename what the first BERTs (google-bert/bert-base-uncased) call gamma and beta."""
        now = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
        named = {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}
        for old, new in now.items():
            named = {name.replace(old, new): tensor for name, tensor in named.items()}
        super().__init__(named)

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return an array in fp32; rows that are stored in int8 are multiplied by their scales."""
        values = np.asarray(self[name], np.float32)
        scale = self.get(f"{name.removesuffix('weight')}scale")
        return values if scale is None else values * scale[:, None]

    def distance_bias(self, longest: int) -> NDArray[np.float32] | None:
        """Return the bias of each head at each distance, (heads, 2 * longest - 1), as of `DistanceBias`; None: none.

        Args:
            longest: tokens of the longest sequence.
        """
        if BIAS not in self:
            return None
        biases = self.floats(BIAS)  # (ranges, heads)
        if len(biases) < RANGES:
            raise ValueError(f"{BIAS} has {len(biases)} rows, of which {RANGES} are read")
        return np.ascontiguousarray(biases[range_of(np.arange(1 - longest, longest), RANGES)].T)

    def pair(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weight and bias of a linear layer or of a norm, in fp32."""
        return self.floats(f"{name}.weight"), self.floats(f"{name}.bias")


def supported_config(folder: Path) -> dict[str, Any] | None:
    """Return the config of a model folder that can be computed without the models of transformers; None: it cannot.

    It cannot either where a file of the folder is none that it reads: whoever loads the folder then says why.
    """
    try:
        config: Any = loads((folder / "config.json").read_text(encoding="utf-8"))
        family, suffix = FAMILIES[config["model_type"]], suffix_of(config["architectures"][0])
        names = _tensor_names(folder)
        is_known = config.get(ACTIVATION_FIELDS.get(config["model_type"], "hidden_act"), "gelu") in ACTIVATIONS
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, SafetensorError, RequestError):
        return None
    except ModelMismatch:  # files of weights that an index names wrongly
        return None
    is_plain = config.get("position_embedding_type", "absolute") == "absolute" and not config.get("is_decoder")
    if suffix is None or not is_known or not is_plain or config.get("pruned_heads"):
        return None
    needed = {f"{name}.weight" for name in family.head_names(suffix)}
    return config if needed <= names and not names.isdisjoint(_word_embeddings(family)) else None


@contextlib.contextmanager
def errors_as_mismatch() -> Iterator[None]:
    """Raise ModelMismatch for an error of weights that cannot be loaded."""
    try:
        yield
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelMismatch(f"the weights cannot be loaded: {type(error).__name__} {reason}") from error


def range_of(distances: NDArray[np.int64], n_ranges: int) -> NDArray[np.int64]:
    """Return the range that each distance of a key from its query is in, as T5 and MPNet number them.

    Half of the ranges are for keys after the query. Of a half, the first half are single distances, the others grow
    with the logarithm (Raffel et al. 2020, "Exploring the Limits of Transfer Learning").

    >>> range_of(np.array([0, -1, 1, -200, 200]), 32).tolist()
    [0, 1, 17, 15, 31]
    """
    half = n_ranges // 2
    exact, sizes = half // 2, np.abs(distances)
    logarithms = np.log(np.maximum(sizes, 1) / np.float32(exact), dtype=np.float32) / np.float32(
        math.log(FARTHEST / exact)
    )
    far = np.minimum(exact + (logarithms * (half - exact)).astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(sizes < exact, sizes, far)


def suffix_of(architecture: str) -> str | None:
    """Return what follows the family in the name of a class; None: no head that is computed here."""
    return next((suffix for suffix in HEADS if architecture.endswith(suffix)), None)


def activation_of(config: PretrainedConfig) -> str | None:
    """Return the name of a model's activation, of the field that its family reads: config.json may hold others."""
    name = getattr(config, ACTIVATION_FIELDS.get(config.model_type, "hidden_act"), None)
    return name if isinstance(name, str) else None


def eps_of(config: PretrainedConfig) -> float:
    """Return the epsilon of all norms; DistilBERT reads none in its config."""
    return 1e-12 if config.model_type == "distilbert" else float(config.layer_norm_eps)


def read_floats(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a model folder in floating point, of all its files."""
    return {name: tensor for path in weight_files(folder) for name, tensor in read_safetensors(path).items()}


def _word_embeddings(family: Family) -> Iterable[str]:
    name = "embeddings.word_embeddings.weight"
    return name, f"{family.prefix}.{name}"


def _tensor_names(folder: Path) -> set[str]:
    """Return the names of the tensors of everything but the layers, in the file for int8 or in the others."""
    names: set[str] = set()
    for path in weight_files(folder) or [folder / int8_weights.FILE]:
        with safe_open(path, framework="np") as file:
            names.update(name.removeprefix("rest.") for name in file.keys())  # noqa: SIM118 - not a dict
    return names
