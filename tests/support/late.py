"""Folders of late interaction, in the layouts of the libraries that train such models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WIDTH = 24
SETTINGS: dict[str, Any] = {  # as PyLate 1.6 writes them, with tokens that every vocabulary of BERT has
    "model_type": "ColBERT",
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "MaxSim",
    "query_prefix": "[unused0]",
    "document_prefix": "[unused1]",
    "query_length": 20,
    "document_length": 60,
    "attend_to_expansion_tokens": False,
    "skiplist_words": list(",.!?'"),
    "do_query_expansion": True,
}
METADATA = {  # as colbert-ai writes it, the fields that are read and one that is not
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_maxlen": 20,
    "doc_maxlen": 60,
    "dim": WIDTH,
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
    "similarity": "cosine",
    "interaction": "colbert",
    "nway": 64,
}


def projection(width: int, out: int = WIDTH) -> torch.Tensor:
    """Return the weight of a projection (out, width), the same every time."""
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(3))
    return weight / math.sqrt(width)


def write_dense(folder: Path, width: int, out: int = WIDTH, **options: Any) -> None:
    """Write a linear layer without bias and activation as PyLate does."""
    folder.mkdir()
    config = {
        "in_features": width,
        "out_features": out,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    save_file({"linear.weight": projection(width, out)}, folder / "model.safetensors")


def write_pylate(folder: Path, **settings: Any) -> Path:
    """Add to an encoder the files that PyLate writes."""
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**SETTINGS, **settings}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 19, "do_lower_case": false}')
    write_dense(folder / "1_Dense", width)
    return folder


def write_stanford(folder: Path, **metadata: Any) -> Path:
    """Turn an encoder into a checkpoint as colbert-ai writes it; metadata None leaves a field out."""
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["HF_ColBERT"]
    (folder / "config.json").write_text(json.dumps(config))
    weights = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = projection(config["hidden_size"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    content = {key: value for key, value in {**METADATA, **metadata}.items() if value is not None}
    (folder / "artifact.metadata").write_text(json.dumps(content))
    return folder
