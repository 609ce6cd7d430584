"""The kernel that counts cases under a threshold, user by user, as the detector would form them."""

from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.detection.case import CASES_PER_USER_MAX

__all__ = ["count_cases_by_day"]


@njit(cache=True, nogil=True)
def count_cases_by_day(user, ts_ms, risk, before, limit, day, level, window_ms, out):  # type: ignore[no-untyped-def]
    """Add to ``out``, int64 ``[days]``, the cases of each day; rows come user by user, ``limit`` is each one's."""
    first_ms = np.zeros(CASES_PER_USER_MAX, dtype=np.int64)
    counted = np.zeros(CASES_PER_USER_MAX, dtype=np.bool_)
    opened = 0
    for row in range(len(user)):
        if row > 0 and user[row] != user[row - 1]:
            opened = 0
        shown = risk[row] >= limit[row]
        capped = risk[row] < limit[row]
        severity = before[row]
        if shown:
            severity = max(severity, level)
        elif capped:
            severity = min(severity, level - 1)
        if severity <= 0:
            continue
        # As CaseState.assign: of the cases opened last, the newest that began near enough.
        found = -1
        for back in range(min(opened, CASES_PER_USER_MAX)):
            place = (opened - 1 - back) % CASES_PER_USER_MAX
            if abs(ts_ms[row] - first_ms[place]) < window_ms:
                found = place
                break
        if found < 0:
            found = opened % CASES_PER_USER_MAX
            first_ms[found] = ts_ms[row]
            counted[found] = False
            opened += 1
        if shown and not counted[found]:
            counted[found] = True
            if 0 <= day[row] < len(out):
                out[day[row]] += 1
