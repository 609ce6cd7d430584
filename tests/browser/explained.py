"""Sections of a judged transaction as the detector writes them, for the seed."""

from __future__ import annotations

from typing import Any


def explain(
    median: float,
    value: float,
    currency: str,
    incident: Any,
    severity: int,
    bundle: str,
    case_id: str,
    sentence: str,
) -> dict[str, Any]:
    words = ("NONE", "LOW", "MEDIUM", "HIGH", "CRITICAL")
    return {
        "enrichment": {
            "user_avg_spend": median,
            "distance_from_last_tx": 8440.0 if incident.place else 3.0,
            "features": {
                "is_new_device": float(incident.new_device),
                "user_tx_count_5m": float(incident.count),
                "user_amount_median": median,
                "amount": value,
            },
        },
        "analysis": {
            "rule_flags": list(incident.rules),
            "ml_score": incident.score,
            "ml_prediction": "ANOMALY",
            "bundle": bundle,
        },
        "verdict": {
            "final_severity": words[severity],
            "action": "BLOCK" if severity == 4 else "REVIEW",
            "case_id": case_id,
            "explanation": sentence,
        },
    }
