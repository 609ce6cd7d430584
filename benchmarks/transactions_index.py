"""``GET /transactions`` inside PostgreSQL: how long the index takes for a page, and by which plan.

Fills `transactions` on the server (12 months, 1,000 users unless told otherwise), then asks for the pages that
clients ask for: an account's newest, a user's newest, one deep in a walk, a user's of a certain amount. Each is
timed as PostgreSQL reports it (execution, from EXPLAIN ANALYZE) and as the API sees it (rows in Python).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from anomalyze.embedded.postgres import EmbeddedPostgres
from anomalyze.embedded.process import free_port
from anomalyze.storage import queries
from anomalyze.storage.cursor import encode_cursor
from anomalyze.storage.migrate import migrate
from anomalyze.storage.partition import ensure_partitions
from anomalyze.storage.pool import connect
from anomalyze.storage.query import Query, fetch

ACCOUNT = "acct_7"
MONTHS = 12
FILL_ROWS = 500_000
ROUNDS = 200
# So many of a user's transactions lie in the last 30 days, whatever the number of rows.
USERS_PER_ROWS = 1 / 150


def main() -> None:
    """Fill, ask, print a table, the plans, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--dsn", help="an empty database; else an embedded PostgreSQL in a temporary folder")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    with open_server(options.dsn) as dsn, connect(dsn, statement_timeout_s=0) as connection:
        now = datetime.now(UTC)
        fill(connection, options.rows, now)
        console = Console(stderr=True)
        table = Table("page", "execution ms", "with rows in Python ms", "rows", box=None)
        result: dict[str, Any] = {"rows": options.rows, "execution_ms": {}, "client_ms": {}}
        for name, query in pages(connection, options.rows, now).items():
            execution_ms, client_ms, count, plan = measure(connection, query)
            result["execution_ms"][name], result["client_ms"][name] = execution_ms, client_ms
            table.add_row(name, f"{execution_ms:.3f}", f"{client_ms:.3f}", str(count))
            console.print(f"\n[bold]{name}[/bold]")
            console.print(plan, markup=False, highlight=False, soft_wrap=True)
        console.print()
        console.print(table)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


@contextlib.contextmanager
def open_server(dsn: str | None) -> Iterator[str]:
    """The DSN of a migrated database."""
    if dsn is not None:
        migrate(dsn)
        yield dsn
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        server = EmbeddedPostgres(Path(folder) / "pg", free_port())
        try:
            dsn = server.start()
            migrate(dsn)
            yield dsn
        finally:
            server.stop()


def fill(connection: psycopg.Connection[Any], rows: int, now: datetime) -> None:
    """Rows spread evenly over time and users."""
    begun = now - timedelta(days=30 * MONTHS)
    ensure_partitions(connection, [begun + timedelta(days=d) for d in range(30 * MONTHS + 1)])
    users = max(10, int(rows * USERS_PER_ROWS))
    for first in range(0, rows, FILL_ROWS):
        connection.execute(
            """
            INSERT INTO transactions (account_id, user_id, ts, tx_id, amount, currency, status, severity, action, score,
                src_partition, src_offset, source, bundle, data, enrichment, analysis, verdict)
            SELECT %(account)s, 'user_' || (hashint8(n)::bigint & 2147483647) %% %(users)s,
                %(begun)s::timestamptz + n * %(step)s::interval, 'tx_' || n, (n %% 9999)::numeric / 100, 'USD', 0, 0, 0, 0.5,
                0, n, 'CSV', 'sha256:' || repeat('a', 64),
                jsonb_build_object('tx_id', 'tx_' || n, 'amount', (n %% 9999)::numeric / 100, 'currency', 'USD',
                    'merchant_id', 'm_' || n %% 500, 'device_id', 'd_' || n %% 5000),
                '{"user_avg_spend":120.0,"features":{"amount_base":12.5,"user_tx_count_10m":5,"user_tx_count_1h":7}}',
                '{"rule_flags":[],"ml_score":0.5}', '{"final_severity":"NONE","action":"ALLOW"}'
            FROM generate_series(%(first)s::bigint, %(end)s::bigint - 1) n
            """,
            {
                "account": ACCOUNT,
                "users": users,
                "begun": begun,
                "step": timedelta(days=30 * MONTHS) / rows,
                "first": first,
                "end": min(rows, first + FILL_ROWS),
            },
        )
    connection.execute("VACUUM ANALYZE transactions")


def pages(connection: psycopg.Connection[Any], rows: int, now: datetime) -> dict[str, Query[Any]]:
    """What clients ask for."""
    row = connection.execute("SELECT user_id FROM transactions ORDER BY ts DESC LIMIT 1").fetchone()
    assert row is not None
    user = row[0]
    since = now - timedelta(days=30)
    deep = encode_cursor(
        "transactions",
        {"user_id": None, "amount_min": None, "amount_max": None},
        (since, now - timedelta(days=15), user, "tx"),
    )
    return {
        "newest": queries.transactions(ACCOUNT, now=now),
        "of a user": queries.transactions(ACCOUNT, user_id=user, now=now),
        "deep in a walk": queries.transactions(ACCOUNT, cursor=deep),
        "of a user, all time": queries.transactions(
            ACCOUNT, user_id=user, since=now - timedelta(days=400), now=now
        ),
        "by amount": queries.transactions(ACCOUNT, amount_min=Decimal(50), now=now),
    }


def measure(connection: psycopg.Connection[Any], query: Query[Any]) -> tuple[float, float, int, str]:
    """Median execution time, median time with rows in Python, rows of the page, the plan."""
    execution_ms, client_ms = [], []
    for _ in range(ROUNDS):
        begun_s = time.perf_counter()
        page = fetch(connection, query)
        client_ms.append((time.perf_counter() - begun_s) * 1000)
    plan: list[str] = []
    for _ in range(ROUNDS):
        # TIMING OFF: asking the clock for each row would cost more than fetching it.
        plan = [
            line
            for (line,) in connection.execute(
                "EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF) " + query.text, query.parameters
            )
        ]
        execution_ms.append(float(plan[-1].split()[2]))
    return (
        round(statistics.median(execution_ms), 4),
        round(statistics.median(client_ms), 4),
        len(page.rows),
        "\n".join(plan),
    )


if __name__ == "__main__":
    main()
