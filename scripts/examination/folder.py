"""Examine a model before it is packed, with the readers of the packer, so that both refuse in the same words.

Each reader is tried, also after another one refused, so that all findings come at once. At the end everything but the
archive itself is made in a temporary folder, the self-test included.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from handler.config import ModelConfig
from handler.engine import fp8, int8, int8_weights
from handler.engine.config_problems import read_config
from handler.engine.encoder import PackedEncoder
from handler.engine.families import encoder_of
from handler.engine.native_engine import NativeEngine
from handler.engine.precision import supported
from handler.engine.weights import load_weights
from handler.late_interaction import Role
from handler.loading import load_predictor
from handler.model_folder import ModelFolder
from handler.predictor import Predictor
from handler.protocol import JSON
from handler.tasks import auto_class_for, task_class_for
from handler.tokenization import Tokenizer
from scripts.archives.build import ArchiveContents, fill, other_family, stage_files, staging
from scripts.cli.console import ScriptError
from scripts.examination.examination import Examination
from scripts.pretrained.files import MODEL_FILES, MODULE_FILES, README
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import ModelSource, open_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DTYPES = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def examine_model(request: ModelRequest, config: ModelConfig) -> Examination:
    """Examine a folder or a model of the hub as `scripts/package.py` would pack it with these settings."""
    examination = Examination(request.model, "model")
    with examination.noting_warnings():
        try:
            with open_model(request) as source:
                examine_source(examination, source, config)
        except ScriptError as error:
            examination.refuse(error)
    return examination


def examine_source(examination: Examination, source: ModelSource, config: ModelConfig) -> None:
    """Add the facts and the findings of an opened model."""
    folder, sections = source.folder, examination.sections
    examination.folder = str(folder)
    sections["origin"] = origin_facts(source)
    with staging() as scratch:
        examination.attempt(stage_files, scratch / "stage", folder, config)
    sections["weights"] = weight_facts(folder)
    model_config = examination.attempt(read_config, folder)
    if model_config is not None:
        sections["architecture"] = architecture_facts(model_config)
        if note := other_family(model_config):
            examination.note(note)
        examine_parts(examination, folder, model_config, config)
    if examination.is_sound:
        predictor = examination.attempt(load_predictor, folder, replace(config.handler, precision="fp32"))
        if predictor is not None:
            sections["served"] = served_facts(predictor)
            contents = ArchiveContents(folder, "model", "1.0", config, provenance=source.provenance)
            with staging() as scratch:
                examination.attempt(fill, scratch / "stage", contents)
    add_notes(examination, folder)


def examine_parts(examination: Examination, folder: Path, model_config: PretrainedConfig, config: ModelConfig) -> None:
    """Read modules, tokenizer and weights, each whatever the others are."""
    sections = examination.sections
    model = examination.attempt(ModelFolder.read, folder, model_config)
    embedding = model.embedding if model else None
    if model is not None and model.missing_head:
        examination.note(
            f"config.json names {model.missing_head}, but the weights are those of an encoder without a head"
        )
    if model is not None and model.has_modules:
        sections["sentence-transformers"] = module_facts(model)
    elif model is not None and model.activation is not None:
        sections["sentence-transformers"] = {"kind": "CrossEncoder", "activation": model.activation}
    tokenizer = examination.attempt(Tokenizer, folder, model_config, config.handler, embedding)
    if tokenizer is not None:
        sections["tokenizer"] = tokenizer_facts(tokenizer)
    task = examination.attempt(task_class_for, model or ModelFolder(model_config), config.handler)
    if task is not None and not examination.is_sound:  # a sound model is loaded whole
        main: Any = task  # what decides, whether the head is needed, is said by the class
        exact = replace(config.handler, precision="fp32")
        examination.attempt(load_weights, folder, auto_class_for(task, model_config), main, exact, None)


def origin_facts(source: ModelSource) -> dict[str, JSON]:
    """Return where the model comes from."""
    origins = [
        f"{origin.role}: {origin.name} at {origin.commit}" if origin.name else f"{origin.role}: a local folder"
        for origin in source.provenance.origins
    ]
    facts: dict[str, JSON] = {"from": origins or ["a local folder"]}
    if source.provenance.license:
        facts["license"] = source.provenance.license
    return facts | ({"steps": list(source.provenance.steps)} if source.provenance.steps else {})


def weight_facts(folder: Path) -> dict[str, JSON]:
    """Return files, sizes and precisions of the weights, from their headers; what cannot be read is left out."""
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != int8_weights.FILE)
    numbers: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    tensor = opened.get_slice(name)
                    numbers[tensor.get_dtype()] += int(torch.Size(tensor.get_shape()).numel())
        except (OSError, SafetensorError):
            continue
    return {
        "files": [file.name for file in files],
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "parameters": sum(numbers.values()),
        "precision": [DTYPES[dtype] for dtype, _ in numbers.most_common() if dtype in DTYPES],
    }


def architecture_facts(config: PretrainedConfig) -> dict[str, JSON]:
    """Return what config.json says of the encoder and its head."""
    architectures = list(config.architectures or [])
    is_classifier = any(name.endswith("Classification") for name in architectures)
    facts = {
        "class": ", ".join(architectures) or None,
        "model_type": config.model_type,
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "vocabulary": getattr(config, "vocab_size", None),
        "positions": getattr(config, "max_position_embeddings", None),
        "labels": [str(name) for name in config.id2label.values()] if is_classifier and config.id2label else None,
        "problem_type": config.problem_type if is_classifier else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def module_facts(model: ModelFolder) -> dict[str, JSON]:
    """Return what the modules of sentence-transformers do."""
    embedding = model.embedding
    layers = [getattr(layer, "__name__", type(layer).__name__) for layer in embedding.layers]
    if embedding.late is not None:
        roles = {"queries": embedding.late.query, "documents": embedding.late.document}
        return {
            "kind": "late interaction",
            "layers": layers,
            "width": embedding.width,
            "similarity": embedding.similarity,
            **{name: role_facts(role) for name, role in roles.items()},
        }
    splade, table = embedding.splade, embedding.table
    facts = {
        "kind": "SparseEncoder" if splade else "SentenceTransformer",
        "pooling": [splade.strategy] if splade else list(embedding.pooling),
        "logarithms": None if splade is None else 2 if splade.log_twice else 1,
        "table": table and f"{table.path} for {', '.join(sorted(kind or 'others' for kind in embedding.table_inputs))}",
        "layers": layers or None,
        "width": embedding.width,
        "kept": embedding.n_kept,
        "similarity": embedding.similarity,
        "max_length": embedding.max_length,
        "prompts": dict(embedding.prompts) or None,
        "default_prompt": embedding.default_prompt_name,
    }
    return {key: value for key, value in facts.items() if value is not None}


def role_facts(role: Role) -> list[str]:
    """Return how the queries, or the documents, of late interaction are read."""
    facts = [
        f"prompt {role.prompt!r}" if role.prompt else "",
        f"prefix {role.prefix!r}" if role.prefix else "",
        f"at most {role.max_length} tokens" if role.max_length else "",
        f"{len(role.skiplist)} tokens without a vector" if role.skiplist else "",
    ]
    if role.expansion is not None:
        attended = "attended to" if role.expansion.attended else "not attended to"
        facts.append(f"{role.expansion.token or 'mask'} tokens up to {role.expansion.length}, {attended}")
    return [fact for fact in facts if fact]


def tokenizer_facts(tokenizer: Tokenizer) -> dict[str, JSON]:
    """Return what the tokenizer is, and how long texts may be."""
    return {
        "model": tokenizer.kind,
        "tokens": tokenizer.n_tokens,
        "max_length": tokenizer.max_length,
        "segments": tokenizer.has_type_ids,
        "mask": tokenizer.mask_token,
    }


def served_facts(predictor: Predictor) -> dict[str, JSON]:
    """Return what will be served, how it is computed, and in which precisions."""
    engine = predictor.engine
    is_native = isinstance(engine, NativeEngine)
    encoder = None if is_native else encoder_of(engine.model.base_model)
    is_ours = is_native or (engine.packed and isinstance(encoder, PackedEncoder))
    path = "unpadded, by the kernels of this package" if is_ours else "unpadded, by the layers of transformers"
    cpu = torch.device("cpu")
    precisions = [f"{name} on this CPU" for name in supported(cpu)]
    if is_native or (encoder is not None and is_ours and not int8.unsupported_reason(encoder)):
        precisions.append(f"int8 with --calibration{'' if int8_weights.supported(cpu) else ' (not on this CPU)'}")
    if engine.precision.has_gradients and not fp8.unsupported_reason(engine.with_gradients().model):
        precisions.append("fp8 with --calibration on a GPU")
    return {
        "task": predictor.task.name,
        "operations": {word: task.name for word, task in predictor.operations.items() if word != "predict"},
        "engine": path if engine.packed else "padded, by transformers, sorted by length",
        "precisions": precisions,
        "overflow": predictor.task.overflow,
        "explanations": bool(predictor.explainable),
    }


def add_notes(examination: Examination, folder: Path) -> None:
    """Note what hinders nothing but may surprise."""
    sections = examination.sections
    precisions = sections["weights"]["precision"]
    if precisions and precisions != ["fp32"]:
        examination.note(
            f"the weights are stored in {', '.join(precisions)}, and computed in fp32 unless --precision says"
        )
    labels = sections.get("architecture", {}).get("labels") or []
    if labels and labels == [f"LABEL_{index}" for index in range(len(labels))]:
        examination.note(
            'the labels have no names: give them with --labels, or in id2label of config.json: {"0": "no", ...}'
        )
    patterns = (*MODEL_FILES, *MODULE_FILES, README, ".*")
    unread = sorted(file.name for file in folder.iterdir() if file.is_file() and not any(map(file.match, patterns)))
    if unread:
        more = f" and {len(unread) - 6} more" if len(unread) > 6 else ""
        examination.note(f"not packed, for nothing reads them: {', '.join(unread[:6])}{more}")
    length, positions = (
        sections.get("tokenizer", {}).get("max_length"),
        sections.get("architecture", {}).get("positions"),
    )
    if length and positions and length < positions - 8:
        examination.note(
            f"texts are read to {length} tokens, though the model has {positions} positions: the folder says so"
        )
