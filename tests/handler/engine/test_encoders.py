"""Every encoder of transformers: unpadded, padded or refused with the reason, and equal to transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import BigBirdConfig, CanineConfig, NomicBertConfig

from handler.config import ServingConfig
from handler.engine.families import unsupported_reason
from handler.engine.torch_engine import TorchEngine
from handler.errors import ModelMismatch
from tests.support.encoders import PADDED, Row, encoder_types, measure, small_model, table
from tests.support.samples import ROOT


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return what the engine makes of every encoder."""
    return [measure(name) for name in encoder_types()]


def test_every_encoder_equals_transformers(rows: list[Row]) -> None:
    """Texts of different lengths in one batch, some longer than a window, get what each gets alone."""
    for row in rows:
        for output, expected in zip(row.outputs, row.expected, strict=True):
            np.testing.assert_allclose(output.reshape(expected.shape), expected, atol=2e-5, err_msg=row.model_type)
    assert all(
        np.abs(row.outputs[0] - row.outputs[1]).max() > 1e-3 for row in rows if row.outputs and len(row.outputs[0]) == 1
    )


def test_the_table_in_the_documentation(rows: list[Row]) -> None:
    """It is what was measured; a family that is padded has a reason, and no other."""
    assert {row.model_type for row in rows if row.computed == "padded"} == {*PADDED}
    assert table(rows) in (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8"), f"write there:\n{table(rows)}"


def test_what_a_few_tokens_do_not_show() -> None:
    """Settings that the probe at load cannot see are refused by name."""
    nomic: Any = NomicBertConfig
    assert not unsupported_reason(nomic(n_head=12, rotary_emb_base=1000))
    assert "n_head is 6" in unsupported_reason(nomic(n_head=6))
    assert "rotary_emb_base" in unsupported_reason(nomic(rotary_emb_base=10000))
    assert '"attention_type": "original_full"' in unsupported_reason(BigBirdConfig())
    assert not unsupported_reason(BigBirdConfig(attention_type="original_full"))
    model, pooler = small_model(CanineConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4))
    with pytest.raises(ModelMismatch, match="characters in the place of tokens"):
        TorchEngine(model, pooler, ServingConfig())
