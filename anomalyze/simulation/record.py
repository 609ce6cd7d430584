"""Simulated transactions as JSON: the flat object of the REST API, and the record of the log.

Also how many of the labelled incidents came back as anomalies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from anomalyze.simulation.population import CATEGORIES, CITIES, ONLINE_CATEGORIES
from anomalyze.simulation.scenario import SCENARIOS
from anomalyze.simulation.traffic import CHANNELS, CURRENCIES, DECIMALS, STATUSES, Traffic

__all__ = ["Found", "Labels", "evaluate_found", "flat_records", "user_ids", "wire_records"]

CATEGORY_NAMES = [c[0] for c in CATEGORIES] + [c[0] for c in ONLINE_CATEGORIES]


def user_ids(traffic: Traffic) -> list[str]:
    """The ``user_id`` of each row; the key of its record."""
    return [f"user_{u:05d}" for u in traffic.user.tolist()]


def tx_ids(traffic: Traffic, prefix: str) -> list[str]:
    """The ``tx_id`` of each row: prefix, day and place in the day."""
    return [f"{prefix}-{traffic.day}-{i}" for i in range(len(traffic))]


def data_fields(traffic: Traffic, prefix: str) -> Iterator[str]:
    """The fields of ``data`` of each row, without braces."""
    decimals = DECIMALS[traffic.currency].tolist()
    places = [
        f',"location":"{city.name}","country":"{city.country}"' for city in CITIES
    ]  # index -1 is never used: online rows have none
    columns = zip(
        tx_ids(traffic, prefix),
        traffic.amount_minor.tolist(),
        decimals,
        traffic.currency.tolist(),
        traffic.merchant.tolist(),
        traffic.user.tolist(),
        traffic.device.tolist(),
        traffic.channel.tolist(),
        traffic.status.tolist(),
        traffic.city.tolist(),
        traffic.latitude.tolist(),
        traffic.longitude.tolist(),
        traffic.category.tolist(),
        strict=True,
    )
    for tx, minor, dec, cur, merchant, user, device, channel, status, city, lat, lon, category in columns:
        amount = f"{minor / 100:.2f}" if dec else str(minor)
        place = (
            f'{places[city]},"latitude":{lat:.5f},"longitude":{lon:.5f}'
            if city >= 0
            else f',"ip":"10.{user >> 16 & 255}.{user >> 8 & 255}.{user & 255}"'
        )
        state = f',"status":"{STATUSES[status]}"' if status else ""
        yield (
            f'"tx_id":"{tx}","amount":{amount},"currency":"{CURRENCIES[cur]}"{place},'
            f'"merchant_id":"m_{merchant:04d}","merchant_category":"{CATEGORY_NAMES[category]}",'
            f'"device_id":"d_{user:05d}_{device}","channel":"{CHANNELS[channel]}"{state}'
        )


def timestamps(traffic: Traffic) -> list[str]:
    """RFC 3339 in UTC with milliseconds."""
    return np.datetime_as_string(traffic.ts_ms.astype("datetime64[ms]"), timezone="UTC").tolist()


def flat_records(traffic: Traffic, prefix: str) -> list[bytes]:
    """Bodies for ``POST /transaction``: one flat JSON object a row."""
    return [
        f'{{"user_id":"{user}","timestamp":"{ts}",{data}}}'.encode()
        for user, ts, data in zip(
            user_ids(traffic), timestamps(traffic), data_fields(traffic, prefix), strict=True
        )
    ]


def wire_records(traffic: Traffic, prefix: str, account_id: str) -> list[bytes]:
    """Records for the topic ``transactions``; their keys are ``user_ids``."""
    return [
        (
            f'{{"meta":{{"trace_id":"{prefix}-{traffic.day}-{i}","timestamp":"{ts}","source":"SIMULATION",'
            f'"user_id":"{user}","account_id":"{account_id}"}},"data":{{{data}}}}}'
        ).encode()
        for i, (user, ts, data) in enumerate(
            zip(user_ids(traffic), timestamps(traffic), data_fields(traffic, prefix), strict=True)
        )
    ]


@dataclass(slots=True)
class Labels:
    """Which transactions belong to which incident: ``tx_id`` to (scenario, incident)."""

    incident: dict[str, tuple[str, str]]

    def add(self, traffic: Traffic, prefix: str) -> None:
        """Note the labelled rows of a chunk."""
        ids = tx_ids(traffic, prefix)
        for row in np.flatnonzero(traffic.label).tolist():
            name = SCENARIOS[traffic.label[row]]
            self.incident[ids[row]] = (name, f"{traffic.day}-{traffic.incident[row]}")


@dataclass(frozen=True, slots=True)
class Found:
    """How many labelled incidents had at least one of their transactions flagged, and false alarms."""

    incidents: Mapping[str, tuple[int, int]]  # scenario: (found, sent)
    transactions: Mapping[str, tuple[int, int]]  # scenario: (flagged, sent)
    false_alarms: int

    @property
    def recall(self) -> float:
        """Share of all incidents found; 1.0 when there were none."""
        sent = sum(total for _, total in self.incidents.values())
        return sum(found for found, _ in self.incidents.values()) / sent if sent else 1.0


def evaluate_found(labels: Labels, flagged_tx_ids: Iterable[str]) -> Found:
    """Hold the anomalies that came back against what was sent."""
    flagged = set(flagged_tx_ids)
    seen: dict[str, dict[str, bool]] = {}
    rows: dict[str, list[int]] = {}
    for tx_id, (name, incident) in labels.incident.items():
        hit = tx_id in flagged
        of_name = seen.setdefault(name, {})
        of_name[incident] = of_name.get(incident, False) or hit
        count = rows.setdefault(name, [0, 0])
        count[0] += hit
        count[1] += 1
    return Found(
        incidents={name: (sum(of.values()), len(of)) for name, of in sorted(seen.items())},
        transactions={name: (count[0], count[1]) for name, count in sorted(rows.items())},
        false_alarms=len(flagged - labels.incident.keys()),
    )
