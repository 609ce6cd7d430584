"""Batches of metrics as their runs leave them, written straight into the tables; with the YAML files that own them.

Scores are those of a plain band of three deviations: what the pages show of them is tested, not how they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from anomalyze.storage.partition import METRIC_TABLES, ensure_partitions

HOUR = timedelta(hours=1)
DETECTOR, VERSION = "novelty", 1
# What escaping must survive; 200 characters in all with what fills it up.
ODD_NAME = "a/b?c#d%20\"quoted\" 'x' <b>&amp; ünïcødé 漢字 🚀 + ;--".ljust(200, "x")


@dataclass(frozen=True, slots=True)
class Strange:
    """Points off by so many deviations: from ``first`` to ``last`` hours before the newest."""

    first: int
    last: int
    deviations: float
    severity: int
    kind: str = "unusual"


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: its level and what was strange of it."""

    name: str
    level: float = 100.0
    strange: tuple[Strange, ...] = ()
    missing: tuple[int, int] | None = None


def seed_metrics(connection: psycopg.Connection[Any], config_dir: Path, mine: str, other: str) -> None:
    """Four batches of one account, one of them failing and one not run yet, and one of another account's."""
    limits = "  soft_declines: {unit: '', thresholds: {upper: 1800}}\n"
    write_batch(
        config_dir, "payments_hourly", mine, f"unit: '%'\ntags: [money]\nowner: Payments\nmetrics:\n{limits}"
    )
    strange = [
        Series("auth_rate", 96, (Strange(3, 0, -7, 4), Strange(104, 103, -4, 2), Strange(40, 40, -4, 2))),
        Series("soft_declines", 1204, (Strange(2, 0, 8, 3), Strange(105, 103, 4, 2))),
        Series("challenge_rate_3ds", 12.6, (Strange(1, 0, 5, 2),)),
        Series(ODD_NAME, 5, (Strange(5, 5, 5, 2),)),
    ]
    quiet = [Series(f"quiet_{n}", 10.0 ** (n % 6)) for n in range(14)]
    seed_batch(connection, "payments_hourly", strange + quiet)
    write_batch(config_dir, "acquirer_latency", mine, "unit: ms\ntags: [latency]\n")
    slow = Series("p95_ms_b", 540, (Strange(4, 0, 14, 3, "shift"), Strange(90, 80, 7, 2)))
    seed_batch(connection, "acquirer_latency", [slow, Series("p95_ms_a", 288, missing=(60, 40))], seed=2)
    write_batch(config_dir, "fx_rates", mine)
    seed_batch(connection, "fx_rates", [Series("eur_usd", 1.17)], newest=last_hour() - 17 * HOUR, seed=3)
    add_incident(
        connection, "fx_rates", Series("eur_usd"), Strange(0, 0, 0, 2, "late"), last_hour() - 14 * HOUR
    )
    add_failed_run(connection, "fx_rates", "source: expected an answer of 200, got 503 <maintenance>")
    write_batch(config_dir, "not_run", mine)
    write_batch(config_dir, "elsewhere", other)
    seed_batch(connection, "elsewhere", [Series("hidden_metric", 5, (Strange(3, 0, 9, 4),))], seed=4)


def last_hour() -> datetime:
    """When the newest whole hour began."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - HOUR


def write_batch(config_dir: Path, name: str, account: str, extra: str = "") -> Path:
    """The file that makes a batch an account's."""
    folder = config_dir / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(f"description: {name} of the shop\naccount: {account}\nsource: {{kind: push}}\n{extra}")
    return path


def seed_batch(
    connection: psycopg.Connection[Any],
    batch: str,
    series: list[Series],
    *,
    hours: int = 7 * 24,
    newest: datetime | None = None,
    seed: int = 1,
) -> None:
    """Values, scores, incidents and a run of a batch; the newest point is of the last whole hour."""
    rng = np.random.default_rng(seed)
    end = newest or last_hour()
    times = [end - HOUR * back for back in range(hours - 1, -1, -1)]
    ensure_partitions(connection, {times[0], times[-1], *times[:: 24 * 20]}, tables=METRIC_TABLES)
    texts = [moment.isoformat() for moment in times]
    season = np.sin(np.arange(hours) * 2 * np.pi / 24)
    values, scores = [], []
    for one in series:
        expected = one.level * (1 + 0.2 * season)
        deviation = one.level * 0.04
        value = expected + rng.normal(0, deviation, hours)
        severity = np.zeros(hours, int)
        for off in one.strange:
            at = slice(hours - 1 - off.first, hours - off.last)
            value[at] = expected[at] + off.deviations * deviation
            severity[at] = off.severity
        lower, upper = expected - 3 * deviation, expected + 3 * deviation
        name = one.name.replace("\\", "\\\\")
        for n in range(hours):
            known = not (one.missing and one.missing[1] <= hours - 1 - n <= one.missing[0])
            if not known:
                continue
            values.append(f"{batch}\t{name}\t{texts[n]}\t{value[n]:.4f}\t1\n")
            novelty = (0, 0.3, 0.8, 0.92, 0.99)[severity[n]] or 0.2
            scores.append(
                f"{batch}\t{name}\t{texts[n]}\t{DETECTOR}\t{VERSION}\t{value[n]:.4f}\t{novelty}\t1\t1\t"
                f"{expected[n]:.4f}\t{lower[n]:.4f}\t{upper[n]:.4f}\t{severity[n]}\t0\n"
            )
    with connection.cursor() as cursor:
        with cursor.copy("COPY metric_values (batch, metric, ts, value, ingest) FROM STDIN") as copy:
            copy.write("".join(values))
        columns = "batch, metric, ts, detector, version, value, novelty, surprise, rarity, expected, lower, upper, severity, flags"
        with cursor.copy(f"COPY metric_scores ({columns}) FROM STDIN") as copy:
            copy.write("".join(scores))
    connection.execute(
        "INSERT INTO metric_batches (batch, ingest, scored_ingest, turn, period_s) VALUES (%s, 1, 1, 1, 3600)",
        [batch],
    )
    connection.execute(
        "INSERT INTO metric_series (batch, metric, detector, version, points, newest_ts, newest_value, newest_novelty, "
        "newest_severity) SELECT batch, metric, detector, version, count(*) OVER w, ts, value, novelty, severity FROM "
        "metric_scores WHERE batch = %(batch)s WINDOW w AS (PARTITION BY metric) ORDER BY row_number() OVER "
        "(PARTITION BY metric ORDER BY ts DESC) FETCH FIRST %(series)s ROWS ONLY",
        {"batch": batch, "series": len(series)},
    )
    for one in series:
        for off in one.strange:
            add_incident(connection, batch, one, off, end)
    connection.execute(
        "INSERT INTO metric_runs (batch, kind, started_at, finished_at, rows_read, rows_new, scored) "
        "VALUES (%s, 'score', now() - interval '4 minutes', now() - interval '4 minutes', %s, %s, %s)",
        [batch, len(values), len(values), len(values)],
    )


def add_incident(
    connection: psycopg.Connection[Any], batch: str, one: Series, off: Strange, end: datetime
) -> None:
    """The incident of what is strange: open while it reaches the newest point."""
    opened, last = end - HOUR * off.first, end - HOUR * off.last
    is_open = off.last == 0
    lower, upper = one.level * 0.8, one.level * 1.2
    value = one.level * (1 + 0.04 * off.deviations)
    way = "above" if off.deviations > 0 else "below"
    connection.execute(
        "INSERT INTO metric_alerts (batch, metric, kind, direction, state, severity, opened_ts, last_ts, seen_ts, "
        "strange_points, calm_points, peak_ts, peak_value, peak_expected, peak_lower, peak_upper, peak_strength, "
        "sentence, opened_at, notified_at, resolved_at, resolution) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, "
        "%s, %s, %s, %s, %s, 4, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [
            batch, one.name, off.kind, 1 if off.deviations > 0 else -1, 1 if is_open else 2, off.severity, opened, last,
            last, off.first - off.last + 1, last, value, one.level, lower, upper,
            f"{one.name} = {value:,.6g}, {way} the usual {lower:,.6g} to {upper:,.6g} (expected about "
            f"{one.level:,.6g}), since {opened:%Y-%m-%d %H:%M} UTC ({off.first - off.last + 1} points)",
            opened + HOUR, opened + HOUR, None if is_open else last + HOUR, None if is_open else "calm",
        ],
    )  # fmt: skip


def add_failed_run(connection: psycopg.Connection[Any], batch: str, error: str) -> None:
    """A run that its source ended; what there is is scored all the same."""
    connection.execute(
        "INSERT INTO metric_runs (batch, kind, started_at, finished_at, error) VALUES "
        "(%(batch)s, 'ingest', now() - interval '2 hours', now() - interval '2 hours', %(error)s), "
        "(%(batch)s, 'ingest', now(), now(), %(error)s), (%(batch)s, 'score', now(), now(), NULL)",
        {"batch": batch, "error": error},
    )
