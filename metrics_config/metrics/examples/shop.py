"""A simulated shop: every number is a function of its hour, so that whoever asks again gets the same.

As a batch: ``python: shop:hours``. As a program it writes orders into a SQLite file: ``python shop.py shop.db``.
"""

from __future__ import annotations

import datetime as dt
import math
import random
import sqlite3
import sys
from typing import Any

import polars as pl

HOUR = dt.timedelta(hours=1)
# On every such day since 1970 the shop is down from 13:00 to 15:59 UTC.
INCIDENT_DAYS = 23
INCIDENT_HOURS = (13, 14, 15)


def is_down(at: dt.datetime) -> bool:
    """Whether an hour is one of the planted incidents."""
    return at.toordinal() % INCIDENT_DAYS == 0 and at.hour in INCIDENT_HOURS


def orders_of(at: dt.datetime, usual: float) -> int:
    """Orders of an hour: more by day than by night, fewer at weekends."""
    noise = random.Random(int(at.timestamp()))  # noqa: S311 - a simulation
    by_day = 1 + 0.7 * math.sin((at.hour - 9) / 24 * 2 * math.pi)
    expected = usual * by_day * (0.7 if at.weekday() >= 5 else 1) * (0.05 if is_down(at) else 1)
    return max(0, round(noise.gauss(expected, math.sqrt(expected))))


def hours(window: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for the whole hours of the window."""
    found = []
    at = window.start.replace(minute=0, second=0, microsecond=0)
    while at < window.end:
        errors = 35.0 if is_down(at) else 1 + random.Random(int(at.timestamp()) + 1).random()  # noqa: S311
        orders = orders_of(at, params["orders_an_hour"])
        found.append({"timestamp": at, "orders": orders, "payment_errors": errors})
        at += HOUR
    return found


def deliveries(window: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Minutes of an hour's deliveries: their median and their slowest tenth; longer while the shop is down."""
    found = []
    at = window.start.replace(minute=0, second=0, microsecond=0)
    while at < window.end:
        noise = random.Random(int(at.timestamp()) + 3)  # noqa: S311
        middle = params["usual_minutes"] * noise.lognormvariate(0, 0.12) * (6 if is_down(at) else 1)
        found.append(
            {"timestamp": at, "minutes": middle, "minutes_slowest": middle * noise.uniform(1.8, 2.6)}
        )
        at += HOUR
    return found


def logarithm(frame: pl.DataFrame, params: dict[str, Any]) -> pl.DataFrame:
    """The metric on the scale of logarithms; what is not above zero has none."""
    value = pl.col("value")
    return frame.with_columns(pl.when(value > 0).then(value.log10()).alias("value"))


def write(path: str, days: int = 120) -> int:
    """Orders of the last days, each with a time and an amount, into the table ``orders`` of a new SQLite file."""
    end = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
    rows = []
    for count in range(days * 24):
        at = end - (days * 24 - count) * HOUR
        noise = random.Random(int(at.timestamp()) + 2)  # noqa: S311
        for _ in range(orders_of(at, 40)):
            placed = at + dt.timedelta(seconds=noise.randrange(3600))
            rows.append((placed.strftime("%Y-%m-%d %H:%M:%S"), round(noise.lognormvariate(3.2, 0.5), 2)))
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (placed_at TEXT NOT NULL, amount REAL NOT NULL)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", rows)
        connection.execute("CREATE INDEX orders_placed ON orders (placed_at)")
    return len(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{write(sys.argv[1]):,} orders in {sys.argv[1]}\n")
