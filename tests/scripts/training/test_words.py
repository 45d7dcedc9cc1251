"""Words of every script: a tagger that is always right reaches F1 1.0, whatever the tokenizer drops."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from handler.tag_scheme import SCHEMES, TagScheme
from scripts.readers import tables
from scripts.readers.tables import ColumnMapping
from scripts.training.tasks.base import IGNORE_INDEX, Examples, TokenLimits
from scripts.training.tasks.conll import WORD, TaggedText
from scripts.training.tasks.token_classification import EntityRecognition
from tests.support.training import write

COLUMNS = ColumnMapping("text", None, ("entities",))
SPANS = {  # a text, its entities, and how many words it has
    "Latin, decomposed": (unicodedata.normalize("NFD", "Zoë Müller met José."), ["Zoë Müller", "José"], 5),
    "Turkish, decomposed": (unicodedata.normalize("NFD", "Bugün İZMİR güzel"), ["İZMİR"], 3),
    "Hindi": ("कल दिल्ली में मोहन मिले।", ["दिल्ली", "मोहन"], 6),
    "Hebrew, pointed": ("פָּגַשְׁתִּי אֶת דָּוִד בִּירוּשָׁלַיִם", ["דָּוִד", "בִּירוּשָׁלַיִם"], 4),
    "Arabic, pointed": ("زَارَ مُحَمَّدٌ القَاهِرَةَ", ["مُحَمَّدٌ", "القَاهِرَةَ"], 3),
    "Persian, joiner": ("او می\u200cرود تهران", ["می\u200cرود", "تهران"], 3),
    "Thai": ("กรุงเทพ เมืองใหญ่", ["กรุงเทพ"], 2),
    "Chinese": ("我们在北京见面。", ["北京"], 8),
    "emoji": ("👩‍🚀 Ann ❤️ Rome", ["Ann", "❤️ Rome"], 4),
    "zero width": ("\u200bAnn \u200b Bo\u00adb", ["\u200bAnn", "Bo\u00adb"], 4),
    "inside a word": ("unhappy Ann", ["un", "Ann"], 3),
}


def tokenizer_of(kind: str, texts: list[str]) -> Any:
    """Return a tokenizer with the vocabulary of some texts: WordPiece as in BERT, or bytes as in RoBERTa."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
        backend = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        normalizer = normalizers.BertNormalizer(lowercase=kind == "uncased", strip_accents=kind == "uncased")
        characters = sorted({character for text in texts for character in normalizer.normalize_str(text)})
        vocabulary = {
            token: index for index, token in enumerate([*special, *characters, *(f"##{c}" for c in characters)])
        }
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512)


def perfect_f1(task: EntityRecognition, examples: Examples[TaggedText], tokenizer: Any) -> float:
    """Return the F1 of outputs that are the labels themselves."""
    encoded = task.encode(examples, tokenizer, TokenLimits(16), training=False)
    labels = [feature["labels"] for feature in encoded.features]
    outputs = np.zeros((len(labels), max(map(len, labels))), dtype=int)
    for row, window in zip(outputs, labels, strict=True):
        row[: len(window)] = [0 if label == IGNORE_INDEX else label for label in window]
    return encoded.compute_metrics(outputs)["f1"]


@pytest.mark.parametrize("kind", ["uncased", "cased", "bytes"])
@pytest.mark.parametrize("script", SPANS)
def test_a_perfect_model_is_perfect(script: str, kind: str, tmp_path: Path) -> None:
    text, names, n_words = SPANS[script]
    names = [unicodedata.normalize("NFD", name) if "decomposed" in script else name for name in names]
    entities = [{"start": text.index(n), "end": text.index(n) + len(n), "label": f"T{i}"} for i, n in enumerate(names)]
    table = tables.read(write(tmp_path / "a.jsonl", [{"text": text, "entities": entities}]), EntityRecognition.readers)
    task = EntityRecognition.from_table(table, COLUMNS)
    examples = task.examples(table)
    assert len(examples.rows[0].words) == n_words
    assert perfect_f1(task, examples, tokenizer_of(kind, [text])) == 1.0


def test_words_are_whole_graphemes() -> None:
    for text, _, _ in SPANS.values():
        for word in WORD.findall(text):
            assert not unicodedata.category(word[0]).startswith("M"), ascii(word)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: str(scheme.name))
def test_tags_of_words_without_a_token(scheme: TagScheme) -> None:
    """The tags of a CoNLL file keep their scheme when the first, the last or a word between has no token."""
    task = EntityRecognition(scheme, {"X"}, COLUMNS)
    for visible, lengths in {(1, 2, 4): (2, 1), (0, 1, 4): (2, 1), (0, 2, 4): (2, 1), (4,): (3, 1)}.items():
        first, second = scheme.span_tags("X", 3), scheme.span_tags("X", 1)
        kept = task.visible_tags([*first, "O", *second], set(visible))
        tags = list(kept.values())
        assert scheme.first_invalid(tags) is None
        assert tags[: lengths[0]] == scheme.span_tags("X", lengths[0])
        assert tags[lengths[0] :] == scheme.span_tags("X", 1, tags[lengths[0] - 1])
    encoding_is_missed = task.visible_tags(scheme.span_tags("X", 2), set())
    assert len(encoding_is_missed) == 2
