"""LoRA by the peft library: small matrices beside the linear modules of the layers, and the head, are trained.

The head (and a pooler below it) is trained and saved whole, so that the adapter's folder has all that answers. What is
saved is an adapter as PEFT's users know it, with the config.json that names the labels; packing merges it.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from scripts.cli.console import ScriptError, say
from scripts.pretrained.files import README
from scripts.training.settings import TrainingSettings, split_names

# What peft calls the tasks of transformers' classes; it needs no name for the others.
TASK_TYPES = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}


def wrap(
    settings: TrainingSettings, model: PreTrainedModel, auto_class: str, new: Collection[str], commit: str | None
) -> Any:
    """Return a model of peft, of which only the adapter and the head are trained.

    Args:
        auto_class: the class of transformers that loaded the model.
        new: the parameters that the base model's file lacks.
        commit: of the base model on the hub.

    Raises:
        ScriptError: peft is not installed, the layers have no such linear modules, or a parameter would stay random.
    """
    try:
        import peft
    except ImportError:
        raise ScriptError("--peft lora needs peft: pip install -r requirements/adapters.txt") from None
    config = peft.LoraConfig(
        task_type=TASK_TYPES.get(auto_class),
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules=targets(model, split_names(settings.lora_targets)),
        modules_to_save=head_modules(model) or None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights, which stay tied: they are not trained
        adapted = peft.get_peft_model(model, config)
    config.base_model_name_or_path = settings.model
    config.revision = commit
    frozen = {name for name, weights in adapted.get_base_model().named_parameters() if not weights.requires_grad}
    if lost := sorted(frozen.intersection(new)):
        raise ScriptError(
            f"--peft lora: the base model has no {lost[0]}, which an adapter does not hold: take a base model with "
            "this head, or train without --peft"
        )
    trained = sum(weights.numel() for weights in adapted.parameters() if weights.requires_grad)
    whole = sum(weights.numel() for weights in adapted.parameters())
    say(f"LoRA trains {trained:,} parameters of {whole:,} ({trained / whole:.1%}), the head among them")
    return adapted


def targets(model: PreTrainedModel, names: tuple[str, ...]) -> list[str]:
    """Return the linear modules of the encoder's layers by their full names, or those of them that end in a name."""
    prefix = f"{model.base_model_prefix}."
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(prefix)
        and any(part.isdecimal() for part in name.split("."))  # the number of a layer
    ]
    available = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := [name for name in names if name not in available]:
        raise ScriptError(f"--lora-targets {unknown[0]}: the layers of this model have {', '.join(available)}")
    if not linear:
        raise ScriptError("--peft lora: the layers of this model have no linear modules: train without --peft")
    return [name for name in linear if not names or name.rpartition(".")[2] in names]


def head_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules outside of the encoder's layers that are trained whole: the head, and a pooler.

    The output embeddings of a model for masked words are left out: they are tied to the input embeddings, which stay.
    """
    encoder, tied = model.base_model, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    names: list[str] = []

    def visit(name: str, module: nn.Module) -> None:
        if module is encoder or module is tied or not any(True for _ in module.parameters()):
            return
        if tied is not None and any(inner is tied for inner in module.modules()):
            for child, inner in module.named_children():
                visit(f"{name}.{child}", inner)
        else:
            names.append(name)

    for name, module in model.named_children():
        visit(name, module)
    if encoder is not model and isinstance(getattr(encoder, "pooler", None), nn.Module):
        names.append(f"{model.base_model_prefix}.pooler")
    return names


def save(adapted: Any, folder: Path) -> None:
    """Write the adapter, and the config that names the labels; without peft's card, which says nothing yet."""
    adapted.save_pretrained(folder)
    adapted.config.architectures = [type(adapted.get_base_model()).__name__]
    adapted.config.save_pretrained(folder)
    (folder / README).unlink(missing_ok=True)
