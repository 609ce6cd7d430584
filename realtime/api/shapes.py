"""The shapes that clients see, made from what the bus and PostgreSQL hold."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["render_anomaly", "render_transaction"]


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
            txn_date=record.meta["timestamp"],
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
            "txn_date": record.meta["timestamp"],
            "severity": record.verdict.get("final_severity"),
            "action": record.verdict.get("action"),
            "case_id": record.verdict.get("case_id"),
            "score": record.analysis.get("ml_score"),
            "rule_flags": record.analysis.get("rule_flags", []),
            "explanation": record.verdict.get("explanation", ""),
        }
    )
