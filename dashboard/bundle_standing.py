"""Where the pointers stand, and who may move them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomalyze.access.admin import DEFAULT_ACCOUNT
from anomalyze.errors import ContractError
from anomalyze.learning.report import Report, load_report
from anomalyze.storage.objects import ObjectStore
from dashboard.security import Viewer

if TYPE_CHECKING:
    from anomalyze.detection.bundle_store import BundleStore, Move
    from anomalyze.detection.supervised import Proof

__all__ = ["NOTE_LENGTH_MAX", "Facts", "Named", "Standing", "load_standing", "may_move"]

NOTE_LENGTH_MAX = 400
MOVES_SHOWN = 10
FACTS_KEPT = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What a page says of a bundle; never changes."""

    kind: str
    window: tuple[str, str] | None
    is_supervised: bool
    detector: str
    # What its model has proven, by account: each is shown its own.
    proofs: Mapping[str, Proof] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """A bundle that a pointer names.

    Attributes
    ----------
    bundle
        Its id.
    at, note
        Of the move that named it; ``at`` is RFC 3339, None for an old one.
    facts
        None where the bundle cannot be read; ``problem`` says why.
    report
        What its checks said; None where it has none.
    """

    bundle: str
    at: str | None
    note: str
    facts: Facts | None
    problem: str
    report: Report | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Champion, challenger (None while it is the champion), and the champion's last moves, newest first."""

    champion: Named | None
    challenger: Named | None
    is_promoted: bool
    moves: list[Move]


# By id: bundles never change, and reading one costs its whole file.
_facts: OrderedDict[str, Facts] = OrderedDict()


def load_standing(objects: ObjectStore) -> Standing:
    """Where the pointers stand. Reads the object store: for a thread.

    Raises
    ------
    AnomalyzeError
        The store does not answer, or a pointer is damaged.
    """
    from anomalyze.detection.bundle_store import BundleStore
    from anomalyze.learning.promotion import CHALLENGER, CHAMPION

    store = BundleStore(objects)
    champions, challengers = store.history(CHAMPION), store.history(CHALLENGER)
    champion = _named(store, objects, champions[-1]) if champions else None
    is_promoted = bool(champions and challengers and champions[-1].id == challengers[-1].id)
    challenger = _named(store, objects, challengers[-1]) if challengers and not is_promoted else None
    return Standing(champion, challenger, is_promoted, list(reversed(champions[-MOVES_SHOWN:])))


def _named(store: BundleStore, objects: ObjectStore, move: Move) -> Named:
    facts, report, problem = _facts.get(move.id), None, ""
    try:
        if facts is None:
            bundle = store.load(move.id)
            facts = _facts[move.id] = Facts(
                bundle.kind,
                bundle.training_window,
                bundle.supervised is not None,
                bundle.detector,
                bundle.supervised.proofs if bundle.supervised is not None else {},
            )
            while len(_facts) > FACTS_KEPT:
                _facts.popitem(last=False)
        report = load_report(objects, move.id)
    except ContractError as error:
        problem = str(error)
    return Named(move.id, move.at, move.note, facts, problem, report)


def may_move(viewer: Viewer) -> bool:
    """Promote and roll back: admins of the operator's account, because bundles judge for all accounts."""
    return viewer.account_id == DEFAULT_ACCOUNT and viewer.principal.allows("admin")
