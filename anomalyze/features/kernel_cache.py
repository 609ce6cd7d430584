"""Compiled code on disk that notices every change of its sources.

numba stamps a cached function with its own file alone; what it calls from other files is compiled in and
would go stale after an update. Only the entry points are cached, each closes over a fingerprint of all the
package's sources, and numba makes what a function closes over part of the cache's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

__all__ = ["compiled_from"]


# Every module with compiled functions or constants in them.
_COMPILED = ("catalogue", "geography", "history", "kernel", "layout", "measure", "state")


def _fingerprint() -> int:
    digest = hashlib.sha256()
    for name in _COMPILED:
        digest.update(resources.files(__package__).joinpath(f"{name}.py").read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")


_SOURCES = _fingerprint()


def compiled_from(factory: Callable[[int], Any]) -> Any:
    """Decorator: what ``factory`` compiles, given the fingerprint that it must close over."""
    return factory(_SOURCES)
