"""What a model folder says beside its weights and its tokenizer: the config and the files of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from handler.sentence_modules import (
    Activation,
    EmbeddingModules,
    cross_encoder_activation,
    cross_encoder_modules,
    read_sentence_modules,
)
from handler.weight_files import fine_tuned_head, holds_a_head, tensor_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ModelFolder:
    """One model as its folder describes it."""

    config: PretrainedConfig
    embedding: EmbeddingModules = field(default_factory=EmbeddingModules)
    has_modules: bool = False  # whether `embedding` is that of a sentence-transformers folder
    activation: Activation | None = None  # over the logits of a CrossEncoder; None: it is none
    missing_head: str | None = None  # the class that config.json names although its head is not in the weights
    unnamed_head: str | None = None  # a tensor of a head of which config.json names no class, but that of its encoder

    @classmethod
    def read(cls, folder: Path, config: PretrainedConfig) -> ModelFolder:
        """Read a folder, given its config; of an encoder without a head the config then names no architecture.

        Raises:
            ModelMismatch: a file says something that would change answers and is not computed here,
                or weights that cannot be read.
        """
        architecture = next(iter(config.architectures or []), "")
        names = tensor_names(folder) if architecture else set()
        is_without_head = "For" in architecture and not holds_a_head(names)
        if is_without_head:
            config.architectures = []
        modules = read_sentence_modules(folder, config.hidden_size, config.vocab_size)
        activation = cross_encoder_activation(folder, config.to_dict(), config.num_labels or 0)
        return cls(
            config,
            modules or cross_encoder_modules(folder),
            modules is not None,
            activation,
            architecture if is_without_head else None,
            fine_tuned_head(names) if architecture.endswith("Model") and modules is None else None,
        )
