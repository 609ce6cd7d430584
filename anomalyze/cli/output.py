"""What every command prints the same way: one JSON document for machines, lines for people."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["fail", "print_json", "print_line"]


def print_line(text: str = "", *, error: bool = False) -> None:
    """One line to standard output, or to standard error."""
    (sys.stderr if error else sys.stdout).write(text + "\n")


def print_json(document: Any) -> None:
    """The one JSON document of a command on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def fail(message: str, code: int = 1) -> SystemExit:
    """Say why on standard error; raise what this returns."""
    print_line(message, error=True)
    return SystemExit(code)
