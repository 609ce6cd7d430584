"""Anomalies of one user within 24 hours form one case: the unit that people see, decide and are told of.

A case is opened by an anomaly that belongs to no case of its user, and is named after it. Another anomaly
belongs to it when its event time lies less than the window from the first one's, on either side (late events
come after what happened later). The name is a hash of (account, user, first anomaly's tx), so that the same
log gives the same case.

Bounds, for each partition: the newest ``USERS_MAX`` users by their last anomaly in the log, and of each the
``CASES_PER_USER_MAX`` cases opened last. What is forgotten can only lead to a case being opened where an old
one would have been continued.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CASES_PER_USER_MAX", "USERS_MAX", "Case", "CaseState", "anomaly_id", "case_id"]

USERS_MAX = 100_000
CASES_PER_USER_MAX = 8
ID_BYTES = 10  # 80 bits: a billion ids of one account collide with a chance of 4e-7


def case_id(user_key: tuple[int, int], tx_key: int) -> str:
    """Name of the case that this user's transaction opens."""
    return "case_" + _digest(b"case", user_key, tx_key)


def anomaly_id(user_key: tuple[int, int], tx_key: int) -> str:
    """Name of the anomaly that this user's transaction is."""
    return "an_" + _digest(b"anomaly", user_key, tx_key)


def _digest(purpose: bytes, user_key: tuple[int, int], tx_key: int) -> str:
    words = b"".join(word.to_bytes(8, "little") for word in (*user_key, tx_key))
    return hashlib.blake2b(words, digest_size=ID_BYTES, person=purpose).hexdigest()


@dataclass(slots=True)
class Case:
    """An open case of one user.

    Attributes
    ----------
    id
        Its name.
    first_ms
        Event time of the anomaly that opened it.
    severity
        Highest so far (``Severity``).
    anomalies
        How many so far.
    value_base
        Sum of their absolute amounts in the account's base currency; unknown ones count as 0.
    """

    id: str
    first_ms: int
    severity: int = 0
    anomalies: int = 0
    value_base: float = 0.0


class CaseState:
    """The open cases of one partition's users, in the order of the log."""

    __slots__ = ("_users",)

    def __init__(self) -> None:
        self._users: dict[tuple[int, int], list[Case]] = {}

    def assign(
        self,
        user_key: tuple[int, int],
        tx_key: int,
        ts_ms: int,
        severity: int,
        value_base: float,
        window_ms: int,
    ) -> Case:
        """The case this anomaly belongs to, opened when there is none, with the anomaly counted in it."""
        cases = self._users.pop(user_key, [])
        found = next((case for case in reversed(cases) if abs(ts_ms - case.first_ms) < window_ms), None)
        if found is None:
            found = Case(case_id(user_key, tx_key), ts_ms)
            cases.append(found)
            del cases[:-CASES_PER_USER_MAX]
        self._users[user_key] = cases  # now the newest
        if len(self._users) > USERS_MAX:
            del self._users[next(iter(self._users))]
        found.severity = max(found.severity, severity)
        found.anomalies += 1
        found.value_base += 0.0 if value_base != value_base else abs(value_base)
        return found

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Copies as arrays, in the order of the log: restored, everything goes on as if nothing happened."""
        rows = [(key, case) for key, cases in self._users.items() for case in cases]
        return {
            "user": np.array([key for key, _ in rows], dtype=np.uint64).reshape(-1, 2),
            "id": np.array([case.id for _, case in rows], dtype=f"S{5 + 2 * ID_BYTES}"),
            "first_ms": np.array([case.first_ms for _, case in rows], dtype=np.int64),
            "severity": np.array([case.severity for _, case in rows], dtype=np.int8),
            "anomalies": np.array([case.anomalies for _, case in rows], dtype=np.int64),
            "value_base": np.array([case.value_base for _, case in rows], dtype=np.float64),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what ``snapshot`` described."""
        self._users = {}
        columns = zip(
            arrays["user"].tolist(),
            arrays["id"].tolist(),
            arrays["first_ms"].tolist(),
            arrays["severity"].tolist(),
            arrays["anomalies"].tolist(),
            arrays["value_base"].tolist(),
            strict=True,
        )
        for (first, second), name, first_ms, severity, anomalies, value in columns:
            case = Case(name.decode(), first_ms, severity, anomalies, value)
            self._users.setdefault((first, second), []).append(case)
