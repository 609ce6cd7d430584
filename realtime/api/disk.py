"""Room to store what is accepted."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from anomalyze.errors import TransientError

__all__ = ["Disk"]

# Under this much free disk nothing more is accepted: what was accepted must still be storable.
FREE_BYTES_MIN = 1_000_000_000
LOOK_EVERY_S = 2.0
RETRY_AFTER_S = 30.0


class Disk:
    """Looks every two seconds at the disk that holds a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder if folder.exists() else Path("/")
        self._looked_at_s = float("-inf")
        self._free_bytes = 0

    def check(self) -> None:
        """Raises ``TransientError`` while the disk is nearly full."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s > LOOK_EVERY_S:
            self._looked_at_s = now_s
            self._free_bytes = shutil.disk_usage(self._folder).free
        if self._free_bytes < FREE_BYTES_MIN:
            raise TransientError(
                f"{self._free_bytes / 1e6:.0f} MB of disk are free, {FREE_BYTES_MIN / 1e6:.0f} MB are needed",
                RETRY_AFTER_S,
            )
