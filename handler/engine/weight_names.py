"""Where families of transformers keep their weights: one table, by `model_type`.

The names of tensors are those of transformers, without the prefix of a base model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from handler.engine.layer_names import (
    BERT_LAYER,
    DISTILBERT_LAYER,
    GTE_LAYER,
    JINA_LAYER,
    MODERNBERT_LAYER,
    MPNET_LAYER,
    NOMIC_LAYER,
)
from handler.engine.stored_weights import RENAMED, Rows, Weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class TransformNames(NamedTuple):
    """What a head computes of a state before its last product: a linear layer, an activation, a norm."""

    dense: str
    activation: str
    norm: str | None = None
    field: str | None = None  # of config.json, which names another activation


class HeadNames(NamedTuple):
    """Where a head keeps its weights, and what transformers calls its outputs."""

    linear: str
    transform: TransformNames | None = None
    outputs: tuple[str, ...] = ("logits",)  # several: each is one column
    of_sequence: bool = False  # reads a state of each sequence: its first one, or the mean of all
    is_decoder: bool = False  # computes a logit for each word: its weight is theirs, unless it has its own
    bias: str | None = None  # of a decoder, beside that of `linear`, which may be missing

    def weights(self, *, is_tied: bool) -> set[str]:
        """Return the names of the tensors without which there is no such head.

        Args:
            is_tied: whether a decoder has the weight of the embeddings.
        """
        linear = set() if self.is_decoder and is_tied else {self.linear}
        names = linear | ({self.transform.dense} if self.transform else set())
        return {f"{name}.weight" for name in names}


class Family(NamedTuple):
    """Where a family keeps its weights."""

    prefix: str  # of the names of everything but the head
    class_prefix: str  # of the classes of its models
    heads: Mapping[str, tuple[HeadNames, ...]]  # by what follows the family in the name of a class
    layer: Mapping[str, str | Rows]  # fields of a layer -> names, after `layers`
    layers: str = "encoder.layer"
    words: str = "embeddings.word_embeddings"
    positions: str | None = "embeddings.position_embeddings"
    embedding_norm: str = "embeddings.LayerNorm"
    final_norm: str | None = None  # behind the layers
    pre_norm: bool = False  # whether norms are computed of what the halves of a layer read; the first may be missing
    has_biases: bool = True  # whether every linear layer and norm has one
    renamed: Mapping[str, str] = RENAMED  # parts of names in files -> what they are called here
    activation: str = "hidden_act"  # the field of config.json
    eps: str | float = "layer_norm_eps"  # of all norms: the field of config.json, or the number where there is none
    width: int = 768  # of its states and its heads, where config.json does not say
    n_heads: int = 12

    def weights(self, tensors: Mapping[str, NDArray[Any]]) -> Weights:
        """Return the tensors of files by the names of this table."""
        return Weights(tensors, self.prefix, self.renamed, has_biases=self.has_biases)


EDGES = ("start_logits", "end_logits")


def _heads(sequence: HeadNames, words: HeadNames, **others: tuple[HeadNames, ...]) -> dict[str, tuple[HeadNames, ...]]:
    """Return the heads of a family, which differ by their names in classifiers of sequences and masked words."""
    return {
        "Model": (),
        "ForSequenceClassification": (sequence,),
        "ForTokenClassification": (HeadNames("classifier"),),
        "ForMaskedLM": (words,),
        "ForQuestionAnswering": (HeadNames("qa_outputs", outputs=EDGES),),
        **others,
    }


def _classifier(activation: str) -> HeadNames:
    return HeadNames("classifier.out_proj", TransformNames("classifier.dense", activation), of_sequence=True)


LM_HEAD = HeadNames(
    "lm_head.decoder",
    TransformNames("lm_head.dense", "gelu", "lm_head.layer_norm"),
    is_decoder=True,
    bias="lm_head.bias",
)


def _roberta(class_prefix: str) -> Family:
    return Family("roberta", class_prefix, _heads(_classifier("tanh"), LM_HEAD), BERT_LAYER)


def _nomic(prefix: str, class_prefix: str, words: HeadNames, layer: Mapping[str, str | Rows], layers: str) -> Family:
    """Return a family with rotary positions, gates and BERT's pooler, and without a head for questions."""
    heads = _heads(HeadNames("classifier", BERT_POOLER, of_sequence=True), words)
    del heads["ForQuestionAnswering"]
    return Family(prefix, class_prefix, heads, layer, layers, positions=None, has_biases=False)


BERT_POOLER = TransformNames("pooler.dense", "tanh")
BERT_WORDS = HeadNames(
    "cls.predictions.decoder",
    TransformNames(
        "cls.predictions.transform.dense", "gelu", "cls.predictions.transform.LayerNorm", field="hidden_act"
    ),
    is_decoder=True,
    bias="cls.predictions.bias",
)
NOMIC_WORDS = BERT_WORDS._replace(
    transform=TransformNames(
        "cls.predictions.transform.dense", "gelu", "cls.predictions.transform.layer_norm", field="hidden_act"
    )
)
MODERNBERT_TRANSFORM = TransformNames("head.dense", "gelu", "head.norm", field="classifier_activation")
NEXT_SENTENCE = HeadNames("cls.seq_relationship", BERT_POOLER, of_sequence=True)
FAMILIES = {  # by `model_type`
    "bert": Family(
        "bert",
        "Bert",
        _heads(
            HeadNames("classifier", BERT_POOLER, of_sequence=True),
            BERT_WORDS,
            ForNextSentencePrediction=(NEXT_SENTENCE,),
            ForPreTraining=(
                BERT_WORDS._replace(outputs=("prediction_logits",)),
                NEXT_SENTENCE._replace(outputs=("seq_relationship_logits",)),
            ),
        ),
        BERT_LAYER,
    ),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "electra": Family(
        "electra",
        "Electra",
        _heads(
            _classifier("gelu"),
            HeadNames(
                "generator_lm_head",
                TransformNames("generator_predictions.dense", "gelu", "generator_predictions.LayerNorm"),
                is_decoder=True,
            ),
        ),
        BERT_LAYER,
        width=256,
        n_heads=4,
    ),
    "distilbert": Family(
        "distilbert",
        "DistilBert",
        _heads(
            HeadNames("classifier", TransformNames("pre_classifier", "relu"), of_sequence=True),
            HeadNames(
                "vocab_projector",
                TransformNames("vocab_transform", "gelu", "vocab_layer_norm", field="activation"),
                is_decoder=True,
            ),
        ),
        DISTILBERT_LAYER,
        "transformer.layer",
        activation="activation",
        eps=1e-12,
    ),
    "mpnet": Family("mpnet", "MPNet", _heads(_classifier("tanh"), LM_HEAD), MPNET_LAYER),
    "jina_embeddings_v3": _roberta("JinaEmbeddingsV3")._replace(
        layer=JINA_LAYER, layers="encoder.layers", positions=None, renamed={"emb_ln.": "embeddings.LayerNorm."}
    ),
    "gte": _nomic("gte", "Gte", LM_HEAD, GTE_LAYER, "encoder.layer")._replace(
        renamed={"lm_head.norm.": "lm_head.layer_norm."}
    ),
    "nomic_bert": _nomic("nomic_bert", "NomicBert", NOMIC_WORDS, NOMIC_LAYER, "encoder.layers")._replace(
        renamed={"emb_ln.": "embeddings.LayerNorm."}
    ),
    "modernbert": Family(
        "model",
        "ModernBert",
        {
            "Model": (),
            "ForSequenceClassification": (HeadNames("classifier", MODERNBERT_TRANSFORM, of_sequence=True),),
            "ForTokenClassification": (HeadNames("classifier", MODERNBERT_TRANSFORM),),
            "ForQuestionAnswering": (HeadNames("classifier", MODERNBERT_TRANSFORM, outputs=EDGES),),
            "ForMaskedLM": (HeadNames("decoder", MODERNBERT_TRANSFORM, is_decoder=True),),
        },
        MODERNBERT_LAYER,
        "layers",
        words="embeddings.tok_embeddings",
        positions=None,
        embedding_norm="embeddings.norm",
        final_norm="final_norm",
        pre_norm=True,
        has_biases=False,
        activation="hidden_activation",
        eps="norm_eps",
    ),
}


def word_table(names: Collection[str], family: Family, heads: Iterable[HeadNames]) -> str:
    """Return the name of the embeddings of words, or of a decoder that has the same weight, of which one is stored."""
    words = f"{family.words}.weight"
    decoders = (f"{head.linear}.weight" for head in heads if head.is_decoder)
    return words if words in names else next((name for name in decoders if name in names), words)


def suffix_of(architecture: str, family: Family) -> str | None:
    """Return what follows the family in the name of a class; None: no head that is computed here."""
    return next((suffix for suffix in family.heads if architecture.endswith(suffix)), None)


def activation_field(model_type: str) -> str:
    """Return the field of config.json that names the activation of a family's layers."""
    return FAMILIES[model_type].activation if model_type in FAMILIES else "hidden_act"


def activation_of(config: PretrainedConfig) -> str | None:
    """Return the name of a model's activation, of the field that its family reads: config.json may hold others."""
    name = getattr(config, activation_field(config.model_type), None)
    return name if isinstance(name, str) else None


def layer_names(family: Family, index: int, names: Collection[str]) -> dict[str, str | Rows]:
    """Return the whole names of the weights of a layer by its fields; those of a first norm only where it is stored."""
    by_field: dict[str, str | Rows] = {}
    for field, where in family.layer.items():
        name = f"{family.layers}.{index}.{where if isinstance(where, str) else where.name}"
        is_optional = family.pre_norm and index == 0 and field == "attention_norm"
        if not is_optional or f"{name}.weight" in names:
            by_field[field] = name if isinstance(where, str) else where._replace(name=name)
    return by_field


def activation_of_transform(transform: TransformNames, config: PretrainedConfig) -> str:
    """Return the name of the activation of a head."""
    return str(getattr(config, transform.field) if transform.field else transform.activation)


def pools_all_tokens(config: PretrainedConfig) -> bool:
    """Tell whether the classifier of a sequence reads all of its tokens, e.g. their mean."""
    is_read = hasattr(type(config), "classifier_pooling")  # a config.json may hold what its family does not read
    return is_read and config.classifier_pooling not in (None, "cls", "bos")


def eps_of(config: PretrainedConfig) -> float:
    """Return the epsilon of all norms."""
    eps = FAMILIES[config.model_type].eps
    return float(getattr(config, eps)) if isinstance(eps, str) else eps
