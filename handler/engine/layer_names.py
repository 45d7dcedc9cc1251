"""What the files of each family call the weights of a layer: fields of a layer -> names, after that of the layer."""

from __future__ import annotations

from handler.engine.stored_weights import Rows

BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
DISTILBERT_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
MPNET_LAYER = BERT_LAYER | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "attention_output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}


def _combined(name: str, *fields: str) -> dict[str, str | Rows]:
    """Return where one tensor has the weights of several linear layers, in this order."""
    return {field: Rows(name, part, len(fields)) for part, field in enumerate(fields)}


QKV = ("query", "key", "value")
MODERNBERT_LAYER: dict[str, str | Rows] = {
    **_combined("attn.Wqkv", *QKV),
    "attention_output": "attn.Wo",
    "attention_norm": "attn_norm",
    **_combined("mlp.Wi", "gate", "intermediate"),
    "output": "mlp.Wo",
    "output_norm": "mlp_norm",
}
# transformers has other names of the following in memory, and writes these into files.
GTE_LAYER: dict[str, str | Rows] = {
    **_combined("attention.qkv_proj", *QKV),
    "attention_output": "attention.o_proj",
    "attention_norm": "attn_ln",
    **_combined("mlp.up_gate_proj", "intermediate", "gate"),
    "output": "mlp.down_proj",
    "output_norm": "mlp_ln",
}
NOMIC_LAYER: dict[str, str | Rows] = {
    **_combined("attn.Wqkv", *QKV),
    "attention_output": "attn.out_proj",
    "attention_norm": "norm1",
    "intermediate": "mlp.fc11",
    "gate": "mlp.fc12",
    "output": "mlp.fc2",
    "output_norm": "norm2",
}
JINA_LAYER: dict[str, str | Rows] = {
    **_combined("mixer.Wqkv", *QKV),
    "attention_output": "mixer.out_proj",
    "attention_norm": "norm1",
    "intermediate": "mlp.fc1",
    "output": "mlp.fc2",
    "output_norm": "norm2",
}
