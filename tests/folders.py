"""Folders for servers that run as another user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def passable_folder() -> Iterator[Path]:
    """A new folder that every user may enter, deleted afterwards.

    Not one of pytest's: each run of pytest takes the rights away again from the folder that all runs share, and
    a PostgreSQL of another run that is at work below it loses its files.
    """
    folder = Path(tempfile.mkdtemp(prefix="anomalyze-test-"))
    os.chmod(folder, 0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
