"""What share of fraud is found, and what share of what is shown is fraud: estimates with their intervals.

What lies below the line is looked at by lot: a payment drawn with probability p stands for 1/p of them (Horvitz and
Thompson, 1952). The interval of such a weighted count is Fay and Feuer's (1997), which also says something when
nothing was found. Shares of counted cases have Wilson's (1927).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

__all__ = ["Recall", "estimate_recall", "share_interval"]

# Two-sided 95 %.
Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Recall:
    """How much of the fraud was flagged.

    Attributes
    ----------
    found
        Flagged payments known as fraud, on days with a draw.
    drawn, reviewed
        Payments drawn below the line, and of those the ones of which it is known whether they were fraud.
    missed
        Estimated frauds below the line.
    share, low, high
        Recall and its 95 % interval; None where nothing was found nor reviewed.
    """

    found: int
    drawn: int
    reviewed: int
    missed: float
    share: float | None
    low: float | None
    high: float | None


def estimate_recall(found: int, samples: Sequence[tuple[float, bool | None]]) -> Recall:
    """Recall from flagged frauds and what the draw says of the rest.

    Parameters
    ----------
    samples
        Of each drawn payment the probability of being drawn, and whether it was fraud (None: not known yet). Those
        not reviewed are taken to be like the others.

    >>> one = estimate_recall(90, [(0.1, False)] * 99 + [(0.1, True)])
    >>> round(one.missed), round(one.share, 2), round(one.low, 2), round(one.high, 3)
    (10, 0.9, 0.62, 0.998)
    """
    known = [(probability, fraud) for probability, fraud in samples if fraud is not None]
    if not known:
        return Recall(found, len(samples), 0, 0.0, None, None, None)
    scale = len(samples) / len(known)
    weights = [scale / probability for probability, _ in known]
    frauds = [weight for weight, (_, fraud) in zip(weights, known, strict=True) if fraud]
    missed, variance = sum(frauds), sum(weight * weight for weight in frauds)
    largest = max(weights)
    fewest = gamma_quantile(missed, variance, -Z) if missed else 0.0
    most = gamma_quantile(missed + largest, variance + largest * largest, Z)

    def share(lost: float) -> float | None:
        return found / (found + lost) if found + lost > 0 else None

    return Recall(found, len(samples), len(known), missed, share(missed), share(most), share(fewest))


def gamma_quantile(mean: float, variance: float, z: float) -> float:
    """Of a gamma distribution by its mean and variance (Wilson and Hilferty, 1931); ``z`` of the normal one.

    Within 1 % of the upper 97.5 % point for a single count (3.69), and better for more; the lower one errs towards 0.
    """
    shape = mean * mean / variance
    root = 1.0 - 1.0 / (9.0 * shape) + z * sqrt(1.0 / (9.0 * shape))
    return mean * max(root, 0.0) ** 3


def share_interval(count: int, of: int) -> tuple[float, float]:
    """95 % interval of a share of counted things.

    >>> tuple(round(end, 3) for end in share_interval(9, 10))
    (0.596, 0.982)
    """
    if not of:
        return 0.0, 1.0
    share, square = count / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z / (1 + square / of) * sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(middle - half, 0.0), min(middle + half, 1.0)
