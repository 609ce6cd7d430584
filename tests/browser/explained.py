"""Sections of a judged transaction in the form of `anomalyze.detection.output`, for the seed."""

from __future__ import annotations

from typing import Any

WORDS = ("NONE", "LOW", "MEDIUM", "HIGH", "CRITICAL")
# id, severity, group, text, what, here, operator, limit
RULES: dict[str, tuple[int, str, str, str, str, str, str]] = {
    "GEO_IMPOSSIBLE": (4, "place", "{km:,.0f} km in 72 s from the last one", "travel_kmh", "422,000 km/h", ">", "900 km/h"),
    "AMOUNT_SPIKE": (3, "amount", "limit was {limit:,.2f} {currency}", "amount_base", "{value:,.2f} {currency}", ">", "3 * user_amount_p95 {limit:,.2f}"),
    "VELOCITY_5M": (2, "speed", "{count} transactions in 5 minutes", "user_tx_count_5m", "{count}", ">=", "5"),
    "VELOCITY_1H": (2, "speed", "14 transactions in 1 hour", "user_tx_count_1h", "14", ">=", "12"),
    "CARD_TESTING": (4, "speed", "{count} small payments at {count} merchants", "user_merchant_count_10m", "{count}", ">=", "5"),
    "NEW_DEVICE_HIGH": (3, "device", "first payment on this device", "is_new_device", "yes", "AND amount_base >", "{limit:,.2f} {currency}"),
}  # fmt: skip


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
    km = 8440.0 if incident.place else 3.0
    words = {"km": km, "limit": median * 5, "currency": currency, "value": value, "count": incident.count}
    analysis: dict[str, Any] = {
        "rule_flags": list(incident.rules), "ml_score": incident.score, "ml_prediction": "ANOMALY", "bundle": bundle, "profiles": None,
    }  # fmt: skip
    rules = []
    for name in incident.rules:
        level, group, text, what, here, operator, limit = RULES.get(
            name, (incident.severity, "time", "as it says", "hour_rarity", "0.98", ">", "0.95")
        )
        shown = {
            "what": what,
            "here": here.format(**words),
            "operator": operator,
            "limit": limit.format(**words),
        }
        rules.append(
            {
                "id": name,
                "severity": WORDS[level],
                "group": group,
                "text": text.format(**words),
                "condition": f"{what} {operator} {limit}",
                "values": [shown],
            }
        )
    if rules:
        analysis["rules"] = sorted(rules, key=lambda rule: -WORDS.index(rule["severity"]))
    else:
        analysis["statistics"] = [
            {"name": "two_quantile", "value": 1.31, "severity": "MEDIUM", "words": "one in 1,200"}
        ]
    analysis["model"] = {
        "tail": 1 - incident.score, "words": f"one in {round(1 / (1 - incident.score)):,}", "severity": "MEDIUM", "starter": False, "combination": not rules,
        "groups": [
            {"group": "amount", "share": 0.46, "features": [
                _feature("user_amount_lr", "Amount over own median", "ratio", value / median, 0.1, 1.0, 2.9, "{:,.1f}×"),
                _feature("amount_base", "Amount", "money", value, median * 0.2, median, median * 2.9, "{:,.2f} " + currency)]},
            {"group": "place", "share": 0.31, "features": [_feature("travel_km", "Distance since the last", "km", km, 0.0, 2.0, 38.0, "{:,.0f} km")]},
            {"group": "speed", "share": 0.14, "features": [
                _feature("user_tx_count_5m", "Transactions in 5 min", "count", float(incident.count), 0.0, 1.0, 1.0, "{:.0f}"),
                _feature("user_tx_count_1h", "Transactions in 1 h", "count", float(incident.count + 1), 0.0, 1.0, 3.0, "{:.0f}")]},
        ],
    }  # fmt: skip
    if severity > 1:
        analysis["would_change"] = [
            {"change": f"Amount at this user's usual {median:,.2f} {currency}", "severity": WORDS[severity]},
            {"change": "Placed where the last one was", "severity": WORDS[severity - 1]},
            {"change": "Both", "severity": "NONE"},
        ]
    return {
        "enrichment": {
            "user_avg_spend": median, "distance_from_last_tx": km, "country": incident.place[1] if incident.place else None,
            "features": {"is_new_device": float(incident.new_device), "user_tx_count_5m": float(incident.count), "user_amount_median": median},
        },
        "analysis": analysis,
        "verdict": {"final_severity": WORDS[severity], "action": "BLOCK" if severity == 4 else "REVIEW", "case_id": case_id, "explanation": sentence},
    }  # fmt: skip


def _feature(
    name: str, label: str, unit: str, here: float, low: float, median: float, high: float, shown: str
) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "here": here,
        "shown": shown.format(here),
        "low": low,
        "median": median,
        "high": high,
    }
