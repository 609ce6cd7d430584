"""The batch of metrics that these tests run, over an hourly table in a SQLite file."""

from __future__ import annotations

from datetime import timedelta

HOUR = timedelta(hours=1)
POINTS, SPIKE = 500, 480
SQL = "sql: SELECT ts AS timestamp, orders FROM hours WHERE ts >= :start AND ts < :end\n"
SHOP = "source: {kind: sqlite, path: shop.db}\nhistory: 30d\n" + SQL
