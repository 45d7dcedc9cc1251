"""A tiny random model of every encoder that transformers has, and what the engine makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers
from numpy.typing import NDArray
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from handler.batching import Batch
from handler.config import ServingConfig
from handler.engine.encoder import PackedEncoder
from handler.engine.families import encoder_of, unsupported_reason
from handler.engine.probe import random_encodings
from handler.engine.torch_engine import TorchEngine
from handler.errors import ModelMismatch
from handler.tasks import Pooler, RaggedOutput
from tests.support.encodings import outputs_of

WITH_CLASSIFIER = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
WITH_MASKED_WORDS = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
DECODERS = {*modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "mistral4"} - {*WITH_MASKED_WORDS}

LENGTHS = (3, 40, 20, 7, 20, 33)
SMALL = {  # names of settings in any of the configs -> values
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 64,
    "emb_dim": 32,
    "d_model": 32,
    "d_inner": 64,
    "n_head": 4,
    "d_head": 8,
    "head_dim": 8,
    "embedding_size": 16,
    "input_embedding_size": 24,
    "output_embedding_size": 24,
    "initializer_range": 0.15,
    "max_position_embeddings": 80,
    "num_labels": 3,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 2,
    "local_attention": 10,
}
OWN: dict[str, dict[str, Any]] = {  # further settings of single families
    "albert": {"num_hidden_groups": 1},
    "big_bird": {"attention_type": "original_full"},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {  # as those of v3
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_buckets": 8,
        "max_relative_positions": -1,
    },
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 3},
    "eurobert": {"num_key_value_heads": 2, "classifier_pooling": "late"},
    "flaubert": {"embedding_size": 32},
    "funnel": {"block_sizes": [1, 1], "max_position_embeddings": None, "num_hidden_layers": None},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": {"classifier_pooling": "mean"},
    "reformer": {
        "axial_pos_shape": [8, 10],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh", "local"],
        "feed_forward_size": 64,
        "attention_head_size": 8,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "is_decoder": False,
    },
    "squeezebert": {"embedding_size": 32},
    "ultrabert": {"sliding_window": 5, "num_key_value_heads": 2},
    "xmod": {"languages": ["en"], "default_language": "en"},
}
PADDED = {  # why a family is not computed unpadded
    "flaubert": "its attention takes a mask alone, and its layers are in no module of their own",
    "ibert": "it computes with integers of its own",
    "longformer": "its attention is cut into chunks of a padded batch",
    "luke": "its attention takes words and entities apart",
    "mobilebert": "its layers are narrower inside, with norms of their own",
    "mra": "its attention is approximated in blocks of a padded batch",
    "squeezebert": "its layers are convolutions over a padded batch",
    "xlm": "its attention takes a mask alone, and its layers are in no module of their own",
}


class FirstLogits(Pooler):
    """The logits of a classifier."""

    def token_positions(self, _: Any) -> Sequence[int]:
        return (0,)

    def pool(self, output: Any, batch: Batch) -> RaggedOutput:
        return RaggedOutput(output["logits"], (1,) * len(batch.seq_lens))


class TokenLogits(Pooler):
    """The logits of every token."""

    def pool(self, output: Any, batch: Batch) -> RaggedOutput:
        return RaggedOutput(batch.tokens(output["logits"]), batch.counts)


class Row(NamedTuple):
    """What the engine makes of one encoder."""

    model_type: str
    computed: str  # unpadded, padded or refused
    layers: str  # whose
    reason: str
    outputs: list[NDArray[Any]]  # of the engine
    expected: list[NDArray[Any]]  # of transformers, of each sequence alone


def encoder_types() -> list[str]:
    """Return the model types of transformers that are encoders and have a head for classes or masked words."""
    types = sorted(({*WITH_MASKED_WORDS} | {*WITH_CLASSIFIER}) - DECODERS)
    return [name for name in types if not getattr(CONFIG_MAPPING[name](), "is_encoder_decoder", False)]


def small_config(model_type: str) -> PretrainedConfig:
    """Return the config of a tiny model, or of a usual one if its type is refused."""
    config_class: Any = CONFIG_MAPPING[model_type]
    usual: PretrainedConfig = config_class()
    if unsupported_reason(usual) and model_type != "big_bird":
        return usual
    settings = {
        name: value for name, value in SMALL.items() if name in config_class.attribute_map or hasattr(usual, name)
    }
    settings |= OWN.get(model_type, {})
    config: PretrainedConfig = config_class(**{name: value for name, value in settings.items() if value is not None})
    return config


def small_model(config: PretrainedConfig) -> tuple[PreTrainedModel, Pooler]:
    """Return a random model, and the pooler of its head."""
    has_classifier = config.model_type in WITH_CLASSIFIER
    names: Any = (WITH_CLASSIFIER if has_classifier else WITH_MASKED_WORDS)[config.model_type]
    torch.manual_seed(0)
    model = getattr(transformers, names)(config).eval()
    return model, FirstLogits() if has_classifier else TokenLogits()


@torch.inference_mode()
def measure(model_type: str) -> Row:
    """Load a tiny model into the engine, and compute a batch with it and with transformers."""
    config = small_config(model_type)
    if reason := unsupported_reason(config):
        return Row(model_type, "refused", "", reason, [], [])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of modules of transformers
        model, pooler = small_model(config)
        sequences = random_encodings(config, LENGTHS)
        expected = []
        try:
            for sequence in sequences:
                ids = torch.tensor([sequence.ids])
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
                expected.append(logits.reshape(-1, logits.shape[-1]).clone().numpy())
            engine = TorchEngine(
                model, pooler, ServingConfig(precision="fp32"), pad_id=getattr(config, "pad_token_id", 0) or 0
            )
        except ModelMismatch as error:
            return Row(model_type, "refused", "", str(error).removeprefix(f"{type(model).__name__} "), [], [])
        outputs = outputs_of(engine, pooler, sequences)
    is_own = isinstance(encoder_of(engine.model.base_model), PackedEncoder)
    layers = "handler" if is_own else "transformers"
    if not engine.packed:
        return Row(model_type, "padded", layers, PADDED.get(model_type, ""), outputs, expected)
    return Row(model_type, "unpadded", layers, "", outputs, expected)


def table(rows: Sequence[Row]) -> str:
    """Return the table of docs/encoders.md."""
    lines = ["| `model_type` | computed | layers of | why |", "|---|---|---|---|"]
    lines += [f"| {row.model_type} | {row.computed} | {row.layers} | {row.reason} |" for row in rows]
    return "\n".join(lines) + "\n"
