"""Control records: bundles, lists and profiles change only by these, written to every partition of
`transactions`, so that each change has a place in every user's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from anomalyze.bus.contract import Bus
from anomalyze.bus.topics import TRANSACTIONS

__all__ = ["announce", "announce_all", "encode_control"]

FLUSH_TIMEOUT_S = 30.0


def encode_control(kind: str, body: Mapping[str, Any]) -> bytes:
    """One control record.

    >>> encode_control("bundle", {"bundle": "sha256:ab"})
    b'{"control":"bundle","bundle":"sha256:ab"}'
    """
    return msgspec.json.encode({"control": kind, **body})


def announce(bus: Bus, kind: str, body: Mapping[str, Any]) -> None:
    """Write a control record to every partition; returns when all are durable.

    Writing it again is harmless: the second one changes nothing. Raises ``TransientError`` when it is not
    known to be everywhere: announce it again.
    """
    announce_all(bus, kind, [body])


def announce_all(bus: Bus, kind: str, bodies: Sequence[Mapping[str, Any]]) -> None:
    """Write several control records to every partition, in their order; otherwise as `announce`."""
    values = [encode_control(kind, body) for body in bodies]
    producer = bus.producer()
    try:
        for partition in range(bus.partitions(TRANSACTIONS)):
            for value in values:
                producer.send(TRANSACTIONS, partition, None, value)
        producer.flush(FLUSH_TIMEOUT_S)
    finally:
        producer.close()
