"""Whether PyTorch is installed, which archives of the BERT family do not need on x86 CPUs; said without its import."""

from __future__ import annotations

from importlib.util import find_spec

from handler.errors import ConfigError

# Looked up when this module is imported: `lean_import` hides PyTorch for a moment, and another thread may ask then.
IS_INSTALLED = find_spec("torch") is not None
MISSING = "PyTorch is not installed here: take an install (scripts/setup.sh --lean) or an image (--target lean) with it"


def has_torch() -> bool:
    """Tell whether PyTorch can be imported."""
    return IS_INSTALLED


def require_torch(user: str) -> None:
    """Check that PyTorch can be imported.

    Args:
        user: what is computed by it.

    Raises:
        ConfigError: PyTorch is not installed.
    """
    if not has_torch():
        raise ConfigError(f"{user} is computed by PyTorch. {MISSING}")
