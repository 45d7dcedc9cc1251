"""Tokens are those of tokenizer.json, segment ids those of its template, whatever transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from handler.config import ServingConfig
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.sequences import EncodingOptions, Text
from handler.tokenization import Tokenizer
from tests.support.samples import BASE, TEXTS, MakeModel, ask, response_json
from tests.support.tokenizers import DIFFICULT_TEXTS, metaspace_tokenizer

PARTS: dict[str, dict[str, Any]] = {
    "cased": {"normalizer": normalizers.BertNormalizer(lowercase=False)},
    "accents": {"normalizer": normalizers.BertNormalizer(strip_accents=False)},
    "sequence": {"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])},
    "words": {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()},
    "template": {"post_processor": processors.BertProcessing(("[SEP]", 102), ("[SEP]", 102))},
    "same": {},
}


def write_tokenizer(folder: Path, backend: Backend, **config: Any) -> Backend:
    """Replace the tokenizer of a folder by a tokenizer.json and its config."""
    for path in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special*")):
        path.unlink()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return backend


def base_backend(**parts: Any) -> Backend:
    """Return BERT's tokenizer with other parts."""
    backend = Backend.from_file(str(BASE / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tokenizer_class", ["BertTokenizerFast", None])
def test_tokens_are_those_of_the_file(make_model: MakeModel, part: str, tokenizer_class: str | None) -> None:
    """transformers rebuilds BERT's tokenizer from the vocabulary, lower-casing what tokenizer.json does not."""
    folder = make_model(whole_vocabulary=True)
    config = {"tokenizer_class": tokenizer_class} if tokenizer_class else {}
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    backend = write_tokenizer(folder, base_backend(**PARTS[part]), **config, **special)
    tokenizer = Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig())
    texts: list[Text] = [(text, None) for text in (*TEXTS, *DIFFICULT_TEXTS)]
    texts += [("Ärger", "Übel")]
    encodings: Any = tokenizer.encode(texts, [EncodingOptions()] * len(texts))
    for (text, pair), (encoding,) in zip(texts, encodings, strict=True):
        ids = backend.encode(text, pair).ids
        assert encoding.ids == (ids if len(ids) <= 512 else [*ids[:511], ids[-1]])
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.mask_token) == (0, 100, "[MASK]")
    assert tokenizer.decode(backend.encode("a letter").ids) == "a letter"


def test_the_vocabulary_is_that_of_the_file(make_model: MakeModel) -> None:
    """transformers adds <s> and </s> to a tokenizer that it takes for RoBERTa's, and puts them around every text."""
    folder = make_model(whole_vocabulary=True)
    write_tokenizer(folder, base_backend(), tokenizer_class="MPNetTokenizer")
    assert len(AutoTokenizer.from_pretrained(folder)) > 30522
    tokenizer = Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig())
    ((encoding,),) = tokenizer.encode([("no", None)], [EncodingOptions()])  # type: ignore[misc]
    assert encoding.ids == [101, 2053, 102]


def test_albert_gets_its_segments(make_model: MakeModel) -> None:
    """As with the segment ids of its template, not as without: AlbertTokenizer of transformers 5 drops them."""
    made = metaspace_tokenizer()
    backend = made.backend_tokenizer
    sizes = {"embedding_size": 16, "vocab_size": len(made), "type_vocab_size": 2}
    folder = make_model(architecture=AlbertForSequenceClassification, config_class=AlbertConfig, **sizes)
    write_tokenizer(folder, backend, tokenizer_class="AlbertTokenizer", unk_token="[UNK]", pad_token="[PAD]")
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(folder)("a", "b")
    encoded = backend.encode("Anna lives", "in Rome")
    assert sorted(set(encoded.type_ids)) == [0, 1]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    ids, types = torch.tensor([encoded.ids]), torch.tensor([encoded.type_ids])
    with torch.inference_mode():
        with_segments = model(input_ids=ids, token_type_ids=types).logits.softmax(-1)[0]
        without = model(input_ids=ids).logits.softmax(-1)[0]
    predictor = load_predictor(folder)
    item = {"text": "Anna lives", "text_pair": "in Rome"}
    answer = response_json(ask(predictor, {"inputs": [item], "parameters": {"top_k": None}})[0])[0]
    scores = {one["label"]: one["score"] for one in answer}
    names = predictor.task.labels
    assert [scores[name] for name in names] == pytest.approx(with_segments.tolist(), abs=1e-5)
    assert [scores[name] for name in names] != pytest.approx(without.tolist(), abs=1e-5)


def test_a_list_of_inputs_in_the_folder_counts(make_model: MakeModel) -> None:
    """A model that was trained without segments says so in tokenizer_config.json; one with fewer is refused."""
    folder = make_model(whole_vocabulary=True)
    generic: Any = PreTrainedTokenizerFast
    names = ["input_ids", "attention_mask"]
    generic(tokenizer_object=base_backend(), pad_token="[PAD]", model_input_names=names).save_pretrained(folder)
    assert not Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig()).has_type_ids
    generic(tokenizer_object=base_backend(), pad_token="[PAD]").save_pretrained(folder)
    assert Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig()).has_type_ids
    template = processors.TemplateProcessing(single="$A", pair="$A:1 $B:2")
    generic(tokenizer_object=base_backend(post_processor=template), pad_token="[PAD]").save_pretrained(folder)
    with pytest.raises(ModelMismatch, match="template has segment id 2, the model only embeddings for 2"):
        Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig())


def test_a_broken_tokenizer_json_is_named(make_model: MakeModel) -> None:
    """Also where transformers would fall back to the vocabulary beside it."""
    folder = make_model()
    backend = Backend(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    write_tokenizer(folder, backend)
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelMismatch, match="tokenizer"):
        Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig())
