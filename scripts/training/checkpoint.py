"""Loading of a pretrained encoder with a new head for the task; other models are refused.

Imports torch and transformers, which takes seconds: run.py imports this module late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto as auto

from handler.archive import sha256
from handler.engine.checkpoint import require_complete
from handler.engine.config_problems import load_config, unknown_value
from handler.errors import ModelMismatch
from handler.python_tokenizer import name_of
from handler.tokenization import as_in_file, has_type_ids, load_tokenizer
from handler.tokenizer_files import check_vocabulary
from handler.weight_files import tensor_names
from scripts.cli.console import ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.provenance import Provenance
from scripts.pretrained.source import ModelSource, open_model
from scripts.training import lora
from scripts.training.settings import TrainingSettings
from scripts.training.tasks.base import TrainingTask


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained encoder with a new head for the labels, its tokenizer, hashes and origins."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: dict[str, str]
    commit: str | None
    provenance: Provenance

    @property
    def max_length(self) -> int:
        """The most tokens that the model takes. RoBERTa's table of positions starts behind its padding index."""
        modules = [module for name, module in self.model.named_modules() if name.endswith("position_embeddings")]
        tables = [module for module in modules if hasattr(module, "num_embeddings")]
        sizes = [t.num_embeddings - (0 if t.padding_idx is None else t.padding_idx + 1) for t in tables]
        return int(min([self.tokenizer.model_max_length, *sizes]))


def load(settings: TrainingSettings, task: TrainingTask[Any]) -> Checkpoint:
    """Load an encoder and its tokenizer; the head starts at random, from the seed."""
    with open_model(ModelRequest.of(settings)) as source:
        return read(settings, task, source)


def read(settings: TrainingSettings, task: TrainingTask[Any], source: ModelSource) -> Checkpoint:
    """Read an encoder and its tokenizer from a folder."""
    name, folder = settings.model, source.folder
    try:
        config = load_config(folder)
        require_encoder(name, config)
        require_head(settings, task, config)
        tokenizer: Any = load_tokenizer(folder)
        tensor_names(folder)  # names a file of weights that cannot be read
        transformers.set_seed(settings.seed)
        model, report = getattr(transformers, task.auto_class).from_pretrained(
            folder,
            **task.head_config(),
            local_files_only=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
        require_complete(model, report, needs_pooler=False, is_head_new=True)
        tokenizer = as_in_file(folder / "tokenizer.json", tokenizer)  # as it will be served
        if has_type_ids(tokenizer, config):
            tokenizer.model_input_names = list(dict.fromkeys([*tokenizer.model_input_names, "token_type_ids"]))
        check_vocabulary(folder, name_of(tokenizer), tokenizer.get_vocab().keys())
        require_numbers(model)
    except KeyError as error:
        raise ScriptError(f"model {name}: {unknown_value(config, error)}") from None
    except (OSError, ValueError, ModelMismatch) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ScriptError(f"model {name}: {reason}") from None
    if len(tokenizer) > config.vocab_size:
        raise ScriptError(
            f"model {name}: {len(tokenizer)} tokens, but embeddings for {config.vocab_size} only: call "
            "model.resize_token_embeddings(len(tokenizer)) and save model and tokenizer"
        )
    if task.needs_mask_token and tokenizer.mask_token_id is None:
        problem = f"--problem {settings.problem}"
        raise ScriptError(f"model {name}: its tokenizer has no mask token, which {problem} needs: take another model")
    if settings.peft:
        if any(origin.role == "adapter" for origin in source.provenance.origins):
            raise ScriptError(f"model {name}: it is an adapter itself, and --peft needs a whole model: merge it first")
        model = lora.wrap(settings, model, task.auto_class, report["missing_keys"], source.commit)
    digests = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(model, tokenizer, digests, source.commit, source.provenance)


def require_numbers(model: torch.nn.Module) -> None:
    """Refuse weights that hold NaN or infinity, as a training that diverged leaves them."""
    for name, weights in model.named_parameters():
        if weights.numel() and not torch.stack(torch.aminmax(weights.detach())).isfinite().all():
            raise ModelMismatch(f"{name} holds values that are not numbers (NaN or infinite): take other weights")


def require_encoder(name: str, config: PretrainedConfig) -> None:
    """Refuse a model without heads for masked words and classification: decoders, sequence-to-sequence, vision."""
    kind = config.model_type
    has_mlm_head = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    has_classifier = kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if not (has_mlm_head and has_classifier) or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise ScriptError(f"model {name}: a {kind} is no text encoder; take a BERT, RoBERTa, ELECTRA, DistilBERT, ...")


def require_head(settings: TrainingSettings, task: TrainingTask[Any], config: PretrainedConfig) -> None:
    """Refuse a family of models that has no head for the task."""
    heads = getattr(transformers, task.head_class or task.auto_class)._model_mapping
    if type(config) not in heads:
        raise ScriptError(f"model {settings.model}: a {config.model_type} has no head for --problem {settings.problem}")
