"""Every feature again, slowly and obviously: a list of events a user, plain Python, one formula at a time.

Written from docs/features.md, not from the kernel. Works on dictionaries as ``records`` makes them.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

NAN = math.nan
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
WINDOWS = {"5m": 5 * MINUTE, "10m": 10 * MINUTE, "1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
LONGEST = 30 * DAY
RADII = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 60.0, 100.0, 170.0, 300.0, 500.0, 900.0, 1600.0, 3000.0]
UNIT = 100
POPULATION = 50.0
KEPT = 1024
AMOUNT = ("median", "p95", "rz", "iqr_low", "iqr_high", "mean_20", "z90", "rank", "lr")


@dataclass
class User:
    events: list[dict[str, Any]] = field(default_factory=list)  # in time order, ties as they came
    first: int | None = None


class Reference:
    def __init__(self, offset_ms: int = 0) -> None:
        self.users: dict[Any, User] = {}
        self.offset_ms = offset_ms

    def take(self, record: dict[str, Any]) -> tuple[str, dict[str, float] | None]:
        user = self.users.setdefault(record["user"], User())
        for event in user.events:
            if event["tx"] == record["tx"]:
                if event["payload"] != record["payload"]:
                    return "CONFLICT", None
                if event["status"] == record["status"]:
                    return "REPEAT", None
                event["status"] = record["status"]
                return "STATUS_UPDATE", None
        if user.first is None:
            user.first = record["ts"]
        now = record["ts"]
        past = [event for event in user.events if event["ts"] <= now]
        features = self.features(record, past, max(0.0, (now - user.first) / DAY))
        user.first = min(user.first, now)
        newest = max((event["ts"] for event in user.events), default=now)
        if newest - now <= LONGEST:
            stored = dict(record)
            lr = features["user_amount_lr"]
            stored["code"] = 0 if math.isnan(lr) else max(0, min(255, math.floor(lr * 32)))
            place = sum(event["ts"] <= now for event in user.events)
            user.events.insert(place, stored)
            del user.events[:-KEPT]
        return "JUDGE", features

    def features(self, record: dict[str, Any], past: list[dict[str, Any]], age: float) -> dict[str, float]:
        f: dict[str, float] = {"user_age_days": age}
        for name, span in WINDOWS.items():
            inside = [*past, record]
            inside = [event for event in inside if event["ts"] > record["ts"] - span]
            f |= {f"{measure}_{name}": value for measure, value in window(inside, record).items()}
        f |= novelty(record, past)
        f |= travel(record, past)
        f |= self.clock(record["ts"])
        f |= excess(record, past)
        f |= self.baseline(record, past)
        f["amount_base"] = NAN if record["amount"] is None else record["amount"] / UNIT
        return f

    def clock(self, ts: int) -> dict[str, float]:
        local = ts + self.offset_ms
        hour = local // HOUR % 24
        return {"local_hour": hour, "weekday": (local // DAY + 3) % 7, "is_night": float(hour < 6)}

    def baseline(self, record: dict[str, Any], past: list[dict[str, Any]]) -> dict[str, float]:
        now = record["ts"]
        old = [e for e in past if is_purchase(e) and not e.get("fraud") and e["ts"] <= now - DAY]
        used = old[-60:]
        amounts = [event["amount"] / UNIT for event in used]
        n = len(amounts)
        f = dict.fromkeys(
            (
                *(f"user_amount_{name}" for name in AMOUNT),
                "user_spend_per_day",
                "user_spend_24h_ratio",
                "hour_rarity",
            ),
            NAN,
        )
        f["user_amount_n"] = n
        judged = record["status"] in (0, 1, 2) and record["amount"] is not None and record["amount"] >= 0
        amount = record["amount"] / UNIT if judged else NAN
        median = statistics.median(amounts) if n else 0.0
        f["user_amount_usual"] = usual = (n * median + 3 * POPULATION) / (n + 3)
        if judged:
            f["user_amount_lr"] = math.log((amount + 1) / (usual + 1))
        if n < 10:
            return f
        q1, q3 = quantile(amounts, 0.25), quantile(amounts, 0.75)
        f["user_amount_median"] = median
        f["user_amount_p95"] = quantile(amounts, 0.95)
        f["user_amount_iqr_low"], f["user_amount_iqr_high"] = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
        f["user_amount_mean_20"] = statistics.fmean(amounts[-20:])
        floor = max(0.1 * median, 1.0)
        if judged:
            mad = statistics.median(abs(a - median) for a in amounts)
            f["user_amount_rz"] = (amount - median) / max(1.4826 * mad, floor)
            lowest = sorted(amounts)[: n * 9 // 10]
            spread = max(statistics.stdev(lowest), floor)
            f["user_amount_z90"] = (amount - statistics.fmean(lowest)) / spread
            f["user_amount_rank"] = (
                sum(1.0 if a < amount else 0.5 if a == amount else 0.0 for a in amounts) / n
            )
        spent = sum(event["amount"] for event in old if event["ts"] > now - LONGEST) / UNIT
        days = (now - DAY - max(now - LONGEST, past[0]["ts"])) / DAY
        if days >= 1:
            f["user_spend_per_day"] = spent / days
            recent = [e for e in [*past, record] if is_purchase(e) and e["ts"] > now - DAY]
            f["user_spend_24h_ratio"] = sum(e["amount"] for e in recent) / UNIT / max(spent / days, 1.0)
        hour = (now + self.offset_ms) // HOUR % 24
        hours = [(event["ts"] + self.offset_ms) // HOUR % 24 for event in used]
        near = sum((h - hour) % 24 in (0, 1, 23) for h in hours)
        f["hour_rarity"] = 1 - (near + 1) / (n + 8)
        return f


def is_purchase(event: dict[str, Any]) -> bool:
    return event["status"] in (0, 1) and event["amount"] is not None and event["amount"] >= 0


def is_refund(event: dict[str, Any]) -> bool:
    if event["amount"] is None or event["status"] in (2, 4):
        return False
    return event["status"] == 3 or event["amount"] < 0


def window(inside: list[dict[str, Any]], record: dict[str, Any]) -> dict[str, float]:
    amounts = [event["amount"] / UNIT for event in inside if is_purchase(event)]
    refunds = [abs(event["amount"]) / UNIT for event in inside if is_refund(event)]
    f = {
        "user_tx_count": len(inside),
        "user_amount_sum": sum(amounts),
        "user_amount_mean": statistics.fmean(amounts) if amounts else NAN,
        "user_amount_std": statistics.stdev(amounts) if len(amounts) > 1 else NAN,
        "user_amount_max": max(amounts, default=NAN),
        "user_declined_count": sum(event["status"] == 2 for event in inside),
        "user_refund_sum": sum(refunds),
    }
    for name in ("merchant", "device", "country"):
        values = {event[name] for event in inside if event[name] is not None}
        f[f"user_{name}_count"] = len(values) or NAN
    if record["amount"] is None:
        f |= dict.fromkeys(("user_amount_sum", "user_amount_mean", "user_amount_std", "user_amount_max"), NAN)
    return f


def novelty(record: dict[str, Any], past: list[dict[str, Any]]) -> dict[str, float]:
    f: dict[str, float] = {}
    honest = [event for event in past if not event.get("fraud")]
    for name in ("merchant", "device", "country", "currency"):
        known = {event[name] for event in honest if event[name] is not None}
        mine = record[name]
        f[f"is_new_{name}"] = NAN if mine is None or not known else float(mine not in known)
    streak = 0
    for event in reversed(past):
        if event["status"] != 2:
            break
        streak += 1
    f["user_declined_streak"] = streak + (record["status"] == 2)
    f["user_seconds_since_last"] = (record["ts"] - past[-1]["ts"]) / 1000 if past else NAN
    return f


def excess(record: dict[str, Any], past: list[dict[str, Any]]) -> dict[str, float]:
    f = {"user_amount_excess_3d": 0.0, "user_amount_excess_14d": 0.0}
    ratios = []
    for event in past:
        if is_purchase(event):
            age = (record["ts"] - event["ts"]) / DAY
            ratio = event["code"] / 32
            if age <= 14:
                ratios.append(ratio)
            for days in (3, 14):
                f[f"user_amount_excess_{days}d"] += max(0.0, ratio - 0.5) * 2 ** (-age / days)
    f["user_amount_lr_max_14d"] = max(ratios, default=NAN)
    return f


def travel(record: dict[str, Any], past: list[dict[str, Any]]) -> dict[str, float]:
    placed = [event for event in past if event["place"] is not None]
    if record["place"] is None or not placed:
        return {"travel_km": NAN, "travel_kmh": NAN}
    here, there = record["place"], placed[-1]["place"]
    a, b = grid(*here[:2]), grid(*there[:2])
    km = max(0.0, distance(a, b) - step(here[2]) - step(there[2]))
    seconds = max(60.0, (record["ts"] - placed[-1]["ts"]) / 1000)
    return {"travel_km": km, "travel_kmh": km / seconds * 3600}


def grid(latitude: float, longitude: float) -> tuple[float, float]:
    row = min(math.floor((latitude + 90) / 180 * 32768), 32767)
    column = math.floor((longitude + 180) / 360 * 65536) % 65536
    return (row + 0.5) / 32768 * 180 - 90, (column + 0.5) / 65536 * 360 - 180


def step(radius: float) -> float:
    return next((r for r in RADII if r >= radius), RADII[-1])


def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """By the angle between the two vectors, not by haversines."""

    def vector(point: tuple[float, float]) -> tuple[float, float, float]:
        phi, lam = math.radians(point[0]), math.radians(point[1])
        return math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)

    u, v = vector(a), vector(b)
    cross = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
    dot = sum(x * y for x, y in zip(u, v, strict=True))
    return 6371.0088 * math.atan2(math.hypot(*cross), dot)


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = min(math.floor(at), len(ordered) - 2)
    return ordered[low] + (at - low) * (ordered[low + 1] - ordered[low])
