"""LoRA: what is trained, what the folder holds, and that the packed model is the trained one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ROOT, ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from scripts.training import lora
from scripts.training.settings import parse
from tests.support.animals import VOCABULARY, labelled
from tests.support.encoders import small_config
from tests.support.training import fit, fit_interrupted, tiny, write

# peft 0.21.2 itself asks for a property that transformers 5.24 has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

LORA = ("--peft", "lora", "--lora-rank", 4, "--learning-rate", 2e-2, "--keep-checkpoints")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers and width 32."""
    return tiny(tmp_path_factory.mktemp("models") / "base", VOCABULARY)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The options of 96 texts to train and 30 to validate, of three labels."""
    folder = tmp_path_factory.mktemp("animals")
    train, validation = (write(folder / f"{n}.csv", labelled(n, seed)) for seed, n in enumerate((96, 30)))
    return ("--train", train, "--validation", validation, "--epochs", 4)


@pytest.fixture(scope="module")
def trained(base: Path, data: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that has learnt the labels."""
    output = tmp_path_factory.mktemp("trained") / "animals"
    record = fit(base, output, *data, *LORA)
    assert record["validation"]["accuracy"] > 0.5
    return output


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    texts = [str(row["text"]) for row in labelled(30, 1)]  # those of validation
    with torch.inference_mode():
        outputs: torch.Tensor = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return outputs


def test_the_folder_is_an_adapter_of_peft(trained: Path, base: Path) -> None:
    names = {path.name for path in trained.iterdir()} - {"checkpoints", "training.json", "training.png"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert names == tokenizer | {"adapter_config.json", "adapter_model.safetensors", "config.json"}
    tensors = load_file(trained / "adapter_model.safetensors")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in tensors if "lora" not in name} == {
        "classifier",
        "dense",
    }
    config = json.loads((trained / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"], config["r"]) == (str(base), "SEQ_CLS", 4)
    labels = json.loads((trained / "config.json").read_text())
    assert labels["id2label"] == {"0": "bird", "1": "cat", "2": "dog"}


def test_what_is_packed_is_what_was_trained(trained: Path, base: Path, tmp_path: Path) -> None:
    """As a user of PEFT loads it, merged by the packer, and in the archive with the names of the labels."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    expected = logits(peft.PeftModel.from_pretrained(whole, str(trained)), tokenizer)
    with open_model(ModelRequest(str(trained))) as source:
        merged = transformers.AutoModelForSequenceClassification.from_pretrained(source.folder)
        assert torch.allclose(logits(merged, tokenizer), expected, atol=1e-4)
        assert merged.config.id2label == {0: "bird", 1: "cat", 2: "dog"}
        build(ArchiveContents(source.folder, "animals", "1.0", ModelConfig.read(ROOT / "model-config.yaml")), tmp_path)
    record = json.loads((trained / "training.json").read_text())
    labels = [merged.config.id2label[index] for index in expected.argmax(-1).tolist()]
    right = sum(label == row["label"] for label, row in zip(labels, labelled(30, 1), strict=True))
    assert right / 30 == pytest.approx(record["validation"]["accuracy"])


def test_the_best_epoch_is_kept_and_interrupted_training_goes_on(
    trained: Path, base: Path, data: tuple[object, ...], tmp_path: Path
) -> None:
    record = json.loads((trained / "training.json").read_text())
    step = record["epochs"][record["best_epoch"] - 1]["step"]
    best = load_file(trained / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors")
    fit_interrupted(base, tmp_path / "out", *data, *LORA, epoch=3)
    fit(base, tmp_path / "out", *data, *LORA, "--resume")
    for folder in (trained, tmp_path / "out"):
        actual = load_file(folder / "adapter_model.safetensors")
        assert actual.keys() == best.keys()
        assert all(torch.equal(actual[name], tensor) for name, tensor in best.items())


def test_a_base_model_that_changed_is_refused(trained: Path, base: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    message = "trained on other weights than those of its base model"
    with pytest.raises(ScriptError, match=message), open_model(ModelRequest(str(trained), base_model=str(other))):
        pass


def test_what_cannot_be_an_adapter(trained: Path, base: Path, data: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.raises(
        ScriptError, match="--lora-targets wrong: the layers of this model have dense, key, query, value"
    ):
        fit(base, tmp_path / "out", *data, *LORA, "--lora-targets", "query,wrong")
    with pytest.raises(ScriptError, match="it is an adapter itself, and --peft needs a whole model: merge it first"):
        fit(trained, tmp_path / "out", *data, *LORA)
    (tmp_path / "lines.txt").write_text("\n".join(f"{row['text']} {n}" for n, row in enumerate(labelled(20))))
    with pytest.raises(
        ScriptError, match=r"the base model has no cls\.predictions\.bias, which an adapter does not hold"
    ):
        fit(base, tmp_path / "out", "--train", tmp_path / "lines.txt", "--problem", "masked-words", *LORA)
    assert not (tmp_path / "out").exists()


HEADS = {
    "AutoModelForSequenceClassification": ("bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "mpnet"),
    "AutoModelForTokenClassification": ("bert", "camembert", "modernbert", "nomic_bert", "eurobert"),
    "AutoModelForQuestionAnswering": ("xlm-roberta", "roformer"),
    "AutoModelForMaskedLM": ("bert", "roberta", "modernbert", "distilbert"),
    "AutoModelForPreTraining": ("bert",),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("auto_class", "family"), [(head, name) for head, names in HEADS.items() for name in names])
def test_every_family_and_head(auto_class: str, family: str) -> None:
    """The layers get matrices, the head is trained, embeddings are not, and merging gives the same outputs."""
    torch.manual_seed(0)
    config: Any = small_config(family)
    config.num_labels = 2
    model = getattr(transformers, auto_class).from_config(config).eval()
    new = {name for name, _ in model.named_parameters() if not name.startswith(model.base_model_prefix + ".")}
    tied = model.get_output_embeddings()
    kept = {id(weights) for weights in tied.parameters()} if tied is not None else set()
    kept |= {id(weights) for weights in model.parameters(recurse=False)}
    expected = {name for name, weights in model.named_parameters() if name in new and id(weights) not in kept}
    settings = parse(["--train", "x", "--output", "y", "--peft", "lora", "--model", "base"], "")
    adapted = lora.wrap(settings, model, auto_class, (), None)
    trained = {name for name, weights in adapted.named_parameters() if weights.requires_grad}
    assert {name for name in trained if "embeddings" in name and "lora" not in name} == set()
    saved = {name.replace("base_model.model.", "").replace(".modules_to_save.default", "") for name in trained}
    assert {name for name in expected if not name.endswith("predictions.bias")} <= saved
    layers = getattr(config, "num_hidden_layers", 3)
    assert sum("lora_A" in name for name in trained) >= layers or family == "albert"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if name in trained:
                weights += 0.05 * torch.randn(weights.shape, generator=generator)
    ids = torch.randint(5, 60, (2, 9), generator=generator)
    with torch.inference_mode():
        before = adapted.eval()(input_ids=ids).to_tuple()
        after = adapted.merge_and_unload()(input_ids=ids).to_tuple()
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True))
