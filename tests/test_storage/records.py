"""Records of the topic `scored`, made by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from anomalyze.storage.partition import PartitionKeeper
from anomalyze.storage.scored import decode_scored
from anomalyze.storage.store import StoredCounts, store_scored

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=2)
LOG = "log-1"
TABLES = ("transactions", "anomalies", "cases", "users", "hourly", "rule_hourly", "positions", "dead_letters")


def scored(
    offset: int,
    *,
    partition: int = 0,
    previous: int | None = None,
    account: str = "acct_7",
    user: str = "user_99",
    tx: str | None = None,
    ts: datetime | str | None = None,
    amount: float | str = 12.5,
    severity: str = "NONE",
    flags: tuple[str, ...] = (),
    case: str | None = None,
    amount_base: float | None = None,
    status: str | None = None,
    status_update: str | None = None,
    data: dict[str, Any] | None = None,
    raw_data: str | None = None,
    challenger: dict[str, Any] | None = None,
) -> bytes:
    """One record; ``previous`` is the offset before it unless given."""
    tx = f"tx_{partition}_{offset}" if tx is None else tx
    moment = NOON + timedelta(seconds=offset) if ts is None else ts
    body = raw_data or json.dumps(
        {"tx_id": tx, "amount": amount, "currency": "USD"}
        | ({} if status is None else {"status": status})
        | (data or {}),
    )
    verdict: dict[str, Any] = {
        "final_severity": severity,
        "action": "ALLOW" if severity == "NONE" else "REVIEW",
    }
    if severity != "NONE":
        verdict |= {
            "case_id": case or f"case_{user}",
            "anomaly_id": f"an_{user}_{tx}",
            "explanation": f"{tx} is {severity}",
        }
    if status_update is not None:
        verdict = {"status_update": status_update}
    sections = {
        "enrichment": {
            "user_avg_spend": 120.0,
            "country": "US",
            "features": {"amount_base": amount_base, "tx_count_10m": 5},
        },
        "analysis": {"rule_flags": list(flags), "ml_score": 0.98, "bundle": "sha256:abc", "profiles": None},
        "verdict": verdict,
        "src": {
            "partition": partition,
            "offset": offset,
            "previous": offset - 1 if previous is None else previous,
        },
    }
    if challenger is not None:
        sections["analysis"]["challenger"] = challenger
    if status_update is not None:
        del sections["enrichment"], sections["analysis"]
    meta = {
        "trace_id": f"trace-{offset}",
        "timestamp": moment if isinstance(moment, str) else moment.isoformat(),
        "source": "KAFKA",
        "user_id": user,
        "account_id": account,
    }
    return f'{{"meta": {json.dumps(meta)}, "data": {body}, '.encode() + json.dumps(sections)[1:].encode()


def store(
    connection: psycopg.Connection[Any],
    records: list[bytes],
    *,
    next_offsets: dict[int, int] | None = None,
    keeper: PartitionKeeper | None = None,
) -> StoredCounts:
    """Store records as the sink does."""
    rows = decode_scored(records)
    ends = dict.fromkeys(rows.partition, 0) if next_offsets is None else next_offsets
    return store_scored(
        connection,
        rows,
        consumer="sink",
        log_id=LOG,
        topic="scored",
        next_offsets=ends,
        partitions=keeper,
    )


def contents(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """Every row of every table the sink writes, as text without the time of storing, sorted."""
    return {
        table: [
            row[0]
            for row in connection.execute(
                f"SELECT (to_jsonb(t) - 'stored_at' - 'next_offset')::text FROM {table} t ORDER BY 1"
            )
        ]
        for table in TABLES
    }


def recount(connection: psycopg.Connection[Any]) -> None:
    """Assert that users and hours count what is in `transactions`."""
    for counted, kept in (
        (
            "SELECT account_id, user_id, min(ts), max(ts), count(*), count(*) FILTER (WHERE severity > 0) "
            "FROM transactions GROUP BY 1, 2 ORDER BY 1, 2",
            "SELECT account_id, user_id, first_ts, last_ts, transactions, anomalies FROM users ORDER BY 1, 2",
        ),
        (
            "SELECT account_id, date_trunc('hour', ts), severity, count(*) FROM transactions GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            "SELECT account_id, hour, severity, transactions FROM hourly ORDER BY 1, 2, 3",
        ),
        (
            "SELECT account_id, date_trunc('hour', ts), f, count(*) FROM transactions, "
            "json_array_elements_text(analysis->'rule_flags') f GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            "SELECT account_id, hour, rule_id, hits FROM rule_hourly ORDER BY 1, 2, 3",
        ),
        (
            "SELECT account_id, case_id, count(*), max(severity), coalesce(sum(abs(amount_base)), 0) FROM anomalies "
            "GROUP BY 1, 2 ORDER BY 1, 2",
            "SELECT account_id, case_id, anomalies, severity, value_base FROM cases ORDER BY 1, 2",
        ),
    ):
        assert connection.execute(kept).fetchall() == connection.execute(counted).fetchall()
