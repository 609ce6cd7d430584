"""The shapes that clients see, made from what the bus and PostgreSQL hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from anomalyze.events.batch import Action, Severity, Status
from anomalyze.events.schema import parse_timestamp
from anomalyze.storage.row import AnomalyRow, CaseRow, TransactionRow, UserRow

__all__ = [
    "anomaly_shape",
    "case_shape",
    "render_anomaly",
    "render_transaction",
    "stored_transaction_shape",
    "user_shape",
]

STATUSES = [status.name.lower() for status in Status]


class _Scored(msgspec.Struct):
    meta: dict[str, Any]
    data: dict[str, Any]
    enrichment: dict[str, Any] = {}
    analysis: dict[str, Any] = {}
    verdict: dict[str, Any] = {}
    anomaly_id: str | None = None


def transaction_shape(
    *,
    tx_id: str,
    user_id: str,
    amount: Any,
    currency: str,
    txn_date: str,
    status: str,
    data: dict[str, Any],
    analysis: dict[str, Any],
    verdict: dict[str, Any],
) -> dict[str, Any]:
    """One transaction as `GET /transactions` and its stream show it."""
    known = ("tx_id", "amount", "currency", "status")
    meta_data = {name: value for name, value in data.items() if name not in known}
    severity = verdict.get("final_severity", "NONE")
    meta_data |= {
        "is_anomaly": severity != "NONE",
        "severity": severity,
        "action": verdict.get("action", "ALLOW"),
        "score": analysis.get("ml_score"),
        "rule_flags": analysis.get("rule_flags", []),
    }
    for name in ("case_id", "explanation"):
        if name in verdict:
            meta_data[name] = verdict[name]
    return {
        "id": tx_id,
        "user_id": user_id,
        "amount": amount,
        "currency": currency,
        "txn_date": txn_date,
        "status": status,
        "meta_data": meta_data,
    }


def render_transaction(value: bytes) -> bytes:
    """A scored record as one line of the stream of transactions."""
    record = msgspec.json.decode(value, type=_Scored)
    status = record.verdict.get("status_update") or record.data.get("status") or "approved"
    return msgspec.json.encode(
        transaction_shape(
            tx_id=record.data["tx_id"],
            user_id=record.meta["user_id"],
            amount=record.data["amount"],
            currency=record.data["currency"],
            txn_date=utc_text(record.meta["timestamp"]),
            status=status,
            data=record.data,
            analysis=record.analysis,
            verdict=record.verdict,
        )
    )


def render_anomaly(value: bytes) -> bytes:
    """An anomaly's record as one line of the stream of anomalies."""
    record = msgspec.json.decode(value, type=_Scored)
    return msgspec.json.encode(
        {
            "id": record.verdict.get("anomaly_id") or record.anomaly_id,
            "tx_id": record.data["tx_id"],
            "user_id": record.meta["user_id"],
            "amount": record.data["amount"],
            "currency": record.data["currency"],
            "txn_date": utc_text(record.meta["timestamp"]),
            "severity": record.verdict.get("final_severity"),
            "action": record.verdict.get("action"),
            "case_id": record.verdict.get("case_id"),
            "score": record.analysis.get("ml_score"),
            "rule_flags": record.analysis.get("rule_flags", []),
            "explanation": record.verdict.get("explanation", ""),
        }
    )


def stored_transaction_shape(row: TransactionRow) -> dict[str, Any]:
    """A stored transaction, in the same shape as its stream."""
    return transaction_shape(
        tx_id=row.tx_id,
        user_id=row.user_id,
        amount=row.amount,
        currency=row.currency,
        txn_date=time_text(row.ts),
        status=STATUSES[row.status],
        data=msgspec.json.decode(row.data),
        analysis=msgspec.json.decode(row.analysis),
        verdict=msgspec.json.decode(row.verdict),
    )


def anomaly_shape(row: AnomalyRow) -> dict[str, Any]:
    """A stored anomaly with the sections that decided it."""
    return {
        "id": row.anomaly_id,
        "tx_id": row.tx_id,
        "user_id": row.user_id,
        "amount": row.amount,
        "currency": row.currency,
        "txn_date": time_text(row.ts),
        "severity": Severity(row.severity).name,
        "action": Action(row.action).name,
        "case_id": row.case_id,
        "score": row.score,
        "rule_flags": row.rule_flags,
        "explanation": row.explanation,
        "reviewed": row.state != "open",
        "decision": None if row.state == "open" else row.state,
        "bundle": row.bundle,
        "data": msgspec.Raw(row.data.encode()),
        "enrichment": msgspec.Raw(row.enrichment.encode()),
        "analysis": msgspec.Raw(row.analysis.encode()),
        "verdict": msgspec.Raw(row.verdict.encode()),
    }


def case_shape(row: CaseRow) -> dict[str, Any]:
    """A case."""
    return {
        "id": row.case_id,
        "user_id": row.user_id,
        "severity": Severity(row.severity).name,
        "state": row.state,
        "count": row.anomalies,
        "value": row.value_base,
        "score": row.score,
        "first": time_text(row.opened_at),
        "last": time_text(row.last_at),
        "headline": row.headline,
        "headline_anomaly_id": row.headline_anomaly_id,
        "rule_flags": row.rule_flags,
        "decided_at": None if row.decided_at is None else time_text(row.decided_at),
        "decided_by": row.decided_by,
        "note": row.note,
    }


def user_shape(row: UserRow) -> dict[str, Any]:
    """A user."""
    return {
        "user_id": row.user_id,
        "first": time_text(row.first_ts),
        "last": time_text(row.last_ts),
        "transactions": row.transactions,
        "anomalies": row.anomalies,
    }


def time_text(moment: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond as events are."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_text(text: str) -> str:
    """A client's own time as ``time_text`` writes what is stored of it."""
    return time_text(datetime.fromtimestamp(parse_timestamp(text) / 1000, UTC))
