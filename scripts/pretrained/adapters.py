"""Merge an adapter of PEFT into its base model with the peft library, and compare what both answer.

A merged model is served like any other. Kinds of adapters that cannot be merged, such as prompts, are refused by name,
and so is an adapter whose head, or a part of it, is neither in its file nor in the base model's.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler import protocol
from handler.errors import MalformedBody
from scripts.cli.console import ScriptError, say
from scripts.pretrained.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
PREFIX = "base_model.model."  # of the names of tensors in an adapter's file
HEADS = ("classifier.weight", "classifier.out_proj.weight", "classifier.dense.weight")
TOLERANCE = 1e-4  # of the merged model's outputs to the adapter's, relative to the largest


@dataclass(frozen=True)
class Adapter:
    """The content of adapter_config.json that is read here."""

    folder: Path
    kind: str  # peft_type
    task_type: str | None
    base_model: str | None
    revision: str | None
    model_class: str | None  # of the base model, where there is no task_type

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Read adapter_config.json; raises ScriptError where it is not that of an adapter that can be merged."""
        try:
            value = protocol.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, MalformedBody) as error:
            raise ScriptError(f"{ADAPTER_CONFIG} cannot be read: {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("peft_type"), str):
            raise ScriptError(
                f"{ADAPTER_CONFIG} has no peft_type, so it is not an adapter of PEFT: merge it with the library that "
                "made it, and save the merged model with save_pretrained"
            )
        task_type = value.get("task_type")
        if task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
            raise ScriptError(f"the adapter is for {task_type}, text generation, which is not served here")
        mapping = value.get("auto_mapping") or {}
        library = str(mapping.get("parent_library", "transformers."))
        if not library.startswith("transformers."):
            raise ScriptError(f"the adapter's base model is of {library}, code of its own, which is not run here")
        return cls(
            folder,
            value["peft_type"],
            task_type,
            value.get("base_model_name_or_path"),
            value.get("revision"),
            mapping.get("base_model_class"),
        )


def merge(adapter: Adapter, base: Path, target: Path) -> str:
    """Write the merged model, without a tokenizer, into a folder; return what was done, for the provenance.

    Args:
        base: folder of the base model, with weights in safetensors.

    Raises:
        ScriptError: peft is not installed, the kind cannot be merged, or adapter and base do not fit each other.
    """
    peft = _peft()
    from safetensors import SafetensorError

    try:
        tensors = _tensors(adapter.folder / ADAPTER_WEIGHTS)
        config = peft.PeftConfig.from_pretrained(str(adapter.folder))
        tuner = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
        if config.is_prompt_learning or not hasattr(tuner, "merge_and_unload"):
            raise ScriptError(f"the adapter is of the kind {adapter.kind}, which cannot be merged into weights")
        model = _base_model(adapter, base, tensors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing keys, which are compared below
            adapted = peft.PeftModel.from_pretrained(model, str(adapter.folder), config=config).eval()
            _compare_names(peft.get_peft_model_state_dict(adapted), tensors)
            expected = _outputs(adapted)
            _untie(adapted)
            merged = _unwrapped(adapted.merge_and_unload(safe_merge=True))
        _compare_outputs(adapter.kind, expected, _outputs(merged))
    except (KeyError, NotImplementedError) as error:  # peft raises both for kinds that it cannot merge
        reason = str(error).strip("'\"") or type(error).__name__
        raise ScriptError(f"the adapter is of the kind {adapter.kind}, which peft does not merge: {reason}") from None
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        raise ScriptError(f"the adapter cannot be merged: {' '.join(str(error).split())[:300]}") from None
    _keep_bias(merged)
    merged.config.architectures = [type(merged).__name__]
    with _silence():
        merged.save_pretrained(target)
    say(f"merged the adapter ({adapter.kind}) into {type(merged).__name__}")
    return f"adapter ({adapter.kind}) merged with peft {peft.__version__}"


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ScriptError(
            "the model is an adapter, which the peft library merges: pip install -r requirements/adapters.txt"
        ) from None
    return peft


def _tensors(file: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    if not file.is_file():
        raise ScriptError(f"the adapter has no {ADAPTER_WEIGHTS}")
    return load_file(file)


def _base_model(adapter: Adapter, base: Path, tensors: Mapping[str, Any]) -> Any:
    """Load the base model with the head and the number of labels and of tokens that the adapter's tensors have."""
    import torch
    import transformers

    own_config = adapter.folder / "config.json"
    config = transformers.AutoConfig.from_pretrained(
        adapter.folder if own_config.is_file() else base, local_files_only=True, trust_remote_code=False
    )
    head = next((tensors[PREFIX + name] for name in reversed(HEADS) if PREFIX + name in tensors), None)
    if head is not None and head.shape[0] != config.num_labels:
        config.num_labels = head.shape[0]
        say(
            f"note: the adapter has {config.num_labels} labels without names, served as LABEL_0 and on unless "
            "--labels names them, or the config.json of the trained model, beside the adapter"
        )
    name = (
        AUTO_CLASSES.get(adapter.task_type or "") or adapter.model_class or (config.architectures or ["AutoModel"])[0]
    )
    with _silence():
        model, report = getattr(transformers, name).from_pretrained(
            base,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    tokens = model.get_input_embeddings()
    embeddings = PREFIX + next(path for path, module in model.named_modules() if module is tokens)
    trained = (f"{embeddings}.weight", f"{embeddings}.base_layer.weight")  # as a whole, or beside an adapter of theirs
    rows = next((tensors[path].shape[0] for path in trained if path in tensors), None)
    if rows is not None and rows != tokens.weight.shape[0]:
        model.resize_token_embeddings(rows)
    new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = sorted(key for key in new if PREFIX + key not in tensors and not _is_unused(key, name))
    if missing:
        raise ScriptError(
            f"neither the adapter nor its base model has {missing[0]}, so it would be random: train the adapter with "
            f"modules_to_save that has {missing[0].rpartition('.')[0]}"
        )
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Print nothing of the library's report on new weights, which are refused below, and no progress bar."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _untie(adapted: Any) -> None:
    """Give the output layer weights of its own where it shares those of the embeddings and one of both has an adapter.

    peft adds the adapter's part to one use of the shared tensor, and would merge it into the tensor, for both uses.
    """
    import torch

    embeddings, output = adapted.get_input_embeddings(), adapted.get_output_embeddings()
    if output is None or not (hasattr(embeddings, "base_layer") or hasattr(output, "base_layer")):
        return
    source, layer = (getattr(module, "base_layer", module) for module in (embeddings, output))
    if layer.weight is source.weight:
        layer.weight = torch.nn.Parameter(source.weight.detach().clone())


def _keep_bias(merged: Any) -> None:
    """Let the bias of an output layer be saved as its own where its weights are no longer those of the embeddings.

    transformers leaves a bias with two names out of the file under one of them, and ties both or none of the layer.
    """
    import torch

    embeddings, output = merged.get_input_embeddings(), merged.get_output_embeddings()
    if output is not None and output.weight is not embeddings.weight and getattr(output, "bias", None) is not None:
        output.bias = torch.nn.Parameter(output.bias.detach().clone())


def _unwrapped(model: Any) -> Any:
    """Put trained modules in the place of the wrappers that peft leaves of some kinds of adapters (LN_TUNING)."""
    for path, module in list(model.named_modules()):
        if hasattr(module, "unload_and_optionally_merge_module"):
            trained = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
            model.set_submodule(path, trained)
    return model


def _is_unused(key: str, name: str) -> bool:
    """Return whether a tensor changes no output of a class without a head: the pooler of an encoder."""
    return "pooler" in key and name in ("AutoModel", "AutoModelForTokenClassification", "AutoModelForQuestionAnswering")


def _compare_names(loaded: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise ScriptError for a tensor of the adapter's file that the model did not take, or that it lacks."""
    if lost := sorted(set(stored) - set(loaded)):
        raise ScriptError(f"the adapter has {lost[0]}, which its base model has no use for: is it of another model?")
    if missing := sorted(set(loaded) - set(stored)):
        raise ScriptError(f"the adapter lacks {missing[0]}, which its {ADAPTER_CONFIG} asks for")


def _outputs(model: Any) -> list[Any]:
    """Return what a model computes for a few token ids, alone and padded."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary // 8, vocabulary, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=mask)
    return [value[mask.bool()] if value.dim() > 2 else value for value in output.to_tuple()]


def _compare_outputs(kind: str, expected: list[Any], actual: list[Any]) -> None:
    for before, after in zip(expected, actual, strict=True):
        difference = float((before - after).abs().max() / before.abs().max().clamp(min=1e-6))
        if not difference <= TOLERANCE:
            raise ScriptError(
                f"the adapter is of the kind {kind}, and merged it answers differently ({difference:.1g} of the "
                "largest output): it depends on more than weights, and is not served"
            )
