"""The right rail of an anomaly: the decision and the facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anomalyze.storage import board
from anomalyze.storage.board_decision import Decision
from anomalyze.storage.board_page import AnomalyRecord, QueuePlace
from dashboard import formatters as form
from dashboard import routes
from dashboard.case_row import no_permission
from dashboard.components import facts, icon
from dashboard.element import (
    FT,
    H2,
    A,
    Aside,
    Button,
    Div,
    Form,
    Input,
    Kbd,
    Li,
    Ol,
    Option,
    P,
    Select,
    Span,
    ft,
)
from dashboard.security import Viewer
from dashboard.transaction_row import STATUS_WORDS

__all__ = ["rail"]


def rail(
    record: AnomalyRecord,
    case: board.Case,
    place: QueuePlace,
    shared: dict[str, int],
    decisions: Sequence[Decision],
    viewer: Viewer,
) -> FT:
    """The right rail: decision, facts, shared values, what judged it, what happened since."""
    return Aside(
        _panel(case, place, viewer),
        Div(H2("Transaction"), _transaction_facts(record)),
        _shared(record, shared, place.total),
        Div(H2("Judged by"), _judged_by(record), cls="div"),
        Div(H2("Since then"), _log(record, decisions, viewer), cls="div"),
        cls="rail",
        aria_label="Decision and facts",
    )


def _panel(case: board.Case, place: QueuePlace, viewer: Viewer) -> FT:
    here = routes.anomaly(case.headline_anomaly_id)
    following = routes.with_query(
        routes.anomaly(place.following) if place.following else routes.NOW, decided=case.case_id
    )
    attributes: dict[str, Any] = {
        "action": routes.case_decision(case.case_id),
        "method": "post",
        "cls": "panel",
    }
    common = [
        Input(type="hidden", name="csrf", value=viewer.csrf),
        H2("Is this fraud?" if case.state == "open" else f"Decided: {case.state}"),
    ]
    off = not viewer.may_decide
    why_off = no_permission(viewer) if off else None
    if case.state != "open":
        return Form(
            *common,
            Input(type="hidden", name="next", value=here),
            Div(
                Button(
                    "Undo ",
                    Kbd("u", aria_hidden="true"),
                    cls="btn",
                    name="decision",
                    value="open",
                    disabled=off,
                    title=why_off,
                    data_decide="open",
                ),
                cls="pair one",
            ),
            P(f"“{case.note}”") if case.note else None,
            P(why_off) if why_off else None,
            **attributes,
        )
    count = form.plural(case.anomalies, "transaction")
    return Form(
        *common,
        Input(type="hidden", name="next", value=following),
        Div(
            Button(
                icon("check"),
                "Confirm ",
                Kbd("c", aria_hidden="true"),
                cls="btn",
                name="decision",
                value="confirmed",
                disabled=off,
                title=why_off,
                data_decide="confirmed",
            ),
            Button(
                icon("x"),
                "Dismiss ",
                Kbd("d", aria_hidden="true"),
                cls="btn",
                name="decision",
                value="dismissed",
                disabled=off,
                title=why_off,
                data_decide="dismissed",
            ),
            cls="pair",
        ),
        Select(
            Option("Dismiss: not worth an alert", value=""),
            Option("Dismiss: verified legitimate", value="verified"),
            name="why",
            cls="input",
            aria_label="Reason to dismiss",
            disabled=off,
        ),
        Input(
            name="note",
            cls="input",
            placeholder="Note, optional",
            aria_label="Note",
            maxlength="2000",
            autocomplete="off",
            disabled=off,
        ),
        P(
            f"Decides all {count} of this case. " if case.anomalies > 1 else "",
            "Confirmed and verified legitimate become labels that training learns from; ",
            Kbd("u", aria_hidden="true"),
            " takes it back.",
        ),
        P(why_off) if why_off else None,
        **attributes,
    )


def _transaction_facts(record: AnomalyRecord) -> FT:
    data = record.data
    features = record.enrichment.get("features")
    first = isinstance(features, dict) and features.get("is_new_device") == 1
    place = ", ".join(str(v) for v in (data.get("location"), record.country) if v)
    status = (
        STATUS_WORDS[record.status]
        if record.status is not None and record.status < len(STATUS_WORDS)
        else None
    )
    return facts(
        [
            (
                "Merchant",
                (
                    _now_link("merchant", record.merchant_id),
                    f", {str(data['merchant_category']).replace('_', ' ')}"
                    if data.get("merchant_category")
                    else "",
                )
                if record.merchant_id
                else None,
            ),
            ("Place", place),
            (
                "Device",
                (_now_link("device", record.device_id), ", first time" if first else "")
                if record.device_id
                else None,
            ),
            ("Channel", str(data.get("channel") or "").replace("_", " ")),
            ("IP", data.get("ip")),
            ("Status", status),
            ("Source", record.source),
            ("Transaction", record.tx_id),
            ("Trace", record.trace_id),
        ]
    )


def _now_link(kind: str, value: str) -> FT:
    return A(value, href=routes.with_query(routes.NOW, state="all", **{kind: value}), cls="link")


def _shared(record: AnomalyRecord, shared: dict[str, int], total: int) -> FT | None:
    values = {"merchant": record.merchant_id, "country": record.country, "device": record.device_id}
    pairs = [
        (
            kind.capitalize(),
            A(
                f"{value} in {form.format_count(shared[kind])} of {form.format_count(total)}",
                href=routes.with_query(routes.NOW, **{kind: value}),
                cls="link",
            ),
        )
        for kind, value in values.items()
        if value and shared.get(kind, 0) > 1
    ]
    return Div(H2("Shared with others to review"), facts(pairs), cls="div") if pairs else None


def _judged_by(record: AnomalyRecord) -> FT:
    model = record.analysis.get("model")
    starter = isinstance(model, dict) and bool(model.get("starter"))
    bundle = record.bundle.removeprefix("sha256:")
    return facts(
        [
            ("Bundle", (Span(bundle[:12], cls="mono", title=record.bundle), ", starter" if starter else "")),
            ("Challenger", _challenger(record)),
            ("Action", str(record.verdict.get("action") or "").lower()),
            ("Place in log", f"partition {record.src_partition}, offset {record.src_offset}"),
        ]
    )


def _challenger(record: AnomalyRecord) -> tuple[FT | str, ...] | str:
    """What the bundle that was shadowed would have said."""
    challenger = record.analysis.get("challenger")
    if not isinstance(challenger, dict):
        return ""
    bundle = str(challenger.get("bundle") or "").removeprefix("sha256:")
    says = str(challenger.get("final_severity") or "").capitalize()
    return (Span(bundle[:12], cls="mono", title=bundle), f" would say {says}")


def _log(record: AnomalyRecord, decisions: Sequence[Decision], viewer: Viewer) -> FT:
    entries = [(record.stored_at, "Judged and stored" + (", late: nobody was told" if record.late else ""))]
    for decision in reversed(decisions):
        who = (
            "you"
            if decision.recorded_by == viewer.principal.key_id
            else decision.name or decision.recorded_by
        )
        what = {True: "Confirmed", False: "Dismissed", None: "Decision taken back"}[decision.fraud]
        origin = "" if decision.source == "analyst" else f" ({decision.source})"
        note = f": “{decision.reason}”" if decision.reason else ""
        entries.append((decision.recorded_at, f"{what} by {who}{origin}{note}"))
    return Ol(
        *(
            Li(
                ft(
                    "time",
                    f"{at.astimezone(viewer.zone):%H:%M:%S}",
                    datetime=at.isoformat(),
                    title=form.format_moment(at, viewer.zone),
                ),
                Span(text),
            )
            for at, text in entries
        ),
        cls="log",
    )
