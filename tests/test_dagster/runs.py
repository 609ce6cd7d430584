"""Dagster runs within the test's own process."""

from __future__ import annotations

from typing import Any

import dagster as dg

from anomalyze_dagster.definitions import definitions

__all__ = ["checks_of", "metadata_of", "run_job"]


def run_job(name: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    """Run a job on an instance of its own; a failure is a result."""
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def(name).execute_in_process(
            instance=instance, run_config=config, raise_on_error=False
        )


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What the run noted of an asset that it made once."""
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Whether each check passed."""
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
