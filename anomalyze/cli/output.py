"""What every command prints the same way: one JSON document for machines, lines for people."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["print_json", "print_line"]


def print_line(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")


def print_json(document: Any) -> None:
    """The one JSON document of a command on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
