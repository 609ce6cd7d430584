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

__all__ = ["COMPILED", "compiled_from"]

# How everything here is compiled. No exception for a division by zero, which would keep loops scalar; and no
# reference counts, whose atomic increments took a fifth of the kernel's time: compiled code allocates nothing,
# its arrays come from the caller and outlive the call.
COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


# Every module with compiled functions or constants in them.
_COMPILED = ("catalogue", "geography", "history", "kernel", "layout", "measure", "rows", "state")


def _fingerprint() -> int:
    digest = hashlib.sha256()
    for name in _COMPILED:
        digest.update(resources.files(__package__).joinpath(f"{name}.py").read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")


_SOURCES = _fingerprint()


def compiled_from(factory: Callable[[int], Any]) -> Any:
    """Decorator: what ``factory`` compiles, given the fingerprint that it must close over."""
    return factory(_SOURCES)
