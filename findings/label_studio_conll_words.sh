#!/usr/bin/env bash
# Surprise: the CoNLL export of Label Studio's converter labels whole words even where part of one was marked (of unspaced
#   Chinese a whole clause), drops the inner of two nested labels, and writes a text once for each annotator, with
#   contradicting tags.
# Versions: label-studio-sdk 2.1.2.
# Users: train from the JSON export, whose spans are exact, and decide there which annotation counts.
# Source: the converter splits text into words at blanks and punctuation and gives a word the first label that touches it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'label-studio-sdk==2.1.2'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version

from label_studio_sdk.converter import Converter

print("label-studio-sdk", version("label-studio-sdk"))
print("guess: characters that nobody marked are O, and each text stands in the file once")
config = """<View><Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/></Labels>
<Text name="text" value="$text"/></View>"""


def export(text: str, *annotations: list[tuple[int, int, str]]) -> str:
    results = [
        [
            {
                "id": f"{number}-{start}",
                "from_name": "label",
                "to_name": "text",
                "type": "labels",
                "value": {"start": start, "end": end, "text": text[start:end], "labels": [label]},
            }
            for start, end, label in spans
        ]
        for number, spans in enumerate(annotations)
    ]
    marked = [{"id": number, "completed_by": number, "result": result} for number, result in enumerate(results)]
    with open("tasks.json", "w") as stream:
        json.dump([{"id": 1, "data": {"text": text}, "annotations": marked}], stream)
    Converter(config, ".").convert_to_conll2003("tasks.json", "out", is_dir=False)
    with open("out/result.conll", encoding="utf-8") as stream:
        lines = stream.read().split("\n")[1:]
    return " ".join(" ".join(line.split(" -X- _ ")) if line else "|" for line in lines).strip("| ")


seen = {
    "part of a word": export("pre-Rome visit", [(4, 8, "LOC")]),
    "Chinese": export("他在東京工作", [(2, 4, "LOC")]),
    "nested": export("New York City", [(0, 13, "LOC"), (4, 8, "PER")]),
    "two annotators": export("Ann", [(0, 3, "PER")], []),
}
for name, tags in seen.items():
    print("seen:", name, "->", tags)
assert seen["part of a word"] == "pre-Rome B-LOC visit O" and seen["Chinese"] == "他在東京工作 B-LOC"
assert seen["nested"] == "New B-LOC York I-LOC City I-LOC" and seen["two annotators"] == "Ann B-PER | Ann O"
PYTHON
