"""Mappings that an account keeps for files it sends again and again: ``metrics_config/uploads/<account>.yaml``.

files:
  - name: november*.csv
    mapping:
      fields: {tx_id: ID, user_id: CUSTOMER, timestamp: TIME, amount: AMOUNT}
      constants: {currency: USD}
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from anomalyze.config import StrictModel, load_document, validate
from anomalyze.ingestion.mapping import FileMapping

if TYPE_CHECKING:
    from anomalyze.ingestion.guess import Guess

__all__ = ["UploadsFile", "choose_mapping", "find_mapping"]

# An account's name becomes that of a file: nothing that could lead elsewhere.
ACCOUNT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class NamedMapping(StrictModel):
    """The mapping of files with such a name."""

    name: str = Field(min_length=1, max_length=200, description="of the file; * stands for anything")
    mapping: FileMapping


class UploadsFile(StrictModel):
    """An account's mappings; the first whose name fits a file counts."""

    files: list[NamedMapping] = Field(max_length=1000)


def find_mapping(config_dir: Path, account_id: str, name: str) -> FileMapping | None:
    """What an account's own file says of a file of this name.

    Raises
    ------
    ConfigProblems
        Every mistake in the account's file, with its line.
    """
    path = config_dir / "uploads" / f"{account_id}.yaml"
    if not ACCOUNT.fullmatch(account_id) or not path.is_file():
        return None
    for entry in validate(load_document(path), UploadsFile).files:
        if fnmatchcase(name, entry.name):
            return entry.mapping
    return None


def choose_mapping(config_dir: Path, account_id: str, name: str, guess: Guess | None) -> FileMapping | None:
    """The mapping with which a file may start without anybody looking: the account's own, else a sure guess."""
    own = find_mapping(config_dir, account_id, name)
    if own is not None or guess is None or guess.doubts:
        return own
    return guess.complete()
