#!/usr/bin/env bash
# Surprise: start_index points elsewhere: with a length counted in tokens or words and an overlap, chunks get the index of a
#   later repetition of the same text, or -1, though each chunk is a piece of the text. Counted in characters it is right.
# Versions: langchain-text-splitters 1.1.3.
# Users: before citing or highlighting by start_index compare text[start:start + len(chunk)] with the chunk, or count in
#   characters; from_huggingface_tokenizer and from_tiktoken_encoder count in tokens.
# Source: a chunk is looked for from the end of the one before it, less the overlap, which is taken for characters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'langchain-text-splitters==1.1.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from langchain_text_splitters import RecursiveCharacterTextSplitter

print("langchain-text-splitters", version("langchain-text-splitters"))
print("guess: text[start_index:] begins with the chunk, or start_index is missing")
text = "alpha beta gamma delta. epsilon zeta eta theta. " * 3 + "iota kappa lambda mu nu xi omicron pi rho sigma tau."


def starts(**options) -> list[tuple[int, bool]]:
    """Return start_index of each chunk, and whether the chunk stands there."""
    splitter = RecursiveCharacterTextSplitter(add_start_index=True, **options)
    found = [(document.metadata["start_index"], document.page_content) for document in splitter.create_documents([text])]
    assert all(chunk in text for _, chunk in found)
    return [(start, start >= 0 and text[start:].startswith(chunk)) for start, chunk in found]


words = starts(chunk_size=6, chunk_overlap=2, length_function=lambda piece: len(piece.split()))
characters = starts(chunk_size=30, chunk_overlap=10)
print("seen: counted in words", words)
print("      in characters", [start for start, _ in characters])
assert sum(start == -1 for start, _ in words) >= 3 and words[1][0] == 72 and all(right for _, right in characters)
assert text.find("epsilon zeta eta theta. alpha beta") == 24
PYTHON
