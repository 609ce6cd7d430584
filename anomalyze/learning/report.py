"""What a published bundle's checks said when it was a candidate, kept beside it for whoever has to choose.

Reading one loads nothing of what training needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anomalyze.errors import ContractError
from anomalyze.storage.objects import ObjectStore

if TYPE_CHECKING:
    from anomalyze.detection.bundle import Bundle
    from anomalyze.learning.evaluation import Evaluation

__all__ = ["CheckSaid", "Report", "load_report", "store_report"]

REPORT_BYTES_MAX = 1 << 20


class CheckSaid(msgspec.Struct, frozen=True):
    """One check of a candidate: its name, whether it passed, and its sentence."""

    name: str
    passed: bool
    says: str


class Report(msgspec.Struct, frozen=True):
    """What is known of a bundle from before it judged anything.

    Attributes
    ----------
    champion
        With whom it was compared; None without one.
    days
        Length of the judged stretch, which the bundle had not seen.
    rows
        Transactions judged on it.
    cases, champion_cases
        Cases raised on it, by severity.
    """

    bundle: str
    champion: str | None
    days: float
    rows: int
    cases: dict[str, int]
    champion_cases: dict[str, int]
    windows: dict[str, str]
    checks: list[CheckSaid]


def store_report(objects: ObjectStore, bundle: Bundle, evaluation: Evaluation) -> Report:
    """Run the checks of a candidate and keep what they said under its id."""
    from anomalyze.learning.gates import GATES

    outcomes = {name: gate(bundle, evaluation) for name, gate in GATES.items()}
    champion = evaluation.champion
    report = Report(
        bundle.id,
        None if champion is None else champion.bundle,
        evaluation.days,
        evaluation.candidate.rows,
        evaluation.candidate.cases,
        {} if champion is None else champion.cases,
        evaluation.windows,
        [CheckSaid(name, bool(outcome.passed), outcome.says) for name, outcome in outcomes.items()],
    )
    objects.put(report_path(bundle.id), msgspec.json.encode(report))
    return report


def load_report(objects: ObjectStore, bundle_id: str) -> Report | None:
    """The report of a bundle; None where it has none (a starter bundle, one of a changed configuration).

    Raises
    ------
    ContractError
        When it is damaged.
    """
    data = objects.get(report_path(bundle_id), bytes_max=REPORT_BYTES_MAX)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.MsgspecError as error:
        raise ContractError(f"the report of bundle {bundle_id} is damaged: {error}") from error


def report_path(bundle_id: str) -> str:
    """Where the report of a bundle lies."""
    return f"reports/{bundle_id.removeprefix('sha256:')}.json"
