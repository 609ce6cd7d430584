"""What cases to review have in common, beside how common it is anyway: one attack or many?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from anomalyze.storage import board_shared
from anomalyze.storage.board import Connection
from dashboard.formatters import format_clock
from dashboard.live import Channel
from dashboard.security import Viewer

__all__ = ["SharedValue", "load_shared", "pick_shared"]

ROWS = 5
# The newest transactions are read for it, which takes longer than the rest of the page.
SHARES_AGE_MAX_S = 30.0
KINDS = ("rule", "merchant", "country", "device", "hour")


@dataclass(frozen=True, slots=True)
class SharedValue:
    """A value, how many cases have it, and its share of all transactions (None: not known)."""

    kind: str
    value: str
    label: str
    cases: int
    share: float | None = None


def pick_shared(counted: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """The most common of each kind, then the next most common, at most `ROWS`; in the order of `KINDS`.

    >>> pick_shared([("rule", "A", 9), ("rule", "B", 8), ("merchant", "m", 2)])
    [('rule', 'A', 9), ('rule', 'B', 8), ('merchant', 'm', 2)]
    """
    first = [next((c for c in counted if c[0] == kind), None) for kind in KINDS]
    chosen = [c for c in first if c is not None][:ROWS]
    chosen += [c for c in counted if c not in chosen][: ROWS - len(chosen)]
    return sorted(chosen, key=lambda c: (KINDS.index(c[0]), -c[2]))


async def load_shared(
    connection: Connection,
    channel: Channel,
    viewer: Viewer,
    waiting: int,
    hourly: Mapping[datetime, Sequence[int]],
) -> list[SharedValue]:
    """The rows of "Shared by those to review"."""
    if waiting < 2:
        return []
    chosen = pick_shared(await board_shared.load_shared_values(connection, viewer.account_id))
    day_start = viewer.now - timedelta(hours=24)
    judged = sum(sum(counts) for hour, counts in hourly.items() if hour > day_start - timedelta(hours=1))
    hits = await board_shared.load_rule_shares(connection, viewer.account_id, day_start)
    named = [(kind, value) for kind, value, _ in chosen if kind in ("merchant", "country", "device")]
    total, counts = (
        await channel.remembered(
            f"shares {named}",
            SHARES_AGE_MAX_S,
            lambda: board_shared.load_value_shares(connection, viewer.account_id, named),
        )
        if named
        else (0, {})
    )
    rows = []
    for kind, value, cases in chosen:
        label, share = value, None
        if kind == "rule" and judged:
            share = hits.get(value, 0) / judged
        elif kind == "hour":
            start = datetime.fromisoformat(value)
            label = f"{format_clock(start, viewer.zone)} to {format_clock(start + timedelta(hours=1), viewer.zone)}"
            share = sum(hourly.get(start, ())) / judged if judged else None
        elif total:
            share = counts.get((kind, value), 0) / total
        rows.append(SharedValue(kind, value, label, cases, share))
    return rows
