"""Whether a model of transformers has all its weights from its files, and whether all tensors of the files are in it.

transformers loads what fits, draws the rest at random and writes a report. Here nothing is left out in silence: a
tensor is used, or is of a head that transformers knows for the architecture and that the task does not need, or the
model is refused by the name of the tensor. Serving and training judge the report in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from handler.errors import ModelMismatch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

HEADS = (
    "AutoModel",
    "AutoModelForPreTraining",
    "AutoModelForMaskedLM",
    "AutoModelForNextSentencePrediction",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
)
REASONS = {  # part of a tensor's name -> what it is of
    "crf": "a conditional random field chooses the tags, which is not computed here: train the model without it",
    "lora_": "an adapter: merge it into the model with peft first (merge_and_unload)",
    "adapter": "an adapter: merge it into the model first, or train the model without it",
    "prefix": "a trained prefix: it cannot be merged, train the model without it",
    "distance_embedding": "positions are relative, which transformers 5 no longer computes: train with absolute ones",
    "pos_key": "positions are relative in a way that this architecture does not compute",
}


def require_complete(
    model: PreTrainedModel, report: Mapping[str, Any], *, needs_pooler: bool, is_head_new: bool = False
) -> None:
    """Raise ModelMismatch where a model and its files do not have the same tensors.

    Args:
        model: as transformers loaded it.
        report: what `output_loading_info` returns, with `ignore_mismatched_sizes`: the error of transformers names
            neither tensor nor shape.
        needs_pooler: whether the head reads the pooler, which an encoder is often saved without.
        is_head_new: whether the head may start at random, for training.
    """
    prefix = f"{model.base_model_prefix}."
    has_head = model.base_model is not model

    def is_of_head(name: str) -> bool:
        return has_head and not name.startswith(prefix)

    def is_required(name: str) -> bool:
        return not (is_head_new and is_of_head(name)) and (needs_pooler or "pooler" not in name)

    mismatched = sorted(entry for entry in report["mismatched_keys"] if is_required(entry[0]))
    if mismatched:
        name, weights_shape, config_shape = mismatched[0]
        raise ModelMismatch(
            f"{name} has the shape {tuple(weights_shape)} in the weights, but {tuple(config_shape)} by config.json"
            f"{', as with another number of labels' if is_of_head(name) else ''}: take both from the same model"
        )
    missing = sorted(filter(is_required, report["missing_keys"]))
    if missing:
        hint = "is this model fine-tuned?" if all(map(is_of_head, missing)) else "take both from the same model"
        raise ModelMismatch(f"the weights lack {_some(missing)}, which config.json asks for: {hint}")
    unexpected = [_plain(name, prefix) for name in report["unexpected_keys"]]
    unknown = sorted(set(unexpected) - known_names(model.config)) if unexpected else []
    if unknown:
        reason = next((REASONS[part] for part in REASONS if any(part in name.lower() for name in unknown)), None)
        raise ModelMismatch(
            f"the weights hold {_some(unknown)}, which {type(model).__name__} does not compute: "
            + (reason or "save the model with the class of transformers that it was trained with")
        )


def known_names(config: PretrainedConfig) -> set[str]:
    """Return the names, without the prefix of the encoder, of the tensors that any head of an architecture has."""
    import transformers

    names: set[str] = set()
    for auto_class in HEADS:
        classes = getattr(transformers, auto_class)._model_mapping
        if type(config) in classes:
            kind = classes[type(config)]
            with torch.device("meta"):
                model: Any = kind[0](config) if isinstance(kind, tuple) else kind(config)
            tensors = [*model.state_dict(), *(name for name, _ in model.named_buffers())]
            names |= {_plain(name, f"{model.base_model_prefix}.") for name in tensors}
    return names


def _plain(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)


def _some(names: Collection[str]) -> str:
    """Return some names, and how many more there are."""
    first = list(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
