"""Rows onto the log."""

from __future__ import annotations

import polars as pl

from anomalyze.bus.contract import Producer
from anomalyze.bus.partitioner import murmur2_partitions
from anomalyze.bus.topics import TRANSACTIONS

__all__ = ["publish_rows"]

FLUSH_TIMEOUT_S = 30.0


def publish_rows(producer: Producer, partitions: int, rows: pl.DataFrame) -> None:
    """Append rows (``user``, ``value``) in their order and wait until the log has acknowledged them.

    Raises
    ------
    TransientError
        It has not: some may lie there all the same, so they are to be sent again.
    """
    keys = rows["user"].cast(pl.Binary).to_list()
    values = rows["value"].cast(pl.Binary).to_list()
    producer.send_many(TRANSACTIONS, murmur2_partitions(keys, partitions), keys, values)
    producer.flush(FLUSH_TIMEOUT_S)
