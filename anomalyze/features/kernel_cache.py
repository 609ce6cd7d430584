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


def _fingerprint() -> int:
    digest = hashlib.sha256()
    sources = [file for file in resources.files(__package__).iterdir() if file.name.endswith(".py")]
    for file in sorted(sources, key=lambda file: file.name):
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")


_SOURCES = _fingerprint()


def compiled_from(factory: Callable[[int], Any]) -> Any:
    """Decorator: what ``factory`` compiles, given the fingerprint that it must close over."""
    return factory(_SOURCES)
