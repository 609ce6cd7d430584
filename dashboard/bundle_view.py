"""The sections of the Bundles page, as functions of data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from anomalyze.storage.challenger import ShadowCount, ShadowDifference
from dashboard import formatters as form
from dashboard import routes
from dashboard.bundle_standing import NOTE_LENGTH_MAX, Facts, Named, Standing, may_move
from dashboard.components import (
    cell,
    empty_row,
    facts,
    head_cell,
    missing,
    moment,
    money,
    severity,
    table,
    user_link,
)
from dashboard.element import (  # fmt: skip
    FT,
    H2,
    A,
    B,
    Button,
    Details,
    Div,
    Form,
    Input,
    Label,
    P,
    Section,
    Span,
    Summary,
    Tr,
    ft,
)
from dashboard.period import describe_days
from dashboard.security import Viewer

__all__ = [
    "actions",
    "card",
    "checks",
    "comparison",
    "difference_table",
    "moves",
    "of_workers",
    "short",
    "sign",
]

SEVERITY_LEVELS = (4, 3, 2, 1)


def short(bundle: str) -> str:
    """The part of an id that people see."""
    return bundle.removeprefix("sha256:")[:12]


def of_workers(count: int) -> str:
    """``1 worker``."""
    return form.plural(count, "worker")


def sign(kind: str, word: str) -> FT:
    """A state: shape and words."""
    return Span(
        ft("svg", ft("use", href=f"#i-{kind}"), aria_hidden="true", cls=f"sign {kind}"), word, cls="with-sign"
    )


def card(named: Named | None, viewer: Viewer) -> Sequence[Any]:
    """A bundle in a few facts."""
    if named is None:
        return (P("None yet: `anomalyze up` makes a starter bundle.", cls="muted"),)
    found = named.facts
    if found is None:
        return (
            P(Span(short(named.bundle), cls="mono fig")),
            P(sign("down", f"It cannot be read: {named.problem}"), cls="wrap"),
        )
    trained = "–" if found.window is None else " to ".join(day[:10] for day in found.window)
    model = "isolation forest" if found.detector == "iforest" else found.detector.upper()
    if found.is_supervised:
        model += " and a model that learned from labels"
    return (
        P(Span(short(named.bundle), cls="mono", title=named.bundle), cls="fig"),
        facts(
            [
                ("Since", since(named.at, viewer)),
                ("Kind", "starter, trained on simulated history" if found.kind == "starter" else "trained"),
                ("Trained on", trained),
                ("Model", "none: rules and statistics" if found.window is None else model),
                *([("Above Medium", proven(found, viewer.account_id))] if found.is_supervised else []),
                ("Note", named.note),
            ]
        ),
    )


def proven(found: Facts, account: str) -> str:
    """Whether its model may say more than MEDIUM of an account, and why."""
    proof = found.proofs.get(account)
    if proof is None:
        return "no: not measured on settled fraud of this account yet"
    measured = f"average precision {proof.lead:+.2f} beside rules and statistics"
    return f"{'yes' if proof.holds else 'no'}: {measured}, on {form.plural(proof.cases, 'fraud case')}"


def since(at: str | None, viewer: Viewer) -> Any:
    """When a pointer moved."""
    if at is None:
        return missing("moved before times were noted")
    return moment(datetime.fromisoformat(at), viewer.now, viewer.zone)


def comparison(
    standing: Standing,
    counts: Sequence[ShadowCount],
    stretch: tuple[int, datetime],
    choices: Sequence[int],
    viewer: Viewer,
    off: str = "",
) -> FT:
    """What the challenger would have raised, and what not, of so many days of this account up to a moment."""
    days, end = stretch
    seg = Span(
        *(
            A(
                f"{n}\u00a0d",
                href=routes.with_query(routes.BUNDLES, days=n),
                aria_current="true" if n == days else None,
            )
            for n in choices
        ),
        cls="seg",
    )
    past = None
    title = f"What would change, last {form.plural(days, 'day')}"
    if end < viewer.now:
        past = Span(describe_days(days, end, viewer.now, viewer.zone), cls="small muted")
        title = f"What would change, {form.plural(days, 'day')}"
    head = Div(H2(title), past, seg, cls="fh")
    if standing.challenger is None:
        return Section(head, P("Nothing is compared while there is no challenger.", cls="muted"), cls="s")
    total = sum(count.transactions for count in counts)
    if not total:
        text = (
            "No transaction of this account was judged by both yet. It is shadowed from its publication on."
        )
        if off:
            text = f"Nothing is compared, because the challenger is not shadowed: {off}."
        return Section(head, P(text, cls="muted"), cls="s")
    heads = (
        head_cell("Severity"),
        head_cell("Champion raised", "num"),
        head_cell("Challenger would raise", "num"),
        head_cell("Only the challenger", "num mid"),
        head_cell("Only the champion", "num mid"),
    )
    rows = [severity_row(level, counts) for level in SEVERITY_LEVELS]
    return Section(
        head,
        P(*sentence(counts, total), cls="lead"),
        P(
            "Judged by both since ",
            moment(min(c.since for c in counts), viewer.now, viewer.zone),
            ", to the hour.",
            cls="muted small",
        ),
        Div(
            table("Anomalies by severity, champion and challenger", heads, rows, cls="grid"),
            cls="sheet after",
        ),
        cls="s",
    )


def severity_row(level: int, counts: Sequence[ShadowCount]) -> FT:
    """One severity: how often each said it, and how often only one did."""
    mine = sum(c.transactions for c in counts if c.severity == level)
    theirs = sum(c.transactions for c in counts if c.challenger_severity == level)
    both = sum(c.transactions for c in counts if c.severity == c.challenger_severity == level)
    return Tr(
        cell(severity(level)),
        *(cell(form.format_count(n), cls="num", title=f"{n:,}") for n in (mine, theirs)),
        *(cell(form.format_count(n), cls="num mid", title=f"{n:,}") for n in (theirs - both, mine - both)),
        role="row",
    )


def sentence(counts: Sequence[ShadowCount], total: int) -> list[Any]:
    """How many anomalies would appear and go."""
    appear = sum(c.transactions for c in counts if c.severity == 0 < c.challenger_severity)
    go = sum(c.transactions for c in counts if c.challenger_severity == 0 < c.severity)
    higher = sum(c.transactions for c in counts if 0 < c.severity < c.challenger_severity)
    lower = sum(c.transactions for c in counts if 0 < c.challenger_severity < c.severity)
    if not (appear or go or higher or lower):
        return ["Nothing: of ", B(form.plural(total, "transaction")), " both say the same."]
    return [
        "Of ",
        B(form.plural(total, "transaction")),
        ": ",
        B(form.format_count(appear)),
        " anomalies would appear, ",
        B(form.format_count(go)),
        " would go, ",
        B(form.format_count(higher)),
        " would be more severe and ",
        B(form.format_count(lower)),
        " less.",
    ]


def difference_table(differences: Sequence[ShadowDifference], viewer: Viewer) -> FT:
    """The newest transactions of which they say different things."""
    heads = (
        head_cell("When"),
        head_cell("User"),
        head_cell("Amount", "num mid"),
        head_cell("Champion said"),
        head_cell("Challenger says"),
        head_cell("Rules, champion", "wide"),
        head_cell("Rules, challenger", "wide"),
    )
    rows = [
        Tr(
            cell(moment(d.ts, viewer.now, viewer.zone)),
            cell(user_link(d.user_id), cls="c-id", title=d.tx_id),
            cell(*money(d.amount, d.currency), cls="num mid"),
            cell(severity(d.severity)),
            cell(severity(d.challenger_severity)),
            cell(", ".join(d.rule_flags) or form.MISSING, cls="small wide"),
            cell(", ".join(d.challenger_flags) or form.MISSING, cls="small wide"),
            role="row",
        )
        for d in differences
    ] or [empty_row(len(heads), "They said the same of every transaction.")]
    return Section(
        Div(H2("Differences"), Span("newest first", cls="small muted"), cls="fh"),
        Div(table("Transactions of which they say different things", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
    )


def checks(standing: Standing) -> FT | None:
    """What the checks said when the challenger (or else the champion) was a candidate."""
    named = standing.challenger or standing.champion
    if named is None:
        return None
    report = named.report
    role = "challenger" if standing.challenger else "champion"
    head = Div(H2(f"Checks of the {role}"), cls="fh")
    if report is None:
        text = "It was no candidate of a training run (a starter bundle, or a changed configuration): no checks ran."
        return Section(head, P(text, cls="muted"), cls="s")
    heads = (head_cell("Check"), head_cell("Passed"), head_cell("What was found"))
    rows = [
        Tr(
            cell(check.name.replace("_", " "), cls="wm"),
            cell(sign("ok" if check.passed else "down", "yes" if check.passed else "no")),
            cell(check.says, cls="wrap"),
            role="row",
        )
        for check in report.checks
    ]
    against = f", beside {short(report.champion)}" if report.champion else ""
    return Section(
        head,
        P(
            f"On {report.days:.1f} days that it had not seen{against}: {form.plural(report.rows, 'transaction')}.",
            cls="muted",
        ),
        Div(table("Checks of the candidate", heads, rows, cls="grid"), cls="sheet after"),
        cls="s",
    )


def actions(standing: Standing, viewer: Viewer) -> FT | None:
    """Promote and roll back: each names its effect and asks once, for a note."""
    champion = standing.champion
    if champion is None:
        return None
    forms = []
    if standing.challenger is not None:
        new = standing.challenger
        effect = (
            f"From its next transaction on, every partition is judged by {short(new.bundle)} instead of "
            f"{short(champion.bundle)}, within seconds. Verdicts that were given stay. Shadowing ends."
        )
        forms.append(
            _form(
                "Promote the challenger",
                effect,
                routes.BUNDLE_PROMOTE,
                viewer,
                {"bundle": new.bundle, "champion": champion.bundle},
            )
        )
    if len(standing.moves) > 1:
        effect = (
            f"The bundle before {short(champion.bundle)} judges again from the next transaction on, within seconds. "
            "Verdicts that were given stay."
        )
        forms.append(
            _form("Roll back", effect, routes.BUNDLE_ROLL_BACK, viewer, {"champion": champion.bundle})
        )
    if not forms:
        return None
    allowed = may_move(viewer)
    note = None if allowed else P("Promoting needs a key of this account with the scope admin.", cls="muted")
    return Section(
        Div(H2("Change the champion"), cls="fh"), note, Div(*forms, cls="moves-f"), cls="s", id="change"
    )


def _form(title: str, effect: str, action: str, viewer: Viewer, hidden: dict[str, str]) -> FT:
    if not may_move(viewer):
        return Button(title, cls="btn", type="button", disabled=True)
    note_id = f"note-{action.rsplit('/', 1)[1]}"
    return Details(
        Summary(f"{title}…", cls="btn"),
        Form(
            P(effect, cls="wrap"),
            Input(type="hidden", name="csrf", value=viewer.csrf),
            *(Input(type="hidden", name=name, value=value) for name, value in hidden.items()),
            Div(
                Label("Why", fr=note_id),
                Input(
                    id=note_id,
                    name="note",
                    required=True,
                    maxlength=str(NOTE_LENGTH_MAX),
                    cls="input",
                    autocomplete="off",
                ),
                cls="field",
            ),
            Button(title, cls="btn primary", type="submit"),
            action=action,
            method="post",
            cls="move",
        ),
    )


def moves(standing: Standing, viewer: Viewer) -> FT:
    """The champion's last moves."""
    heads = (head_cell("Since"), head_cell("Bundle"), head_cell("Move"), head_cell("Note"))
    rows = [
        Tr(
            cell(since(move.at, viewer)),
            cell(Span(short(move.id), cls="mono", title=move.id)),
            cell("rolled back" if move.back_to else "promoted"),
            cell(move.note or form.MISSING, cls="wrap"),
            role="row",
        )
        for move in standing.moves
    ] or [empty_row(len(heads), "The champion was never set.")]
    return Section(
        Div(H2("Champions so far"), Span("newest first", cls="small muted"), cls="fh"),
        Div(table("Moves of the champion", heads, rows, cls="grid"), cls="sheet"),
        cls="s",
    )
