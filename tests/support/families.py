"""Small models of every family of transformers that is tested, and what transformers computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from handler.sequences import Encoding
from tests.support.samples import MakeModel

FAIRSEQ = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 80}
FAMILIES: dict[str, dict[str, Any]] = {  # settings of the families that run packed
    "Bert": {},
    "Roberta": FAIRSEQ,
    "XLMRoberta": FAIRSEQ,
    "Camembert": FAIRSEQ,
    "Electra": {"embedding_size": 32},
    "Albert": {"embedding_size": 32},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
}
PADDED_FAMILIES: dict[str, dict[str, Any]] = {"SqueezeBert": {"embedding_size": 32}}
OWN_ENCODER_FAMILIES = [name for name in FAMILIES if name != "Albert"]
# Beside BERT's: a window and rotary positions, gates, a bias for each distance, and products with distances.
LATER_FAMILIES: dict[str, dict[str, Any]] = {
    "ModernBert": {"local_attention": 10, "num_hidden_layers": 3, "pad_token_id": 0},
    "NomicBert": {},
    "EuroBert": {"num_key_value_heads": 2, "classifier_pooling": "mean", "pad_token_id": 0},
    "MPNet": FAIRSEQ,
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
}
# Families with int8, beside those of BERT's own layers.
LATER_INT8_FAMILIES: dict[str, dict[str, Any]] = {
    **{name: settings for name, settings in LATER_FAMILIES.items() if name != "DebertaV2"},
    "Gte": {},
    "JinaEmbeddingsV3": FAIRSEQ,
    "RoFormer": {},
    "MegatronBert": {},
}
INT8_REFUSED = {  # families without int8 -> settings, and the reason
    "Albert": (FAMILIES["Albert"], "its layers share their weights"),
    "RemBert": ({"input_embedding_size": 24, "output_embedding_size": 24}, "its embeddings are projected"),
    "DebertaV2": (LATER_FAMILIES["DebertaV2"], "multiplies queries and keys with distances"),
}


def make_family(name: str, settings: dict[str, Any], make_model: MakeModel) -> Path:
    """Make a classifier of a family."""
    return make_model(
        architecture=getattr(transformers, f"{name}ForSequenceClassification"),
        config_class=getattr(transformers, f"{name}Config"),
        **settings,
    )


def reference_logits(folder: Path, sequences: list[Encoding]) -> NDArray[Any]:
    """Return what transformers computes for each sequence alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.concatenate([model(torch.tensor([sequence.ids])).logits.numpy() for sequence in sequences])
