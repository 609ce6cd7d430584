"""Alarms on the System page: what the platform found wrong with itself, and the run that found it."""

from __future__ import annotations

from collections.abc import Sequence

from anomalyze.storage.alarms import StoredAlarm
from anomalyze.storage.board_feed import ProgramState
from dashboard import formatters as form
from dashboard.components import cell, empty_row, head_cell, moment, table
from dashboard.element import FT, H2, A, Div, Section, Span, Tr
from dashboard.security import Viewer

__all__ = ["alarm_section", "dagster_address"]


def dagster_address(programs: Sequence[ProgramState]) -> str:
    """Where Dagster's pages are, as its webserver says; empty where it does not run."""
    for program in programs:
        if program.program == "dagster":
            return str(program.state.get("address") or "")
    return ""


def alarm_section(alarms: Sequence[StoredAlarm], viewer: Viewer, dagster: str) -> FT:
    """The newest first; each with a link to its run where Dagster's pages can be reached."""
    heads = (head_cell("What"), head_cell("Kind"), head_cell("Run", "wide"), head_cell("Raised", "num"))
    rows = [
        Tr(
            cell(alarm.summary, cls="wm"),
            cell(alarm.kind, cls="muted"),
            cell(_run(alarm, dagster), cls="wide"),
            cell(moment(alarm.at, viewer.now, viewer.zone), cls="num"),
            role="row",
        )
        for alarm in alarms
    ] or [empty_row(4, "No alarm in 7 days.")]
    return Section(
        Div(
            H2("Alarms"), Span(f"{form.plural(len(alarms), 'alarm')} in 7 days", cls="small muted"), cls="fh"
        ),
        Div(table("What the platform found wrong with itself", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
    )


def _run(alarm: StoredAlarm, dagster: str) -> FT | str:
    if not alarm.run_id:
        return form.MISSING
    short = alarm.run_id[:8]
    return A(short, href=f"{dagster}/runs/{alarm.run_id}", cls="link mono") if dagster else short
