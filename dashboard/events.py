"""The two live routes: counts pushed to open pages, and the rows that a page asks for after them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from anomalyze.errors import TransientError
from anomalyze.storage import board
from dashboard.case_filter import parse_view
from dashboard.case_row import case_row
from dashboard.element import FT, Template, to_xml
from dashboard.frame import stream_foot
from dashboard.live import WATCHERS_MAX, Channel
from dashboard.page import Answer, open_page
from dashboard.security import viewer_of
from dashboard.slot import slot_body, slot_row

__all__ = ["events", "new_rows"]

# A comment so often keeps proxies from closing a quiet connection; the key is verified again as often.
KEEP_ALIVE_S = 15.0
CHANGED_IDS_MAX = 100


async def events(request: Request) -> Answer:
    """GET /events: server-sent events ``slot``, ``stream`` (HTML) and ``changed`` (ids of cases)."""
    viewer, view, since = viewer_of(request), parse_view(request.query_params), _since(request)
    hub = request.app.state.hub
    if hub.channel(viewer.account_id).watchers >= WATCHERS_MAX:
        return PlainTextResponse("Too many pages watch this account.", 503, headers={"Retry-After": "30"})

    async def produce() -> AsyncIterator[str]:
        sent_slot, sent_foot, seen = "", "", since
        verified_at = time.monotonic()
        async with hub.watch(viewer.account_id) as channel:
            while True:
                ticked = channel.ticked
                slot = to_xml(slot_row(channel.slot(view, since), view, since, viewer), indent=False)
                if slot != sent_slot and (channel.polled_at or channel.failing):
                    sent_slot = slot
                    yield _event("slot", slot)
                if changed := channel.changed_after(seen)[:CHANGED_IDS_MAX]:
                    yield _event("changed", " ".join(changed))
                    seen = channel.changes[-1][0]
                foot = _foot(channel)
                if foot != sent_foot:
                    sent_foot = foot
                    yield _event("stream", foot)
                if time.monotonic() - verified_at > KEEP_ALIVE_S:
                    verified_at = time.monotonic()
                    if not await _still_valid(request, viewer.session.key_id):
                        return
                    yield ": still here\n\n"
                await ticked.wait()

    return StreamingResponse(produce(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def new_rows(request: Request) -> Answer:
    """GET /now/rows: with ``since`` the rows that are new, before the others; with ``ids`` those again."""
    viewer, view = viewer_of(request), parse_view(request.query_params)
    ids = request.query_params.get("ids", "").split()[:CHANGED_IDS_MAX]
    if ids:
        async with open_page(request) as connection:
            cases = await board.load_cases(
                connection,
                viewer.account_id,
                board.CaseFilter(state="all"),
                case_ids=ids,
                limit=CHANGED_IDS_MAX,
            )
        return tuple(Template(case_row(case, viewer, hx_swap_oob="true")) for case in cases)
    channel = await request.app.state.hub.refresh(viewer.account_id, age_max_s=0.0)
    stamp = request.app.state.stamp()
    fresh = channel.arrived_after(view, _since(request))[: board.PAGE_ROWS]
    async with open_page(request) as connection:
        cases = (
            await board.load_cases(connection, viewer.account_id, view.filter, case_ids=fresh)
            if fresh
            else []
        )
    slot = slot_body(channel.slot(view, stamp), view, stamp, viewer, hx_swap_oob="true")
    return (*(case_row(case, viewer) for case in cases), Template(slot))


def _foot(channel: Channel) -> str:
    state = channel.state
    if state is None:
        return ""
    parts: list[FT] = stream_foot(None if channel.failing else state.stream)
    return str(to_xml(tuple(parts), indent=False))


async def _still_valid(request: Request, key_id: str) -> bool:
    try:
        return await request.app.state.verifier.verify_key_id(key_id) is not None
    except TransientError:
        return True  # no page shows data while PostgreSQL is away; the next check decides


def _since(request: Request) -> int:
    text = request.query_params.get("since", "")
    return (
        int(text) if text.isascii() and text.isdigit() and len(text) < 18 else int(request.app.state.stamp())
    )


def _event(name: str, data: str) -> str:
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in data.splitlines()) + "\n"
