"""The shapes of requests and answers, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from anomalyze.events.batch import Action, Severity, Status
from anomalyze.events.schema import RESOLUTIONS

__all__ = ["COMPONENTS", "header", "json_answer", "transaction_body"]

SEVERITIES = [severity.name for severity in Severity]
ACTIONS = [action.name for action in Action]

EXAMPLE: dict[str, Any] = {
    "user_id": "user_99",
    "tx_id": "tx_555",
    "amount": 4500.50,
    "currency": "USD",
    "location": "NY",
    "merchant_id": "m_0417",
    "device_id": "d_91e4",
    "channel": "online",
}


def text(description: str, length_max: int = 128, **more: Any) -> dict[str, Any]:
    """A text of a client."""
    return {"type": "string", "maxLength": length_max, "description": description, **more}


def record(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object whose fields are all there."""
    return {"type": "object", "required": list(required), "properties": required, **more}


def listed(name: str, items: str) -> dict[str, Any]:
    """One page of a list."""
    return record(
        {
            name: {"type": "array", "items": {"$ref": f"#/components/schemas/{items}"}},
            "cursor": {
                "type": ["string", "null"],
                "description": "pass it on to get the next page; null with the empty page that ends the walk",
            },
        }
    )


NUMBER = {"type": "number"}
STRING = {"type": "string"}
MOMENT = {"type": "string", "format": "date-time"}
SECTION = {"type": "object", "additionalProperties": True}
FLAGS = {"type": "array", "items": STRING, "description": "ids of the rules that fired"}
SCORE = {"type": ["number", "null"], "description": "0 to 1, higher = stranger; 0.99: stranger than 99 %"}

COMPONENTS: dict[str, Any] = {
    "Transaction": {
        "type": "object",
        "required": ["user_id", "tx_id", "amount", "currency"],
        "additionalProperties": True,
        "description": "Unknown fields are kept. At most 64 KiB.",
        "properties": {
            "user_id": text("whose behaviour is watched", minLength=1),
            "tx_id": text("sent again, it counts once", minLength=1),
            "amount": {
                "type": "number",
                "description": "in units of the currency, with no more decimals than it has; negative: a refund",
            },
            "currency": text("ISO 4217", 3, minLength=3),
            "timestamp": {**MOMENT, "description": "RFC 3339 with offset; now when missing"},
            "trace_id": text("yours, to find it again", minLength=1),
            "location": text("a country, a US state or a larger city", 256),
            "latitude": {"type": "number", "minimum": -90, "maximum": 90},
            "longitude": {"type": "number", "minimum": -180, "maximum": 180},
            "country": text("ISO 3166 alpha-2", 2, minLength=2),
            "merchant_id": text("who was paid"),
            "merchant_category": text("such as 5411"),
            "device_id": text("what it was paid with"),
            "ip": text("address of the payer"),
            "channel": text("such as card_present or online"),
            "time_resolution": {
                "type": "string",
                "enum": list(RESOLUTIONS),
                "description": "day: the time of day is not known, and nothing is made of it",
            },
            "status": {
                "type": "string",
                "enum": [status.name.lower() for status in Status],
                "description": "approved when missing; the same ids sent again with another status update it",
            },
        },
        "example": EXAMPLE,
    },
    "Accepted": record(
        {
            "accepted": {"type": "integer", "description": "durable; will be judged and stored"},
            "repeated": {"type": "integer", "description": "sent twice within this request"},
            "rejected": {"type": "array", "items": {"$ref": "#/components/schemas/Rejected"}},
        },
        example={"accepted": 1, "repeated": 0, "rejected": []},
    ),
    "Rejected": record(
        {
            "index": {"type": "integer", "description": "place in the request, from 0"},
            "field": STRING,
            "expected": STRING,
            "got": STRING,
        },
        example={"index": 3, "field": "amount", "expected": "a finite number", "got": "'12'"},
    ),
    "Verdict": {
        "type": "object",
        "required": ["final_severity", "action"],
        "additionalProperties": True,
        "properties": {
            "final_severity": {"type": "string", "enum": SEVERITIES},
            "action": {"type": "string", "enum": ACTIONS},
            "case_id": STRING,
            "anomaly_id": STRING,
            "explanation": STRING,
        },
    },
    "Scored": {
        "type": "object",
        "required": ["meta", "data", "verdict"],
        "additionalProperties": True,
        "properties": {
            "meta": SECTION,
            "data": SECTION,
            "enrichment": SECTION,
            "analysis": {**SECTION, "properties": {"rule_flags": FLAGS, "ml_score": SCORE}},
            "verdict": {"$ref": "#/components/schemas/Verdict"},
            "src": SECTION,
            "repeated": {"type": "boolean", "description": "there when this transaction was known already"},
        },
        "example": {
            "meta": {"user_id": "user_99", "account_id": "acct_7", "timestamp": "2025-12-20T12:00:00Z"},
            "data": {"tx_id": "tx_555", "amount": 4500.50, "currency": "USD"},
            "analysis": {"rule_flags": ["AMOUNT_SPIKE"], "ml_score": 0.98, "ml_prediction": "ANOMALY"},
            "verdict": {
                "final_severity": "HIGH",
                "action": "REVIEW",
                "explanation": "4,500.50 USD is 37 times this user's usual 120.00",
            },
        },
    },
    "Pending": record(
        {
            "verdict": {"type": "null"},
            "action": {"type": "string", "enum": ACTIONS, "description": "what the policy says for that"},
        },
        example={"verdict": None, "action": "REVIEW"},
    ),
    "StoredTransaction": record(
        {
            "id": STRING,
            "user_id": STRING,
            "amount": NUMBER,
            "currency": STRING,
            "txn_date": MOMENT,
            "status": STRING,
            "meta_data": record(
                {
                    "is_anomaly": {"type": "boolean"},
                    "severity": {"type": "string", "enum": SEVERITIES},
                    "action": {"type": "string", "enum": ACTIONS},
                    "score": SCORE,
                    "rule_flags": FLAGS,
                },
                additionalProperties=True,
            ),
        }
    ),
    "Anomaly": record(
        {
            "id": STRING,
            "tx_id": STRING,
            "user_id": STRING,
            "amount": NUMBER,
            "currency": STRING,
            "txn_date": MOMENT,
            "severity": {"type": "string", "enum": SEVERITIES[1:]},
            "action": {"type": "string", "enum": ACTIONS},
            "case_id": STRING,
            "score": SCORE,
            "rule_flags": FLAGS,
            "explanation": STRING,
            "reviewed": {"type": "boolean", "description": "whether its case was decided"},
            "decision": {"type": ["string", "null"], "enum": ["confirmed", "dismissed", None]},
            "bundle": STRING,
            "data": SECTION,
            "enrichment": SECTION,
            "analysis": SECTION,
            "verdict": SECTION,
        }
    ),
    "Case": record(
        {
            "id": STRING,
            "user_id": STRING,
            "severity": {"type": "string", "enum": SEVERITIES[1:]},
            "state": {"type": "string", "enum": ["open", "confirmed", "dismissed"]},
            "count": {"type": "integer", "description": "anomalies in it"},
            "value": {"type": "number", "description": "sum of their amounts in the base currency"},
            "score": SCORE,
            "first": MOMENT,
            "last": MOMENT,
            "headline": STRING,
            "headline_anomaly_id": STRING,
            "rule_flags": FLAGS,
            "decided_at": {"type": ["string", "null"], "format": "date-time"},
            "decided_by": {"type": ["string", "null"]},
            "note": {"type": ["string", "null"]},
        }
    ),
    "CaseWithMembers": {
        "allOf": [
            {"$ref": "#/components/schemas/Case"},
            record({"members": {"type": "array", "items": {"$ref": "#/components/schemas/Anomaly"}}}),
        ]
    },
    "User": record(
        {
            "user_id": STRING,
            "first": MOMENT,
            "last": MOMENT,
            "transactions": {"type": "integer"},
            "anomalies": {"type": "integer"},
        }
    ),
    "Transactions": listed("transactions", "StoredTransaction"),
    "Anomalies": listed("anomalies", "Anomaly"),
    "Cases": listed("cases", "Case"),
    "Users": listed("users", "User"),
    "Ready": record(
        {
            "ready": {"type": "boolean"},
            "dependencies": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["state"],
                    "properties": {
                        "state": {"type": "string", "enum": ["ok", "away"]},
                        "ms": NUMBER,
                        "reason": STRING,
                    },
                },
            },
        }
    ),
    "Health": record({"health": {"type": "string", "enum": ["ok"]}}, example={"health": "ok"}),
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "additionalProperties": True,
        "description": "RFC 9457",
        "properties": {
            "type": STRING,
            "title": STRING,
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "what was expected, what came, what to do"},
            "field": {"type": "string", "description": "path of the offending field"},
            "expected": STRING,
            "got": STRING,
            "rejected": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Rejected"},
                "description": "of a request with transactions none of which could be taken: each with its reason",
            },
        },
        "example": {
            "type": "about:blank",
            "title": "Not acceptable as sent",
            "status": 422,
            "detail": "currency: expected an ISO 4217 code, got 'XXX'",
            "field": "currency",
            "expected": "an ISO 4217 code",
            "got": "'XXX'",
        },
    },
}

_TRANSACTION = {"$ref": "#/components/schemas/Transaction"}
_MANY = {
    "schema": {"oneOf": [_TRANSACTION, {"type": "array", "items": _TRANSACTION, "maxItems": 10_000}]},
    "examples": {"one": {"value": EXAMPLE}, "several": {"value": [EXAMPLE, {**EXAMPLE, "tx_id": "tx_556"}]}},
}
_LINES = {
    "schema": {"type": "string"},
    "example": '{"user_id": "user_99", "tx_id": "tx_555", "amount": 12.50, "currency": "USD"}\n',
}


def transaction_body(*, many: bool) -> dict[str, Any]:
    """The request body of the routes that take one transaction, or many."""
    content = {"application/json": _MANY, "application/x-ndjson": _LINES}
    if not many:
        content = {"application/json": {"schema": _TRANSACTION, "example": EXAMPLE}}
        return {"requestBody": {"required": True, "content": content}}
    key = header(
        "Idempotency-Key", "of your choice: the same request with it is answered the same for a day", 256
    )
    return {"requestBody": {"required": True, "content": content}, "parameters": [key]}


def header(name: str, description: str, length_max: int) -> dict[str, Any]:
    """A header that a client may send."""
    schema = {"type": "string", "maxLength": length_max}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def json_answer(name: str, description: str) -> dict[str, Any]:
    """An answer of this shape."""
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }
