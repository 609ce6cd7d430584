"""Whose batches are whose: the one place where a batch becomes an account's.

What is stored of metrics knows batches and no accounts: a batch's file says who may see it. A batch without a file is
nobody's, so that nothing is shown by mistake when an account's file goes.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from anomalyze.config import Problem
from anomalyze.metrics.batch import Batch
from anomalyze.metrics.library import BatchEntry, Library

__all__ = ["OwnedBatches"]

# Looking at the folder reads the state of each of its files.
LOOK_EVERY_S = 1.0
# Of a file that cannot be read as YAML, too.
_ACCOUNT = re.compile(rb"^account:\s*[\"']?([^\s\"'#]{1,128})", re.MULTILINE)
LOOKED_AT_BYTES = 65_536


class OwnedBatches:
    """The batches of a configuration folder by account, as their files are; for threads.

    Parameters
    ----------
    config_dir
        Holds ``metrics/``.
    """

    def __init__(self, config_dir: Path) -> None:
        self._config_dir = config_dir
        self._library = Library(config_dir)
        self._lock = threading.Lock()
        self._looked_s = float("-inf")
        self._owned: dict[str, dict[str, BatchEntry]] = {}

    def of(self, account_id: str) -> Mapping[str, BatchEntry]:
        """An account's batches by name; files that changed a second ago are seen."""
        with self._lock:
            self._look()
            return self._owned.get(account_id, {})

    def mistakes(self, account_id: str) -> dict[str, tuple[Problem, ...]]:
        """What is wrong with the files of those batches that run as they were before it."""
        with self._lock:
            self._look()
            owned = self._owned.get(account_id, {})
            stale = {str(owned[name].path): name for name in self._library.stale if name in owned}
            found: dict[str, tuple[Problem, ...]] = dict.fromkeys(stale.values(), ())
            for problem in self._library.problems:
                if problem.file in stale:
                    found[stale[problem.file]] += (problem,)
            return found

    def unread(self, account_id: str) -> tuple[Problem, ...]:
        """What is wrong with files of which no good form was ever read here: their batches are not there at all.

        A file is of the account that its text names; one that names none is the operator's. Files are told from the
        configuration folder on.
        """
        with self._lock:
            self._look()
            read = {str(entry.path) for entry in self._library.batches.values()}
            return tuple(
                replace(problem, file=os.path.relpath(problem.file, self._config_dir))
                for problem in self._library.problems
                if problem.file not in read and _named_account(Path(problem.file)) == account_id
            )

    def _look(self) -> None:
        if time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return
        if self._library.refresh():
            owned: dict[str, dict[str, BatchEntry]] = {}
            for name, entry in self._library.batches.items():
                owned.setdefault(entry.batch.account, {})[name] = entry
            self._owned = owned
        self._looked_s = time.monotonic()


def _named_account(path: Path) -> str:
    """Whose a file says it is."""
    text = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        text = file.read(LOOKED_AT_BYTES)
    found = _ACCOUNT.search(text)
    return found[1].decode(errors="replace") if found else str(Batch.model_fields["account"].default)
