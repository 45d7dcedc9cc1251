"""The process of the explanations: what clients and operators read when it cannot load its model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import Body
from handler.request_state import Request
from server.errors import ApiError
from server.explanations import Explanations

REQUEST = Request(Body(b'"Where is it?"', "application/json"), explain=True)


def fail(error: Exception) -> Predictor:
    """Load nothing."""
    raise error


def load_if(marker: Path, folder: Path) -> Predictor:
    """Load a model where a file is."""
    if not marker.exists():
        raise ModelMismatch("model/config.json is missing")
    return load_predictor(folder)


@pytest.mark.parametrize(
    ("error", "advice", "logged"),
    [
        (ModelMismatch("model/config.json is missing"), "register the archive again", "config.json is missing"),
        (ImportError("libtorch_cpu.so: cannot open"), "PyTorch cannot be imported: install it again", "libtorch_cpu"),
        (ValueError("a secret text"), "register the archive again", "(ValueError)"),
    ],
)
def test_a_model_that_cannot_be_loaded_again_is_said(
    error: Exception, advice: str, logged: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its type to the client, with what to do; in the log by what it names, where that is a file."""
    explanations = Explanations(partial(fail, error))
    with pytest.raises(ApiError) as refused:
        asyncio.run(explanations.explain(REQUEST))
    assert (refused.value.status, refused.value.kind) == (503, "InternalServerException")
    assert f"({type(error).__name__}): {advice}" in refused.value.message
    assert refused.value.message.endswith("predictions go on")
    log = capfd.readouterr().err
    assert logged in log
    assert '"level":"ERROR"' in log
    assert "Traceback" not in log
    assert "secret" not in log + refused.value.message
    explanations.close()


def test_memory_that_runs_out_is_another_thing() -> None:
    """Nothing has to be installed or packed."""
    explanations = Explanations(partial(fail, MemoryError()))
    with pytest.raises(ApiError, match="perhaps out of memory"):
        asyncio.run(explanations.explain(REQUEST))
    explanations.close()


def test_what_is_mended_is_explained(tmp_path: Path, model_folder: Path) -> None:
    """The next explanation tries again; those that waited beside the first one have the same answer."""
    load: Callable[[], Predictor] = partial(load_if, tmp_path / "mended", model_folder)
    explanations = Explanations(load)

    async def several() -> list[object]:
        return await asyncio.gather(*(explanations.explain(REQUEST) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(several())] == [ApiError] * 3
    (tmp_path / "mended").touch()
    response, _ = asyncio.run(explanations.explain(REQUEST))
    assert response.status == 200
    explanations.close()
