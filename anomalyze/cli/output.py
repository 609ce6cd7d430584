"""What every command prints the same way: one JSON document for machines, lines for people."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import typer

from anomalyze.errors import AnomalyzeError

__all__ = ["complain", "print_json", "print_line"]


def print_line(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")


def print_json(document: Any) -> None:
    """The one JSON document of a command on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def complain(command: str) -> Iterator[None]:
    """End the command with exit code 1 and the reason on standard error when something of ours goes wrong."""
    try:
        yield
    except AnomalyzeError as error:
        sys.stderr.write(f"anomalyze {command}: {error}\n")
        raise typer.Exit(1) from None
