"""Every address of the dashboard, as functions: no page writes a path by hand."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

__all__ = [
    "ALERTS",
    "ALERT_FEEDBACK",
    "ALERT_PICTURE",
    "ALERT_ROUTES",
    "ALERT_SNOOZE",
    "ANOMALY",
    "BUDGET",
    "BUNDLES",
    "BUNDLE_PROMOTE",
    "BUNDLE_ROLL_BACK",
    "CASE_DECISION",
    "EVENTS",
    "HEALTH",
    "METRIC",
    "METRICS",
    "NOW",
    "NOW_ROWS",
    "QUALITY",
    "SETTINGS",
    "SETTINGS_LISTS",
    "SETTINGS_PREVIEW",
    "SIGN_IN",
    "SIGN_OUT",
    "SOURCE_REFUSED",
    "STATIC_FOLDER",
    "SYSTEM",
    "TRANSACTIONS",
    "TRANSACTIONS_CSV",
    "UPLOAD",
    "UPLOADS",
    "UPLOAD_ESTIMATE",
    "UPLOAD_REFUSED",
    "UPLOAD_START",
    "USER",
    "USERS",
    "alert_feedback",
    "alert_picture",
    "anomaly",
    "case_decision",
    "metric",
    "metric_at",
    "own_path",
    "settings_preview",
    "source_refused",
    "static",
    "transactions",
    "upload",
    "upload_estimate",
    "user",
    "with_query",
]

ALERTS = "/alerts"
ALERT_ROUTES = "/alerts/routes"
ALERT_PICTURE = "/alerts/{alert_id}/picture"
ALERT_FEEDBACK = "/alerts/{alert_id}/feedback"
ALERT_SNOOZE = "/alerts/snooze"
METRICS = "/metrics"
METRIC = "/metrics/{batch}/{metric:path}"
NOW = "/now"
NOW_ROWS = "/now/rows"
BUDGET = "/budget"
EVENTS = "/events"
ANOMALY = "/anomalies/{anomaly_id:path}"
CASE_DECISION = "/cases/{case_id:path}/decision"
TRANSACTIONS = "/transactions"
TRANSACTIONS_CSV = "/transactions.csv"
USERS = "/users"
USER = "/users/{user_id:path}"
UPLOADS = "/uploads"
UPLOAD = "/uploads/{upload_id}"
UPLOAD_ESTIMATE = "/uploads/{upload_id}/estimate"
UPLOAD_START = "/uploads/{upload_id}/start"
UPLOAD_REFUSED = "/uploads/{upload_id}/refused.csv"
SOURCE_REFUSED = "/sources/{name}/refused.csv"
BUNDLES = "/bundles"
BUNDLE_PROMOTE = "/bundles/promote"
BUNDLE_ROLL_BACK = "/bundles/roll-back"
QUALITY = "/quality"
SYSTEM = "/system"
SETTINGS = "/settings"
SETTINGS_LISTS = "/settings/lists"
SETTINGS_PREVIEW = "/settings/previews/{name}"
SIGN_IN = "/sign-in"
SIGN_OUT = "/sign-out"
HEALTH = "/health"
STATIC = "/static"

STATIC_FOLDER = Path(__file__).parent / "static"


def with_query(path: str, **values: str | int | None) -> str:
    """A path with the values that are set.

    >>> with_query("/now", state="all", q="")
    '/now?state=all'
    """
    query = urlencode({name: value for name, value in values.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


def own_path(sent: object, otherwise: str) -> str:
    """Where a form wants to go on, when that is a path of ours: two slashes would name another host.

    >>> own_path("/now?state=all", "/"), own_path("//elsewhere", "/now"), own_path(None, "/now")
    ('/now?state=all', '/now', '/now')
    """
    path = str(sent or "")
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else otherwise


def anomaly(anomaly_id: str) -> str:
    """The page of one anomaly."""
    return f"/anomalies/{quote(anomaly_id, safe='')}"


def case_decision(case_id: str) -> str:
    """Where a decision on a case is posted."""
    return f"/cases/{quote(case_id, safe='')}/decision"


def alert_feedback(alert_id: int) -> str:
    """Where it is said whether an alert of a metric is one."""
    return f"/alerts/{alert_id}/feedback"


def alert_picture(alert_id: int, kind: str = "") -> str:
    """An alert's picture and what else was strange then, for its row; of a kind (svg, png) the picture alone."""
    return with_query(f"/alerts/{alert_id}/picture", format=kind)


def metric(batch: str, name: str, **query: str | None) -> str:
    """The page of one metric; names that an address would take for folders stand behind a question mark.

    >>> metric("shop", "a/b c", period="1d"), metric("shop", "..")
    ('/metrics/shop/a%2Fb%20c?period=1d', '/metrics/shop/?name=..')
    """
    if name in (".", ".."):
        return with_query(f"/metrics/{quote(batch, safe='')}/", name=name, **query)
    return with_query(f"/metrics/{quote(batch, safe='')}/{quote(name, safe='')}", **query)


def metric_at(batch: str, name: str, **query: str | None) -> str:
    """The list of metrics with one in its panel."""
    return with_query(METRICS, at=f"{batch}/{name}", **query)


def user(user_id: str) -> str:
    """The page of one user.

    >>> user("a/b c")
    '/users/a%2Fb%20c'
    """
    return f"/users/{quote(user_id, safe='')}"


def transactions(**filters: str | int | None) -> str:
    """The list of transactions with a filter."""
    return with_query(TRANSACTIONS, **filters)


def upload(upload_id: str) -> str:
    """The page of one upload."""
    return f"/uploads/{quote(upload_id, safe='')}"


def upload_estimate(upload_id: str, mapping: str) -> str:
    """Where the cases to expect of an upload with a mapping are told."""
    return with_query(f"{upload(upload_id)}/estimate", mapping=mapping)


def source_refused(name: str) -> str:
    """The refused rows of a polled table."""
    return f"/sources/{quote(name, safe='')}/refused.csv"


def settings_preview(name: str) -> str:
    """How far one preview of settings is."""
    return f"/settings/previews/{quote(name, safe='')}"


@cache
def static(name: str) -> str:
    """A file of the static folder, with its content's hash, so that browsers may keep it for good."""
    digest = hashlib.sha256((STATIC_FOLDER / name).read_bytes()).hexdigest()[:10]
    return f"{STATIC}/{name}?v={digest}"
