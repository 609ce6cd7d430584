"""Runs whose processes ended with the code server before.

A run is a child of the code server, and the guard that watches the server lets none of its children outlive it.
Dagster's launcher for processes cannot tell whether one still lives, so such a run would count as started until its
longest time is over. A new server says at its start that they failed; Dagster then runs them again.
"""

import dagster as dg

from anomalyze.log import get

__all__ = ["fail_orphans"]

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
RUNS_MAX = 1_000


def fail_orphans() -> int:
    """Mark every unfinished run as failed; call it before any can be started. Returns how many."""
    with dg.DagsterInstance.get() as instance:
        orphans = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=RUNS_MAX)
        for run in orphans:
            instance.report_run_failed(run, "The process of this run ended with Dagster's code server.")
    if orphans:
        get().warning("runs_orphaned", runs=len(orphans))
    return len(orphans)
