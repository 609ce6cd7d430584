"""Which of two bundles finds more fraud with the same work: the same number of cases looked at.

People look at so many cases a day. Of each bundle's cases the most severe ones fill that budget, and what counts is
the value of the confirmed fraud in them. Frauds of one user hang together, so the difference is bootstrapped by
user (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

__all__ = ["FRAUD_CASES_MIN", "FoundCase", "Fraud", "Quality", "caught_by_user", "compare_quality"]

# Fewer say nothing: one lucky case would decide.
FRAUD_CASES_MIN = 50
RESAMPLES = 2_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class FoundCase:
    """A case of a bundle, as a queue ranks it: the most severe first, then the strangest."""

    severity: int
    score: float


@dataclass(frozen=True, slots=True)
class Fraud:
    """A confirmed fraud: whose, on which day, worth how much, and the case that it is in, if any."""

    user: str
    day: int
    value: float
    case: str | None


class Quality(msgspec.Struct, frozen=True):
    """Fraud value found within the same budget of cases.

    Attributes
    ----------
    budget
        Cases looked at.
    fraud_cases
        Confirmed frauds by user and day.
    value
        Of all of them; ``candidate`` and ``champion``: of those each found.
    low, high
        95 % interval of the difference, candidate less champion, by users resampled.
    """

    budget: int
    fraud_cases: int
    value: float
    candidate: float
    champion: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there are enough confirmed frauds to say anything."""
        return self.fraud_cases >= FRAUD_CASES_MIN

    @property
    def better(self) -> bool:
        """The candidate finds more, and that is no chance."""
        return self.known and self.low > 0

    @property
    def worse(self) -> bool:
        """The candidate finds less, and that is no chance."""
        return self.known and self.high < 0


def compare_quality(
    candidate: tuple[Mapping[str, FoundCase], Sequence[Fraud]],
    champion: tuple[Mapping[str, FoundCase], Sequence[Fraud]],
    budget: int,
    seed: int = 0,
) -> Quality:
    """Compare the cases and frauds of two bundles that judged the same rows; resampling is drawn from ``seed``."""
    caught = [caught_by_user(cases, frauds, budget) for cases, frauds in (candidate, champion)]
    users = sorted(caught[0])
    value = dict.fromkeys(users, 0.0)
    for fraud in candidate[1]:
        value[fraud.user] += fraud.value
    difference = np.array([caught[0][user] - caught[1][user] for user in users])
    low = high = 0.0
    if users:
        random = np.random.default_rng(seed)
        # Multinomial counts are a resampling with replacement, without the list of who was drawn.
        counts = random.multinomial(len(users), np.full(len(users), 1 / len(users)), size=RESAMPLES)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(counts @ difference, [tail, 1 - tail])
    return Quality(
        budget=budget,
        fraud_cases=len({(fraud.user, fraud.day) for fraud in candidate[1]}),
        value=sum(value.values()),
        candidate=sum(caught[0].values()),
        champion=sum(caught[1].values()),
        low=float(low),
        high=float(high),
    )


def caught_by_user(cases: Mapping[str, FoundCase], frauds: Sequence[Fraud], budget: int) -> dict[str, float]:
    """Fraud value found of each user who had a fraud, when the first ``budget`` cases are looked at.

    >>> cases = {"a": FoundCase(4, 0.9), "b": FoundCase(2, 0.99)}
    >>> caught_by_user(cases, [Fraud("u", 1, 50.0, "a"), Fraud("v", 1, 70.0, "b"), Fraud("v", 2, 9.0, None)], 1)
    {'u': 50.0, 'v': 0.0}
    """
    ranked = sorted(cases, key=lambda case: (-cases[case].severity, -cases[case].score, case))
    looked_at = set(ranked[:budget])
    caught = dict.fromkeys((fraud.user for fraud in frauds), 0.0)
    for fraud in frauds:
        if fraud.case in looked_at:
            caught[fraud.user] += fraud.value
    return caught
