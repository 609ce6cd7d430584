"""Which unsupervised detectors may be asked for, by PyOD's names, and why not the others.

Apart from how they are trained: who only reads the configuration is not to pay for that.
"""

from __future__ import annotations

import difflib

__all__ = ["DETECTORS", "FOREST", "check_detector"]

FOREST = "iforest"
DETECTORS = (FOREST, "hbos", "ecod", "copod", "pca", "loda")

_ROWS = "it keeps its training rows, payments of people, and searches them for each row"
_NETWORK = "it is a network: another engine, and slower than the rest of a verdict"
_OTHERS = "it is made of other detectors; name one of those"
_FORM = "its score is no sum of steps, distances or projections"
_REFUSED = {
    _ROWS: "abod cof kde knn loci lof ocsvm rod sampling sod sos hdbscan inne lmdd",
    _NETWORK: "ae1svm alad anogan auto_encoder deep_svdd devnet dif lunar mo_gaal so_gaal vae",
    _OTHERS: "feature_bagging lscp suod xgbod",
    _FORM: "cblof cd gmm kpca mad mcd qmcd rgraph",
}


def check_detector(name: str) -> str:
    """The name, if a bundle can carry such a model.

    Raises
    ------
    ValueError
        It cannot, and why; or there is none of that name.

    >>> check_detector("hbos")
    'hbos'
    >>> check_detector("knn")
    Traceback (most recent call last):
    ValueError: knn cannot serve: it keeps its training rows, payments of people, and searches them for each row; expected one of iforest, hbos, ecod, copod, pca, loda
    """
    if name in DETECTORS:
        return name
    known = ", ".join(DETECTORS)
    for reason, names in _REFUSED.items():
        if name in names.split():
            raise ValueError(f"{name} cannot serve: {reason}; expected one of {known}")
    near = difflib.get_close_matches(name.lower(), DETECTORS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"expected a detector of {known}{hint}")
