"""The modules of a sentence-transformers folder: how the tokens of a text become its embedding or its score.

`modules.json` lists a transformer, a pooling and what follows them; `config_sentence_transformers.json` holds prompts
and the similarity function. `read_sentence_modules` returns what of them this package computes and refuses the rest by
name: nothing that changes an embedding is ignored.

Source: the file formats of sentence-transformers 2 to 6, as the library saves and loads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.arrays import Array, namespace
from handler.errors import ModelMismatch
from handler.late_interaction import (
    MASK,
    MULTI_VECTOR_ENCODER,
    PYLATE_DENSE,
    TRANSFORMER_KEYS,
    VECTORS,
    Roles,
    is_late_interaction,
    read_late_interaction,
)
from handler.paths import stays_inside
from handler.protocol import JSON
from handler.sentence_layers import (
    MODULES_FILE,
    WEIGHTS_FILE,
    Layer,
    advice_on,
    module_name,
    normalize,
    read_json,
    read_layer,
    read_object,
)
from handler.sentence_router import ROUTER_FILE, ROUTERS, TABLE, InputType, WeightTable, read_router, read_table
from handler.tokenizer_files import FILES as TOKENIZER_FILES

PROMPTS_FILE = "config_sentence_transformers.json"
CLASSIFIER = (
    "classifier"  # folder of a linear layer over embeddings: scripts/pretrained/setfit_head.py writes that of SetFit
)

PoolingMode: TypeAlias = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
POOLING_MODES: tuple[PoolingMode, ...] = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# Before version 6 each mode was a boolean of its own; several of them are concatenated in this order.
POOLING_FLAGS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
Activation: TypeAlias = Literal["sigmoid", "softmax", "none"]
ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Softmax": "softmax",
    "torch.nn.modules.linear.Identity": "none",
}
Similarity: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan", "maxsim", "meanmaxsim"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dot", "euclidean", "manhattan")  # of one vector of each text
# What sentence_bert_config.json says of a SentenceTransformer, of a CrossEncoder and of a SparseEncoder.
TOKEN_EMBEDDINGS: Mapping[str, JSON] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
}
SCORES: Mapping[str, JSON] = {
    "transformer_task": "sequence-classification",
    "module_output_name": "scores",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
}
TOKEN_LOGITS: Mapping[str, JSON] = {
    "transformer_task": "fill-mask",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
}


@dataclass(frozen=True)
class SpladePooling:
    """How a SparseEncoder makes weights of the logits (tokens, vocabulary) of a text.

    Sources: SPLADE (arXiv 2107.05720, the sum), SPLADE v2 (arXiv 2109.10086, the maximum), and arXiv 2504.14839 (the
    second logarithm).
    """

    strategy: Literal["max", "sum"] = "max"
    log_twice: bool = False

    def pool(self, logits: Any) -> Any:
        """Return the weights (vocabulary,): log(1 + relu(x)) of each logit, then the maximum or the sum over tokens."""
        # The maximum comes first, because the functions are monotonic: the same number from fewer logarithms.
        arrays = namespace(logits)
        weights = arrays.log1p((arrays.amax(logits, 0) if self.strategy == "max" else logits).clip(min=0))
        weights = arrays.log1p(weights) if self.log_twice else weights
        return weights if self.strategy == "max" else weights.sum(0)

    def merge(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights (vocabulary,) of a text from those of its windows (n, vocabulary)."""
        merged: NDArray[np.float32] = windows.max(0) if self.strategy == "max" else windows.sum(0)
        return merged


@dataclass(frozen=True)
class EmbeddingModules:
    """What a sentence-transformers folder says of its embeddings; the defaults are those of a plain encoder."""

    pooling: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True  # whether the tokens of a prompt are pooled
    layers: tuple[Layer, ...] = ()  # behind the pooling, in order
    width: int | None = None  # of an embedding; None: of the encoder
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: Similarity = "cosine"
    n_kept: int | None = None  # numbers of an embedding that the folder keeps: the first; of sparse ones the heaviest
    max_length: int | None = None  # tokens of a text, special ones included
    lowercase: bool = False
    classifier: tuple[Layer, ...] = ()  # from embeddings to logits (n, labels); empty: none
    splade: SpladePooling | None = None  # of a SparseEncoder
    table: WeightTable | None = None  # of a SparseEncoder whose model does not read all texts
    table_inputs: frozenset[InputType | None] = frozenset()  # texts that the table reads; None: a request does not say
    late: Roles | None = None  # `layers` are then those of every token, and nothing is pooled

    @property
    def default_prompt(self) -> str:
        """Return the text that stands before each input unless a request names another prompt."""
        return self.prompts[self.default_prompt_name] if self.default_prompt_name is not None else ""

    def project(self, pooled: Array) -> Array:
        """Apply what follows the pooling: (n, pooled width) -> (n, width)."""
        for layer in self.layers:
            pooled = layer(pooled)
        return pooled

    def logits(self, pooled: Array) -> Array:
        """Apply what follows the pooling, then the classifier: (n, pooled width) -> (n, labels).

        Tensors have gradients.
        """
        for layer in (*self.layers, *self.classifier):
            pooled = layer(pooled)
        return pooled


def read_sentence_modules(folder: Path, hidden_size: int, vocab_size: int) -> EmbeddingModules | None:
    """Read the modules of a folder; None where it has no `modules.json`.

    Args:
        folder: of a model, as `SentenceTransformer.save` writes it.
        hidden_size: width of the encoder's outputs.
        vocab_size: of the model.

    Raises:
        ModelMismatch: a module, an option or a file that would change embeddings and that is not computed here.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    settings = _read_settings(folder)
    if settings.get("model_type") == "CrossEncoder":
        return None
    if is_late_interaction(settings):
        return _late_interaction(folder, settings, hidden_size)
    modules = [(module_name(entry), entry.get("path", "")) for entry in _read_modules(folder)]
    if settings.get("model_type") == "SparseEncoder":
        return _sparse_encoder(folder, settings, modules, vocab_size)
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ModelMismatch(
            f"{PROMPTS_FILE}: model_type {settings['model_type']} is not served, only SentenceTransformer, "
            "CrossEncoder, SparseEncoder, MultiVectorEncoder and ColBERT"
        )
    names = [name for name, _ in modules]
    if names[:1] and names[0] in ROUTERS:
        raise ModelMismatch(
            f"{MODULES_FILE} lists {names[0]}: of models that read queries and documents with different modules, a "
            "SparseEncoder with a table for queries is served: pack each Transformer of this one as a model of its own"
        )
    if names[:2] != ["Transformer", "Pooling"] or modules[0][1]:
        raise ModelMismatch(
            f"{MODULES_FILE} lists {', '.join(names)}: served is a Transformer in the folder itself, then a Pooling; "
            + advice_on(names)
        )
    max_length, lowercase = _transformer_options(folder, TOKEN_EMBEDDINGS)
    pooling, include_prompt = _pooling(folder / modules[1][1] / "config.json", hidden_size)
    layers: list[Layer] = []
    width = hidden_size * len(pooling)
    for name, path in modules[2:]:
        layer, width = read_layer(name, folder / path, width)
        if layer is not None:
            layers.append(layer)
    prompts, default, similarity = _prompts(settings)
    return EmbeddingModules(
        pooling,
        include_prompt,
        tuple(layers),
        width,
        prompts,
        default,
        similarity,
        _n_kept(settings, "truncate_dim"),
        max_length,
        lowercase,
        _classifier(folder / CLASSIFIER, width),
    )


def module_files(folder: Path) -> list[Path]:
    """Return the files of a model's folder that this module reads, relative to the folder."""
    names = [MODULES_FILE, PROMPTS_FILE, ROUTER_FILE, *(path.name for path in folder.glob("sentence_*_config.json"))]
    paths = [Path(name) for name in names]
    if (folder / MODULES_FILE).is_file():
        subfolders = [*(Path(str(entry.get("path", ""))) for entry in _read_modules(folder)), Path(CLASSIFIER)]
        if (folder / ROUTER_FILE).is_file():
            routed = dict.fromkeys(Path(path) for route in read_router(folder).routes.values() for _, path in route)
            subfolders += routed
            for sub in filter(lambda sub: sub.parts, routed):
                tokenizer_files = (file for pattern in TOKENIZER_FILES for file in (folder / sub).glob(pattern))
                paths += [sub / file.name for file in tokenizer_files]
        paths += [sub / name for sub in subfolders if sub.parts for name in ("config.json", WEIGHTS_FILE)]
    return [path for path in paths if (folder / path).is_file()]


def _sparse_encoder(
    folder: Path, settings: Mapping[str, JSON], modules: Sequence[tuple[str, str]], vocab_size: int
) -> EmbeddingModules:
    """Read the modules of a SparseEncoder: a masked language model, then its pooling; of a Router a table beside it."""
    table, table_inputs = None, frozenset[InputType | None]()
    if [*modules] == [("Router", "")]:
        router = read_router(folder)
        tables = sorted({route for route in router.routes.values() if [name for name, _ in route] == [TABLE]})
        others = sorted({*router.routes.values()} - {*tables})
        if len(tables) > 1 or len(others) != 1:
            written = "; ".join(f"{name}: {', '.join(n for n, _ in route)}" for name, route in router.routes.items())
            raise ModelMismatch(
                f"{ROUTER_FILE} has the routes {written}: served are one Transformer with a SpladePooling, and one "
                f"{TABLE} beside it"
            )
        (modules,) = others
        if tables:
            table = read_table(folder, tables[0][0][1], vocab_size)
            table_inputs = router.inputs_of(tables[0])
    names = [name for name, _ in modules]
    if len(names) != 2 or names[0] not in ("Transformer", "MLMTransformer") or names[1] != "SpladePooling":
        raise ModelMismatch(
            f"{MODULES_FILE} of this SparseEncoder lists {', '.join(names)}: served is a Transformer, then a "
            f"SpladePooling, or a Router to these and to a {TABLE}"
        )
    if modules[0][1]:
        raise ModelMismatch(f"{MODULES_FILE}: the Transformer of this SparseEncoder must lie in the folder itself")
    options = read_object(folder / modules[1][1] / "config.json")
    strategy, activation = options.get("pooling_strategy", "max"), options.get("activation_function", "relu")
    if strategy not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise ModelMismatch(
            f"{modules[1][1]}/config.json: pooling_strategy is {strategy} and activation_function {activation}, "
            "served: max or sum, and relu or log1p_relu"
        )
    max_length, lowercase = _transformer_options(folder, TOKEN_LOGITS)
    if lowercase and table is not None:
        raise ModelMismatch("do_lower_case of a Transformer beside a table, whose texts keep their case, is not served")
    prompts, default, similarity = _prompts(
        {**settings, "similarity_fn_name": settings.get("similarity_fn_name") or "dot"}
    )
    return EmbeddingModules(
        prompts=prompts,
        default_prompt_name=default,
        similarity=similarity,
        n_kept=_n_kept(settings, "max_active_dims"),
        max_length=max_length,
        lowercase=lowercase,
        splade=SpladePooling(strategy, log_twice=activation == "log1p_relu"),
        table=table,
        table_inputs=table_inputs,
    )


def _late_interaction(folder: Path, settings: Mapping[str, JSON], hidden_size: int) -> EmbeddingModules:
    """Read the modules of late interaction: an encoder, and layers over the vectors of its tokens."""
    is_pylate = settings.get("model_type") != MULTI_VECTOR_ENCODER
    modules = [
        ("Dense" if entry["type"] == PYLATE_DENSE else module_name(entry), entry.get("path", ""))
        for entry in _read_modules(folder)
    ]
    _, options = _read_transformer_options(folder)
    late = read_late_interaction(folder, settings, modules, options)
    own = {key: options.get(key) for key in TRANSFORMER_KEYS}
    max_length, lowercase = _transformer_options(folder, {**TOKEN_EMBEDDINGS, **own})
    layers: list[Layer] = []
    width = hidden_size
    for name, path in modules[1:]:
        if name != MASK:
            layer, width = read_layer(name, folder / path, width, VECTORS)
            layers += [] if layer is None else [layer]
    if is_pylate:
        layers.append(normalize)
    similarity = str(settings.get("similarity_fn_name") or "maxsim").lower()
    if similarity == "cosine" and is_pylate:  # of vectors of tokens, as early versions call it
        similarity = "maxsim"
    if similarity not in ("maxsim", "meanmaxsim"):
        raise ModelMismatch(f"{PROMPTS_FILE}: similarity_fn_name is {similarity}, served: maxsim, meanmaxsim")
    return EmbeddingModules(
        layers=tuple(layers),
        width=width,
        similarity="maxsim" if similarity == "maxsim" else "meanmaxsim",
        max_length=max_length,
        lowercase=lowercase,
        late=late,
    )


def cross_encoder_activation(folder: Path, model_config: Mapping[str, JSON], n_labels: int) -> Activation | None:
    """Return the function that a CrossEncoder's folder applies to its logits; None where it is no such folder.

    Args:
        folder: of a model, as `CrossEncoder.save_pretrained` writes it.
        model_config: the content of config.json, where versions before 5.4 name the function.
        n_labels: without a name it is the sigmoid for one label, and the identity for several.

    Raises:
        ModelMismatch: a function that is not computed here.
    """
    settings = _read_settings(folder)
    nested = model_config.get("sentence_transformers")
    if settings.get("model_type") == "CrossEncoder":
        path = settings.get("activation_fn")
    elif isinstance(nested, dict):
        path = nested.get("activation_fn")
    elif "sbert_ce_default_activation_function" in model_config:
        path = model_config["sbert_ce_default_activation_function"]
    else:
        return None
    if path is None:
        return "sigmoid" if n_labels == 1 else "none"
    if path not in ACTIVATIONS or (n_labels == 1 and ACTIVATIONS[path] == "softmax"):
        raise ModelMismatch(f"the activation of this CrossEncoder is {path}, served: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[path]


def _read_modules(folder: Path) -> Sequence[Mapping[str, JSON]]:
    modules = read_json(folder / MODULES_FILE)
    if not isinstance(modules, list) or not all(isinstance(entry, dict) and "type" in entry for entry in modules):
        raise ModelMismatch(f"{MODULES_FILE} must hold a list of modules, each with a type and a path")
    if outside := next((entry for entry in modules if not stays_inside(entry.get("path", ""))), None):
        raise ModelMismatch(f"{MODULES_FILE}: the path {str(outside['path'])[:100]!r} leaves the model's folder")
    return modules


def _read_settings(folder: Path) -> dict[str, JSON]:
    """Return the content of config_sentence_transformers.json; empty where there is none."""
    path = folder / PROMPTS_FILE
    return read_object(path) if path.is_file() else {}


def cross_encoder_modules(folder: Path) -> EmbeddingModules:
    """Return what a CrossEncoder's folder says of the length and the case of texts; of other folders the defaults.

    Raises:
        ModelMismatch: a module or a prompt that would change scores and that is not computed here.
    """
    settings = _read_settings(folder)
    if settings.get("model_type") != "CrossEncoder":
        return EmbeddingModules()
    entries = _read_modules(folder) if (folder / MODULES_FILE).is_file() else []
    names = [module_name(entry) for entry in entries]
    if names not in ([], ["Transformer"]) or any(entry.get("path") for entry in entries):
        raise ModelMismatch(
            f"{MODULES_FILE} of this CrossEncoder lists {', '.join(names)}: served is a Transformer in the folder"
        )
    prompts, default, _ = _prompts({**settings, "similarity_fn_name": None})
    if default is not None and prompts[default]:
        raise ModelMismatch(
            f"{PROMPTS_FILE}: default_prompt_name of this CrossEncoder is {default}, and prompts of a CrossEncoder are "
            "not computed here"
        )
    max_length, lowercase = _transformer_options(folder, SCORES)
    return EmbeddingModules(max_length=max_length, lowercase=lowercase)


def _transformer_options(folder: Path, expected: Mapping[str, JSON]) -> tuple[int | None, bool]:
    """Return the limit of tokens and whether texts are lower-cased, from sentence_bert_config.json and its like."""
    file, options = _read_transformer_options(folder)
    max_length, lowercase = options.pop("max_seq_length", None), options.pop("do_lower_case", False)
    if not isinstance(max_length, int | None) or not isinstance(lowercase, bool):
        raise ModelMismatch(f"{file}: max_seq_length must be a whole number, do_lower_case true or false")
    for key, value in options.items():
        if value not in (None, False, {}, expected.get(key)):
            raise ModelMismatch(f"{file}: {key} is {value}, which is not computed here")
    return max_length, lowercase


def _read_transformer_options(folder: Path) -> tuple[str, dict[str, JSON]]:
    """Return name and content of sentence_bert_config.json, or of the file that early versions named after a family."""
    files = sorted(folder.glob("sentence_*_config.json"))
    return (files[0].name, read_object(files[0])) if files else ("", {})


def _pooling(path: Path, hidden_size: int) -> tuple[tuple[PoolingMode, ...], bool]:
    options = read_object(path)
    width = options.get("embedding_dimension", options.get("word_embedding_dimension", hidden_size))
    if width != hidden_size:
        raise ModelMismatch(f"{path.parent.name} pools {width} numbers of each token, the encoder gives {hidden_size}")
    modes = options.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if options.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    for mode in modes:
        if mode not in POOLING_MODES:
            raise ModelMismatch(
                f"{path.parent.name}: pooling mode {mode} is unknown, known: {', '.join(POOLING_MODES)}"
            )
    return tuple(modes), bool(options.get("include_prompt", True))


def _classifier(folder: Path, width: int) -> tuple[Layer, ...]:
    """Return the layers from an embedding to logits; none where a folder has no classifier."""
    if not (folder / "config.json").is_file():
        return ()
    linear, _ = read_layer("Dense", folder, width)
    is_normalized = read_object(folder / "config.json").get("normalize_embeddings")
    return tuple(layer for layer in (normalize if is_normalized else None, linear) if layer is not None)


def _n_kept(settings: Mapping[str, JSON], key: str) -> int | None:
    """Return how many numbers of each embedding the library keeps by itself; None: all."""
    number = settings.get(key)
    if number is not None and (type(number) is not int or number < 1):
        raise ModelMismatch(f"{PROMPTS_FILE}: {key} must be a whole number of 1 or more, or null")
    return number


def _prompts(settings: Mapping[str, JSON]) -> tuple[dict[str, str], str | None, Similarity]:
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ModelMismatch(f"{PROMPTS_FILE}: prompts must be strings by name")
    if default is not None and default not in prompts:
        raise ModelMismatch(
            f"{PROMPTS_FILE}: default_prompt_name is {default}, prompts: {', '.join(prompts) or 'none'}"
        )
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITIES:
        raise ModelMismatch(f"{PROMPTS_FILE}: similarity_fn_name is {similarity}, served: {', '.join(SIMILARITIES)}")
    return prompts, default, similarity
