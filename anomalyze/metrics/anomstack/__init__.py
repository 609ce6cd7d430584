"""Coming from Anomstack: its batch files, SQL and Python ingest functions become batches of ours.

Nothing of what is read is executed: YAML is read as plain values, templates are rendered in a sandbox with bounds, SQL is
parsed, Python is parsed and copied.
"""

from __future__ import annotations

from anomalyze.metrics.anomstack.plan import GENERAL, Imported, Plan, plan_import
from anomalyze.metrics.anomstack.write import check_plan, write_plan

__all__ = ["GENERAL", "Imported", "Plan", "check_plan", "plan_import", "write_plan"]
