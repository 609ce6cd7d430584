"""A case as a row of Now, open or decided."""

from __future__ import annotations

import json
from typing import Any

from anomalyze.storage.board import Case
from dashboard import formatters as form
from dashboard import routes
from dashboard.components import (
    ago,
    cell,
    icon,
    key_cap,
    missing,
    moment,
    money,
    score,
    sentence,
    severity,
    user_link,
)
from dashboard.element import FT, A, Button, Div, Form, Input, Span, Tr
from dashboard.plots import sparkline
from dashboard.security import Viewer

__all__ = ["case_row", "decided_banner", "no_permission", "place_words", "row_id"]

RULES_SHOWN = 4


def row_id(case_id: str) -> str:
    """The id of a case's row."""
    return f"case-{case_id}"


def no_permission(viewer: Viewer) -> str:
    """Why the controls are disabled."""
    return f"Deciding needs the role analyst. Ask an admin of {viewer.account_id}."


def place_words(data: dict[str, Any], *, country: str | None = None, new_device: bool = False) -> str:
    """Where and how a transaction happened, as far as it says so.

    >>> place_words({"channel": "online", "location": "Lagos", "country": "NG"}, new_device=True)
    'online, Lagos NG, new device'
    """
    location, land = str(data.get("location") or ""), country or str(data.get("country") or "")
    place = location if land in ("", location) else f"{location} {land}".strip()
    channel = str(data.get("channel") or "").replace("_", " ")
    return ", ".join(part for part in (channel, place, "new device" if new_device else "") if part)


def case_row(case: Case, viewer: Viewer, **attributes: Any) -> FT:
    """One row: severity, what happened, last amounts, amount, user, score, age, and the decision."""
    done = case.state != "open"
    return Tr(
        cell(severity(case.severity), cls="c-sev"),
        cell(*_what(case, viewer, done), cls="c-what"),
        cell(sparkline(case.recent), cls="c-micro"),
        cell(*_amount(case), cls="num c-amt"),
        cell(user_link(case.user_id), cls="c-user"),
        cell(score(case.score), cls="num c-score muted"),
        cell(moment(case.last_at, viewer.now, viewer.zone), cls="num c-age muted"),
        cell(_undo(case, viewer) if done else _acts(case, viewer), cls="c-act"),
        role="row",
        id=row_id(case.case_id),
        cls="done" if done else None,
        **attributes,
    )


def _amount(case: Case) -> tuple[Any, ...]:
    if case.currency is None:
        return (missing("its transactions are in several currencies"),)
    return money(case.amount, case.currency)


def _what(case: Case, viewer: Viewer, done: bool) -> list[Any]:
    rules = case.rule_flags
    where = place_words(case.data, country=case.country, new_device=case.new_device)
    sub: list[Any] = [Span(case.user_id, cls="u")]
    if done:
        who = "you" if case.decided_by == viewer.principal.key_id else case.decider or "a colleague"
        decided = [f"{case.state.capitalize()} by {who}"]
        if case.decided_at is not None:
            decided += [", ", *ago(case.decided_at, viewer.now, viewer.zone)]
        sub.append(Span(*decided, cls="did"))
    sub += [Span(rule, cls="rule") for rule in rules[:RULES_SHOWN]]
    if len(rules) > RULES_SHOWN:
        sub.append(Span(f"+{len(rules) - RULES_SHOWN}", cls="rule", title=", ".join(rules[RULES_SHOWN:])))
    if not rules:
        sub.append(Span("no rule", cls="rule none"))
    if where:
        sub.append(Span(where, cls="where"))
    return [
        A(*sentence(case.headline), href=routes.anomaly(case.headline_anomaly_id), cls="name"),
        Span(
            f"×{case.anomalies}",
            cls="grp",
            title=f"{case.anomalies} transactions in one row; deciding decides all",
        )
        if case.anomalies > 1
        else None,
        Div(*sub, cls="sub"),
    ]


def _acts(case: Case, viewer: Viewer) -> FT:
    many = f"{form.plural(case.anomalies, 'transaction')} of " if case.anomalies > 1 else ""
    return Span(
        _button(
            case, viewer, "confirmed", "check", f"Confirm fraud, {many}{case.user_id}", "Confirm fraud (c)"
        ),
        _button(case, viewer, "dismissed", "x", f"Dismiss, {many}{case.user_id}", "Dismiss (d)"),
        cls="acts",
    )


def _button(case: Case, viewer: Viewer, decision: str, symbol: str, label: str, title: str) -> FT:
    if case.anomalies > 1:
        title += f": all {case.anomalies} transactions"
    return Button(
        icon(symbol),
        cls="btn",
        type="button",
        aria_label=label,
        title=title if viewer.may_decide else no_permission(viewer),
        disabled=not viewer.may_decide,
        data_act=decision,
        **_post(case, decision),
    )


def _undo(case: Case, viewer: Viewer) -> FT:
    return Button(
        "Undo",
        cls="btn bare undo",
        type="button",
        aria_label=f"Undo, {case.user_id}",
        title="Undo (u)" if viewer.may_decide else no_permission(viewer),
        disabled=not viewer.may_decide,
        data_act="open",
        **_post(case, "open"),
    )


def decided_banner(case: Case | None, viewer: Viewer, back: str) -> FT | None:
    """After a decision that opened the next page: what was decided, and how to take it back."""
    if case is None or case.state == "open":
        return None
    many = f", {form.plural(case.anomalies, 'transaction')}" if case.anomalies > 1 else ""
    return Div(
        Span(f"{case.state.capitalize()}: {case.user_id}{many}."),
        Form(
            Input(type="hidden", name="csrf", value=viewer.csrf),
            Input(type="hidden", name="next", value=back),
            Button(
                "Undo ",
                key_cap("u"),
                cls="btn",
                name="decision",
                value="open",
                data_decide="open",
                disabled=not viewer.may_decide,
            ),
            action=routes.case_decision(case.case_id),
            method="post",
        ),
        cls="banner undo-bar",
        role="status",
    )


def _post(case: Case, decision: str) -> dict[str, str]:
    return {
        "hx_post": routes.case_decision(case.case_id),
        "hx_vals": json.dumps({"decision": decision}),
        "hx_target": "closest tr",
        "hx_swap": "outerHTML",
    }
