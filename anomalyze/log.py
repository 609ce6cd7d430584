"""Structured logs: one JSON object a line on standard output, a short constant event name plus fields."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog

__all__ = ["configure", "get"]

# Whatever looks like a password in an address, or one of our keys, never reaches a log.
SECRETS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+]*://[^\s:/@]*:)[^\s@]+@|\baz_[A-Za-z0-9_-]{16,}")


class _Stream:
    """A standard stream as it is at each line: whoever redirects it for a while does not leave us a closed one."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    def write(self, text: str) -> int:
        return int(getattr(sys, self._name).write(text))

    def flush(self) -> None:
        getattr(sys, self._name).flush()


def configure(program: str, level: str = "INFO", to: Path | Literal["stdout", "stderr"] = "stdout") -> None:
    """Set up logging for one program; ``program`` becomes a field of every line.

    ``to`` takes the lines instead of standard output, for a program that shows people something there.
    """
    if isinstance(to, Path):
        to.parent.mkdir(parents=True, exist_ok=True)
        output: Any = to.open("a", encoding="utf-8", buffering=1)
    else:
        output = _Stream(to)
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
