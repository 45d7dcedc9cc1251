"""Convert the classifier of a SetFit folder, `model_head.pkl`, to a linear layer in safetensors, running no code of it.

SetFit saves a sentence-transformers folder and, beside it, a classifier of scikit-learn over its embeddings as a pickle
of joblib. Read are the parameters of logistic regression, by an unpickler that knows arrays of numbers or strings and
empty stand-ins for three classes of scikit-learn, and that calls nothing else. Another head is refused by name.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.sentence_layers import WEIGHTS_FILE
from handler.sentence_modules import CLASSIFIER
from handler.weight_files import is_pointer
from scripts.cli.console import ScriptError, say
from scripts.pretrained.files import SETFIT_CONFIG, SETFIT_HEAD, read_object

LOGISTIC_REGRESSION = "sklearn.linear_model._logistic.LogisticRegression"
ESTIMATORS = (
    LOGISTIC_REGRESSION,
    "sklearn.multiclass.OneVsRestClassifier",  # and the next: a logistic regression for each label
    "sklearn.multioutput.MultiOutputClassifier",
    "sklearn.preprocessing._label.LabelBinarizer",  # an attribute of OneVsRestClassifier, not used here
)
ADVICE = "train the head again as a logistic regression (SetFit's default), or serve the embeddings alone"


class Estimator:
    """What a pickle says of an object of scikit-learn: its attributes, and none of its code."""

    kind = ""


@dataclass(frozen=True)
class Head:
    """A linear layer over embeddings: logits of labels that exclude each other, or of labels that each stand alone."""

    weight: NDArray[np.float32]  # (labels, width)
    bias: NDArray[np.float32]  # (labels,)
    classes: Sequence[Any]  # names or numbers, by index
    is_multi_label: bool


def convert_head(folder: Path, target: Path) -> str:
    """Write the classifier of a SetFit folder, and a config.json with its labels, into another folder.

    Args:
        folder: that SetFit saved.
        target: gets `classifier/` and config.json.

    Returns:
        The step that was taken, for the record of where the model comes from.

    Raises:
        ScriptError: a head that is no logistic regression, or a file that cannot be read.
    """
    from safetensors.numpy import save_file

    head = read_head(folder / SETFIT_HEAD)
    settings = read_object(folder / SETFIT_CONFIG)
    names = label_names(head, settings.get("labels"))
    out, width = head.weight.shape
    config = {
        "in_features": width,
        "out_features": out,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
        "normalize_embeddings": bool(settings.get("normalize_embeddings")),
    }
    (target / CLASSIFIER).mkdir()
    (target / CLASSIFIER / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({"linear.weight": head.weight, "linear.bias": head.bias}, target / CLASSIFIER / WEIGHTS_FILE)
    model = read_object(folder / "config.json") | {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": f"{'multi' if head.is_multi_label else 'single'}_label_classification",
    }
    (target / "config.json").write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    step = f"{SETFIT_HEAD}: logistic regression of {out} labels converted to safetensors"
    say(step)
    return step


def label_names(head: Head, names: Any) -> list[str]:
    """Return the names of the labels: those of the pickle, or of config_setfit.json where the pickle has numbers."""
    by_number = isinstance(names, list) and all(isinstance(label, int) and label < len(names) for label in head.classes)
    return [str(names[label]) if by_number else str(label) for label in head.classes]


def read_head(file: Path) -> Head:
    """Read the parameters of a logistic regression from a pickle of joblib; raises ScriptError for anything else."""
    head = _unpickle(file)
    if not isinstance(head, Estimator):
        raise _refusal(f"a {type(head).__name__}")
    if head.kind == LOGISTIC_REGRESSION:
        weight, bias, classes = _parameters(head)
        if len(weight) == 1:  # of two classes only the second one's: sigmoid(z) = softmax([0, z])
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        elif getattr(head, "solver", "lbfgs") == "liblinear" or getattr(head, "multi_class", "auto") == "ovr":
            raise _refusal("a logistic regression of each class against the others, whose scores are no softmax")
        return _checked(weight, bias, classes, is_multi_label=False)
    members: Any = getattr(head, "estimators_", [])
    kinds = [getattr(member, "kind", type(member).__name__) for member in members]
    if not kinds or set(kinds) != {LOGISTIC_REGRESSION}:
        raise _refusal(f"{head.kind.rpartition('.')[2]} of {', '.join(sorted(set(kinds))) or 'nothing'}")
    binarizer = getattr(head, "label_binarizer_", None)
    if binarizer is not None and not str(getattr(binarizer, "y_type_", "")).startswith("multilabel"):
        raise _refusal("classes that exclude each other, each by a logistic regression of its own")
    parts = [_parameters(member) for member in members]
    if any(len(classes) != 2 for _, _, classes in parts):
        raise _refusal("of labels with other values than 0 and 1")
    weight, bias = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    return _checked(weight, bias, list(range(len(parts))), is_multi_label=True)


def _parameters(head: Estimator) -> tuple[NDArray[Any], NDArray[Any], list[Any]]:
    arrays = [getattr(head, name, None) for name in ("coef_", "intercept_", "classes_")]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise _refusal("a logistic regression that was not fitted")
    weight, bias, classes = arrays
    bias = np.broadcast_to(bias, len(weight)) if bias.size == 1 else bias  # type: ignore[union-attr, arg-type]
    return weight, bias, classes.tolist()  # type: ignore[union-attr, return-value]


def _checked(weight: NDArray[Any], bias: NDArray[Any], classes: list[Any], *, is_multi_label: bool) -> Head:
    is_sound = weight.ndim == 2 and bias.shape == (len(weight),) and len(classes) == len(weight)
    if not is_sound or weight.dtype.kind != "f" or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise _refusal(f"arrays of {weight.shape}, {bias.shape} and {len(classes)} classes, or no numbers")
    # In C order: safetensors writes the memory of an array as it lies there (findings/safetensors_numpy_transposed.sh).
    weight, bias = (np.ascontiguousarray(array, dtype=np.float32) for array in (weight, bias))
    return Head(weight, bias, classes, is_multi_label)


def _refusal(what: str) -> ScriptError:
    return ScriptError(f"{SETFIT_HEAD} holds {what}, which is not converted: {ADVICE}")


def _unpickle(file: Path) -> Any:
    """Return the object of a pickle of joblib, made of arrays, plain values and `Estimator`s."""
    from joblib import numpy_pickle  # type: ignore[import-untyped]

    class Array(numpy_pickle.NumpyArrayWrapper):  # type: ignore[misc]
        def read_array(self, *arguments: Any) -> Any:
            if self.dtype.hasobject:  # another pickle, which older versions of joblib read as it is
                raise _refusal("an array of objects")
            return super().read_array(*arguments)

    known = {
        "joblib.numpy_pickle.NumpyArrayWrapper": Array,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
    } | {path: type("Known", (Estimator,), {"kind": path}) for path in ESTIMATORS}

    class HeadUnpickler(numpy_pickle.NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in known:
                raise _refusal(f"{module}.{name}")
            return known[f"{module}.{name}"]

    if is_pointer(file):
        raise ScriptError(f"{file.name} is a pointer of Git LFS: run `git lfs pull` where the model comes from")
    try:
        with file.open("rb") as opened:
            return HeadUnpickler(str(file), opened, ensure_native_byte_order=True).load()
    except (
        pickle.UnpicklingError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        raise ScriptError(f"{file.name} cannot be read, perhaps cut short ({type(error).__name__})") from None
