"""The kernel that decides: findings and a policy's numbers in, one severity a row out."""

from __future__ import annotations

import numpy as np
from numba import njit

from anomalyze.events.batch import Severity

__all__ = ["ALLOW", "BLOCK", "FLAG", "decide_severity"]

CRITICAL = int(Severity.CRITICAL)
FLAG, ALLOW, BLOCK = 0, 1, 2


@njit(cache=True, nogil=True)
def decide_severity(  # type: ignore[no-untyped-def]
    fired, severities, groups, effects, group_count, statistic, model, learning, limits, out
):
    """Write each row's severity, int8 ``[n]``, into ``out``; ``limits`` are those of ``Decision``."""
    statistic_group, statistic_cap, model_cap, learning_cap = limits[0], limits[1], limits[2], limits[3]
    raise_groups, raise_at, block, allow = limits[4], limits[5], limits[6], limits[7]
    n = len(out)
    highest = np.zeros((n, group_count), dtype=np.int8)
    listed = np.zeros(n, dtype=np.int8)
    for rule in range(len(severities)):
        for row in range(n):
            if fired[rule, row]:
                if effects[rule] != FLAG:
                    listed[row] = max(listed[row], effects[rule])
                elif severities[rule] > highest[row, groups[rule]]:
                    highest[row, groups[rule]] = severities[rule]
    for row in range(n):
        by_statistic = min(np.int64(statistic[row]), statistic_cap)
        highest[row, statistic_group] = max(np.int64(highest[row, statistic_group]), by_statistic)
        severity = min(np.int64(model[row]), learning_cap if learning[row] else model_cap)
        agreeing = 0
        for group in range(group_count):
            severity = max(severity, np.int64(highest[row, group]))
            if highest[row, group] >= raise_at:
                agreeing += 1
        if agreeing >= raise_groups and severity < CRITICAL:
            severity += 1
        if listed[row] == BLOCK:
            severity = max(severity, block)
        elif listed[row] == ALLOW:
            severity = allow
        out[row] = severity
