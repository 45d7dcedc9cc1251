"""Convert a checkpoint of colbert-ai (stanford-futuredata/ColBERT) to the layout of PyLate, which the handler reads.

Such a folder has the projection among the weights of the encoder, and its settings in `artifact.metadata`. What is not
there has the defaults of colbert-ai.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from handler.late_interaction import PYLATE_DENSE, STANFORD
from handler.sentence_layers import MODULES_FILE, WEIGHTS_FILE
from handler.sentence_modules import PROMPTS_FILE
from scripts.cli.console import ScriptError, say
from scripts.pretrained.files import STANFORD_METADATA, read_object

PROJECTION = "linear.weight"
DENSE = "1_Dense"
DEFAULTS: dict[str, Any] = {  # of colbert-ai 0.2.22
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_maxlen": 32,
    "doc_maxlen": 220,
    "attend_to_mask_tokens": False,
    "mask_punctuation": True,
    "similarity": "cosine",
    "interaction": "colbert",
}


def is_stanford(folder: Path) -> bool:
    """Tell whether a folder holds such a checkpoint, in its own layout."""
    if (folder / MODULES_FILE).is_file() or not (folder / "config.json").is_file():
        return False
    return STANFORD in (read_object(folder / "config.json").get("architectures") or [])


def convert(folder: Path, target: Path) -> str:
    """Write config, weights, projection and settings into another folder.

    Returns:
        The step that was taken, for the record of where the model comes from.

    Raises:
        ScriptError: a setting that is not computed here, or no projection.
    """
    from safetensors.torch import load_file, save_file

    from handler.weight_files import weight_files

    stored = read_object(folder / STANFORD_METADATA) if (folder / STANFORD_METADATA).is_file() else {}
    settings = DEFAULTS | {key: stored[key] for key in DEFAULTS if stored.get(key) is not None}
    for key in ("similarity", "interaction"):
        if settings[key] != DEFAULTS[key]:
            raise ScriptError(f"{STANFORD_METADATA}: {key} is {settings[key]}, only {DEFAULTS[key]} is computed here")
    tensors = {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}
    projection = tensors.pop(PROJECTION, None)
    if projection is None or projection.ndim != 2:
        raise ScriptError(
            f"config.json names {STANFORD}, but the weights hold no {PROJECTION}: it is no such checkpoint"
        )
    config = read_object(folder / "config.json")
    config["architectures"] = [_encoder_class(folder)]
    out, width = projection.shape
    dense = {
        "in_features": width,
        "out_features": out,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    modules = [("sentence_transformers.models.Transformer", ""), (PYLATE_DENSE, DENSE)]
    (target / DENSE).mkdir()
    save_file({PROJECTION: projection.contiguous()}, target / DENSE / WEIGHTS_FILE)
    save_file(tensors, target / WEIGHTS_FILE, {"format": "pt"})
    _write(target / "config.json", config)
    _write(target / DENSE / "config.json", dense)
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    _write(target / MODULES_FILE, entries)
    _write(target / PROMPTS_FILE, pylate_settings(settings))
    step = f"checkpoint of colbert-ai ({PROJECTION}, {STANFORD_METADATA}) converted to the layout of PyLate"
    say(step)
    return step


def pylate_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what PyLate writes for the settings of colbert-ai."""
    return {
        "model_type": "ColBERT",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": settings["query_token_id"],
        "document_prefix": settings["doc_token_id"],
        "query_length": settings["query_maxlen"],
        "document_length": settings["doc_maxlen"],
        "do_query_expansion": True,
        "attend_to_expansion_tokens": settings["attend_to_mask_tokens"],
        "skiplist_words": None if settings["mask_punctuation"] else [],
    }


def _encoder_class(folder: Path) -> str:
    """Return the class of transformers that holds the encoder of a config."""
    from transformers import MODEL_MAPPING

    from handler.engine.config_problems import read_config

    classes: Any = MODEL_MAPPING[type(read_config(folder))]
    return str((classes[0] if isinstance(classes, tuple) else classes).__name__)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
