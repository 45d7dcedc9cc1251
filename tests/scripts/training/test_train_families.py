"""Training of other head_class: tokens of bytes, no segments, and heads that have other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from handler.tag_scheme import IOB2
from scripts.readers.tables import ColumnMapping
from scripts.training.tasks.base import Examples, TokenLimits
from scripts.training.tasks.conll import TaggedText
from scripts.training.tasks.question_answering import AnswerExtraction, QuestionExample
from scripts.training.tasks.token_classification import EntityRecognition
from tests.support.training import Row, fit, write

pytestmark = pytest.mark.slow

LINES = [f"we met Zoë Müller in {place} today, number {n}." for n in range(12) for place in ("Rome", "New York")]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RoBERTa with a tokenizer of bytes that was trained on the lines."""
    folder = tmp_path_factory.mktemp("models") / "roberta"
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    generic: Any = transformers.PreTrainedTokenizerFast
    options = {"cls_token": "<s>", "sep_token": "</s>", "model_max_length": 48}
    options["model_input_names"] = ["input_ids", "attention_mask"]
    generic(tokenizer_object=tokenizer, **names, **options).save_pretrained(folder)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer.get_vocab()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=50,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model: Any = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return folder


def entity(line: str) -> Row:
    """Return a line with its two spans."""
    spans = [
        (name, kind) for name, kind in (("Zoë Müller", "PER"), ("Rome", "LOC"), ("New York", "LOC")) if name in line
    ]
    entities = [{"start": line.index(name), "end": line.index(name) + len(name), "label": kind} for name, kind in spans]
    return {"text": line, "entities": entities}


def answerable(line: str) -> Row:
    """Return a question about a line."""
    answers = {"text": ["Zoë Müller"], "answer_start": [line.index("Zoë")]}
    return {"question": "who?", "context": line, "answers": answers}


def test_every_kind_of_head(roberta: Path, tmp_path: Path) -> None:
    files = {
        "entities": write(tmp_path / "entities.jsonl", [entity(line) for line in LINES]),
        "answers": write(tmp_path / "answers.jsonl", [answerable(line) for line in LINES]),
    }
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    files["masked-words"] = tmp_path / "lines.txt"
    heads: dict[str, Any] = {
        "entities": transformers.RobertaForTokenClassification,
        "answers": transformers.RobertaForQuestionAnswering,
        "masked-words": transformers.RobertaForMaskedLM,
    }
    for task, file in files.items():
        options = ("--train", file, "--problem", task, "--epochs", 2, "--validation-split", 0.2)
        record = fit(roberta, tmp_path / task, *options)
        assert record["problem"] == task
        config = json.loads((tmp_path / task / "config.json").read_text())
        assert config["architectures"] == [heads[task].__name__]
        _, report = heads[task].from_pretrained(tmp_path / task, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["mismatched_keys"]


def test_spans_are_characters_whatever_the_tokens_are(roberta: Path) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(roberta)
    line = LINES[1]
    start = line.index("Zoë")
    names = [(start, start + 3), (start + 4, start + 10)]
    entities = EntityRecognition(IOB2, {"PER"}, ColumnMapping("text", None, ("entities",)))
    tagged = Examples("x", "", [TaggedText(line, names, ["B-PER", "I-PER"])])
    (feature,) = entities.encode(tagged, tokenizer, TokenLimits(48), training=True).features
    first = {label: position for position, label in enumerate(feature["labels"]) if label != -100}
    offsets = tokenizer(line, return_offsets_mapping=True)["offset_mapping"]
    assert [line[offsets[first[label]][0]] for label in (1, 2)] == ["Z", "M"]
    questions = Examples("x", "", [QuestionExample("who?", line, [(start, "Zoë Müller")])])
    limits = TokenLimits(48, 8, 8, 20)
    encoded = AnswerExtraction((), ColumnMapping("question", "context", ("answers",))).encode(
        questions, tokenizer, limits, training=True
    )
    (feature,) = encoded.features
    answer = feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
    assert tokenizer.decode(answer).strip() == "Zoë Müller"
