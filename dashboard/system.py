"""System: does it flow, what is slow, since when?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from anomalyze.access.admin import DEFAULT_ACCOUNT
from anomalyze.storage import board_feed, board_page
from anomalyze.storage.alarms import load_alarms_of
from anomalyze.storage.board_feed import ProgramState
from anomalyze.storage.board_page import DeadLetterGroup
from dashboard import formatters as form
from dashboard import routes
from dashboard.alarms import alarm_section, dagster_address
from dashboard.components import ago, cell, empty_row, head_cell, missing, moment, table
from dashboard.element import FT, H2, A, Div, P, Section, Span, Tr, ft
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, open_page, remember
from dashboard.security import Viewer, viewer_of
from dashboard.stream import StreamState, is_alive

__all__ = ["system_page"]

REFRESH_S = 5
PROGRAMS_EXPECTED = ("api", "detector", "sink", "dashboard")


async def system_page(request: Request) -> Answer:
    """GET /system; the part that changes is asked for again every few seconds."""
    viewer = viewer_of(request)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    async with open_page(request) as connection:
        programs = await board_feed.load_programs(connection)
        letters = await board_page.load_dead_letters(connection, viewer.account_id)
        version, size = await board_page.load_storage_size(connection)
        alarms = await load_alarms_of(
            connection, viewer.account_id, platform=viewer.account_id == DEFAULT_ACCOUNT
        )
    state = channel.state
    body = Div(
        _summary(state.stream, viewer),
        _programs(programs, viewer),
        alarm_section(alarms, viewer, dagster_address(programs)),
        _stores(version, size, state.stream, viewer),
        _dead_letters(letters, viewer),
        id="system",
        hx_get=request.url.path,
        hx_select="#system",
        hx_swap="outerHTML",
        hx_trigger=f"every {REFRESH_S}s",
        hx_sync="this:drop",
    )
    content = [
        page_head("System", right=(f"Asked again every {REFRESH_S}\u00a0s. {zone_note(viewer)}",)),
        body,
    ]
    return frame(
        viewer,
        state,
        title="System",
        active="system",
        content=remember(request, content),
        styles=("lists.css",),
    )


def _sign(sign: str, word: str) -> FT:
    return Span(
        ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=f"sign {sign}"), word, cls="with-sign"
    )


def _summary(stream: StreamState, viewer: Viewer) -> FT:
    last = (
        (
            " Last transaction of this account ",
            *ago(stream.last_at, viewer.now, viewer.zone),
            ".",
        )
        if stream.last_at
        else (" No transaction of this account yet.",)
    )
    detail = f"{stream.detail}." if stream.detail else ""
    parts = [P(_sign(stream.sign, f"{stream.word}."), f" {detail}", *last, cls="lead")]
    if stream.silent:
        parts.append(P(stream.silent, cls="muted"))
    if stream.starter:
        parts.append(P("Starter bundle, trained on simulated history: expect false alarms.", cls="muted"))
    return Section(*parts, cls="s first")


def _programs(programs: Sequence[ProgramState], viewer: Viewer) -> FT:
    heads = (
        head_cell("Program"),
        head_cell("State"),
        head_cell("Rate", "num"),
        head_cell("Lag", "num"),
        head_cell("p99", "num"),
        head_cell("Restarts", "num"),
        head_cell("Up since", "num wide"),
        head_cell("Bundle", "wide"),
    )
    rows = [_program(program, viewer) for program in programs]
    seen = {program.program for program in programs}
    rows += [
        Tr(cell(name, cls="wm"), cell(_sign("down", "never seen"), colspan="7"), role="row")
        for name in PROGRAMS_EXPECTED
        if name not in seen
    ]
    return Section(
        Div(H2("Programs"), cls="fh"),
        Div(table("Programs that run", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
    )


def _program(program: ProgramState, viewer: Viewer) -> FT:
    state = program.state
    alive = is_alive(program, viewer.now)
    silent = form.format_duration((viewer.now - program.seen_at).total_seconds())
    sign = (
        _sign("ok", str(state.get("state") or "running")) if alive else _sign("down", f"silent for {silent}")
    )
    bundles = state.get("bundles")
    named = state.get("bundle") or (", ".join(map(str, bundles)) if isinstance(bundles, list) else "")
    bundle = ", ".join(name.removeprefix("sha256:")[:12] for name in str(named).split(", "))
    kind = f", {state['bundle_kind']}" if bundle and state.get("bundle_kind") else ""
    return Tr(
        cell(_name(program), Span(f" {program.instance}", cls="faint"), cls="wm"),
        cell(sign),
        cell(_number(state, "rate", "/s"), cls="num"),
        cell(_lag(state), cls="num"),
        cell(_number(state, "p99_ms", "\u00a0ms"), cls="num"),
        cell(_number(state, "restarts", ""), cls="num"),
        cell(moment(program.started_at, viewer.now, viewer.zone, ticks=False), cls="num wide"),
        cell(
            Span(bundle, cls="mono") if bundle else missing("this program judges nothing"),
            kind,
            *_challenger(state),
            cls="wide",
        ),
        role="row",
    )


def _challenger(state: Mapping[str, Any]) -> Sequence[FT | str]:
    """The challenger that a worker shadows, or why it does not."""
    challenger = state.get("challenger")
    if not isinstance(challenger, str):
        return ()
    name = Span(challenger.removeprefix("sha256:")[:12], cls="mono")
    off = state.get("challenger_off")
    said = A(f"not shadowed: {off}" if off else "shadowed", href=routes.BUNDLES, cls="link")
    return (", challenger ", name, " ", said)


def _name(program: ProgramState) -> FT | str:
    """Its name; where it serves pages of its own, a link to them."""
    address = program.state.get("address")
    if not isinstance(address, str) or not address.startswith("http"):
        return program.program
    return A(program.program, href=address, cls="link")


def _number(state: Mapping[str, Any], name: str, unit: str) -> FT | str:
    value = state.get(name)
    if not isinstance(value, (int, float)):
        return missing("this program does not say")
    return f"{form.format_count(round(value)) if value >= 100 else form.format_value(float(value))}{unit}"


def _lag(state: Mapping[str, Any]) -> FT | str:
    records, seconds = state.get("lag"), state.get("lag_s")
    if isinstance(seconds, (int, float)):
        return form.format_duration(seconds)
    return _number({"lag": records}, "lag", " records")


def _stores(version: str, size: int, stream: StreamState, viewer: Viewer) -> FT:
    heads = (head_cell("Store"), head_cell("State"), head_cell("Holds", "num"))
    rows = [
        Tr(
            cell(f"PostgreSQL {version}", cls="wm"),
            cell(_sign("ok", "answers")),
            cell(form.format_bytes(size), cls="num"),
            role="row",
        ),
        Tr(
            cell("Judged in 24\u00a0h, this account", cls="wm"),
            cell(_sign("ok" if stream.judged_day else "late", "counted by hour")),
            cell(form.plural(stream.judged_day, "transaction"), cls="num"),
            role="row",
        ),
    ]
    return Section(
        Div(H2("Stores"), cls="fh"), Div(table("Stores", heads, rows, cls="grid"), cls="sheet"), cls="s"
    )


def _dead_letters(letters: Sequence[DeadLetterGroup], viewer: Viewer) -> FT:
    heads = (
        head_cell("Reason"),
        head_cell("Field"),
        head_cell("Expected", "wide"),
        head_cell("Came, last", "wide"),
        head_cell("Records", "num"),
        head_cell("Last", "num"),
        head_cell("Place in log", "num wide"),
    )
    rows = [
        Tr(
            cell(
                letter.reason, Span(", names no account", cls="muted") if letter.unowned else None, cls="wm"
            ),
            cell(letter.field or form.MISSING, cls="mono"),
            cell(letter.expected, cls="muted wide"),
            cell(letter.got or missing("it names no account, so it may be anybody's"), cls="mono c-id wide"),
            cell(form.format_count(letter.count), cls="num"),
            cell(moment(letter.last_at, viewer.now, viewer.zone), cls="num"),
            cell(
                f"{letter.src_partition}:{letter.src_offset}",
                cls="num mono wide",
                title="partition and offset of transactions",
            ),
            role="row",
        )
        for letter in letters
    ] or [empty_row(7, "No record was refused in 7 days.")]
    total = sum(letter.count for letter in letters)
    return Section(
        Div(
            H2("Dead letters"), Span(f"{form.plural(total, 'record')} in 7 days", cls="small muted"), cls="fh"
        ),
        Div(table("Records refused, by reason", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
    )
