"""The state of the stream in one word, from heartbeats and the account's last transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from anomalyze.storage.board_feed import AccountPulse, ProgramState
from dashboard.formatters import format_count, format_duration, format_value

__all__ = ["StreamState", "describe_stream", "is_alive"]

# Programs send a heartbeat every two seconds.
HEARTBEAT_MISSING_S = 10
LAG_LATE_S = 30
# No transaction for so many times the usual gap, and at least a minute: silent.
SILENT_GAPS = 30
SILENT_S_MIN = 60


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the sidebar's foot and the head of Now say.

    `sign` is ok, late or down. `silent` is the full sentence when transactions stopped coming, else empty.
    """

    sign: str
    word: str
    detail: str
    rate: float | None
    p99_ms: float | None
    last_at: datetime | None
    judged_day: int
    silent: str
    starter: bool


def is_alive(program: ProgramState, now: datetime) -> bool:
    """Whether its heartbeat still comes."""
    return (now - program.seen_at).total_seconds() < HEARTBEAT_MISSING_S


def describe_stream(programs: Sequence[ProgramState], pulse: AccountPulse, now: datetime) -> StreamState:
    """Judge the stream from what its programs last said."""
    living = [p for p in programs if is_alive(p, now)]
    detectors = [p.state for p in living if p.program == "detector"]
    rates = [s["rate"] for s in detectors if isinstance(s.get("rate"), (int, float))]
    p99 = [s["p99_ms"] for s in detectors if isinstance(s.get("p99_ms"), (int, float))]
    lags = [lag for s in detectors if (lag := _lag_s(s)) is not None]
    starter = pulse.starter or any(s.get("bundle_kind") == "starter" for s in detectors)
    rate = sum(rates) if rates else None
    lag = max(lags) if lags else None
    detail = ", ".join(
        (
            [f"{format_count(round(rate)) if rate >= 10 else format_value(round(rate, 1))} tx/s"]
            if rate is not None
            else []
        )
        + ([f"lag {format_duration(lag)}"] if lag is not None else [])
    )
    silent = _silence(living, pulse, now)
    missing = [name for name in ("detector", "sink") if not any(p.program == name for p in living)]
    if missing:
        seen = [p.seen_at for p in programs if p.program == missing[0]]
        since = f"for {format_duration((now - max(seen)).total_seconds())}" if seen else "yet"
        sign, word, detail = "down", "Stream down", f"no sign of the {missing[0]} {since}"
    elif silent:
        sign, word, detail = "late", "Stream silent", silent.split(";")[0].rstrip(".")
    elif lag is not None and lag > LAG_LATE_S:
        sign, word = "late", "Stream late"
    else:
        sign, word = "ok", "Stream healthy"
    return StreamState(
        sign, word, detail, rate, max(p99) if p99 else None, pulse.last_at, pulse.judged_day, silent, starter
    )


def _lag_s(state: Mapping[str, Any]) -> float | None:
    """A detector's lag as time: what is waiting at the rate at which it works."""
    if isinstance(state.get("lag_s"), (int, float)):
        return float(state["lag_s"])
    lag, rate = state.get("lag"), state.get("rate")
    if not isinstance(lag, (int, float)):
        return None
    return lag / rate if isinstance(rate, (int, float)) and rate > 0 else 0.0 if lag == 0 else None


def _silence(living: Sequence[ProgramState], pulse: AccountPulse, now: datetime) -> str:
    if pulse.last_at is None or pulse.judged_day < 2:
        return ""
    gap = 86_400 / pulse.judged_day
    quiet_s = (now - pulse.last_at).total_seconds()
    if quiet_s <= max(SILENT_S_MIN, SILENT_GAPS * gap):
        return ""
    usual = (
        f"usually {format_count(round(1 / gap))} a second"
        if gap < 0.75
        else ("usually one a second" if gap < 1.5 else f"usually one every {format_duration(gap)}")
    )
    up = any(p.program == "api" for p in living)
    return f"No transaction for {format_duration(quiet_s)}; {usual}. The API is {'up' if up else 'down'}."
