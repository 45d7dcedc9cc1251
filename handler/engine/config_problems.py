"""Why a config.json cannot be used, in one line: the field, its value and what to write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.errors import ModelMismatch, RequestError
from handler.labels import read_labels
from handler.protocol import JSON, loads
from handler.weight_files import LFS_POINTER

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Fields that changed what earlier versions of transformers computed, which later ones load without a word.
REMOVED_FIELDS: dict[str, tuple[JSON, ...]] = {
    "position_embedding_type": (None, "absolute"),
    "pruned_heads": (None, {}),
}
TYPES = {"int": "a whole number", "float": "a number with a fraction", "bool": "true or false", "str": "a string"}


def read_content(folder: Path) -> dict[str, JSON]:
    """Return the content of config.json as transformers reads it; raises ModelMismatch where it cannot."""
    import transformers

    try:
        content: dict[str, JSON] = transformers.PretrainedConfig.get_config_dict(folder, local_files_only=True)[0]
    except Exception as error:
        raise ModelMismatch(config_problem(folder / "config.json", error)) from error
    if not isinstance(content, dict):
        raise ModelMismatch(f"{folder / 'config.json'} holds no JSON object")
    return content


def load_config(folder: Path) -> PretrainedConfig:
    """Load the config of a model without judging its labels, which training replaces.

    Raises:
        ModelMismatch: there is none that transformers takes, or a field that it would not obey.
    """
    import transformers

    content = read_content(folder)
    try:
        config: PretrainedConfig = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # config classes raise whatever their code meets
        raise ModelMismatch(config_problem(folder / "config.json", error)) from error
    require_obeyed(content, config)
    config.return_dict = True  # outputs are read by name; what else a folder asks for is not read
    config.output_hidden_states = config.output_attentions = False
    config._attn_implementation = None  # how attention was computed where the model comes from; not what it computes
    return config


def config_problem(file: Path, error: Exception) -> str:
    """Return why a config.json cannot be read.

    Args:
        file: the config.json.
        error: of transformers.
    """
    from transformers import CONFIG_MAPPING

    if not file.is_file():
        is_adapter = (file.parent / "adapter_config.json").is_file()
        hint = ", but an adapter: merge it into its base model first (merge_and_unload)" if is_adapter else ""
        return f"no config.json in {file.parent}{hint}"
    if file.read_bytes().startswith(b"\xef\xbb\xbf"):
        return f"{file} begins with a byte-order mark: save it as UTF-8 without one"
    if file.read_bytes().startswith(LFS_POINTER):
        return f"{file} is a pointer of Git LFS: run `git lfs pull` where the model comes from"
    try:
        content = loads(file.read_text(encoding="utf-8"))
    except (RequestError, ValueError):
        return f"{file} is not JSON"
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(model_type, str):
        return f'{file} has no model_type: write the type of its architecture, e.g. "model_type": "bert"'
    if model_type not in CONFIG_MAPPING:
        hint = ": its code comes with it, and is not run; look for a version that transformers has"
        hint = hint if "auto_map" in content else ""
        return f"{file} has the model_type {model_type!r}, which this version of transformers does not know{hint}"
    field = re.search(r"field '(\w+)'", str(error))
    if field and field[1] in content:
        accepted = set(re.findall(r"expected (\w+)", str(error))) & TYPES.keys()
        return f"{file} has {_field(content, field[1])}: {_advice(content[field[1]], accepted)}"
    return f"{file} cannot be used: {type(error).__name__} {' '.join(str(error).split())[:300]}"


def require_obeyed(content: Mapping[str, JSON], config: PretrainedConfig) -> None:
    """Raise ModelMismatch for a field that would change answers and that transformers takes without obeying it.

    Args:
        content: of config.json.
        config: that transformers made of it.
    """
    architectures = content.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise ModelMismatch(
            f'config.json has {_field(content, "architectures")}: write a list, e.g. ["BertForSequenceClassification"]'
        )
    if content.get("quantization_config"):
        raise ModelMismatch(
            "config.json has a quantization_config: give the weights before quantization and pack with --precision"
        )
    if content.get("chunk_size_feed_forward"):
        raise ModelMismatch(
            f"config.json has {_field(content, 'chunk_size_feed_forward')}, which needs texts of a multiple of so many "
            "tokens: write 0, which changes no answer"
        )
    if content.get("add_cross_attention") and not content.get("is_decoder"):
        raise ModelMismatch("config.json has add_cross_attention true, which an encoder has not: write false")
    for field, computed in REMOVED_FIELDS.items():
        if content.get(field) not in computed and field not in getattr(type(config), "__dataclass_fields__", {}):
            raise ModelMismatch(
                f"config.json has {_field(content, field)}, which transformers 5 no longer computes for a "
                f"{config.model_type}: train the model again with {computed[-1]!r}"
            )


def unknown_value(config: PretrainedConfig, error: KeyError) -> str:
    """Return which field of a config has the value that transformers did not find in one of its tables."""
    value = error.args[0] if error.args else None
    fields = [name for name, other in config.to_dict().items() if other == value and value is not None]
    if fields:
        return f"config.json has {fields[0]} {value!r}, which transformers does not know"
    return f"the model cannot be built from config.json: KeyError {value!r}"


def _field(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    return f'{name} "{value}"' if isinstance(value, str) else f"{name} {value!r}"


def _advice(value: JSON, accepted: set[str]) -> str:
    """Return what to write instead of a value.

    >>> _advice("32", {"int"}), _advice(0, {"float"}), _advice("false", {"bool"})
    ('write 32', 'write 0.0', 'write false')
    """
    if "float" in accepted and type(value) is int:
        return f"write {float(value)}"
    if isinstance(value, str) and value.lower() in ("true", "false") and "bool" in accepted:
        return f"write {value.lower()}"
    try:
        number = float(value) if isinstance(value, str | float) else None
    except ValueError:
        number = None
    if number is not None and "int" in accepted and number.is_integer():
        return f"write {int(number)}"
    if number is not None and "float" in accepted:
        return f"write {value}"
    return f"accepted: {' or '.join(TYPES[name] for name in sorted(accepted)) or 'another type'}"


def read_config(folder: Path) -> PretrainedConfig:
    """Read the model's own config, with the names of its labels.

    Raises:
        ModelMismatch: there is none that transformers takes, or one that contradicts itself.
    """
    labels = read_labels(read_content(folder))
    config = load_config(folder)
    if labels:
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    return config
