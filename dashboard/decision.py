"""Deciding: confirm, dismiss, take back. One POST for rows (htmx) and for the form of an anomaly's page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from anomalyze.storage import board, board_decision
from dashboard import routes
from dashboard.case_row import case_row, no_permission
from dashboard.page import Answer, not_found
from dashboard.security import viewer_of

__all__ = ["decide"]

NOTE_LENGTH_MAX = 2000
# The only reason to dismiss that training may learn from; the form of an anomaly's page offers it.
VERIFIED = "verified"


async def decide(request: Request) -> Answer:
    """POST /cases/{case_id}/decision with decision, and optionally why, note and next (a path of ours)."""
    viewer = viewer_of(request)
    sent = await request.form()
    state, note = (
        str(sent.get("decision", "")),
        str(sent.get("note", "")).strip().replace("\x00", "")[:NOTE_LENGTH_MAX],
    )
    if not viewer.may_decide:
        return PlainTextResponse(no_permission(viewer), 403)
    if state not in board.CASE_STATES:
        return PlainTextResponse(f"decision: expected one of {', '.join(board.CASE_STATES)}.", 422)
    case_id = request.path_params["case_id"]
    async with request.app.state.pool.connection() as connection:
        found = await board_decision.decide_case(
            connection,
            viewer.account_id,
            case_id,
            state,
            viewer.principal.key_id,
            note or None,
            verified=sent.get("why") == VERIFIED,
        )
        case = await board.load_case(connection, viewer.account_id, case_id) if found else None
    if case is None:
        return await not_found(request, f"No case with this id in {viewer.account_id}.")
    if "hx-request" in request.headers:
        return case_row(case, viewer)
    return RedirectResponse(routes.own_path(sent.get("next"), routes.anomaly(case.headline_anomaly_id)), 303)
