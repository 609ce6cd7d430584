"""Of an upload: how many cases to expect of it, and which rules its columns leave off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from anomalyze.errors import ConfigError
from anomalyze.ingestion.mapping import parse_mapping
from anomalyze.storage import upload as store
from anomalyze.storage.query import fetch_async
from anomalyze.storage.upload import Upload
from dashboard import formatters as form
from dashboard import routes
from dashboard.element import FT, H2, Div, Li, P, Span, Ul, ft
from dashboard.page import Answer, not_found
from dashboard.security import viewer_of

__all__ = ["estimate_part", "lacking_part", "upload_estimate"]

REFRESH_S = 1
# An address longer than that is not everybody's; a mapping with very many words for statuses gets no estimate here.
ADDRESS_LENGTH_MAX = 4_000
RULES_SHOWN = 12


def estimate_part(upload: Upload, mapping: Mapping[str, Any]) -> FT | None:
    """The place where the estimate comes to stand; the page itself waits for nothing."""
    address = routes.upload_estimate(upload.upload_id, msgspec.json.encode(mapping).decode())
    if len(address) > ADDRESS_LENGTH_MAX:
        return None
    return Div(_head(), P("Asking…", cls="muted"), **_asked(address, "load"))


def _head() -> FT:
    return Div(H2("Cases to expect"), cls="fh")


def _asked(address: str, when: str) -> dict[str, Any]:
    return {
        "id": "estimate",
        "cls": "estimate",
        "role": "status",
        "hx_get": address,
        "hx_swap": "outerHTML",
        "hx_trigger": when,
    }


async def upload_estimate(request: Request) -> Answer:
    """GET /uploads/{upload_id}/estimate?mapping=: how far it is, or what it says; asks again until it is there."""
    viewer, upload_id = viewer_of(request), request.path_params["upload_id"]
    state = request.app.state
    async with state.pool.connection() as connection:
        upload = await fetch_async(connection, store.load_upload(viewer.account_id, upload_id))
    if upload is None:
        return await not_found(request, f"No upload with this id in {viewer.account_id}.")
    try:
        mapping = parse_mapping(request.query_params.get("mapping", "")).model_dump()
    except ConfigError as error:
        return Div(_head(), P(f"{error}.", cls="muted"), id="estimate")
    if upload.state not in ("waiting", "failed"):
        return Div(id="estimate")
    told = state.estimates.ask(upload, mapping)
    if told["state"] in ("working", "busy"):
        address = routes.upload_estimate(upload_id, request.query_params["mapping"])
        return Div(_head(), *_progress(told), **_asked(address, f"every {REFRESH_S}s"))
    if told["state"] == "failed":
        return Div(_head(), P(f"No estimate: {told['error']}.", cls="muted"), id="estimate", cls="estimate")
    return Div(
        _head(),
        P(*_said(told), cls="lead"),
        _lacking(told["features_null"], told["rules_off"]),
        id="estimate",
        cls="estimate",
    )


def _progress(told: Mapping[str, Any]) -> tuple[FT, FT]:
    of = told.get("of")
    said = f"Judging {form.format_count(of)} of its rows." if of else "Reading its first rows."
    bar = ft(
        "progress",
        max=str(of or 1),
        value=str(told.get("rows_judged", 0)) if of else None,
        aria_label="Judged for the estimate",
        cls="wide-bar",
    )
    return P(said, cls="muted"), bar


def _said(told: Mapping[str, Any]) -> tuple[FT | str, ...]:
    """The number, and what it rests on."""
    found = sum(told["cases_found"].values())
    by = ", ".join(f"{count:,} {name}" for name, count in told["cases_found"].items())
    judged = f"judged on {told['rows_judged']:,} rows of {form.plural(told['users'], 'user')}"
    if told["cases"] is None:
        first = f"{form.plural(found, 'case')} in {told['rows_judged']:,} rows"
    elif told["rows_exact"] and told["rows_judged"] >= 0.9 * told["rows"]:
        first = f"{form.plural(told['cases'], 'case')} in {told['rows']:,} rows"
    else:
        about = "" if told["rows_exact"] else "about "
        first = f"About {form.plural(told['cases'], 'case')} in {about}{told['rows']:,} rows"
    if told["rows_good"] > told["rows_judged"]:
        judged += f", out of the first {told['rows_read']:,}"
    return first, Span(
        f", {judged}{f' ({by})' if by else ''}, as if nothing were known of them before.", cls="muted"
    )


def lacking_part(upload: Upload) -> FT | None:
    """What the columns of an upload that was started leave unknown."""
    if upload.lacking is None:
        return None
    return _lacking(upload.lacking.get("features", {}), upload.lacking.get("rules", {}))


def _lacking(features: Mapping[str, str], rules: Mapping[str, str]) -> FT | None:
    if not features and not rules:
        return None
    shown = list(rules.items())[:RULES_SHOWN]
    more = len(rules) - len(shown)
    return Div(
        P(
            f"{form.plural(len(rules), 'rule')} off and {form.plural(len(features), 'feature')} unknown for want of columns.",
            title=", ".join(sorted(features)),
            cls="muted",
        ),
        Ul(
            *(Li(Span(rule, cls="mono"), f" off: needs {missing}") for rule, missing in shown),
            Li(f"and {more} more") if more else None,
            cls="doubts",
        ),
        cls="lacking",
    )
