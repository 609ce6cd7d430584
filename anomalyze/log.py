"""Structured logs: one JSON object a line on standard output, a short constant event name plus fields."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

__all__ = ["configure", "get"]

# Whatever looks like a password in an address, or one of our keys, never reaches a log.
SECRETS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+]*://[^\s:/@]*:)[^\s@]+@|\baz_[A-Za-z0-9_-]{16,}")


def configure(program: str, level: str = "INFO", to: Path | TextIO | None = None) -> None:
    """Set up logging for one program; ``program`` becomes a field of every line.

    ``to`` takes the lines instead of standard output, for a program that shows people something there.
    """
    output = to or sys.stdout
    if isinstance(output, Path):
        output.parent.mkdir(parents=True, exist_ok=True)
        output = output.open("a", encoding="utf-8", buffering=1)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(program=program)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=output)


def get() -> Any:
    """The logger."""
    return structlog.get_logger()


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace secrets inside any text field.

    >>> redact(None, "", {"event": "postgresql://u:secret@h/d and az_abcdefghijklmnopqrst"})["event"]
    'postgresql://u:…@h/d and az_…'
    """
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = SECRETS.sub(_hide, value)
    return event


def _hide(match: re.Match[str]) -> str:
    scheme = match.group("scheme")
    return f"{scheme}…@" if scheme else "az_…"
