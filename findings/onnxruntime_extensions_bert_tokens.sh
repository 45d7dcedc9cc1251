#!/usr/bin/env bash
# Surprise: the BERT tokenizer that gen_processing_models makes differs from the original in ordinary text: accents stay,
#   Greek capitals stay, a word with one unknown letter keeps its known beginning, "[MASK]" is three words.
# Versions: onnxruntime-extensions 0.15.2, onnxruntime 1.32.0, transformers 5.20.0.
# Users: use it only for plain English without special tokens, or compare ids over your own texts first.
# Source: lowering covers Latin letters and accents are kept; the original turns a word into one [UNK] when any part of it is unknown.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnxruntime-extensions==0.15.2' 'onnxruntime==1.32.0' 'onnx==1.23.2' 'transformers==5.20.0' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnxruntime
import transformers
from onnxruntime_extensions import gen_processing_models, get_library_path
from transformers import BertTokenizer

print("onnxruntime-extensions", version("onnxruntime-extensions"), "transformers", transformers.__version__)
print("guess: the graph made from a tokenizer gives its ids")
letters = "abcdefghijklmnopqrstuvwxyz"
names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters), *"éα[]", "##é", "##α"]
tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(names)})
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(get_library_path())
graph = gen_processing_models(tokenizer, pre_kwargs={})[0]
session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
seen = {}
for text in ("cat", "Fée", "Αα", "aßa", "[MASK]"):
    original = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[1:-1]
    ids = session.run(["input_ids"], {session.get_inputs()[0].name: np.array([text], dtype=object)})[0]
    seen[text] = (original, tokenizer.convert_ids_to_tokens(ids.reshape(-1).tolist())[1:-1])
for text, pair in seen.items():
    print("seen:", text, "transformers", pair[0], "graph", pair[1])
assert seen["cat"][0] == seen["cat"][1] == ["c", "##a", "##t"]
assert seen["Fée"] == (["f", "##e", "##e"], ["f", "##é", "##e"])
assert seen["Αα"] == (["α", "##α"], ["[UNK]"]) and seen["aßa"] == (["[UNK]"], ["a", "[UNK]"])
assert seen["[MASK]"] == (["[MASK]"], ["[", "m", "##a", "##s", "##k", "]"])
PYTHON
