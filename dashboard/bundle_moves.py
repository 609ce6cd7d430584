"""Moving the pointers: promote and roll back, as the command line and Dagster do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fasthtml.core import FtResponse
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from anomalyze.errors import AnomalyzeError, ContractError, TransientError
from anomalyze.storage.audit import audit_entry
from dashboard import routes
from dashboard.bundle_standing import NOTE_LENGTH_MAX, may_move
from dashboard.bundles import render
from dashboard.page import Answer
from dashboard.security import Viewer, viewer_of

if TYPE_CHECKING:
    from anomalyze.bus.contract import Bus
    from anomalyze.detection.bundle_store import BundleStore

__all__ = ["promote", "roll_back"]


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
        from anomalyze.detection.bundle_store import BundleStore

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
            *audit_entry(viewer.account_id, viewer.principal.key_id, action, bundle, detail)
        )
