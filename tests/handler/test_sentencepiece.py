"""Folders whose tokenizer is a sentencepiece model alone: the tokens are those of the sentencepiece package."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer as Backend

from handler.config import ModelConfig, ServingConfig
from handler.engine.config_problems import read_config
from handler.tokenization import Tokenizer
from scripts.archives.build import ArchiveContents, build
from tests.support.samples import TEXTS
from tests.support.tokenizers import NAMES

FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
DEBERTA_PIECES = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"}
# Family: its file, how its models are trained, settings of its config, and the id of a piece from that of the package.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], Any]] = {
    "XLMRoberta": ("sentencepiece.bpe.model", FAIRSEQ, {"pad_token_id": 1}, lambda i: i + 1 if i else 3),
    "Camembert": ("sentencepiece.bpe.model", FAIRSEQ, {"pad_token_id": 1}, lambda i: i + 4 if i else 3),
    "Albert": ("spiece.model", ALBERT, {"embedding_size": 32}, lambda i: i),
    "DebertaV2": ("spm.model", DEBERTA | DEBERTA_PIECES, {"type_vocab_size": 0}, lambda i: i),
}
ODD = ["ﬁnance，Ａ１ ①", "two  blanks\tand\na line", "unknown 🦊 here"]


def make_folder(family: str, root: Path) -> tuple[Path, sentencepiece.SentencePieceProcessor]:
    """Make a small classifier whose tokenizer is a model of sentencepiece."""
    file, training, settings, _ = FAMILIES[family]
    corpus, folder = root / "corpus.txt", root / "model"
    corpus.write_text("\n".join([*TEXTS, *NAMES, *map(str.lower, TEXTS)]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(root / "p"),
        vocab_size=250,
        hard_vocab_limit=False,
        minloglevel=2,
        **training,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(root / "p.model"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=pieces.get_piece_size() + 8, **sizes, **settings)
    getattr(transformers, f"{family}ForSequenceClassification")(config).save_pretrained(folder)
    (root / "p.model").rename(folder / file)
    return folder, pieces


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # in the module of DeBERTa
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_sentencepiece(family: str, tmp_path: Path) -> None:
    """Character map included; ALBERT reads lower case. The archive holds the same tokenizer as tokenizer.json."""
    folder, pieces = make_folder(family, tmp_path)
    tokenizer = Tokenizer(folder, read_config(folder), ServingConfig())
    to_id = FAMILIES[family][3]
    for text in [*TEXTS, *ODD]:
        plain = text.lower() if family == "Albert" else text
        if family == "Albert" and not plain.isascii():
            continue  # it drops accents, which the package does not know of
        expected = [to_id(piece) for piece in pieces.encode(plain)]
        assert tokenizer.text_to_ids(text) == expected, text
    if family == "DebertaV2":
        packed = build(ArchiveContents(folder, "pieces", "1.0", ModelConfig()), tmp_path)
        with zipfile.ZipFile(packed) as archive:
            name = next(name for name in archive.namelist() if name.endswith("tokenizer.json"))
            backend = Backend.from_str(archive.read(name).decode())
        assert backend.encode(ODD[0], add_special_tokens=False).ids == tokenizer.text_to_ids(ODD[0])
