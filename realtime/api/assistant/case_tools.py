"""Questions about transactions: what waits for review, and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from anomalyze.events.batch import Action, Severity
from anomalyze.storage import queries
from anomalyze.storage.row import AnomalyRow, CaseRow
from realtime.api.assistant.desk import Desk, clip
from realtime.api.assistant.metric_tools import Cursor, Rows, SeverityName
from realtime.api.shapes import case_shape, time_text

__all__ = ["CaseTools"]

ANOMALIES_SHOWN = 20


class CaseTools:
    """Each public method is a tool; its docstring is what the assistant reads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_cases(
        self,
        state: Literal["open", "confirmed", "dismissed"] = "open",
        severity_min: SeverityName = "LOW",
        limit: Rows = 20,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        """Cases of suspicious transactions, those that grew last first; the open ones wait for review. A case is
        what one user did within 24 hours: severity, value, count, and a headline that says what was strange."""
        wanted = [int(severity) for severity in Severity if severity >= Severity[severity_min]]
        with self._desk.sit() as sitting:
            page = sitting.run(
                queries.cases(sitting.account_id, state=state, severities=wanted, limit=limit, cursor=cursor)
            )
        return {"cases": [_case(row) for row in page.rows], "cursor": page.cursor}

    def explain_case(self, case_id: Annotated[str, Field(min_length=1, max_length=256)]) -> dict[str, Any]:
        """One case with its newest transactions: what happened in numbers that a person can check, which rules fired,
        how strange the model found it (score 0 to 1), and what was decided."""
        with self._desk.sit() as sitting:
            row = sitting.run(queries.case(sitting.account_id, case_id))
            if row is None:
                raise ToolError(
                    f"case_id: expected a case of this account, as list_cases gives it, got {case_id!r}"
                )
            found = sitting.run(queries.case_anomalies(sitting.account_id, case_id, ANOMALIES_SHOWN))
        left_out = row.anomalies - len(found)
        return {
            "case": _case(row),
            "anomalies": [_anomaly(anomaly) for anomaly in found],
            "note": f"{left_out} older ones are left out." if left_out > 0 else None,
        }


def _case(row: CaseRow) -> dict[str, Any]:
    shape = case_shape(row)
    return shape | {"value": float(row.value_base), "headline": clip(row.headline), "note": clip(row.note)}


def _anomaly(row: AnomalyRow) -> dict[str, Any]:
    return {
        "id": row.anomaly_id,
        "tx_id": row.tx_id,
        "timestamp": time_text(row.ts),
        "amount": float(row.amount),
        "currency": row.currency,
        "severity": Severity(row.severity).name,
        "action": Action(row.action).name,
        "score": row.score,
        "rule_flags": row.rule_flags,
        "merchant_id": row.merchant_id,
        "country": row.country,
        "device_id": row.device_id,
        "explanation": clip(row.explanation, 2_000),
    }
