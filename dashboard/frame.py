"""The frame around every page: sidebar, foot, phone tabs, the document itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard import routes
from dashboard.components import SPRITE, icon
from dashboard.element import (
    FT,
    H1,
    A,
    Aside,
    Body,
    Button,
    Details,
    Dialog,
    Div,
    Form,
    Header,
    Html,
    Input,
    Kbd,
    Li,
    Link,
    Main,
    Meta,
    Nav,
    P,
    Script,
    Span,
    Summary,
    Title,
    Ul,
    ft,
)
from dashboard.element import Head as HeadTag
from dashboard.formatters import format_count, zone_name
from dashboard.security import Viewer
from dashboard.stream import StreamState

__all__ = ["FrameState", "bare_document", "frame", "page_head", "stream_foot"]

HTMX_CONFIG = json.dumps(
    {
        # All three would need exceptions in the content policy.
        "allowEval": False,
        "includeIndicatorStyles": False,
        "allowScriptTags": False,
        "selfRequestsOnly": True,
        # Pages of transactions stay out of localStorage.
        "historyCacheSize": 0,
        "refreshOnHistoryMiss": True,
        "defaultSwapDelay": 0,
        "defaultSettleDelay": 0,
        "timeout": 10000,
    }
)

KEYS = (
    ("j k", "move"),
    ("enter", "open"),
    ("esc", "back"),
    ("x", "select"),
    ("c", "confirm"),
    ("d", "dismiss"),
    ("u", "undo"),
    ("s", "snooze"),
    ("n", "show new"),
    ("f", "follow"),
    ("/", "search"),
    ("g n", "go to Now"),
    ("g m", "go to Metrics"),
    ("g a", "go to Alerts"),
    ("g t", "go to Transactions"),
    ("g u", "go to Users"),
    ("g s", "go to System"),
    ("g b", "go to Bundles"),
    ("g l", "go to Uploads"),
    ("g e", "go to Settings"),
    ("g q", "go to Quality"),
    ("?", "this list"),
)

_ENTRIES = (
    (
        ("now", "Now", routes.NOW, "now"),
        ("metrics", "Metrics", routes.METRICS, "metrics"),
        ("alerts", "Alerts", routes.ALERTS, "alerts"),
    ),
    (("transactions", "Transactions", routes.TRANSACTIONS, "tx"), ("users", "Users", routes.USERS, "users")),
    (
        ("quality", "Quality", routes.QUALITY, "check"),
        ("bundles", "Bundles", routes.BUNDLES, "bundle"),
        ("uploads", "Uploads", routes.UPLOADS, "up"),
    ),
    (("system", "System", routes.SYSTEM, "system"), ("settings", "Settings", routes.SETTINGS, "settings")),
)


# What a phone's foot has room for, beside More.
_TABS = frozenset({"now", "metrics", "alerts", "transactions"})


@dataclass(frozen=True, slots=True)
class FrameState:
    """What the sidebar shows on every page; None where PostgreSQL does not answer."""

    open_cases: int | None
    stream: StreamState | None
    open_alerts: int | None = None


def frame(
    viewer: Viewer,
    state: FrameState,
    *,
    title: str,
    active: str,
    content: Sequence[Any],
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    plots: bool = False,
    refresh_s: int | None = None,
) -> FT:
    """A whole page inside the frame.

    Parameters
    ----------
    active
        Which entry of the sidebar is current.
    scripts
        A page's own, of the static folder.
    plots
        Load what draws plots; ``scripts`` say what is drawn.
    refresh_s
        Load the page again after so many seconds (it could not be shown whole).
    """
    body = Body(
        A("Skip to content", href="#main", cls="skip"),
        SPRITE,
        Div(_sidebar(viewer, state, active), Main(*content, id="main", tabindex="-1"), cls="app"),
        _tabs(state, active),
        _key_list(),
        P(id="notice", cls="notice", role="alert"),
        P(id="say", cls="vh", role="status", aria_live="polite"),
        hx_headers=json.dumps({"X-CSRF-Token": viewer.csrf}),
        data_zone=str(viewer.zone),
    )
    loaded = [
        "vendor/htmx.min.js",
        "vendor/sse.min.js",
        *(["vendor/uPlot.iife.min.js", "plot.js"] if plots else []),
        "app.js",
        *scripts,
    ]
    sheets = [*styles, *(["vendor/uPlot.min.css"] if plots else [])]
    return _document(title, viewer.theme, sheets, loaded, body, refresh_s)


def bare_document(title: str, content: Sequence[Any], theme: str = "", styles: Sequence[str] = ()) -> FT:
    """A page without the frame: sign-in, and what has no viewer."""
    body = Body(SPRITE, Main(*content, id="main", cls="solo"))
    return _document(title, theme, styles, ["app.js"], body, None)


def _document(
    title: str, theme: str, styles: Sequence[str], scripts: Sequence[str], body: FT, refresh_s: int | None
) -> FT:
    head = HeadTag(
        Meta(charset="utf-8"),
        Meta(name="viewport", content="width=device-width, initial-scale=1"),
        Title(f"{title}, Anomalyze"),
        *([Meta(http_equiv="refresh", content=str(refresh_s))] if refresh_s else []),
        Meta(name="htmx-config", content=HTMX_CONFIG),
        Meta(name="color-scheme", content="light dark"),
        Link(rel="icon", href=routes.static("icon.svg"), type="image/svg+xml"),
        *(Link(rel="stylesheet", href=routes.static(name)) for name in ("tokens.css", "frame.css", *styles)),
        *(Script(src=routes.static(name), defer=True) for name in scripts),
    )
    return Html(head, body, lang="en", data_theme=theme or None)


def page_head(title: str, *beside: Any, right: Any = None) -> FT:
    """A page's heading with what stands beside it."""
    return Header(H1(title), *beside, Span(*right, cls="right desk") if right else None, cls="head")


def zone_note(viewer: Viewer) -> str:
    """Names the zone of the page's times."""
    return f"Times in {zone_name(viewer.zone, viewer.now)}."


def _sidebar(viewer: Viewer, state: FrameState, active: str) -> FT:
    account = (
        viewer.account_id
        if viewer.account_name == viewer.account_id
        else f"{viewer.account_id}, {viewer.account_name}"
    )
    return Header(
        Div(
            A(
                ft("svg", ft("use", href="#logo"), aria_hidden="true"),
                Span("Anomalyze"),
                href=routes.NOW,
                cls="brand",
                aria_label="Anomalyze, Now",
            ),
            Span(account, cls="acct", title=account),
        ),
        Form(
            icon("search"),
            Input(
                type="search",
                name="q",
                placeholder="Search",
                aria_label="Search cases to review",
                id="find",
                autocomplete="off",
            ),
            Kbd("/", aria_hidden="true"),
            action=routes.NOW,
            method="get",
            cls="find",
            role="search",
        ),
        Nav(
            *(Ul(*(Li(_entry(entry, state, active)) for entry in group)) for group in _ENTRIES),
            cls="nav",
            aria_label="Main",
        ),
        Div(
            Div(*stream_foot(state.stream), id="stream"),
            Div(
                Span(
                    f"Signed in: {viewer.role}",
                    title=f"key {viewer.principal.name} ({viewer.principal.key_id})",
                ),
                Button(
                    "Theme",
                    cls="btn bare low",
                    type="button",
                    data_theme_toggle=True,
                    aria_label="Switch theme",
                ),
                cls="row",
            ),
            Form(
                Input(type="hidden", name="csrf", value=viewer.csrf),
                Button("Sign out", cls="btn bare low", type="submit"),
                action=routes.SIGN_OUT,
                method="post",
                cls="row out",
            ),
            cls="foot",
        ),
        cls="side",
    )


def _entry(entry: tuple[str, str, str, str], state: FrameState, active: str) -> FT:
    key, name, href, symbol = entry
    waiting = {"now": state.open_cases, "alerts": state.open_alerts}.get(key)
    return A(
        icon(symbol),
        Span(name, cls="t"),
        Span(
            format_count(waiting),
            Span(" to review", cls="vh"),
            cls="n",
            id="open-count" if key == "now" else None,
        )
        if waiting
        else None,
        href=href,
        title=name,
        aria_current="page" if key == active else None,
        data_n=bool(waiting),
    )


def stream_foot(stream: StreamState | None) -> list[FT]:
    """The stream's state at the sidebar's foot; replaced while the page is open."""
    if stream is None:
        return [_stream_state("down", "Stream unknown", "PostgreSQL does not answer")]
    starter = (
        [P("Starter bundle, trained on simulated history: expect false alarms.", cls="starter")]
        if stream.starter
        else []
    )
    return [*starter, _stream_state(stream.sign, stream.word, stream.detail)]


def _stream_state(sign: str, word: str, detail: str) -> FT:
    return A(
        ft("svg", ft("use", href=f"#i-{sign}"), aria_hidden="true", cls=sign),
        Div(ft("b", word), detail),
        href=routes.SYSTEM,
        cls="state",
        title=f"{word}. {detail}",
    )


def _tabs(state: FrameState, active: str) -> FT:
    """Below the page on phones: a few pages, and the others folded, so that words keep clear of each other."""
    entries = [entry for group in _ENTRIES for entry in group]
    folded = [entry for entry in entries if entry[0] not in _TABS]

    def tab(entry: tuple[str, str, str, str]) -> FT:
        key, name, href, symbol = entry
        return A(icon(symbol), name, href=href, aria_current="page" if key == active else None)

    return Nav(
        *(tab(entry) for entry in entries if entry[0] in _TABS),
        Details(
            Summary(icon("more"), "More", cls="on" if active in {entry[0] for entry in folded} else None),
            Div(*(tab(entry) for entry in folded), cls="tabs-more"),
        ),
        cls="tabs-b",
        aria_label="Main, small screens",
    )


def _key_list() -> FT:
    return Dialog(
        Aside(
            ft("h2", "Keys", id="keys-title"),
            ft(
                "dl",
                *(
                    part
                    for keys, does in KEYS
                    for part in (ft("dt", *(Kbd(k) for k in keys.split())), ft("dd", does))
                ),
            ),
            Form(Button("Close", cls="btn", autofocus=True), method="dialog"),
        ),
        id="keys",
        aria_labelledby="keys-title",
    )
