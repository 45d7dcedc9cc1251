"""One thread for few tokens: measured, set for one pass, and restored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from handler.engine.encoder import PackedEncoder
from handler.engine.families import encoder_of
from handler.engine.threads import CANDIDATES, Threads
from tests.support.samples import MakePredictor, SetKernelLevels


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Give PyTorch two threads, and then as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_a_small_pass_has_one_thread_and_a_large_one_all() -> None:
    """Also where it fails."""
    threads = Threads()
    threads.single_thread_max_tokens = 32
    with threads.limit(32):
        assert torch.get_num_threads() == 1
    with threads.limit(33):
        assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="in the pass"), threads.limit(1):
        raise ValueError("in the pass")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("limit", [0, 64, 256])
def test_the_limit_is_where_all_threads_become_faster(limit: int) -> None:
    """The first number of tokens that all threads do faster ends the search."""
    threads, measured = Threads(), []

    def run(n_tokens: int) -> None:
        measured.append(n_tokens)
        with threads.limit(n_tokens):
            is_single = torch.get_num_threads() == 1
            time.sleep(0.002 if is_single == (n_tokens > limit) else 0)

    threads.calibrate(run)
    assert threads.single_thread_max_tokens == limit
    assert max(measured) == min(2 * max(limit, 8), CANDIDATES[-1])


def test_a_warm_engine_answers_the_same(make_predictor: MakePredictor, kernel_levels: SetKernelLevels) -> None:
    """Answers of operators do not depend on the number of threads, which is restored."""
    kernel_levels({})
    predictor = make_predictor()
    engine: Any = predictor.engine
    texts = ["a text", "another text " * 30]
    before = predictor.answer_items(texts)
    predictor.engine.warm_up(64)
    assert engine.threads.single_thread_max_tokens in (0, *CANDIDATES)
    engine.threads.single_thread_max_tokens = 16
    assert predictor.answer_items(texts) == before
    assert torch.get_num_threads() == 2


def test_native_code_chooses_by_the_work_of_a_pass(
    make_predictor: MakePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model has one thread for many tokens; nothing is measured, which depends on what else runs."""
    predictor = make_predictor()
    encoder = encoder_of(predictor.engine.model.base_model)
    assert isinstance(encoder, PackedEncoder)
    assert encoder.native is not None
    native = encoder.native
    used: list[int] = []
    monkeypatch.setattr(native, "_library", native._library._replace(encode=lambda _, threads: used.append(threads)))
    native.single_thread_tokens = 10
    engine: Any = predictor.engine
    engine.warm_up(64)
    assert engine.threads.single_thread_max_tokens == 0
    assert used == [1, 2, 2]  # of 2, 64 and as many tokens as fit
