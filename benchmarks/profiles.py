"""A day's profiles of every user, merchant, device, address and country: time, memory, and what reading them costs.

``python -m benchmarks.profiles`` stores made-up transactions of 90 days, then lets the product compute the profiles as
it does each night: read, compute, object store, PostgreSQL, Valkey, log. After that a worker's look-ups for
micro-batches of 5,000: from memory, from Valkey, from the mapped file, and again once they are known.
"""

from __future__ import annotations

import os
import resource
import time
from datetime import UTC, datetime, timedelta
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import psutil
import psycopg
import redis

from anomalyze.events.gazetteer import Gazetteer
from anomalyze.features.daily_store import DailySnapshot, DailyStore, RowSource, TableRows
from anomalyze.learning.daily import publish_day
from anomalyze.storage.objects import open_objects
from anomalyze.storage.partition import PartitionKeeper
from anomalyze.storage.pool import connect
from anomalyze.storage.profile_rows import RedisRows
from benchmarks.harness import CONFIG, END_MS, Bench, arguments, report, say
from realtime.detector.profiles import CachedRows

DAYS = 90
BATCH = 5_000
BATCHES = 20
ENTITIES_A_ROW = 5

# A user mostly keeps a device and an address; a merchant's share follows a power law, as people's visits do.
FILL = """
INSERT INTO transactions (account_id, user_id, ts, tx_id, amount, currency, status, severity, action, src_partition,
    src_offset, source, bundle, data, enrichment, analysis, verdict)
SELECT 'bench', 'user_' || u, %(end)s - (i * %(step)s::float8) * interval '1 second', 'tx_' || i, a, 'USD', s, 0, 0, 0, i,
    'CSV', 'sha256:none',
    jsonb_build_object('tx_id', 'tx_' || i, 'amount', a, 'currency', 'USD', 'merchant_id', 'merchant_' || m,
        'device_id', 'device_' || d, 'ip', '10.' || (d / 65536) || '.' || (d / 256 %% 256) || '.' || (d %% 256),
        'country', (ARRAY['US', 'DE', 'FR', 'GB', 'NL', 'ES', 'IT', 'PL'])[1 + u %% 8]),
    ('{"user_avg_spend":20.1,"distance_from_last_tx":0.0,"features":{"user_tx_count_5m":1,"user_tx_count_10m":1,'
        '"user_tx_count_1h":1,"user_tx_count_24h":2,"user_amount_sum_24h":60.5,"user_declined_streak":0,'
        '"amount_base":' || a || ',"user_amount_n":60,"user_amount_median":21.5,"user_amount_p95":80.1}}')::json,
    '{"rule_flags":[]}', '{"final_severity":"NONE","action":"ALLOW"}'
FROM (
    SELECT i, (random() * %(users)s)::int AS u, (power(random(), 2) * %(merchants)s)::int AS m,
        round(exp(random() * 4 + 1)::numeric, 2) AS a, CASE WHEN random() < 0.03 THEN 2 ELSE 0 END AS s, random() AS r
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) i
) x, LATERAL (SELECT CASE WHEN r < 0.9 THEN u ELSE (r * 1e7)::int %% %(devices)s END AS d) y
"""


def fill(connection: psycopg.Connection[Any], rows: int, merchants: int) -> None:
    """Store the transactions, and a fraud label for one in a thousand."""
    end = datetime.fromtimestamp(END_MS / 1000, UTC)
    PartitionKeeper().ensure(connection, [end - timedelta(days=day) for day in range(DAYS + 1)])
    step = DAYS * 86_400 / (rows + 1)
    for first in range(1, rows + 1, 200_000):
        connection.execute(
            FILL,
            {
                "end": end,
                "step": step,
                "users": rows // 20,
                "merchants": merchants,
                "devices": rows // 10,
                "first": first,
                "last": min(first + 199_999, rows),
            },
        )
        say(f"  {min(first + 199_999, rows):,} transactions stored")
    connection.execute(
        "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
        "SELECT account_id, user_id, tx_id, true, ts + interval '2 days', 'chargeback', 'bench' FROM transactions "
        "WHERE src_offset % 1000 = 0",
    )
    connection.execute("ANALYZE transactions")


def processor_s(process: psutil.Process) -> float:
    """Processor time that a process has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


def look_up(rows: RowSource, batches: list[npt.NDArray[np.uint64]], columns: npt.NDArray[np.intp]) -> float:
    """Microseconds of the worker's processor for a transaction, all its entities together."""
    begun_s = time.process_time()
    for keys in batches:
        rows.fetch(keys)
        rows.gather(keys, columns)
    return round((time.process_time() - begun_s) / (len(batches) * BATCH) * 1e6, 3)


def look_ups(snapshot: DailySnapshot, mapped: TableRows, client: redis.Redis) -> dict[str, float]:
    """What reading costs a worker, by where the rows are."""
    random = np.random.default_rng(4)
    keys = np.asarray(mapped.keys)
    # Skewed, as traffic is: of most entities one hears again.
    picks = (random.power(0.3, (BATCHES, BATCH * ENTITIES_A_ROW)) * len(keys)).astype(np.int64)
    batches = [keys[np.minimum(pick, len(keys) - 1)] for pick in picks]
    columns = np.arange(9, dtype=np.intp)
    held = TableRows(keys.copy(), np.array(mapped.values))
    look_up(held, batches[:1], columns)
    found = {"memory_us": look_up(held, batches, columns), "mapped_us": look_up(mapped, batches, columns)}
    of_redis = CachedRows(snapshot, RedisRows(client))
    found["redis_first_us"] = look_up(of_redis, batches[:1], columns)
    found["redis_us"] = look_up(of_redis, batches, columns)
    of_file = CachedRows(snapshot, None)
    found["file_first_us"] = look_up(of_file, batches[:1], columns)
    found["file_us"] = look_up(of_file, batches, columns)
    return found


def main() -> None:
    """Fill, compute, read; print a table, then JSON."""
    parser = arguments(__doc__)
    parser.add_argument("--transactions", type=int, default=2_000_000)
    parser.add_argument("--merchants", type=int, default=10_000)
    options = parser.parse_args()
    with Bench("embedded", 2, postgres=True, valkey=True) as bench:
        bus = bench.open_bus()
        with (
            connect(bench.dsn, statement_timeout_s=0) as connection,
            redis.Redis.from_url(bench.environment["ANOMALYZE_REDIS_URL"]) as client,
        ):
            fill(connection, options.transactions, options.merchants)
            client.config_set("maxmemory", 1 << 30)
            store = DailyStore(open_objects(bench.settings.object_store), bench.folder / "rows")
            before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            server = psutil.Process(connection.info.backend_pid)
            begun_s, own_s, server_s = time.perf_counter(), time.process_time(), processor_s(server)
            published = publish_day(
                connection,
                datetime.fromtimestamp(END_MS / 1000, UTC),
                store=store,
                gazetteer=Gazetteer.load(CONFIG),
                bus=bus,
                client=client,
                now=datetime.fromtimestamp(END_MS / 1000, UTC),
                say=say,
            )
            seconds, own_s = time.perf_counter() - begun_s, time.process_time() - own_s
            server_s = processor_s(server) - server_s
            peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert published is not None
            result: dict[str, Any] = {
                "transactions": published.transactions,
                "merchants": options.merchants,
                "entities": len(published.table.keys),
                "frauds": published.frauds,
                "seconds": round(seconds, 2),
                "processor_s": round(own_s + server_s, 2),
                "processor_postgres_s": round(server_s, 2),
                **{f"{step}_s": took for step, took in published.seconds.items()},
                "memory_mb": round((peak_kb - before_kb) / 1024),
                "peak_mb": round(peak_kb / 1024),
                "file_mb": round(published.note.bytes / 1e6, 1),
                "redis_mb": round(int(client.info("memory")["used_memory"]) / 1e6, 1),
                "redis": published.redis or "loaded",
            }
            snapshot = store.load(published.note.id)
            if isinstance(snapshot.rows, TableRows):
                result |= look_ups(snapshot, snapshot.rows, client)
        bus.close()
    report(result, options.json)


if __name__ == "__main__":
    main()
