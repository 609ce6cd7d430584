"""Settings: what this account changes about how it is judged, what a change would do, who changed what."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from fasthtml.core import FtResponse
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse

from anomalyze.bus.control import announce_all
from anomalyze.config import ConfigProblems
from anomalyze.detection.bundle_store import BundleStore
from anomalyze.errors import AnomalyzeError, ConfigError, ContractError, EventError, TransientError
from anomalyze.storage import board_shared
from anomalyze.storage.account_version import TooManySaves, VersionConflict, list_versions, load_version
from anomalyze.storage.board_settings import load_rule_precision
from anomalyze.storage.list_change import (
    ListChange,
    TooManyEntries,
    list_entries,
    store_changes,
    tell_changes,
)
from anomalyze.storage.period import load_period_end
from anomalyze.storage.pool import connect
from anomalyze.storage.query import fetch_async
from dashboard import routes
from dashboard.element import FT, Button, Div, Form, Input, Label, P, Section, Span
from dashboard.frame import frame, page_head, zone_note
from dashboard.page import Answer, not_found, open_page, remember
from dashboard.security import Viewer, viewer_of
from dashboard.settings_form import (
    CAPS,
    LEVELS,
    document_of_form,
    field_of_problem,
    levels_text,
    list_change,
    parameter_text,
    plain_text,
)
from dashboard.settings_parts import (
    changes_part,
    money_part,
    preview_part,
    rules_part,
    thresholds_part,
)
from dashboard.settings_tables import history_part, lists_part

if TYPE_CHECKING:
    from anomalyze.learning.account import ChampionView
    from anomalyze.rules.column import Kind

__all__ = ["change_lists", "fields_of", "save", "settings_page", "settings_preview"]

PROGRAM = "anomalyze-dashboard"
FIRED_DAYS, PRECISION_DAYS = 7, 90
PRECISION_AGE_MAX_S = 60.0
LISTED_MAX, VERSIONS_MAX = 200, 50
NOTE_LENGTH_MAX = 500


def fields_of(document: Mapping[str, Any]) -> dict[str, str]:
    """A document as the form's fields.

    >>> fields_of({"rules": {"A": {"mode": "off", "parameters": {"limit": 5.0}}}, "time_zone": "UTC"})
    {'m.A': 'off', 'p.A.limit': '5', 'time_zone': 'UTC'}
    """
    fields: dict[str, str] = {}
    for rule_id, entry in (document.get("rules") or {}).items():
        if entry.get("mode"):
            fields[f"m.{rule_id}"] = entry["mode"]
        for name, value in (entry.get("parameters") or {}).items():
            fields[f"p.{rule_id}.{name}"] = parameter_text(value)
    for name in ("time_zone", "base_currency", "label_delay_days"):
        if name in document:
            fields[name] = parameter_text(document[name])
    thresholds = document.get("thresholds") or {}
    if "amount_base_min" in thresholds:
        fields["t.amount_base_min"] = parameter_text(thresholds["amount_base_min"])
    for name, key, _, _ in LEVELS:
        if name in thresholds:
            fields[f"t.{name}"] = levels_text(thresholds[name], key) or "none"
    caps = thresholds.get("caps") or {}
    return fields | {f"c.{name}": caps[name] for name, _ in CAPS if name in caps}


async def settings_page(request: Request) -> Answer:
    """GET /settings."""
    return await _page(request)


async def _page(
    request: Request,
    *,
    fields: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    problem: str = "",
    changes: list[str] | None = None,
    preview: str = "",
    listed: Mapping[str, str] | None = None,
    list_error: str = "",
    status: int = 200,
) -> Answer:
    """The page; after a post that was not stored with what was sent still in its fields, and why not."""
    from anomalyze.detection.account_overlay import document_of

    viewer, state = viewer_of(request), request.app.state
    channel = await state.hub.refresh(viewer.account_id)
    off, errors = not viewer.may_decide, dict(errors or {})
    try:
        view = await asyncio.to_thread(_view, request)
    except (ConfigError, ContractError) as error:
        content = [page_head("Settings"), P(f"{error}.", cls="banner down", role="alert")]
        return frame(viewer, channel.state, title="Settings", active="settings", content=content)
    async with open_page(request) as connection:
        end = await fetch_async(connection, load_period_end(viewer.account_id, viewer.now))
        newest = await fetch_async(connection, load_version(viewer.account_id))
        versions = await fetch_async(connection, list_versions(viewer.account_id, limit=VERSIONS_MAX))
        entries = await fetch_async(connection, list_entries(viewer.account_id, limit=LISTED_MAX))
        hits = await board_shared.load_rule_shares(
            connection, viewer.account_id, end - timedelta(days=FIRED_DAYS)
        )
        known = await channel.remembered(
            "rule precision",
            PRECISION_AGE_MAX_S,
            lambda: load_rule_precision(connection, viewer.account_id, end - timedelta(days=PRECISION_DAYS)),
        )
    document = (
        dict(newest.document) if newest else document_of(view.bundle, viewer.account_id).document.to_json()
    )
    version = newest.version if newest else 0
    shown = dict(fields) if fields is not None else fields_of(document)
    kinds = parameter_kinds(view)
    found = state.previews.find(viewer.account_id, preview) if preview else None
    content: list[Any] = [
        page_head(
            "Settings",
            Span(f"version {version}" if version else "as the platform's files say", cls="muted small"),
            right=(zone_note(viewer),),
        ),
        P(problem, cls="banner down", role="alert") if problem else None,
        P(f"Changing settings needs the role analyst. Ask an admin of {viewer.account_id}.", cls="banner") if off else None,
        _saved(request) if fields is None and not problem else None,
        changes_part(changes, preview_part(preview, found, viewer) if found else None) if changes is not None else None,
        Form(
            Input(type="hidden", name="csrf", value=viewer.csrf),
            Input(type="hidden", name="version", value=shown.get("version") or str(version)),
            rules_part(view.rules, kinds, shown, errors, hits, known, off=off),
            money_part(shown, errors, _rates(document), off=off),
            thresholds_part(view.policy, shown, errors, off=off),
            _actions(shown, off=off),
            action=routes.SETTINGS,
            method="post",
            cls="settings",
        ),
        lists_part(entries, viewer, list_error, listed or {}, off=off),
        history_part(versions, viewer, off=off),
    ]  # fmt: skip
    kept = [part for part in content if part is not None]
    page = frame(
        viewer,
        channel.state,
        title="Settings",
        active="settings",
        content=remember(request, kept) if status == 200 and fields is None else kept,
        styles=("lists.css", "upload.css", "settings.css"),
    )
    return page if status == 200 else FtResponse(page, status_code=status)


def _actions(shown: Mapping[str, str], *, off: bool) -> FT:
    return Section(
        Div(
            Label("Why, for the history", fr="note"),
            Input(type="text", name="note", id="note", value=shown.get("note", ""), maxlength=str(NOTE_LENGTH_MAX), cls="input", disabled=off, autocomplete="off"),
            cls="field",
        ),
        Div(
            Button("Show what would change", cls="btn", type="submit", name="do", value="preview", disabled=off),
            Button("Save", cls="btn primary", type="submit", name="do", value="save", disabled=off),
            cls="acts-f",
        ),
        cls="s save",
    )  # fmt: skip


def _saved(request: Request) -> FT | None:
    saved = request.query_params.get("saved", "")
    if saved == "later":
        return P(
            "Saved, but not in force yet: the object store or the log is away. It will be.",
            cls="banner",
            role="status",
        )
    if saved == "list":
        return P("The log knows of it: it counts from now on.", cls="banner", role="status")
    if saved.isdecimal():
        return P(
            f"Version {saved[:9]} is in force: verdicts name the new bundle within seconds.",
            cls="banner",
            role="status",
        )
    return None  # fmt: skip


def _rates(document: Mapping[str, Any]) -> str:
    own = document.get("currency_rates")
    if own:
        return f"Currency table: the account's own, {len(own['tables'])} dated. PUT /v1/account changes it."
    return "Currency table: the platform's. An account's own is saved with PUT /v1/account."


def parameter_kinds(view: ChampionView) -> dict[tuple[str, str], tuple[Kind, bool]]:
    """Kind of each rule's parameter, and whether it is a list, in the order of the rules."""
    from anomalyze.rules.compiled import check_rules
    from anomalyze.rules.rule import RuleSet

    checked, _ = check_rules(RuleSet(view.rules.rules), view.columns)
    return {
        (rule.id, name): checked[rule.id].expression.parameters[name]
        for rule in view.rules
        for name in rule.parameters
        if rule.id in checked and name in checked[rule.id].expression.parameters
    }


async def save(request: Request) -> Answer:
    """POST /settings: with do=preview shows what would change, with do=save stores it; or restores a version."""
    viewer = viewer_of(request)
    if not viewer.may_decide:
        return PlainTextResponse(
            f"Changing settings needs the role analyst. Ask an admin of {viewer.account_id}.", 403
        )
    sent = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    sent.pop("csrf", None)
    after = (
        int(sent["version"]) if sent.get("version", "").isdecimal() and len(sent["version"]) < 10 else None
    )
    if sent.get("restore", "").isdecimal() and len(sent["restore"]) < 10:
        return await _restore(request, viewer, int(sent["restore"]), after)
    note = plain_text(sent.get("note", ""))
    try:
        if sent.get("do") == "save":
            saved = await asyncio.to_thread(_save, request, viewer, sent, None, note, after)
            shown = str(saved.version.version) if saved.in_force else "later"
            return RedirectResponse(routes.with_query(routes.SETTINGS, saved=shown), 303)
        checked, document, champion = await asyncio.to_thread(_check, request, viewer, sent)
    except ConfigProblems as error:
        return await _refused(request, sent, error)
    except VersionConflict as error:
        return await _page(request, fields=sent, problem=f"Not saved: {error}.", status=409)
    except (TooManySaves, ConfigError, ContractError) as error:
        return await _page(request, fields=sent, problem=f"Not saved: {error}.", status=422)
    name = request.app.state.previews.start(viewer.account_id, document, champion) if checked else ""
    return await _page(request, fields=sent, changes=checked, preview=name)


async def _refused(request: Request, sent: Mapping[str, str], error: ConfigProblems) -> Answer:
    errors: dict[str, str] = {}
    others = []
    for one in error.problems:
        field = field_of_problem(one)
        told = one.message + (f". Did you mean {one.suggestion}?" if one.suggestion else "")
        if field:
            errors.setdefault(field, told)
        else:
            others.append(f"{one.path}: {told}" if one.path else told)
    count = len(error.problems)
    problem = f"Not saved: {count} {'mistake' if count == 1 else 'mistakes'}, named at the {'field' if count == 1 else 'fields'}."
    if others:
        problem = f"Not saved: {'; '.join(others[:5])}."
    return await _page(request, fields=sent, errors=errors, problem=problem, status=422)


async def _restore(request: Request, viewer: Viewer, version: int, after: int | None) -> Answer:
    async with request.app.state.pool.connection() as connection:
        found = await fetch_async(connection, load_version(viewer.account_id, version))
    if found is None:
        return await not_found(request, f"No version {version} of the settings of {viewer.account_id}.")
    try:
        saved = await asyncio.to_thread(
            _save, request, viewer, {}, found.document, f"version {version} restored", after
        )
    except (VersionConflict, TooManySaves, ConfigError, ContractError) as error:
        return await _page(request, problem=f"Not restored: {error}.", status=409)
    shown = str(saved.version.version) if saved.in_force else "later"
    return RedirectResponse(routes.with_query(routes.SETTINGS, saved=shown), 303)


async def settings_preview(request: Request) -> Answer:
    """GET /settings/previews/{name}: how far it is, or what was found."""
    viewer, name = viewer_of(request), request.path_params["name"]
    found = request.app.state.previews.find(viewer.account_id, name)
    if found is None:
        return P("This preview is forgotten: ask for it again.", cls="muted", id="preview")
    return preview_part(name, found, viewer)


async def change_lists(request: Request) -> Answer:
    """POST /settings/lists with op, list, field, value and maybe days and why."""
    viewer = viewer_of(request)
    if not viewer.may_decide:
        return PlainTextResponse(
            f"Changing lists needs the role analyst. Ask an admin of {viewer.account_id}.", 403
        )
    sent = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    try:
        change = list_change(sent, viewer.account_id, viewer.now)
        await asyncio.to_thread(_change_lists, request, viewer, change)
    except EventError as error:
        message = f"{error.field}: expected {error.expected}, got {error.got or 'nothing'}"
        return await _page(request, listed=sent, list_error=message, status=422)
    except TooManyEntries as error:
        return await _page(request, listed=sent, list_error=str(error), status=409)
    return RedirectResponse(routes.with_query(routes.SETTINGS, saved="list") + "#lists", 303)


@contextmanager
def _log(request: Request) -> Any:
    bus = request.app.state.open_bus()
    try:
        yield bus
    finally:
        bus.close()


def _view(request: Request) -> ChampionView:
    from anomalyze.learning.account import view_champion

    return view_champion(BundleStore(request.app.state.objects))


def _asked(view: ChampionView, sent: Mapping[str, str], before: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document_of_form(sent, before, parameter_kinds(view))).decode()


def _check(
    request: Request, viewer: Viewer, sent: Mapping[str, str]
) -> tuple[list[str], dict[str, Any], str]:
    """What the form would change, its document, and the bundle that judges now."""
    from anomalyze.learning.account import check_settings

    view = _view(request)
    with connect(request.app.state.dsn, program=PROGRAM) as connection:
        before = check_settings(connection, view, viewer.account_id, "{}").before
        checked = check_settings(connection, view, viewer.account_id, _asked(view, sent, before))
    return checked.changes, checked.document.to_json(), view.id


def _save(
    request: Request,
    viewer: Viewer,
    sent: Mapping[str, str],
    document: Mapping[str, Any] | None,
    note: str,
    after: int | None,
) -> Any:
    from anomalyze.learning.account import check_settings, save_settings

    view = _view(request)
    store = BundleStore(request.app.state.objects)
    with connect(request.app.state.dsn, program=PROGRAM) as connection, _log(request) as bus:
        if document is None:
            before = check_settings(connection, view, viewer.account_id, "{}").before
            text = _asked(view, sent, before)
        else:
            text = msgspec.json.encode(document).decode()
        return save_settings(
            connection,
            store,
            bus,
            viewer.account_id,
            text,
            by=viewer.principal.key_id,
            note=note,
            after=after,
        )


def _change_lists(request: Request, viewer: Viewer, change: ListChange) -> None:
    with connect(request.app.state.dsn, program=PROGRAM) as connection:
        store_changes(connection, viewer.account_id, [change], viewer.principal.key_id)
        try:
            with _log(request) as bus:
                tell_changes(connection, lambda bodies: announce_all(bus, "list", bodies))
        except TransientError:
            return  # stored: the next change of anybody tells it, or the next start
        except AnomalyzeError:
            raise
