"""Settings: what is not obeyed is refused, with the nearest thing that would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handler.config import ModelConfig
from handler.errors import ConfigError
from tests.support.samples import ROOT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batchsize": 3}, r"unknown setting batchsize: did you mean batchSize\?"),
        ({"handler": {"precison": "fp32"}}, r"unknown setting handler\.precison: did you mean handler\.precision\?"),
        ({"asyncCommunication": True}, "unknown setting asyncCommunication"),
        ({"minWorkers": "1"}, "minWorkers is '1', accepted: a whole number"),
        ({"minWorkers": True}, "minWorkers is True, accepted: a whole number"),
        ({"minWorkers": 0}, "minWorkers is 0, accepted: 1 or more"),
        ({"minWorkers": 3, "maxWorkers": 2}, "minWorkers is 3, more than maxWorkers, 2"),
        ({"maxBatchDelay": 0}, "maxBatchDelay is 0, accepted: 1 or more"),
        ({"batchSize": 101}, "jobQueueSize is 100, less than one batch of 101"),
        ({"deviceIds": ["0"]}, "deviceIds is .* accepted: a list of whole numbers"),
        ({"deviceType": "tpu"}, "deviceType is 'tpu', accepted: cpu, gpu"),
        ({"handler": {"precision": "fp4"}}, "handler.precision is 'fp4', accepted: auto, fp32, bf16, fp16, int8, fp8"),
        ({"handler": {"overflow": "cut"}}, "handler.overflow is 'cut', accepted: truncate, window, refuse"),
        ({"handler": {"top_k": 0}}, "handler.top_k is 0, accepted: 1 or more"),
        ({"responseTimeout": 2**31}, "responseTimeout is 2147483648, accepted: at most 2147483647"),
        ({"handler": {"max_batch_tokens": 10**7}}, "max_batch_tokens is 10000000, accepted: at most 1048576"),
        ({"handler": {"threads": 10**6}}, "handler.threads is 1000000, accepted: at most 1024"),
        ({"handler": {"max_length": 1.5}}, "handler.max_length is 1.5, accepted: a whole number"),
        ({"handler": []}, "handler must hold keys and values, got list"),
        ([], "must hold keys and values, got list"),
    ],
    ids=str,
)
def test_what_would_not_be_obeyed_is_refused(settings: Any, message: str) -> None:
    """TorchServe would ignore a wrong type in silence."""
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_mapping(settings)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Nothing has to be set."""
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert ModelConfig.read(tmp_path / "empty.yaml") == ModelConfig()


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    """The message names the file and fits one line."""
    (tmp_path / "odd.yaml").write_text("a: [1\nb: 2", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^odd\.yaml cannot be read: [^\n]*$"):
        ModelConfig.read(tmp_path / "odd.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        ModelConfig.read(tmp_path / "absent.yaml")


NESTED = "batchSize:\n  - &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NESTED, r"has the alias \*a0: write the value itself"),  # 9 ** 10 values
        ("batchSize: &a [*a]", "has the alias"),
        (f"batchSize: {'[' * 20_000}", "nested more than 10 deep"),
        (f"batchSize: {'1' * 5000}", "cannot be read: .*digits"),
        ("batchSize: 2001-99-99", "cannot be read: month must be"),
        (f"batchSize: {'a' * 70_000}", "has more than 65536 characters"),
        ("batchSize: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
    ],
    ids=["billions of values", "itself", "nesting", "digits", "date", "long", "code"],
)
def test_a_file_of_another_makes_no_work(tmp_path: Path, text: str, message: str) -> None:
    """An archive may come from anywhere; each of these fails at once."""
    (tmp_path / "model-config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        ModelConfig.read(tmp_path / "model-config.yaml")


def test_writing_is_the_inverse_of_reading(tmp_path: Path) -> None:
    """What is packed says the same as what was read."""
    config = ModelConfig.read(ROOT / "model-config.yaml")
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.to_yaml(), encoding="utf-8")
    assert ModelConfig.read(copy) == config
    assert config.frontend.batchSize
