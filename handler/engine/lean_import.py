"""Import of transformers what a serving process needs, without the optional libraries that it finds.

transformers imports scikit-learn (and with it pandas and scipy), accelerate and others if they are installed; for its
models, also with PyTorch alone, text generation, quantizers, torch.distributed and torch._dynamo. All of that only
defines classes that no encoder uses. Python can hide a module: with None in its place in `sys.modules`,
`importlib.util.find_spec` returns None and an import raises ModuleNotFoundError.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Iterator

from handler.errors import ConfigError

_lock = threading.Lock()
OPTIONAL = ("accelerate", "jinja2", "pandas", "PIL", "scipy", "sklearn", "torchvision")


def import_transformers(*, with_models: bool) -> None:
    """Import configs and tokenizers, and models unless a `FusedModel` takes their place.

    Without models, transformers has none for the rest of the process, as if PyTorch were not installed. Where it is
    imported already, it stays as it is. Threads may call this.

    Raises:
        ConfigError: this process has imported transformers without the models that are needed now.
    """
    with _lock:
        _import(with_models=with_models)


def _import(*, with_models: bool) -> None:
    if "transformers" in sys.modules:
        if with_models and not sys.modules["transformers"].is_torch_available():
            raise ConfigError(
                "this archive needs the models of transformers, which this process has imported without them: start "
                "the server anew with this archive among --models"
            )
        return
    if with_models:
        with _hidden(OPTIONAL):
            from transformers import AutoTokenizer, PreTrainedModel  # noqa: F401
        return
    no_advice = _environment("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # such as that PyTorch is missing
    with _hidden(("torch", *OPTIONAL)), no_advice, _no_packages_distributions():
        from transformers import AutoConfig, AutoTokenizer  # noqa: F401


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Hide modules from imports, and restore them."""
    modules: dict[str, object] = dict.fromkeys(names)
    saved = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(modules)  # type: ignore[arg-type]  # documented: None raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(saved)


@contextlib.contextmanager
def _no_packages_distributions() -> Iterator[None]:
    """Let transformers look versions up by the names of packages.

    It asks for the distribution of every package, for which the lists of all installed files are read: 0.4 s.
    """
    saved = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = dict
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = saved


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, and restore it."""
    saved = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if saved is None:
            del os.environ[name]
        else:
            os.environ[name] = saved
