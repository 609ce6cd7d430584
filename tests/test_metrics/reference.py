"""The detector in plain Python, written from its description: sorted lists, dictionaries, one value at a time."""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass, field

DAY_MS = 86_400_000
VALUES = 8_000


@dataclass
class Memory:
    """The newest values, sorted, and how far nearest ones used to be."""

    recent: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)
    taken: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def surprise(self, value: float) -> float:
        z = 0.0
        if self.ordered:
            distance = min(abs(value - other) for other in self._around(value))
            if self.taken >= 30 and distance > self.mean:
                z = 1e6
                if self.variance > 0:
                    z = min(z, (distance - self.mean) / math.sqrt(self.variance))
            rate = max(1 / VALUES, 1 / self.taken)
            excess = distance - self.mean
            self.mean += rate * excess
            self.variance = (1 - rate) * (self.variance + rate * excess * excess)
        self.recent.append(value)
        self.taken += 1
        if len(self.recent) > VALUES:
            self.ordered.remove(self.recent.popleft())
        bisect.insort(self.ordered, value)
        return z

    def _around(self, value: float) -> list[float]:
        place = bisect.bisect(self.ordered, value)
        return self.ordered[max(0, place - 1) : place + 1]


@dataclass
class Phase:
    """Means of the bins of a day or a week, and how well they have done."""

    length_ms: int
    bins: int
    means: dict[int, tuple[float, int]] = field(default_factory=dict)
    error: float = 0.0
    base: float = 0.0
    compared: int = 0


class Reference:
    """One series."""

    def __init__(self, period_s: float) -> None:
        self.half_life = max(140.0, 7 * 86_400 / period_s)
        self.open_points = max(100, int(8 * 3_600 / period_s))
        self.memory_points = max(2_000.0, 7 * 86_400 / period_s)
        self.run_decay, self.runs = math.exp(-period_s / 86_400), 0.0
        self.phases = [
            Phase(DAY_MS, min(1440, max(1, round(86_400 / period_s)))),
            Phase(7 * DAY_MS, min(10_080, max(1, round(604_800 / period_s)))),
        ]
        self.memories = {name: Memory() for name in ("raw", "mean", "low", "high", "log", "season")}
        self.values: list[float] = []
        self.scale = self.level = 0.0
        self.incidents: list[list[float]] = []
        self.open_until = self.quiet_until = -1
        self.alerted = 0.0

    def take(self, ts_ms: int, x: float) -> dict[str, float]:
        """Surprise, novelty, rarity and alerts of one value."""
        n = len(self.values)
        if n == 0:
            self.level = x
        residual, deviation = self._residual(ts_ms, x)
        out = {"rarity": math.nan, "rarity_alert": False, "novelty": math.nan, "surprise": math.nan}
        out["novelty_alert"] = False
        if n >= 30:
            out["rarity"] = self._rarity(x)
            if residual is not None and deviation > 0:
                out["rarity"] = max(out["rarity"], min(1e6, abs(residual) / deviation) - 1.645)
        last3, last6 = [*self.values[-2:], x][::-1], [*self.values[-5:], x]
        self.scale += (abs(x) - self.scale) / (n + 1)
        magnitude = math.log(1 + abs(x) / self.scale) if self.scale > 0 else 0.0
        total = 0.0
        for value in last3:
            total += value
        surprise = self.memories["raw"].surprise(x)
        surprise += self.memories["mean"].surprise(total / len(last3))
        surprise += self.memories["low"].surprise(min(last6))
        high = self.memories["high"].surprise(max(last6))
        surprise += high if max(last6) < self.level else 0.0
        surprise += self.memories["log"].surprise(math.copysign(magnitude, x) if x else 0.0)
        if residual is not None:
            surprise += self.memories["season"].surprise(residual)
        if n >= 30:
            out |= self._judge(n, surprise, out["rarity"])
        self.level += max(0.005, 1 / (n + 1)) * (x - self.level)
        self.values.append(x)
        return out

    def _residual(self, ts_ms: int, x: float) -> tuple[float | None, float]:
        best, residual, deviation = 0.7, None, 0.0
        for phase in self.phases:
            if phase.bins < 2:
                continue
            into = (ts_ms - 4 * DAY_MS) % phase.length_ms
            place = (into * phase.bins + phase.length_ms // 2) // phase.length_ms % phase.bins
            mean, visits = phase.means.get(place, (0.0, 0))
            if visits:
                decay = 0.5 ** (1 / self.half_life)
                learned = phase.compared >= self.half_life / 4 and visits >= 2
                if learned and phase.error < best * phase.base:
                    best, residual = phase.error / phase.base, x - mean
                    weights = (1 - decay**phase.compared) / (1 - decay)
                    deviation = math.sqrt(math.pi / 2) * phase.error / weights
                phase.error = decay * phase.error + abs(x - mean)
                phase.base = decay * phase.base + abs(x - self.level)
                phase.compared += 1
            phase.means[place] = (mean + max(0.3, 1 / (visits + 1)) * (x - mean), visits + 1)
        return residual, deviation

    def _rarity(self, x: float) -> float:
        kept = sorted(self.values[-VALUES:])
        last = len(kept) - 1
        spread = (kept[9 * last // 10] - kept[last // 10]) / 2.56
        if spread <= 0:
            spread = (kept[-1] - kept[0]) / 20
        neighbours = max(5, int(0.05 * len(kept)))
        distance = sorted(abs(x - other) for other in kept)[neighbours - 1]
        if distance == 0:
            return 0.0
        return min(1e6, distance / spread) if spread > 0 else 1e6

    def _judge(self, n: int, surprise: float, rarity: float) -> dict[str, float]:
        is_open = n < self.open_until
        past = self.incidents[:-1] if is_open else self.incidents
        habit = 0.0
        for peak, at in past[-128:]:
            if peak >= surprise / 2:
                habit += math.exp((at - n) / self.memory_points)
        excess = surprise / (1 + habit) ** 0.7
        self.runs *= self.run_decay
        is_rare = False
        if rarity >= 4:
            if n >= self.quiet_until:
                is_rare = rarity >= 4 * math.sqrt(1 + self.runs) and excess >= 0.1
                self.runs += 1
            self.quiet_until = n + 6
        begins = False
        if is_open:
            self.incidents[-1][0] = max(self.incidents[-1][0], surprise)
            begins = surprise > 3 * self.alerted
        elif excess >= 3:
            self.incidents.append([surprise, n])
            self.open_until, begins = n + self.open_points, True
        confirmed = excess >= 9 or rarity >= 0.75
        alert = begins and excess >= 3 * max(1, 200 / n) and confirmed
        if begins:
            self.alerted = surprise
        if alert:
            self.quiet_until = n + 6
        novelty = excess / (1 + excess)
        return {"surprise": surprise, "novelty": novelty, "novelty_alert": alert, "rarity_alert": is_rare}
