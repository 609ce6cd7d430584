"""Errors named after the reaction they ask for.

A message says what was expected, what came, where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "AnomalyzeError",
    "ConfigError",
    "ContractError",
    "EventError",
    "ModelError",
    "TransientError",
]


class AnomalyzeError(Exception):
    """Base of everything this project raises on purpose."""


class ConfigError(AnomalyzeError):
    """Configuration cannot be used: the program refuses to start."""


class EventError(AnomalyzeError):
    """One record cannot be judged: it becomes a dead letter and the stream goes on.

    Parameters
    ----------
    field
        Path of the offending field, such as ``data.amount``; empty for the record as a whole.
    expected
        What would have been accepted.
    got
        What came, shortened to 120 characters.
    """

    def __init__(self, field: str, expected: str, got: str) -> None:
        self.field = field
        self.expected = expected
        self.got = got[:120]
        super().__init__(f"{field or 'record'}: expected {expected}, got {self.got}")


class TransientError(AnomalyzeError):
    """Something outside does not answer now: try again after ``retry_after_s`` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class ModelError(AnomalyzeError):
    """A model cannot be used: keep the last good bundle and raise an alarm."""


class ContractError(AnomalyzeError):
    """A bundle or a stored artefact breaks its contract (hash, format, parity): it is refused."""
