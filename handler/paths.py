"""Paths that the content of a file names: whoever wrote a model's folder or an archive may have written any."""

from __future__ import annotations

from pathlib import PurePosixPath


def stays_inside(path: object) -> bool:
    """Tell whether a value is a path that leads to the folder itself or below it.

    >>> [stays_inside(path) for path in ("", "1_Pooling/config.json", "../other", "a/../../b", "/etc", "a\\0", 1)]
    [True, True, False, False, False, False, False]
    """
    if not isinstance(path, str) or "\0" in path:
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts
