"""The shapes of uploads and labels, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from anomalyze.ingestion.mapping import FileMapping
from realtime.api.schemas import MOMENT, STRING, record, text

__all__ = ["LABEL_BODY", "START_BODY", "UPLOAD_BODY", "UPLOAD_COMPONENTS"]

COUNT = {"type": "integer", "minimum": 0}
MAYBE_TEXT = {"type": ["string", "null"]}
MAYBE_MOMENT = {"type": ["string", "null"], "format": "date-time"}
CELL = {"type": ["string", "null"]}

_MAPPING = FileMapping.model_json_schema()
_MAPPING.pop("title", None)
_MAPPING["example"] = {
    "fields": {"tx_id": "ID", "user_id": "CUSTOMER", "timestamp": "TIME", "amount": "AMOUNT"},
    "constants": {"currency": "USD"},
}

UPLOAD_COMPONENTS: dict[str, Any] = {
    "Mapping": _MAPPING,
    "Upload": record(
        {
            "id": STRING,
            "name": STRING,
            "bytes": COUNT,
            "sha256": STRING,
            "state": {"type": "string", "enum": ["waiting", "started", "running", "done", "failed"]},
            "attempt": COUNT,
            "mapping": {"type": ["object", "null"], "additionalProperties": True},
            "rows": record(
                {
                    "total": {"type": ["integer", "null"], "description": "null until all of it was read"},
                    "read": COUNT,
                    "accepted": COUNT,
                    "refused": COUNT,
                    "published": COUNT,
                    "scored": {**COUNT, "description": "at least so many were judged"},
                }
            ),
            "rows_per_s": {"type": ["number", "null"]},
            "seconds_left": {"type": ["number", "null"]},
            "note": {**MAYBE_TEXT, "description": "what it is doing or waiting for"},
            "error": {**MAYBE_TEXT, "description": "why it failed"},
            "lacking": {
                "type": ["object", "null"],
                "description": "features that are null on every row and rules that are off, each with the fields that are missing; "
                "null before it is worked off",
                "properties": {
                    "features": {"type": "object", "additionalProperties": STRING},
                    "rules": {"type": "object", "additionalProperties": STRING},
                },
            },
            "run_id": MAYBE_TEXT,
            "created_at": MOMENT,
            "started_at": MAYBE_MOMENT,
            "finished_at": MAYBE_MOMENT,
        },
        additionalProperties=True,
    ),
    "UploadTaken": {
        "allOf": [
            {"$ref": "#/components/schemas/Upload"},
            record(
                {
                    "repeated": {
                        "type": "boolean",
                        "description": "the same bytes had come before: this is that one",
                    },
                    "doubts": {"type": "array", "items": STRING, "description": "why it waits for a mapping"},
                }
            ),
        ]
    },
    "Uploads": record({"uploads": {"type": "array", "items": {"$ref": "#/components/schemas/Upload"}}}),
    "Sources": record(
        {
            "sources": {
                "type": "array",
                "items": record(
                    {
                        "name": STRING,
                        "table": STRING,
                        "position": {**MAYBE_TEXT, "description": "cursor of the last row that the log has"},
                        "rows": record({"read": COUNT, "published": COUNT, "refused": COUNT}),
                        "error": {**MAYBE_TEXT, "description": "why it cannot be read"},
                        "looked_at": MAYBE_MOMENT,
                        "read_at": MAYBE_MOMENT,
                        "run_id": MAYBE_TEXT,
                    }
                ),
            }
        }
    ),
    "UploadPreview": record(
        {
            "columns": {"type": "array", "items": STRING},
            "sample": {"type": "array", "items": {"type": "array", "items": CELL}},
            "mapping": {"type": "object", "additionalProperties": True},
            "complete": {
                "type": "boolean",
                "description": "whether nothing needed is missing in the mapping",
            },
            "doubts": {"type": "array", "items": STRING},
            "rows": {
                "type": "array",
                "items": record(
                    {
                        "line": COUNT,
                        "transaction": {"type": ["object", "null"], "additionalProperties": True},
                        "error": MAYBE_TEXT,
                    },
                    additionalProperties=True,
                ),
            },
            "estimate": {
                "type": ["object", "null"],
                "description": "cases to expect, judged by the champion on some users of the first 100,000 rows; null where "
                "nothing can be judged or all is judged already",
                "required": ["state"],
                "properties": {
                    "state": {"type": "string", "enum": ["working", "done", "failed", "busy"]},
                    "cases": {
                        "type": ["integer", "null"],
                        "description": "null: the file's size is not known",
                    },
                    "cases_found": {"type": "object", "additionalProperties": COUNT},
                    "rows_judged": COUNT,
                    "users": COUNT,
                    "rows_read": COUNT,
                    "rows": {"type": ["integer", "null"]},
                    "rows_exact": {"type": "boolean"},
                    "features_null": {"type": "object", "additionalProperties": STRING},
                    "rules_off": {"type": "object", "additionalProperties": STRING},
                    "error": STRING,
                },
                "additionalProperties": True,
            },
        }
    ),
    "Label": {
        "type": "object",
        "required": ["tx_id", "fraud", "source"],
        "additionalProperties": False,
        "properties": {
            "tx_id": text("which transaction", minLength=1),
            "user_id": text("whose; needed where two users have a transaction of that id", minLength=1),
            "fraud": {
                "type": ["boolean", "null"],
                "description": "true: fraud; false: verified legitimate; null: takes an earlier one of this source back",
            },
            "known_at": {**MOMENT, "description": "when it became known; now when missing"},
            "source": text("such as chargeback", 64, minLength=1),
            "reason": text("in words", 2000),
        },
        "example": {
            "tx_id": "tx_555",
            "fraud": True,
            "known_at": "2025-12-28T09:00:00Z",
            "source": "chargeback",
        },
    },
}

_FILE = {"schema": {"type": "string", "format": "binary"}}
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "id,user,time,amount,currency\nt1,u1,2025-12-20T12:00:00Z,12.50,USD\n",
            },
            "application/gzip": _FILE,
            "application/zip": _FILE,
            "application/vnd.apache.parquet": _FILE,
            "application/octet-stream": _FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "mapping": {"type": "string", "description": "JSON; see Mapping"},
                    },
                }
            },
        },
    }
}
START_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Mapping"}}},
    }
}
_LABEL = {"$ref": "#/components/schemas/Label"}
LABEL_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [_LABEL, {"type": "array", "items": _LABEL, "maxItems": 10_000}]}
            },
            "text/csv": {
                "schema": {"type": "string"},
                "example": "tx_id,fraud,known_at,source\ntx_555,1,2025-12-28T09:00:00Z,chargeback\n",
            },
        },
    }
}
