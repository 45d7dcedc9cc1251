"""Folders as people have them: what a file says is obeyed, or refused in one line that says what to write."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer as Backend
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    MPNetConfig,
    MPNetForMaskedLM,
    MPNetModel,
    RobertaTokenizer,
)

from handler.config import ModelConfig, ServingConfig
from handler.engine.checkpoint import known_names
from handler.engine.config_problems import read_config
from handler.errors import ConfigError, ModelMismatch
from handler.loading import load_predictor
from handler.model_folder import ModelFolder
from handler.tokenization import Tokenizer
from handler.weight_files import holds_a_head, tensor_names
from scripts.archives.build import ArchiveContents, build, stage_files
from tests.support.samples import MakeModel

Change: Any = Callable[[Path], object]


def changed(file: str, **settings: Any) -> Change:
    """Return a function that changes fields of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        content = (json.loads((folder / file).read_text()) if (folder / file).is_file() else {}) | settings
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def with_tensor(name: str, *shape: int) -> Change:
    """Return a function that adds a tensor to the weights, or replaces it."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors") | {name: torch.zeros(shape)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def written(file: str, content: bytes) -> Change:
    """Return a function that writes a file."""
    return lambda folder: (folder / file).write_bytes(content)


def shards(folder: Path) -> None:
    """Give the weights an index that names a second file, which is not there."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def shards_without_an_index(folder: Path) -> None:
    """Empty the index."""
    shards(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def shards_elsewhere(folder: Path) -> None:
    """Let the index name a file outside of the folder."""
    shards(folder)
    index = {"weight_map": {"a": "../other/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def renamed(prefix: str) -> Change:
    """Return a function that puts a prefix before the name of every tensor."""

    def change(folder: Path) -> None:
        tensors = {prefix + name: weight for name, weight in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def in_integers(folder: Path) -> None:
    """Write one weight in int8, without its scale."""
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def scaled(folder: Path, factor: float) -> None:
    """Multiply the weights of a linear layer."""
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.0.intermediate.dense.weight"] *= factor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
QUERY = "bert.encoder.layer.0.attention.self"


def read_bytes(folder: Path) -> bytes:
    """Return config.json without its epsilon."""
    content = json.loads((folder / "config.json").read_text())
    return json.dumps({key: value for key, value in content.items() if key != "layer_norm_eps"}).encode()


CONFIGS: dict[str, tuple[Change, str]] = {
    "0 for 0.0": (changed("config.json", layer_norm_eps=0), r"has layer_norm_eps 0: write 0\.0"),
    "a fraction in quotes": (changed("config.json", layer_norm_eps="1e-12"), 'layer_norm_eps "1e-12": write 1e-12'),
    "a number in quotes": (changed("config.json", hidden_size="32"), 'has hidden_size "32": write 32'),
    "2.0 for 2": (changed("config.json", num_hidden_layers=2.0), r"has num_hidden_layers 2\.0: write 2"),
    "a truth in quotes": (changed("config.json", is_decoder="false"), 'has is_decoder "false": write false'),
    "a padding token in quotes": (changed("config.json", pad_token_id="0"), 'has pad_token_id "0": write 0'),
    "an activation": (
        changed("config.json", hidden_act="gelux"),
        "has hidden_act 'gelux', which transformers does not",
    ),
    "a quantized model": (
        changed("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "has a quantization_config: give the weights before quantization",
    ),
    "pruned heads": (changed("config.json", pruned_heads={"0": [1]}), "pruned_heads .*no longer computes"),
    "a byte-order mark": (
        lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()),
        "begins with a byte-order mark",
    ),
    "heads that do not divide": (
        changed("config.json", num_attention_heads=5),
        r"hidden size \(32\) is not a multiple",
    ),
    "no architecture": (
        changed("config.json", architectures=None),
        r"config\.json names no architecture: choose what it was trained for as the task \(--task\): text-cl",
    ),
    "an architecture of its own": (
        changed("config.json", architectures=["MyClassifier"]),
        "config.json names MyClassifier, which belongs to no task",
    ),
    "one architecture": (
        changed("config.json", architectures="BertForSequenceClassification"),
        r'architectures "BertForSequenceClassification": write a list, e\.g\. \["Bert',
    ),
    "relative positions": (
        changed("config.json", position_embedding_type="relative_key"),
        'position_embedding_type "relative_key", which transformers 5 no longer computes for a bert',
    ),
    "relative positions of queries": (
        changed("config.json", position_embedding_type="relative_key_query"),
        "train the model again with 'absolute'",
    ),
    "labels by name": (
        changed("config.json", id2label={"no": "0", "yes": "1"}, label2id=None),
        r'what is no number: write \{"0": "no", "1": "yes"\} for id2label',
    ),
    "labels with a gap": (
        changed("config.json", id2label={"0": "a", "1": "b", "3": "c"}, label2id=None),
        "3 labels, none with the number 2",
    ),
    "a label of names": (
        changed("config.json", id2label={"0": ["a", "b"], "1": "c"}, label2id=None),
        "gives label 0 a list for a name: write a string",
    ),
    "feed-forward in chunks": (
        changed("config.json", chunk_size_feed_forward=3),
        "chunk_size_feed_forward 3, .*: write 0, which changes no answer",
    ),
    "cross-attention": (
        changed("config.json", add_cross_attention=True),
        "add_cross_attention true, which an encoder has not: write false",
    ),
    "a list": (written("config.json", b"[]"), r"config\.json holds no JSON object"),
    "NaN for a number": (
        lambda folder: written("config.json", b'{"layer_norm_eps": NaN, ' + read_bytes(folder)[1:])(folder),
        "computes NaN of a few tokens: the weights or the numbers of config",
    ),
    "answers with labels": (
        changed("config.json", architectures=["BertForQuestionAnswering"]),
        "names 4 labels, but a model that answers questions has two outputs",
    ),
}
TENSORS: dict[str, tuple[Change, str]] = {
    "a CRF": (
        with_tensor("crf.transitions", 4, 4),
        r"hold crf\.transitions, which BertForSequenceClassification does no",
    ),
    "LoRA": (with_tensor(f"{QUERY}.query.lora_A.default.weight", 4, 32), r"lora_A.*merge it into the model with peft"),
    "an adapter": (
        with_tensor("bert.encoder.layer.0.output.adapters.x.down.weight", 4, 32),
        "an adapter: merge it into",
    ),
    "relative positions": (with_tensor(f"{QUERY}.distance_embedding.weight", 9, 8), "positions are relative"),
    "a model within DataParallel": (renamed("module."), r"named as within DataParallel \(module\.bert"),
    "a compiled model": (renamed("_orig_mod."), "named as within torch.compile"),
    "a model within Lightning": (renamed("model."), "named as within a Lightning module"),
    "weights in integers": (in_integers, r"classifier\.weight is in I8, as of a quantized model"),
    "a second head": (with_tensor("classifier_intent.weight", 3, 32), "save the model with the class"),
    "a number out of range": (
        lambda folder: scaled(folder, 1e30),
        "computes NaN of a few tokens: .* out of range, as after a training that diverged",
    ),
    "another layer": (
        with_tensor("bert.encoder.layer.2.output.dense.weight", 32, 64),
        r"layer\.2\.output\.dense\.weight",
    ),
    "fewer positions": (
        with_tensor("bert.embeddings.position_embeddings.weight", 100, 32),
        r"position_embeddings\.weight has the shape \(100, 32\) in the weights, but \(512, 32\) by config\.json: take",
    ),
}
FILES: dict[str, tuple[Change, str]] = {
    "weights of Git LFS": (
        written("model.safetensors", LFS),
        r"model\.safetensors is a pointer of Git LFS: run `git lfs",
    ),
    "half a file": (
        lambda folder: written("model.safetensors", (folder / "model.safetensors").read_bytes()[:9000])(folder),
        r"model\.safetensors is damaged, or was not copied to its end",
    ),
    "an empty file": (written("model.safetensors", b""), "was not copied to its end"),
    "a shard that is missing": (shards, r"names model-00002-of-00002\.safetensors, which is not there"),
    "a shard elsewhere": (shards_elsewhere, r"names '\.\./other/model\.safetensors', which is no file beside it"),
    "an index that is none": (shards_without_an_index, "has no weight_map"),
    "a tokenizer of Git LFS": (written("tokenizer.json", LFS), r"tokenizer\.json is a pointer of Git LFS"),
    "half a tokenizer": (written("tokenizer.json", b'{"version": '), r"tokenizer\.json cannot be read: it is not JSON"),
    "settings in a list": (written("tokenizer_config.json", b"[]"), r"tokenizer_config\.json holds no JSON object"),
    "a length in quotes": (
        changed("tokenizer_config.json", model_max_length="512"),
        r'tokenizer_config\.json has model_max_length "512": write 512',
    ),
    "a length of 0": (changed("tokenizer_config.json", model_max_length=0), "model_max_length 0: write a number"),
    "a length of a half": (changed("tokenizer_config.json", model_max_length=0.5), r"model_max_length 0\.5: write"),
    "a token that is a number": (changed("tokenizer_config.json", pad_token=0), "pad_token has to be either str"),
    "a token of added_tokens.json": (
        changed("added_tokens.json", **{"<e1>": 30522}),
        r"added_tokens\.json names the token '<e1>', which tokenizer\.json does not have",
    ),
    "a token of special_tokens_map.json": (
        changed("special_tokens_map.json", additional_special_tokens=["<e1>"]),
        r"special_tokens_map\.json names the token '<e1>'",
    ),
    "a token of tokenizer_config.json": (
        changed("tokenizer_config.json", added_tokens_decoder={"30522": {"content": "<e1>", "special": True}}),
        r"tokenizer_config\.json names the token '<e1>'",
    ),
    "a tokenizer that raises": (
        changed("tokenizer.json", model={"type": "Nonsense"}),
        "no tokenizer can be loaded from the model folder: ",
    ),
}


CASES = [(table, name) for table in ("CONFIGS", "TENSORS", "FILES") for name in globals()[table]]


@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_a_folder_is_refused_in_one_line(model_folder: Path, tmp_path: Path, case: tuple[str, str]) -> None:
    """With the field, tensor or file, its value, and what to do."""
    change, message = globals()[case[0]][case[1]]
    folder = Path(shutil.copytree(model_folder, tmp_path / "changed"))
    change(folder)
    with pytest.raises(ModelMismatch, match=message) as refusal:
        load_predictor(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_of_a_repository_is_never_run(model_folder: Path, tmp_path: Path, model_type: str) -> None:
    """Classes of its own for config, model and tokenizer: the library's compute, or the folder is refused by name."""
    folder, marker = Path(shutil.copytree(model_folder, tmp_path / "changed")), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    classes = {f"Auto{name}": "evil.Evil" for name in ("Config", "Model", "ModelForSequenceClassification")}
    changed("config.json", auto_map=classes, model_type=model_type, trust_remote_code=True)(folder)
    changed("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, trust_remote_code=True)(folder)
    if model_type == "bert":
        load_predictor(folder)
        (tmp_path / "stage").mkdir()
        stage_files(tmp_path / "stage", folder, ModelConfig())
        assert not (tmp_path / "stage" / "model" / "evil.py").exists()
    else:
        with pytest.raises(ModelMismatch, match="its code comes with it, and is not run"):
            load_predictor(folder)
    assert not marker.exists()


def test_known_leftovers_are_no_fault(model_folder: Path, tmp_path: Path) -> None:
    """Buffers of earlier versions, and the heads that an architecture has for other tasks."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "changed"))
    for name in ("bert.embeddings.position_ids", "cls.predictions.bias", "qa_outputs.weight"):
        with_tensor(name, 1, 512)(folder)
    before, after = load_predictor(model_folder), load_predictor(folder)
    answers = [predictor.answer_items(["hello there"])[0] for predictor in (before, after)]
    assert before.task.answers_match(answers[0], answers[1], 1e-6)


def test_the_names_of_an_architecture_are_those_of_its_heads(model_folder: Path) -> None:
    """Without the prefix of the encoder, and nothing else."""
    names = known_names(read_config(model_folder))
    assert {"embeddings.position_ids", "cls.seq_relationship.bias", "qa_outputs.bias", "pooler.dense.bias"} <= names
    assert not [name for name in names if name.startswith("bert.") or "crf" in name]


def test_an_encoder_that_names_a_head(make_model: MakeModel) -> None:
    """As all-mpnet-base-v2 is saved: an encoder, where a task needs no more; without a task, the tasks that fit."""
    sizes = {"type_vocab_size": 1, "pad_token_id": 1}
    folder = make_model(architecture=MPNetModel, config_class=MPNetConfig, **sizes)
    changed("config.json", architectures=["MPNetForMaskedLM"])(folder)
    with pytest.raises(ModelMismatch, match=r"MPNetForMaskedLM, but the weights are those of an encoder .*--task"):
        load_predictor(folder)
    predictor = load_predictor(folder, ServingConfig(task="feature-extraction"))
    assert "fill" not in predictor.operations
    ids = torch.tensor([predictor.tokenizer._backend.encode("hello there").ids])
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(folder).eval()(ids)[0][0].mean(0)
    np.testing.assert_allclose(predictor.answer_items(["hello there"])[0], expected, atol=1e-5)
    with pytest.raises(ModelMismatch, match="the weights lack lm_head"):
        load_predictor(folder, ServingConfig(task="fill-mask"))
    whole = make_model(architecture=MPNetForMaskedLM, config_class=MPNetConfig, **sizes)
    assert holds_a_head(tensor_names(whole))
    assert not holds_a_head(tensor_names(folder))
    assert ModelFolder.read(whole, read_config(whole)).missing_head is None


@pytest.mark.parametrize(
    ("architecture", "config_class", "encoder", "tensor"),
    [
        (BertForSequenceClassification, BertConfig, "BertModel", "classifier.bias"),
        (BertForQuestionAnswering, BertConfig, "BertModel", "qa_outputs.bias"),
        (DistilBertForSequenceClassification, DistilBertConfig, "DistilBertModel", "classifier.bias"),
    ],
)
def test_a_head_of_which_config_json_names_the_encoder_alone(
    make_model: MakeModel, architecture: Any, config_class: Any, encoder: str, tensor: str
) -> None:
    """A classifier is not served as embeddings unless somebody says so."""
    labels = ("LABEL_0", "LABEL_1")
    folder = make_model(architecture=architecture, config_class=config_class, labels=labels)
    changed("config.json", architectures=[encoder])(folder)
    what = f"config.json names {encoder}, an encoder, but the weights hold {tensor}, a head: write the class .*--task"
    with pytest.raises(ModelMismatch, match=what):
        load_predictor(folder)
    for task in ("feature-extraction", "sentence-similarity"):
        assert load_predictor(folder, ServingConfig(task=task)).task.name == task
    pretrained = make_model(architecture=BertForMaskedLM)
    changed("config.json", architectures=["BertModel"])(pretrained)
    assert load_predictor(pretrained).task.name == "feature-extraction"  # pretraining leaves this head


@pytest.mark.parametrize(
    ("architecture", "config_class"),
    [
        (BertForSequenceClassification, BertConfig),
        (BertForTokenClassification, BertConfig),
        (DistilBertForSequenceClassification, DistilBertConfig),
    ],
)
def test_a_head_beside_an_encoder_without_its_prefix(
    make_model: MakeModel, tmp_path: Path, architecture: Any, config_class: Any
) -> None:
    """As tools write that save tensors one by one: the head is served, as by transformers, in an archive too."""
    model_folder = make_model(architecture=architecture, config_class=config_class, whole_vocabulary=True)
    folder, prefix = Path(shutil.copytree(model_folder, tmp_path / "bare")), f"{architecture.base_model_prefix}."
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    expected = load_predictor(model_folder).answer_items(["Where is it?"])
    assert load_predictor(folder).answer_items(["Where is it?"]) == expected
    packed = build(
        ArchiveContents(folder, "bare", "1.0", ModelConfig()), tmp_path
    )  # compares the worker's model with the reference
    assert packed.is_file()


def test_weights_beside_those_that_count(model_folder: Path, tmp_path: Path) -> None:
    """Other safetensors of a folder are neither read nor packed, as by transformers."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "more"))
    zeros = {name: torch.zeros_like(weight) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(zeros, folder / "model.fp16.safetensors", metadata={"format": "pt"})
    stage = tmp_path / "stage"
    stage.mkdir()
    stage_files(stage, folder, ModelConfig())
    assert [path.name for path in (stage / "model").glob("*.safetensors")] == ["model.safetensors"]
    assert "model.fp16" not in str(tensor_names(folder))


def vocabulary_of(folder: Path) -> list[str]:
    """Return the tokens of a folder's tokenizer.json by id."""
    vocabulary: dict[str, int] = Backend.from_file(str(folder / "tokenizer.json")).get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def test_a_vocabulary_without_tokenizer_json(model_folder: Path, tmp_path: Path) -> None:
    """Works where the class reads the file; one that it does not read is named, not left out."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "slow"))
    tokens = vocabulary_of(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    config = read_config(folder)
    assert Tokenizer(folder, config, ServingConfig()).text_to_ids("no there") == [2053, 2045]
    (folder / "vocab.txt").rename(folder / "vocab.json")
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    with pytest.raises(ModelMismatch, match=r"BertTokenizer of transformers does not read vocab\.json"):
        Tokenizer(folder, config, ServingConfig())
    changed("tokenizer_config.json", tokenizer_class=RobertaTokenizer.__name__)(folder)
    with pytest.raises(ModelMismatch, match=r"no tokenizer can be loaded .*merges"):
        Tokenizer(folder, config, ServingConfig())


def test_sentencepiece_alone(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that helps is named, where transformers asks for tiktoken."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "pieces"))
    changed("config.json", model_type="xlm-roberta", architectures=None)(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        ModelMismatch, match=r"in sentencepiece\.bpe\.model alone, which takes the package sentencepiece"
    ):
        Tokenizer(folder, read_config(folder), ServingConfig())


def test_the_length_of_a_sentence_transformers_folder_counts(make_model: MakeModel) -> None:
    """`max_seq_length` over the tokenizer's own, as in the library; a CrossEncoder's too, its prompt is refused."""
    folder = make_model(architecture=BertModel)
    changed("tokenizer_config.json", model_max_length=16)(folder)
    transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    (folder / "1_Pooling").mkdir()
    changed("1_Pooling/config.json", pooling_mode="mean", embedding_dimension=32)(folder)
    (folder / "modules.json").write_text(json.dumps([transformer, pooling]))
    changed("sentence_bert_config.json", max_seq_length=40)(folder)
    config = ServingConfig(task="feature-extraction")
    assert load_predictor(folder, config).tokenizer.max_length == 40
    changed("1_Pooling/config.json", include_prompt=False)(folder)
    changed("config_sentence_transformers.json", prompts={"query": "find: "})(folder)
    with pytest.raises(
        ConfigError, match="overflow is window, but the Pooling of this folder has include_prompt false"
    ):
        load_predictor(folder, ServingConfig(task="feature-extraction", overflow="window"))


def test_a_cross_encoder_is_obeyed_or_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """Its length, and what it lists beside a Transformer."""
    plain = make_model(labels=("LABEL_0",), problem_type=None)
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    folder = tmp_path / "saved"
    changed("sentence_bert_config.json", max_seq_length=24)(folder)
    expected = CrossEncoder(str(folder), device="cpu").predict([("a query", "a long text " * 30)])
    (ranked,) = load_predictor(folder, ServingConfig(task="rerank")).answer_items(
        [{"query": "a query", "texts": ["a long text " * 30]}]
    )
    assert ranked[0]["score"] == pytest.approx(float(expected[0]), abs=1e-5)
    changed("config_sentence_transformers.json", prompts={"q": "find: "}, default_prompt_name="q")(folder)
    with pytest.raises(ModelMismatch, match="default_prompt_name of this CrossEncoder is q"):
        load_predictor(folder)
    changed("config_sentence_transformers.json", default_prompt_name=None)(folder)
    more = [
        *json.loads((folder / "modules.json").read_text()),
        {"path": "1_Dense", "type": "sentence_transformers.X.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(more))
    with pytest.raises(ModelMismatch, match="lists Transformer, Dense: served is a Transformer"):
        load_predictor(folder)


def test_norms_of_the_first_berts_and_outputs_without_names(make_model: MakeModel, tmp_path: Path) -> None:
    """gamma and beta, `return_dict: false` and further outputs change no answer, in an archive either."""
    model_folder = make_model(whole_vocabulary=True)
    folder = Path(shutil.copytree(model_folder, tmp_path / "old"))
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(folder / "model.safetensors")
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    changed("config.json", return_dict=False, output_hidden_states=True, output_attentions=True)(folder)
    expected = load_predictor(model_folder).answer_items(["Where is it?"])
    assert load_predictor(folder).answer_items(["Where is it?"]) == expected
    changed("config.json", output_attentions=False, _attn_implementation="flash_attention_2")(folder)
    assert load_predictor(folder).answer_items(["Where is it?"]) == expected
    packed = build(
        ArchiveContents(folder, "old", "1.0", ModelConfig()), tmp_path
    )  # compares the worker's model with the reference
    assert packed.is_file()
