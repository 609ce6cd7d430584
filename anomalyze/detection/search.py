"""How a supervised model is fitted: a few stated ways, compared on the newest quarter of its own rows of training.

The rows are cut by time, as training and serving are. Another way takes the place of the default only when its lead
in average precision there, bootstrapped by user, has a lower bound above zero: the winner of a few tries on few
frauds is mostly the luckiest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from anomalyze.detection.proof import average_precision, compute_lead
from anomalyze.models.boosting import DEFAULT_FIT, SUPERVISED_INPUTS, Fit, train_boosting
from anomalyze.models.training import select_inputs

__all__ = ["FITS", "SEARCH_FRAUDS_MIN", "search_fit"]

FITS: Mapping[str, Fit] = {
    "default": DEFAULT_FIT,
    "deeper": Fit(max_depth=6, num_leaves=31),
    "longer": Fit(rounds=200),
    "shallow": Fit(max_depth=3, num_leaves=7, learning_rate=0.1),
    "fine": Fit(min_child_samples=25),
}
LEARNED_SHARE = 0.75
# On each side of the cut. With fewer nothing is compared.
SEARCH_FRAUDS_MIN = 50


def search_fit(
    features: npt.NDArray[np.float64],
    names: Sequence[str],
    fraud: npt.NDArray[np.bool_],
    user: npt.NDArray[np.uint64],
    ts_ms: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> tuple[Fit, dict[str, float]]:
    """The way to fit rows of training ``[n]``, and what was found.

    Returns
    -------
    tuple
        The way, and figures: ``search_ap_<way>`` the average precision of each on the newest quarter, and
        ``search_low_<way>`` the lower bound of its lead over the default. Without a comparison there are none.
    """
    cut = np.quantile(ts_ms, LEARNED_SHARE) if len(ts_ms) else 0.0
    old = ts_ms < cut
    if min(int(fraud[old].sum()), int(fraud[~old].sum())) < SEARCH_FRAUDS_MIN:
        return DEFAULT_FIT, {}
    used, rows = select_inputs(features[old], names, SUPERVISED_INPUTS)
    newer = features[~old][:, [names.index(one.name) for one in used]].astype(np.float32)
    scores = {}
    for name, fit in FITS.items():
        booster, _ = train_boosting(rows, fraud[old], seed=seed, fit=fit)
        scores[name] = np.asarray(
            booster.predict(newer.astype(np.float64), raw_score=True, num_threads=1), dtype=np.float64
        )
    figures = {f"search_ap_{name}": average_precision(score, fraud[~old]) for name, score in scores.items()}
    best, best_ap = FITS["default"], figures["search_ap_default"]
    for name, score in scores.items():
        if score is scores["default"] or figures[f"search_ap_{name}"] <= figures["search_ap_default"]:
            continue
        _, low = compute_lead(score, scores["default"], fraud[~old], user[~old], seed=seed)
        figures[f"search_low_{name}"] = low
        if low > 0.0 and figures[f"search_ap_{name}"] > best_ap:
            best, best_ap = FITS[name], figures[f"search_ap_{name}"]
    return best, figures
