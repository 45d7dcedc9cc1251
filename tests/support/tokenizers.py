"""Tokenizers of other kinds than BERT's, and texts that are difficult to tokenize."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.samples import BASE, TEXTS

N_FREQUENT = 5000  # of BERT's 30,522 tokens, which are sorted by frequency behind the special ones and the characters

NAMES = [
    "Anna Müller lives in Zürich",
    "İstanbul Işık Özgür",
    "मैं हिन्दी में प्रिया शर्मा",
    "Nguyễn Thị Hương",
    "김철수 서울",
    "office ﬁnance",
]

fast_tokenizer: Any = PreTrainedTokenizerFast  # untyped in transformers

DIFFICULT_TEXTS = [
    "Élodie Müller-Łukasz lives in São Paulo; naïve façade",
    "Anna und Bob aßen in Zürich, 北京大学 and Москва.",
    "שלום עולם, מה שלומך? مرحبا",
    "🙂🙂 hi 👍🏽 there 🇩🇪!",
    "  two  spaces   three\n\n\nlines\t tab ",
    "한국어 텍스트 と 日本語",
    "e\u0301te\u0301 \u200bzero\u200dwidth \ufeff bom \x00 nul",
    "[CLS] is not [SEP] nor [MASK] here",
    "x" * 150,
    "a.b.c@d-e_f/g",
]


def keep_frequent_words(file: Path) -> int:
    """Reduce BERT's vocabulary in tokenizer.json to its first tokens and all characters; return how many are left.

    Texts become known tokens as before, rare words more of them. Loading the whole vocabulary takes 0.1 s of the 0.12 s
    that loading a small predictor takes (2026-11-28).
    """
    state = json.loads(file.read_text(encoding="utf-8"))
    model = state["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    rare_characters = [token for token in tokens[N_FREQUENT:] if len(token.removeprefix("##")) == 1]
    kept = [*tokens[:N_FREQUENT], *rare_characters]
    model["vocab"] = {token: number for number, token in enumerate(kept)}
    file.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    return len(kept)


def byte_level_tokenizer() -> Any:
    """Train a byte-level BPE as the RoBERTa family has, on the sample texts."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    model.train_from_iterator(TEXTS, trainer)
    model.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    model.decoder = decoders.ByteLevel()
    return fast_tokenizer(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def generic_tokenizer() -> Any:
    """Return BERT's vocabulary without BERT's class: transformers then passes no segment ids to the model."""
    return fast_tokenizer(tokenizer_file=str(BASE / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]")


def cased_tokenizer() -> Any:
    """Train a WordPiece that keeps case and accents, on composed and decomposed names."""
    model = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    corpus = [unicodedata.normalize(form, text) for text in [*NAMES, *TEXTS] for form in ("NFC", "NFD")]
    model.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=700, special_tokens=special))
    model.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    model.decoder = decoders.WordPiece()
    return fast_tokenizer(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


def metaspace_tokenizer() -> Any:
    """Train a unigram model as DeBERTa v2 has: its tokens begin with the blank before a word."""
    model = Tokenizer(models.Unigram())
    blanks = normalizers.Replace(Regex(" {2,}"), " ")
    model.normalizer = normalizers.Sequence([normalizers.NFKC(), blanks])
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    corpus = [unicodedata.normalize("NFC", text) for text in [*NAMES, *TEXTS]]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="[UNK]")
    model.train_from_iterator(corpus, trainer)
    model.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    model.decoder = decoders.Metaspace()
    return fast_tokenizer(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")
