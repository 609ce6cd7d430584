"""Bundles: what judges now, what its challenger would have raised, and the step from one to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request

from anomalyze.access.admin import DEFAULT_ACCOUNT
from anomalyze.errors import AnomalyzeError
from anomalyze.storage import board_feed
from anomalyze.storage.board_feed import ProgramState
from anomalyze.storage.challenger import list_counts, list_differences
from anomalyze.storage.period import load_period_end
from anomalyze.storage.query import fetch_async
from dashboard import bundle_view as view
from dashboard.bundle_standing import Standing, load_standing
from dashboard.element import FT, H2, A, Div, P, Section, Span
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, open_page, remember
from dashboard.security import Viewer, viewer_of
from dashboard.stream import is_alive

__all__ = ["bundles_page", "render"]

REFRESH_S = 3
DAYS = (1, 7, 28)
DAYS_DEFAULT = 7
DIFFERENCES_SHOWN = 50
# How the detector's reason begins (realtime.detector.shadow).
FEATURES_DIFFER = "its features differ"


async def bundles_page(request: Request) -> Answer:
    """GET /bundles?days="""
    return await render(request)


async def render(request: Request, problem: str = "") -> FT:
    """The page, with what went wrong above it."""
    viewer = viewer_of(request)
    channel = await request.app.state.hub.refresh(viewer.account_id)
    days = read_days(request.query_params.get("days"))
    standing: Standing | None = None
    try:
        standing = await asyncio.to_thread(load_standing, request.app.state.objects)
    except AnomalyzeError as error:
        problem = problem or f"Bundles could not be read: {error}"
    challenger = standing.challenger.bundle if standing and standing.challenger else ""
    async with open_page(request) as connection:
        programs = await board_feed.load_programs(connection)
        account = viewer.account_id
        end = await fetch_async(connection, load_period_end(account, viewer.now))
        since = end - timedelta(days=days)
        counts = await fetch_async(connection, list_counts(account, challenger, since))
        differences = await fetch_async(
            connection, list_differences(account, challenger, since, DIFFERENCES_SHOWN)
        )
    content: list[Any] = [page_head("Bundles", right=(zone_note(viewer),))]
    if problem:
        content.append(P(problem, cls="banner down", role="alert"))
    if standing is not None:
        workers = Workers.of(programs, standing, viewer.now)
        content += [
            in_force(standing, workers, viewer),
            view.comparison(standing, counts, (days, end), DAYS, viewer, off=workers.off),
        ]
        if standing.challenger is not None and (differences or counts):
            content.append(view.difference_table(differences, viewer))
        if viewer.account_id == DEFAULT_ACCOUNT:
            # They speak of all accounts' transactions.
            content += [view.checks(standing), view.actions(standing, viewer), view.moves(standing, viewer)]
        else:
            content.append(
                Section(
                    P("The operator of this platform promotes bundles and rolls them back.", cls="muted"),
                    cls="s",
                )
            )
    return frame(
        viewer,
        channel.state,
        title="Bundles",
        active="bundles",
        content=remember(request, content),
        styles=("lists.css", "bundles.css"),
    )


def read_days(text: str | None) -> int:
    """The stretch that is compared; the usual one where it is none of those offered.

    >>> read_days("28"), read_days("1000000"), read_days(None)
    (28, 7, 7)
    """
    return next((days for days in DAYS if text == str(days)), DAYS_DEFAULT)


@dataclass(frozen=True, slots=True)
class Workers:
    """How far the detector's workers follow the pointers.

    Attributes
    ----------
    alive
        Workers that say that they live.
    by
        Of those: how many judge by the champion alone.
    shadowing
        How many shadow the challenger.
    off
        Why one does not, as it says.
    """

    alive: int
    by: int
    shadowing: int
    off: str

    @classmethod
    def of(cls, programs: Sequence[ProgramState], standing: Standing, now: datetime) -> Workers:
        """What their heartbeats say."""
        champion = standing.champion.bundle if standing.champion else None
        challenger = standing.challenger.bundle if standing.challenger else None
        living = [p.state for p in programs if p.program == "detector" and is_alive(p, now)]
        named = [state for state in living if challenger and state.get("challenger") == challenger]
        return cls(
            len(living),
            sum(state.get("bundles") == [champion] for state in living),
            sum(not state.get("challenger_off") for state in named),
            next((str(state["challenger_off"]) for state in named if state.get("challenger_off")), ""),
        )


def in_force(standing: Standing, workers: Workers, viewer: Viewer) -> FT:
    """Champion and challenger side by side, and whether the workers follow; asked for again while it is open."""
    return Section(
        Div(
            Div(H2("Champion"), *view.card(standing.champion, viewer), P(*follows(workers), cls="follow")),
            Div(
                H2("Challenger"),
                *(
                    view.card(standing.challenger, viewer)
                    if standing.challenger
                    else (P("None. ", *no_challenger(standing, viewer), cls="muted"),)
                ),
                P(*shadows(workers), cls="follow") if standing.challenger else None,
            ),
            cls="pair",
        ),
        cls="s first",
        id="in-force",
        hx_get="/bundles",
        hx_select="#in-force",
        hx_swap="outerHTML",
        hx_trigger=f"every {REFRESH_S}s",
        hx_sync="this:drop",
    )


def no_challenger(standing: Standing, viewer: Viewer) -> tuple[Any, ...]:
    """What to do to have one."""
    if standing.is_promoted:
        return ("The last one was promoted.",)
    return (
        "Each Monday a candidate that passes every check becomes one; the job ",
        "train in Dagster trains one now.",
    )


def follows(workers: Workers) -> tuple[Any, ...]:
    """Whether the detector judges by the champion."""
    if not workers.alive:
        return (view.sign("down", "No detector runs: it is taken over when one starts."),)
    if workers.by == workers.alive:
        return (view.sign("ok", f"Judges in {view.of_workers(workers.alive)}."),)
    return (view.sign("late", f"Taken over by {workers.by} of {view.of_workers(workers.alive)}."),)


def what_then(why: str) -> tuple[Any, ...]:
    """What to do about a challenger that is not shadowed; of one that failed its alarm says it."""
    if not why.startswith(FEATURES_DIFFER):
        return ()
    return (
        Span(
            "A second set of histories would double what a worker holds. See what it would change with ",
            Span("anomalyze bundle diff champion challenger", cls="mono"),
            " and what its checks said; then promote it, or publish one with the champion's features.",
            cls="muted then",
        ),
    )


def shadows(workers: Workers) -> tuple[Any, ...]:
    """Whether the detector shadows the challenger."""
    if workers.off:
        return (view.sign("late", f"Not shadowed: {workers.off}."), *what_then(workers.off))
    if not workers.alive:
        return (view.sign("down", "No detector runs."),)
    if workers.shadowing == 0:
        return (
            view.sign("late", "Not shadowed: not yet taken over, or refused (see the alarms on"),
            " ",
            A("System", href="/system", cls="link"),
            ").",
        )
    return (view.sign("ok", f"Shadowed in {view.of_workers(workers.shadowing)}. It raises no alarm."),)
