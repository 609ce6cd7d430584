"""Finds anomalies in transactions as they arrive, with a reason a person can read."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

__all__: list[str] = []

# Packages whose modules hold compiled functions.
_COMPILED = ("events", "features", "models", "detection")


def _keep_compiled_code_apart() -> None:
    """Give numba a cache folder named after all compiled sources.

    numba stamps what it compiled with the function's own file alone: what it calls from other files is
    compiled in and would go stale after an update, silently. So every change of any of them begins a new folder.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256(sys.version.encode())
    for package in _COMPILED:
        for source in sorted((here / package).glob("*.py")):
            text = source.read_bytes()
            if b"njit" in text:
                digest.update(source.name.encode() + b"\0" + text)
    folder = here / "__pycache__"
    if not os.access(folder if folder.exists() else here, os.W_OK):
        folder = Path.home() / ".cache" / "anomalyze"
    os.environ["NUMBA_CACHE_DIR"] = str(folder / f"kernels-{digest.hexdigest()[:16]}")


# Before anything imports numba, which reads the setting once. A folder named by somebody else stays; one that a
# parent process named is looked at again.
if "numba" not in sys.modules and "kernels-" in os.environ.get("NUMBA_CACHE_DIR", "kernels-"):
    _keep_compiled_code_apart()
