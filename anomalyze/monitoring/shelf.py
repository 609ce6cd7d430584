"""Where a batch's bank lies, and whether it can be believed: it is derived, the database is not.

Beside the bank a note says which turn it has taken, and which one it began. A turn that began and was never stored
leaves series ahead of the database: they are the ones that are pending again, and the counts of `SeriesBank` tell.
A bank that missed turns (another machine took them, or a database was put back) is begun anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anomalyze.errors import ContractError
from anomalyze.log import get
from anomalyze.metrics.bank import SeriesBank

__all__ = ["bank_folder", "begin_note", "finish_note", "open_bank"]

NOTE = "turn.json"


def bank_folder(folder: Path, batch: str) -> Path:
    """The folder of a batch's bank, whatever characters its name has."""
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in batch)[:40]
    return folder / f"{plain}-{hashlib.sha256(batch.encode()).hexdigest()[:12]}"


@contextmanager
def open_bank(folder: Path, names: Sequence[str], period_s: float, turn: int) -> Iterator[SeriesBank]:
    """The bank of a batch that has taken ``turn`` turns, or an empty one.

    Raises
    ------
    TransientError
        Another process has it open.
    """
    if not _is_of_turn(folder, turn):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        bank = SeriesBank.open(folder, names, period_s)
    except ContractError as error:
        get().warning("metric_bank_begun_anew", folder=folder.name, reason=str(error))
        shutil.rmtree(folder)
        bank = SeriesBank.open(folder, names, period_s)
    with bank:
        yield bank


def begin_note(folder: Path, turn: int) -> None:
    """Note that the turn is being taken."""
    _write(folder, {"taken": turn - 1, "begun": turn})


def finish_note(folder: Path, turn: int) -> None:
    """Note that the turn is taken and stored."""
    _write(folder, {"taken": turn, "begun": turn})


def _is_of_turn(folder: Path, turn: int) -> bool:
    try:
        note = json.loads((folder / NOTE).read_text())
        return turn in (note["taken"], note["begun"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(folder: Path, note: dict[str, int]) -> None:
    partial = folder / f"{NOTE}.partial"
    partial.write_text(json.dumps(note))
    partial.replace(folder / NOTE)
