#!/usr/bin/env bash
# Surprise: a long text is cut at model_max_length of tokenizer_config.json, whatever tokenizer.json and
#   sentence_bert_config.json say: the vector of a long text differs from that of sentence-transformers.
# Versions: fastembed 0.9.1, onnxruntime 1.32.0, tokenizers 0.23.3.
# Users: common models carry two or three different limits. Compare a long text with the original library, and set
#   model_max_length to max_seq_length in the folder that you serve.
# Source: the tokenizer is loaded from tokenizer.json, and truncation is then set anew from tokenizer_config.json.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'fastembed==0.9.1' 'onnx==1.23.2' 'numpy==2.4.6' 'tokenizers==0.23.3' 'onnxruntime==1.32.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import fastembed
import numpy as np
import onnx
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

print("fastembed", fastembed.__version__)
print("guess: the smallest limit holds, or that of sentence_bert_config.json as in sentence-transformers")
Path("model").mkdir()
tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "first": 2, "last": 3}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.enable_truncation(4)
tokenizer.save("model/tokenizer.json")
files = {
    "tokenizer_config.json": {"model_max_length": 16, "pad_token": "[PAD]"},
    "sentence_bert_config.json": {"max_seq_length": 8},
    "special_tokens_map.json": {"pad_token": "[PAD]", "unk_token": "[UNK]"},
    "config.json": {"pad_token_id": 0},
}
for name, content in files.items():
    Path("model", name).write_text(json.dumps(content))
table = np.eye(4, dtype=np.float32)
graph = helper.make_graph(
    [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
    "lookup",
    [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("input_ids", "attention_mask")],
    [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", 4])],
    [numpy_helper.from_array(table, "table")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "model/model.onnx")
settings = {"pooling": PoolingType.MEAN, "normalization": False, "sources": ModelSource(hf="own/model"), "dim": 4}
TextEmbedding.add_custom_model(model="own/model", model_file="model.onnx", **settings)
text = "first first first first last last last last last last last last last last last last last last last last"
(vector,) = TextEmbedding("own/model", specific_model_path="model").embed([text])
read = 4 / float(vector[2])  # the share of "first" tells how many tokens were read
print("seen: limits 4 (tokenizer.json), 8 (sentence_bert_config.json), 16 (tokenizer_config.json); tokens read:", read)
assert read == 16
PYTHON
