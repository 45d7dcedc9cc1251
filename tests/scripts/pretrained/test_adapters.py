"""Adapters of PEFT: merged to what peft itself answers, or refused by name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaModel,
)

from handler.loading import load_predictor
from scripts.cli.console import ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.families import LATER_FAMILIES, make_family
from tests.support.samples import TEXTS, MakeModel

# peft 0.21.2 itself asks for a property that transformers 5.24 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXT = TEXTS[0]
QUERY_VALUE = ["query", "value"]


@pytest.fixture(scope="module")
def encoder(make_model: MakeModel) -> Path:
    """Return the folder of a BERT without a head."""
    return make_model(architecture=BertModel)


def randomized(model: Any) -> Any:
    """Give every trainable tensor of an adapter random values: fresh ones change nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return model.eval()


def adapted(base: Path, folder: Path, auto_class: Any, config: peft.PeftConfig, **settings: Any) -> torch.nn.Module:
    """Save an adapter as people train it; return the model of peft."""
    model = auto_class.from_pretrained(base, **settings)
    with_adapter = randomized(peft.get_peft_model(model, config))
    with_adapter.save_pretrained(str(folder))
    return with_adapter  # type: ignore[no-any-return]


def logits(model: torch.nn.Module, base: Path) -> torch.Tensor:
    """Return what peft's model answers to a text."""
    encoded = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt")
    with torch.inference_mode():
        return model(**encoded)[0][0]  # type: ignore[no-any-return]


def merged_logits(folder: Path, auto_class: Any, **options: Any) -> torch.Tensor:
    """Return what the merged model answers to the text, by plain transformers."""
    with open_model(ModelRequest(str(folder), **options)) as source:
        return logits(auto_class.from_pretrained(source.folder).eval(), source.folder)


def refusal(folder: Path, **options: Any) -> str:
    """Return the message with which a folder is refused: one line."""
    with pytest.raises(ScriptError) as caught, open_model(ModelRequest(str(folder), **options)):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4),
    "dora": lambda: peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4, use_dora=True),
    "rslora": lambda: peft.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=4, use_rslora=True),
    "ia3": lambda: peft.IA3Config(task_type="SEQ_CLS", target_modules=QUERY_VALUE, feedforward_modules=[]),
    "loha": lambda: peft.LoHaConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4),
    "bias": lambda: peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4, bias="all", lora_bias=True),
    "rows": lambda: peft.LoraConfig(
        task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4, trainable_token_indices={"word_embeddings": [5, 6]}
    ),
    "norms": lambda: peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"]),
    "oft": lambda: peft.OFTConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, oft_block_size=8),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merged_classifier_answers_as_peft(kind: str, encoder: Path, tmp_path: Path) -> None:
    """To 1e-5, with the head of `modules_to_save`; the pooler, which SEQ_CLS reads, is the base model's."""
    model = adapted(encoder, tmp_path, AutoModelForSequenceClassification, CONFIGS[kind](), num_labels=3)
    merged = merged_logits(tmp_path, AutoModelForSequenceClassification)
    assert merged.shape == (3,)
    assert torch.allclose(merged, logits(model, encoder), atol=1e-5)


def test_entities_and_embeddings(encoder: Path, tmp_path: Path) -> None:
    """A head for tokens, and no head at all."""
    config = peft.LoraConfig(task_type="TOKEN_CLS", target_modules=QUERY_VALUE, r=4)
    model = adapted(encoder, tmp_path / "tokens", AutoModelForTokenClassification, config, num_labels=5)
    merged = merged_logits(tmp_path / "tokens", AutoModelForTokenClassification)
    assert torch.allclose(merged, logits(model, encoder), atol=1e-5)
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=QUERY_VALUE, r=4)
    model = adapted(encoder, tmp_path / "features", AutoModel, config)
    merged = merged_logits(tmp_path / "features", AutoModel)
    assert torch.allclose(merged, logits(model, encoder), atol=1e-5)


TIED: dict[str, dict[str, Any]] = {
    "embeddings": {"target_modules": ["query", "word_embeddings"]},
    "output layer": {"target_modules": ["query", "decoder"]},
    "both": {"target_modules": ["query", "word_embeddings"], "ensure_weight_tying": True},
    "whole embeddings": {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]},
    "whole output layer": {"target_modules": ["query"], "modules_to_save": ["decoder"]},
    "rows": {"target_modules": ["query"], "trainable_token_indices": [5, 6]},
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of peft, that weights are tied
@pytest.mark.parametrize("kind", TIED)
def test_embeddings_that_the_output_layer_shares(kind: str, make_model: MakeModel, tmp_path: Path) -> None:
    """A part of one of them alone, or of both: masked words are as peft's, and as the served model answers."""
    base = make_model(architecture=BertForMaskedLM)
    model = adapted(base, tmp_path, BertForMaskedLM, peft.LoraConfig(r=4, lora_alpha=1, **TIED[kind]))
    expected = logits(model, base)
    with open_model(ModelRequest(str(tmp_path))) as source:
        merged: Any = BertForMaskedLM.from_pretrained(source.folder)
        assert torch.allclose(logits(merged.eval(), base), expected, atol=1e-4)
        predictor = load_predictor(source.folder)
        (answer,) = predictor.answer_items(["Where is my [MASK]?"], {"top_k": 5})
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer("Where is my [MASK]?", return_tensors="pt")
    with torch.inference_mode():
        position = encoded.input_ids[0].tolist().index(tokenizer.mask_token_id)
        scores = model(**encoded).logits[0, position].softmax(-1)
    assert [(item["token"], item["score"]) for item in answer] == [
        (token, pytest.approx(score, abs=1e-5))
        for score, token in zip(*(part.tolist() for part in scores.topk(5)), strict=True)
    ]


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("kind", ["whole", "beside an adapter"])
@pytest.mark.parametrize(("family", "attention"), [("Bert", QUERY_VALUE), ("ModernBert", ["Wqkv"])])
def test_new_tokens_of_every_family(
    family: str, attention: list[str], kind: str, make_model: MakeModel, tmp_path: Path
) -> None:
    """The base model gets as many embeddings as the adapter's file has, whatever the family calls them."""
    settings = {"bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0}  # ModernBERT's are greater
    base = make_family(family, {**LATER_FAMILIES.get(family, {}), **settings}, make_model)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    embeddings = "word_embeddings" if family == "Bert" else "tok_embeddings"
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        target_modules=attention if kind == "whole" else [*attention, embeddings],
        modules_to_save=["classifier", embeddings] if kind == "whole" else None,
        r=4,
    )
    with_adapter = randomized(peft.get_peft_model(model, config))
    with_adapter.save_pretrained(str(tmp_path))
    merged = merged_logits(tmp_path, AutoModelForSequenceClassification)
    assert torch.allclose(merged, logits(with_adapter, base), atol=1e-5)


def test_labels_and_tokenizer_of_the_adapters_folder_count(encoder: Path, tmp_path: Path) -> None:
    """A config.json beside the adapter names the labels; where the base model is, may be said."""
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4)
    model = adapted(encoder, tmp_path, AutoModelForSequenceClassification, config, **labels)
    model.config.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    adapter_config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**adapter_config, "base_model_name_or_path": "/home/somebody/base"})
    )
    assert refusal(tmp_path).endswith(
        "the adapter's base model is /home/somebody/base, a folder that is not here: give it with --base-model"
    )
    with open_model(ModelRequest(str(tmp_path), base_model=str(encoder))) as source:
        assert load_predictor(source.folder).task.labels == ["no", "yes"]
        adapter, base = source.provenance.origins
        assert (adapter.role, base.role) == ("adapter", "base model")
        assert set(adapter.files) == {"adapter_config.json", "adapter_model.safetensors"}
        assert source.provenance.steps == (f"adapter (LORA) merged with peft {peft.__version__}",)


def test_a_pickled_adapter_is_converted(encoder: Path, tmp_path: Path) -> None:
    """adapter_model.bin, as peft saved it until 2023."""
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4)
    adapted(encoder, tmp_path, AutoModelForSequenceClassification, config, num_labels=3)
    expected = merged_logits(tmp_path, AutoModelForSequenceClassification)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    weights.unlink()
    assert "--convert-pickle" in refusal(tmp_path)
    merged = merged_logits(tmp_path, AutoModelForSequenceClassification, convert_pickle=True)
    assert torch.equal(merged, expected)


def test_kinds_that_are_not_weights_are_refused_by_name(encoder: Path, tmp_path: Path) -> None:
    """Prompts are read with each text; they cannot be merged."""
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    adapted(encoder, tmp_path, AutoModelForSequenceClassification, config, num_labels=3)
    assert refusal(tmp_path) == "the adapter is of the kind PROMPT_TUNING, which cannot be merged into weights"


def test_a_head_that_is_nowhere_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """A model of masked words has no pooler, and peft does not save the one that SEQ_CLS makes at random."""
    base = make_model(architecture=BertForMaskedLM)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4)
    adapted(base, tmp_path, AutoModelForSequenceClassification, config, num_labels=3)
    assert "has bert.pooler.dense.bias, so it would be random: train the adapter with modules_to_save" in refusal(
        tmp_path
    )


def change(folder: Path, **settings: Any) -> None:
    """Change adapter_config.json."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def drop_a_tensor(folder: Path) -> None:
    """Leave one tensor out of the adapter's file."""
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, folder / "adapter_model.safetensors")


def add_a_tensor(folder: Path) -> None:
    """Put a tensor into the adapter's file for which there is no module."""
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.other.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(f, peft_type=None), "has no peft_type, so it is not an adapter of PEFT"),
        (lambda f: change(f, peft_type="NOVEL"), "of the kind NOVEL"),
        (lambda f: change(f, task_type="CAUSAL_LM"), "for CAUSAL_LM, text generation"),
        (lambda f: change(f, base_model_name_or_path=None), "names no base model: give it with --base-model"),
        (lambda f: change(f, target_modules=["nothing"]), "cannot be merged: "),
        (lambda f: change(f, r=8), "cannot be merged: "),
        (drop_a_tensor, "the adapter lacks base_model.model."),
        (add_a_tensor, "the adapter has base_model.model.other.weight, which its base model has no use for"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "the adapter has no adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "cannot be merged: "),
    ],
)
def test_a_broken_adapter_is_refused_by_name(
    lora: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    """A line each; nothing of an adapter is ignored."""
    folder = tmp_path / "adapter"
    shutil.copytree(lora, folder)
    damage(folder)
    assert message in refusal(folder)


@pytest.fixture(scope="module")
def lora(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sound adapter."""
    folder = tmp_path_factory.mktemp("lora")
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=QUERY_VALUE, r=4)
    adapted(encoder, folder, AutoModelForSequenceClassification, config, num_labels=3)
    return folder


def test_an_adapter_beside_whole_weights_is_ambiguous(lora: Path, encoder: Path, tmp_path: Path) -> None:
    """transformers would choose by whether peft is installed."""
    folder = tmp_path / "both"
    shutil.copytree(lora, folder)
    shutil.copy(encoder / "model.safetensors", folder)
    assert "remove the one that is not meant" in refusal(folder)


def test_an_adapter_of_an_adapter_is_refused(lora: Path) -> None:
    """The inner one is merged first."""
    assert "it is an adapter itself" in refusal(lora, base_model=str(lora))


def test_without_peft_the_message_says_what_to_install(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is optional."""
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "pip install -r requirements/adapters.txt" in refusal(lora)


def test_a_base_model_of_another_family_is_refused(lora: Path, make_model: MakeModel) -> None:
    """Its head has other names."""
    base = make_model(architecture=RobertaModel, config_class=RobertaConfig)
    assert "the adapter" in refusal(lora, base_model=str(base))
