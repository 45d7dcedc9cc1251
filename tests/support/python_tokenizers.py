"""Folders whose tokenizer transformers has in Python alone, with small vocabularies and a small dictionary of MeCab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fugashi
import torch
import transformers

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
JAPANESE = [*BERT, "東京", "に", "行く", "人", "##間", "。", "a", "b", "##c", "カ", "##ナ", "ー"]
DICTIONARY = ["東京", "に", "行く", "人間", "カナ", "。"]
MERGES = ["h e", "l o</w>", "he l", "hel lo</w>", "@ U", "ü b", "u s</w>"]
PIECES = ["he@@", "l@@", "lo", "hello", "hel@@", "h@@", "e@@", "o", "@U@@", "@USER", "HTTPURL", "ch@@", "à@@", "us"]
PROTEINS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
SYLLABLES = [*SPECIAL, "the</w>", "a</w>", "th", "t", "h", "e</w>", "b"]
CHINESE = [*BERT, "今", "天", "天气", "气", "非常", "好", "。", "今天", "##天", "a", "b"]


def mecab_dictionary(folder: Path) -> dict[str, Any]:
    """Compile a dictionary of six words for MeCab; returns `mecab_kwargs` of a Japanese tokenizer."""
    folder.mkdir()
    files = {
        "dicrc": "cost-factor = 800\nbos-feature = BOS\neval-size = 1\nunk-eval-size = 1\nconfig-charset = UTF-8\n",
        "mecabrc": "",
        "matrix.def": "1 1\n0 0 0\n",
        "char.def": "DEFAULT 0 1 0\nSPACE 0 1 0\nALPHA 1 1 0\n0x0020 SPACE\n0x0041..0x007A ALPHA\n",
        "unk.def": "".join(f"{kind},0,0,9000,x\n" for kind in ("DEFAULT", "SPACE", "ALPHA")),
        "lex.csv": "".join(f"{word},0,0,100,x\n" for word in DICTIONARY),
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    fugashi.build_dictionary(f"build -d {folder} -o {folder} -f utf-8 -t utf-8")
    return {"mecab_dic": None, "mecab_option": f'-d "{folder}" -r "{folder / "mecabrc"}"'}


def _counted(words: list[str]) -> str:
    return "".join(f"{word} 1\n" for word in words)


KINDS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {  # kind: architecture, tokenizer_config.json, files
    "japanese-mecab": (
        "Bert",
        {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab", "do_lower_case": True},
        {"vocab.txt": "\n".join(JAPANESE)},
    ),
    "japanese-characters": (
        "Bert",
        {"tokenizer_class": "BertJapaneseTokenizer", "subword_tokenizer_type": "character", "do_lower_case": False},
        {"vocab.txt": "\n".join(JAPANESE)},
    ),
    "bertweet": (
        "Roberta",
        {"tokenizer_class": "BertweetTokenizer", "normalization": True},
        {"vocab.txt": _counted(PIECES), "bpe.codes": _counted(MERGES)},
    ),
    "phobert": (
        "Roberta",
        {"tokenizer_class": "PhobertTokenizer"},
        {"vocab.txt": _counted(PIECES), "bpe.codes": _counted(MERGES)},
    ),
    "esm": ("Esm", {"tokenizer_class": "EsmTokenizer"}, {"vocab.txt": "\n".join(PROTEINS)}),
    "xlm": (
        "XLM",
        {"tokenizer_class": "XLMTokenizer", "do_lowercase_and_remove_accent": True},
        {
            "vocab.json": json.dumps({token: number for number, token in enumerate(SYLLABLES)}),
            "merges.txt": _counted(["t h", "th e</w>"]),
        },
    ),
    "roformer": (
        "RoFormer",
        {"tokenizer_class": "RoFormerTokenizer"},
        {"vocab.txt": "\n".join(CHINESE)},
    ),
}
SETTINGS: dict[str, dict[str, Any]] = {  # of each architecture's config
    "Roberta": {"pad_token_id": 1, "max_position_embeddings": 130},
    "Esm": {"pad_token_id": 1, "mask_token_id": 32, "position_embedding_type": "rotary", "token_dropout": True},
}


def make_folder(kind: str, folder: Path, head: str = "ForSequenceClassification") -> Path:
    """Make a small model whose tokenizer is of one of KINDS."""
    architecture, tokenizer, files = KINDS[kind]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if architecture == "XLM":
        sizes = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "pad_index": 2, "unk_index": 3, "mask_index": 5}
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    if head == "ForTokenClassification":
        names = {"id2label": {0: "O", 1: "B-X"}, "label2id": {"O": 0, "B-X": 1}}
    random = {"init_std": 0.3} if architecture == "XLM" else {"initializer_range": 0.3}
    torch.manual_seed(1)
    settings = sizes | names | random | SETTINGS.get(architecture, {})
    config = getattr(transformers, f"{architecture}Config")(vocab_size=40, **settings)
    getattr(transformers, architecture + head)(config).save_pretrained(folder)
    if kind == "japanese-mecab":
        tokenizer = tokenizer | {"mecab_kwargs": mecab_dictionary(folder / "dictionary")}
    for name, content in {**files, "tokenizer_config.json": json.dumps(tokenizer)}.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder
