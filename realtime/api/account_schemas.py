"""The shapes of accounts' settings and lists, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from anomalyze.detection.account import DOCUMENT_BYTES_MAX, AccountDocument
from anomalyze.rules.column import TEXT_COLUMNS
from realtime.api.schemas import MOMENT, STRING, record, text

__all__ = ["ACCOUNT_BODY", "ACCOUNT_COMPONENTS", "LIST_BODY"]

MAYBE_TEXT = {"type": ["string", "null"]}
MAYBE_MOMENT = {"type": ["string", "null"], "format": "date-time"}
NUMBER_OF = {"type": "integer", "minimum": 0}
LINES = {"type": "array", "items": STRING, "description": "a line each"}
PLAIN = {"type": "object", "additionalProperties": True}

EXAMPLE = {
    "rules": {
        "AMOUNT_LIMIT": {"parameters": {"limit": 25000}},
        "GEO_FENCE": {"mode": "live", "parameters": {"countries": ["DE", "AT"]}},
    },
    "time_zone": "Europe/Berlin",
    "base_currency": "EUR",
    "thresholds": {"two_quantile": [{"tail": 0.001, "severity": "LOW"}], "caps": {"model_alone": "LOW"}},
    "label_delay_days": 30,
}
ENTRY = {"list": "block", "field": "device_id", "value": "d_91e4", "expires_at": "2099-01-01T00:00:00Z"}


def _document_components() -> dict[str, Any]:
    """The document's schema and its parts, each a component of its own."""
    schema = AccountDocument.model_json_schema(ref_template="#/components/schemas/Account{model}")
    parts = {f"Account{name}": part for name, part in schema.pop("$defs", {}).items()}
    schema |= {"title": "AccountDocument", "example": EXAMPLE}
    return {"AccountDocument": schema, **parts}


_VERSION = {
    "version": {**NUMBER_OF, "description": "0: nothing was saved yet; the files of the platform say it all"},
    "document": PLAIN,
    "in_force": {"type": "boolean", "description": "whether the bundle that judges has it"},
    "bundle": {**MAYBE_TEXT, "description": "the first bundle that had it"},
    "saved_at": MAYBE_MOMENT,
    "saved_by": {**MAYBE_TEXT, "description": "the key"},
    "note": STRING,
    "changes": {**LINES, "description": "what differs from the version before, a line each"},
}
_LIST_ENTRY = {
    "type": "object",
    "required": ["list", "field", "value"],
    "additionalProperties": False,
    "properties": {
        "list": {
            "type": "string",
            "pattern": "^[a-z][a-z0-9_]{0,39}$",
            "description": "block, allow or your own",
        },
        "field": {"type": "string", "enum": sorted(TEXT_COLUMNS)},
        "value": text("as it stands in transactions", minLength=1),
        "expires_at": {**MAYBE_MOMENT, "description": "from then on it is off the list; null: it stays"},
        "note": text("why", 500),
    },
    "example": ENTRY,
}

ACCOUNT_COMPONENTS: dict[str, Any] = {
    **_document_components(),
    "Account": record({"account_id": STRING, **_VERSION}),
    "AccountVersion": record(_VERSION),
    "AccountVersions": record(
        {
            "versions": {"type": "array", "items": {"$ref": "#/components/schemas/AccountVersion"}},
            "cursor": {"type": ["integer", "null"], "description": "pass it on as `before`"},
        }
    ),
    "AccountSaved": record(
        {
            "version": NUMBER_OF,
            "saved": {"type": "boolean", "description": "false: it was only tried"},
            "in_force": {"type": "boolean"},
            "bundle": MAYBE_TEXT,
            "changes": LINES,
        },
        example={
            "version": 3,
            "saved": True,
            "in_force": True,
            "bundle": "sha256:…",
            "changes": ["time_zone: default → Europe/Berlin"],
        },
    ),
    "ListEntry": _LIST_ENTRY,
    "ListedEntry": record(
        {
            "list": STRING,
            "field": STRING,
            "value": STRING,
            "expires_at": MAYBE_MOMENT,
            "note": STRING,
            "changed_at": MOMENT,
            "changed_by": STRING,
        }
    ),
    "ListEntries": record(
        {
            "entries": {"type": "array", "items": {"$ref": "#/components/schemas/ListedEntry"}},
            "cursor": {"type": ["string", "null"], "description": "pass it on; null with the empty page"},
        }
    ),
    "ListChanged": record(
        {
            "changed": {**NUMBER_OF, "description": "what was so already does not count"},
            "told": {
                "type": "boolean",
                "description": "whether the log knows; if not, it will be told later",
            },
        },
        example={"changed": 1, "told": True},
    ),
}

ACCOUNT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"All of it: what is not named goes back to the platform's. At most {DOCUMENT_BYTES_MAX:,} bytes.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/AccountDocument"},
                "example": EXAMPLE,
            },
        },
    },
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "required": False,
            "description": "the version that you edited, as ETag gave it: refused when another is the newest",
            "schema": {"type": "string", "maxLength": 64},
        }
    ],
}
_ENTRY_REF = {"$ref": "#/components/schemas/ListEntry"}
LIST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _ENTRY_REF,
                        {"type": "array", "items": _ENTRY_REF, "minItems": 1, "maxItems": 500},
                    ]
                },
                "example": ENTRY,
            }
        },
    }
}
