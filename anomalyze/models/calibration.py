"""From a raw score to a tail probability: how often history held something at least as strange.

p(s) = (1 + #{s_i >= s}) / (n + 1), the conformal p-value (Vovk, Gammerman, Shafer, "Algorithmic learning in
a random world", 2005). History of any length is kept as at most 10,000 points: the strangest 5,000 values
exactly, the body at evenly spaced ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from anomalyze.errors import ContractError

__all__ = ["POINTS_MAX", "Calibration", "fit_calibration"]

POINTS_MAX = 10_000
_TAIL_POINTS = 5_000
# With fewer than ten rows beyond it, a threshold is set by chance.
_ROWS_BEYOND_MIN = 10
_POINT = np.dtype([("score", "<f4"), ("count", "<i8")])


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Scores of history, compressed.

    Attributes
    ----------
    scores
        float32 ``[m]``: raw scores that occurred, ascending, distinct.
    counts
        int64 ``[m]``: how many rows of history scored at least that much.
    rows
        Length of history, n.
    cut
        A score above it carries the label ANOMALY.
    """

    scores: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    rows: int
    cut: float

    def __post_init__(self) -> None:
        consistent = (
            len(self.scores) == len(self.counts)
            and 0 < len(self.scores) <= POINTS_MAX
            and bool(np.isfinite(self.scores).all())
            and bool((np.diff(self.scores) > 0).all())
            and bool((np.diff(self.counts) < 0).all())
            and int(self.counts[0]) == self.rows
            and int(self.counts[-1]) > 0
            and not np.isnan(self.cut)
        )
        if not consistent:
            raise ContractError(
                "calibration: expected 1 to 10,000 ascending finite scores with falling counts that begin at the"
                f" number of rows, got {len(self.scores)} scores and {len(self.counts)} counts of {self.rows} rows"
            )

    @property
    def p_min(self) -> float:
        """The smallest probability that a threshold may have, 10/n."""
        return min(1.0, _ROWS_BEYOND_MIN / self.rows)

    def compute_threshold(self, p: float) -> float:
        """The threshold to use when a policy asks for ``p``: never below 10/n."""
        return max(p, self.p_min)

    def compute_tail(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Tail probability p of raw scores ``[n]``: 1 = ordinary, 1/(n + 1) = stranger than all history.

        Exact among the strangest 5,000 and at every kept point; elsewhere within 1/5,000 of the rows.
        """
        out = np.empty(len(scores), dtype=np.float64)
        _tail(np.ascontiguousarray(scores, dtype=np.float32), self.scores, self.counts, self.rows, out)
        return out

    def compute_ml_score(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """``ml_score`` of raw scores: 1 - p, so .99 = stranger than 99 % of history."""
        return 1.0 - self.compute_tail(scores)

    def compute_labels(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which raw scores are labelled ANOMALY."""
        return np.asarray(scores, dtype=np.float64) > self.cut

    def to_bytes(self) -> bytes:
        """The points, little-endian; ``rows`` and ``cut`` travel beside them."""
        points = np.empty(len(self.scores), dtype=_POINT)
        points["score"], points["count"] = self.scores, self.counts
        return points.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, rows: int, cut: float) -> Calibration:
        """Read what ``to_bytes`` wrote.

        Raises
        ------
        ContractError
            When the bytes are not such points.
        """
        if not 0 < len(data) <= POINTS_MAX * _POINT.itemsize or len(data) % _POINT.itemsize:
            raise ContractError(
                f"calibration: expected whole points of {_POINT.itemsize} bytes, got {len(data)} bytes"
            )
        points = np.frombuffer(data, dtype=_POINT)
        scores = np.ascontiguousarray(points["score"], dtype=np.float32)
        return cls(scores, np.ascontiguousarray(points["count"], dtype=np.int64), rows, cut)


def fit_calibration(scores: npt.NDArray[np.float32], label_p: float = 0.005) -> Calibration:
    """Calibrate against the raw scores ``[n]`` of history, in any order.

    Parameters
    ----------
    label_p
        Share of history that the label ANOMALY would have met; raised to 10/n. The cut is laid into the
        widest gap between neighbouring scores within a tenth of that rank, so that no label hangs on the
        last bits of a score.

    Raises
    ------
    ContractError
        Without scores, or when one is not finite.
    """
    scores = np.sort(np.asarray(scores, dtype=np.float32))
    rows = len(scores)
    if rows == 0 or not np.isfinite(scores).all():
        raise ContractError(f"calibration: expected finite scores, got {rows} of which some are not")
    distinct, first = np.unique(scores, return_index=True)
    counts = rows - first
    if len(distinct) > POINTS_MAX:
        body = len(distinct) - _TAIL_POINTS
        # Evenly spaced in rows, not in distinct values: a heap of equal scores is one point.
        wanted = np.linspace(0, first[body - 1], POINTS_MAX - _TAIL_POINTS)
        chosen = np.unique(np.searchsorted(first[:body], wanted, side="right") - 1)
        chosen = np.concatenate([chosen, np.arange(body, len(distinct))])
        distinct, counts = distinct[chosen], counts[chosen]
    return Calibration(distinct, counts.astype(np.int64), rows, _lay_cut(scores, label_p))


def _lay_cut(ascending: npt.NDArray[np.float32], label_p: float) -> float:
    """A score with at most ``label_p`` of the rows above it, in the middle of a wide gap."""
    rows = len(ascending)
    above_max = int(max(label_p, _ROWS_BEYOND_MIN / rows) * (rows + 1)) - 1
    above_max = min(max(above_max, 0), rows - 1)
    above = np.arange(int(0.9 * above_max), above_max + 1)
    above = above[above > 0]
    if len(above):
        upper = ascending[rows - above].astype(np.float64)
        lower = ascending[rows - above - 1].astype(np.float64)
        widest = int(np.argmax(upper - lower))
        if upper[widest] > lower[widest]:
            return float((upper[widest] + lower[widest]) / 2)
    # Ties all over that rank: label what is stranger than the tie.
    tie = ascending[rows - 1 - above_max]
    stranger = ascending[ascending > tie]
    return (
        float((float(stranger[0]) + float(tie)) / 2)
        if len(stranger)
        else float(np.nextafter(tie, np.float32(np.inf)))
    )


@numba.njit(cache=True, nogil=True)
def _tail(scores, points, counts, rows, out):  # type: ignore[no-untyped-def]
    for i in range(scores.shape[0]):
        at = np.searchsorted(points, scores[i])
        at_least = counts[at] if at < points.shape[0] else 0
        out[i] = (1.0 + at_least) / (rows + 1.0)
