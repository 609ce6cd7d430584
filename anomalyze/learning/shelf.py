"""Candidates: bundles that were trained and evaluated, and may not judge anything yet.

The newest one lies in the object store under ``candidates/``, apart from the published bundles, with what its
evaluation found. It is read back from there to be checked and published, so that what passed is what serves.
"""

from __future__ import annotations

from typing import Any

import msgspec

from anomalyze.detection.bundle import BUNDLE_BYTES_MAX, Bundle
from anomalyze.errors import ContractError
from anomalyze.learning.evaluation import Evaluation
from anomalyze.storage.objects import ObjectStore

__all__ = ["load_candidate", "store_candidate"]

FOLDER = "candidates"
NEWEST = f"{FOLDER}/newest.json"
EVALUATION_BYTES_MAX = 4 << 20


def store_candidate(objects: ObjectStore, bundle: Bundle, evaluation: Evaluation) -> None:
    """Keep a candidate in place of the one before.

    The file that names it is written last: whoever reads meanwhile finds the old one or the new one, whole.
    """
    path = bundle_path(bundle.id)
    objects.put(path, bundle.data)
    objects.put(NEWEST, msgspec.json.encode({"bundle": bundle.id, "evaluation": evaluation}))
    for old in objects.list(FOLDER):
        if old not in (path, NEWEST):
            objects.delete(old)


def load_candidate(objects: ObjectStore) -> tuple[Bundle, Evaluation]:
    """The newest candidate, verified against its hash, and its evaluation.

    Raises
    ------
    ContractError
        When there is none, or it is damaged.
    """
    data = objects.get(NEWEST, bytes_max=EVALUATION_BYTES_MAX)
    if data is None:
        raise ContractError("candidate: there is none: materialize candidate_bundle first")
    try:
        found: dict[str, Any] = msgspec.json.decode(data)
        evaluation = msgspec.convert(found["evaluation"], Evaluation)
        path = bundle_path(found["bundle"])
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"candidate: {NEWEST} is damaged: {error!r:.200}: train again") from error
    content = objects.get(path, bytes_max=BUNDLE_BYTES_MAX)
    if content is None:
        raise ContractError(f"candidate: {path} is gone: train again")
    return Bundle.from_bytes(content, found["bundle"]), evaluation


def bundle_path(bundle_id: str) -> str:
    return f"{FOLDER}/{bundle_id.removeprefix('sha256:')}.tar"
