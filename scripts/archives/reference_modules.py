"""The modules of a sentence-transformers folder, computed as their files describe them, for the reference at packing.

Shares no code with `handler.sentence_modules` and `handler.tasks.embedding`, which it is compared with. A folder
without `modules.json` has the mean of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scripts.archives.reference_tokens import read_json

SETTINGS = "config_sentence_transformers.json"
OLD_FLAGS = {  # in the order in which several of them are concatenated
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
COMPUTED = (
    "Transformer",
    "MLMTransformer",
    "Pooling",
    "SpladePooling",
    "MultiVectorMask",
)  # without layers of their own
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: torch.cosine_similarity(a, b, dim=0),
    "dot": torch.dot,
    "euclidean": lambda a, b: -(a - b).square().sum().sqrt(),
    "manhattan": lambda a, b: -(a - b).abs().sum(),
}


class ReferenceModules:
    """What follows the encoder in a folder, and its prompt."""

    def __init__(self, folder: Path) -> None:
        entries: Any = read_json(folder / "modules.json") or []
        settings = read_json(folder / SETTINGS)
        router = read_json(folder / "router_config.json")
        types = {entry["path"]: entry["type"] for entry in entries} | router.get("types", {})
        paths = {path: kind.rpartition(".")[2] for path, kind in types.items()}
        pooling = next((read_json(folder / path / "config.json") for path in paths if paths[path] == "Pooling"), {})
        modes = pooling.get("pooling_mode") or [mode for flag, mode in OLD_FLAGS.items() if pooling.get(flag)]
        self.modes: list[str] = [modes] if isinstance(modes, str) else list(modes or ["mean"])
        self.include_prompt = bool(pooling.get("include_prompt", True))
        splade = next(
            (read_json(folder / path / "config.json") for path in paths if paths[path] == "SpladePooling"), {}
        )
        self.sums_weights = splade.get("pooling_strategy") == "sum"
        self.n_logarithms = 2 if splade.get("activation_function") == "log1p_relu" else 1
        self.table = next((folder / path for path in paths if paths[path] == "SparseStaticEmbedding"), None)
        self._weights = load_file(self.table / "model.safetensors")["weight"] if self.table else torch.empty(0)
        self._router: Mapping[str, Any] = router
        later = [(name, folder / path) for path, name in paths.items() if name not in COMPUTED]
        self.layers = [_layer(name, path) for name, path in later]
        classifier = folder / "classifier" / "config.json"
        self.classifier = _layer("Dense", classifier.parent) if classifier.is_file() else None
        self.normalizes = bool(read_json(classifier).get("normalize_embeddings")) if classifier.is_file() else False
        self._prompts = settings.get("prompts") or {}
        self.prompt: str = self._prompts.get(settings.get("default_prompt_name"), "")
        self.n_kept: int | None = settings.get("max_active_dims" if splade else "truncate_dim")
        self.similarity = SIMILARITIES.get(settings.get("similarity_fn_name") or "cosine", torch.dot)

    def pool(self, states: Tensor, n_excluded: int) -> Tensor:
        """Return the vector of a sequence.

        Args:
            states: (tokens, width), the encoder's outputs.
            n_excluded: tokens at the beginning that are not pooled; if that is all of them, they are.
        """
        positions = torch.arange(1, len(states) + 1, dtype=states.dtype).unsqueeze(-1)
        first = n_excluded if n_excluded < len(states) else 0
        states, positions = states[first:], positions[first:]
        pooled: dict[str, Callable[[], Tensor]] = {
            "cls": lambda: states[0],
            "lasttoken": lambda: states[-1],
            "max": lambda: states.max(0).values,
            "mean": lambda: states.sum(0) / len(states),
            "mean_sqrt_len_tokens": lambda: states.sum(0) / len(states) ** 0.5,
            "weightedmean": lambda: (states * positions).sum(0) / positions.sum(),
        }
        return torch.cat([pooled[mode]() for mode in self.modes])

    def pool_logits(self, windows: list[Tensor]) -> Tensor:
        """Return the weights (vocabulary,) of the logits (tokens, vocabulary) of the windows of a text, as SPLADE."""
        weights = torch.cat(windows).clamp_min(0)
        for _ in range(self.n_logarithms):
            weights = (1 + weights).log()
        return self._heaviest(weights.sum(0) if self.sums_weights else weights.max(0).values)

    def reads_table(self, input_type: str | None) -> bool:
        """Tell whether a text is looked up in the table: a query, a document, or None where a request does not say."""
        if self.table is None:
            return False
        structure, options = self._router["structure"], self._router["parameters"]
        routes = options.get("route_mappings") or {}
        keys = [f"({input_type!r}, 'text')", f"({input_type!r}, None)", "(None, 'text')", "(None, None)"]
        named = [routes[key] for key in keys if key in routes] + [r for r in (input_type, "text") if r in structure]
        route = next(iter(named), options.get("default_route") or next(iter(structure)))
        return bool(structure[route] == [self.table.name])

    def look_up(self, ids: list[int]) -> Tensor:
        """Return the weights (vocabulary,) of the tokens of a text, by the table."""
        present = torch.zeros_like(self._weights)
        present[ids] = 1
        return self._heaviest(present * self._weights)

    def prompt_of(self, input_type: str | None) -> str:
        """Return what stands before a query or a document; without either before any text."""
        return self.prompt if input_type is None else self._prompts.get(input_type, "")

    def _heaviest(self, weights: Tensor) -> Tensor:
        if self.n_kept is None:
            return weights
        kept = weights.abs().topk(min(self.n_kept, len(weights))).indices
        return torch.zeros_like(weights).scatter(0, kept, weights[kept])

    def project(self, pooled: Tensor) -> Tensor:
        """Apply the layers behind the pooling to one vector."""
        for layer in self.layers:
            pooled = layer(pooled)
        return pooled[: self.n_kept]

    def logits(self, pooled: Tensor) -> Tensor:
        """Apply the classifier of SetFit to one vector, after the layers behind the pooling."""
        vector = self.project(pooled)
        if self.normalizes:
            vector = vector / vector.norm().clamp_min(1e-12)
        logits: Tensor = self.classifier(vector) if self.classifier else vector
        return logits


def cross_encoder_activation(folder: Path, model_config: Mapping[str, Any], n_labels: int) -> nn.Module | None:
    """Return what a CrossEncoder applies to its logits; None where the folder is none."""
    settings, nested = read_json(folder / SETTINGS), model_config.get("sentence_transformers")
    old = model_config.get("sbert_ce_default_activation_function")
    if settings.get("model_type") != "CrossEncoder" and not isinstance(nested, Mapping) and old is None:
        return None
    path = settings.get("activation_fn") or (nested or {}).get("activation_fn") or old
    if path is None:
        return nn.Sigmoid() if n_labels == 1 else nn.Identity()
    name = str(path).rpartition(".")[2]
    return nn.Softmax(dim=-1) if name == "Softmax" else _function(name)


def _layer(name: str, folder: Path) -> Callable[[Tensor], Tensor]:
    options = read_json(folder / "config.json")
    if name == "Normalize":
        return lambda vector: vector / vector.norm().clamp_min(1e-12)
    if name == "Dropout":
        return lambda vector: vector
    weights = {key: tensor.float() for key, tensor in load_file(folder / "model.safetensors").items()}
    if name == "LayerNorm":
        return lambda vector: torch.layer_norm(vector, vector.shape, weights["norm.weight"], weights["norm.bias"])
    activation = _function(str(options.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2])
    has_residual, projection = options.get("use_residual"), weights.get("residual.weight")

    def dense(vector: Tensor) -> Tensor:
        projected: Tensor = activation(weights["linear.weight"] @ vector + weights.get("linear.bias", 0))
        residual = vector if projection is None else projection @ vector
        return projected + residual if has_residual else projected

    return dense


def _function(name: str) -> nn.Module:
    function: nn.Module = getattr(nn, name)()
    return function
