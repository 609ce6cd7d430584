"""Where the pointers stand, and moving them: promote and roll back, as the command line and Dagster do."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasthtml.core import FtResponse
from psycopg.types.json import Jsonb
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from anomalyze.access.admin import DEFAULT_ACCOUNT
from anomalyze.errors import AnomalyzeError, ContractError, TransientError
from anomalyze.learning.report import Report, load_report
from anomalyze.storage.objects import ObjectStore
from dashboard import routes
from dashboard.page import Answer
from dashboard.security import Viewer, viewer_of

if TYPE_CHECKING:
    from anomalyze.bus.contract import Bus
    from anomalyze.detection.bundle import BundleStore, Move

__all__ = ["NOTE_LENGTH_MAX", "Named", "Standing", "load_standing", "may_move", "promote", "roll_back"]

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
    from anomalyze.detection.bundle import BundleStore
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
                bundle.kind, bundle.training_window, bundle.supervised is not None, bundle.detector
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


async def promote(request: Request) -> Answer:
    """POST /bundles/promote with bundle, champion (the one that the page showed) and note."""
    return await _move(request, "bundle.promote", _promote)


async def roll_back(request: Request) -> Answer:
    """POST /bundles/roll-back with champion (the one that the page showed) and note."""
    return await _move(request, "bundle.roll_back", _roll_back)


def _promote(store: BundleStore, bus: Bus, sent: dict[str, str], note: str) -> str:
    from anomalyze.learning import promotion

    if store.pointer(promotion.CHAMPION) == sent["bundle"]:
        promotion.announce_champion(store, bus)  # one that died between pointer and log is completed
        return sent["bundle"]
    return promotion.promote(store, bus, sent["bundle"], expected=sent["champion"], note=note).id


def _roll_back(store: BundleStore, bus: Bus, sent: dict[str, str], note: str) -> str:
    from anomalyze.learning import promotion

    current = store.pointer(promotion.CHAMPION)
    if current != sent["champion"]:
        raise ContractError(
            f"the champion is {current} by now, the page showed {sent['champion']}: look again"
        )
    return promotion.roll_back(store, bus, note).id


async def _move(
    request: Request, action: str, step: Callable[[BundleStore, Bus, dict[str, str], str], str]
) -> Answer:
    from dashboard.bundles import render

    viewer = viewer_of(request)
    if not may_move(viewer):
        return PlainTextResponse("This needs a key of the operator's account with the scope admin.", 403)
    form = await request.form()
    sent = {name: str(form.get(name, "")) for name in ("bundle", "champion")}
    note = " ".join(str(form.get("note", "")).replace("\x00", "").split())
    if not 0 < len(note) <= NOTE_LENGTH_MAX:
        problem = f"note: expected 1 to {NOTE_LENGTH_MAX} characters that say why, got {len(note)}."
        return FtResponse(await render(request, problem), status_code=422)
    state = request.app.state

    def run() -> str:
        from anomalyze.detection.bundle import BundleStore

        bus = state.open_bus()
        try:
            return step(BundleStore(state.objects), bus, sent, f"{note} (key {viewer.principal.key_id})")
        finally:
            bus.close()

    try:
        bundle = await asyncio.to_thread(run)
    except TransientError as error:
        problem = f"Not known to be done: {error}. Send it again: nothing happens twice."
        return FtResponse(await render(request, problem), status_code=503)
    except AnomalyzeError as error:
        return FtResponse(await render(request, f"Nothing was changed: {error}."), status_code=409)
    await _audit(state.pool, viewer, action, bundle, {**sent, "note": note})
    return RedirectResponse(routes.BUNDLES, 303)


async def _audit(pool: Any, viewer: Viewer, action: str, bundle: str, detail: dict[str, str]) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO audit_log (account_id, actor, action, target, detail) VALUES (%s, %s, %s, %s, %s)",
            [viewer.account_id, viewer.principal.key_id, action, bundle, Jsonb(detail)],
        )
