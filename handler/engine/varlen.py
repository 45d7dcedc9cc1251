"""The boundaries of the batch that runs, for modules that transformers calls without them.

Some families pass the keyword arguments of their forward on to every layer, others drop them or refuse unknown ones. So
the boundaries are set around the call of the model, and read where attention is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from handler.engine.batch import VarlenMetadata

_current: ContextVar[VarlenMetadata | None] = ContextVar("varlen", default=None)


@contextmanager
def running(varlen: VarlenMetadata) -> Iterator[None]:
    """Set the boundaries of the batch that runs."""
    token = _current.set(varlen)
    try:
        yield
    finally:
        _current.reset(token)


def current_varlen() -> VarlenMetadata:
    """Return the boundaries of the batch that runs.

    Raises:
        ValueError: no packed batch runs: without boundaries texts would attend to each other.
    """
    varlen = _current.get()
    if varlen is None:
        raise ValueError("packed attention needs the boundaries of the sequences")
    return varlen
