"""One thread for few tokens: found by trying, set for one pass, and set back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from handler.engine.threads import TRIED, Threads
from tests.support.samples import MakePredictor


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Let PyTorch have two threads, and then as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_a_small_pass_has_one_thread_and_a_large_one_all() -> None:
    """Also where it fails."""
    threads = Threads()
    threads.few = 32
    with threads.of(32):
        assert torch.get_num_threads() == 1
    with threads.of(33):
        assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="on the way"), threads.of(1):
        raise ValueError("on the way")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("most", [0, 64, 256])
def test_few_is_what_one_thread_does_as_fast(most: int) -> None:
    """The first number of tokens that all threads do faster ends the search."""
    threads, asked = Threads(), []

    def run(n_tokens: int) -> None:
        asked.append(n_tokens)
        with threads.of(n_tokens):
            alone = torch.get_num_threads() == 1
            time.sleep(0.002 if alone == (n_tokens > most) else 0)

    threads.find(run)
    assert threads.few == most
    assert max(asked) == min(2 * max(most, 8), TRIED[-1])


def test_a_warm_engine_answers_the_same(make_predictor: MakePredictor) -> None:
    """Answers do not depend on the number of threads, which is left as it was."""
    predictor = make_predictor()
    texts = ["a text", "another text " * 30]
    before = predictor.answer_items(texts)
    predictor.engine.warm_up(64)
    assert predictor.engine._threads.few in (0, *TRIED)
    predictor.engine._threads.few = 16
    assert predictor.answer_items(texts) == before
    assert torch.get_num_threads() == 2
