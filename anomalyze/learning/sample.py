"""Two payments a day from below the line enter the queue by lot, so that what is missed can be estimated.

Whoever looks at them must not know: they look as the mildest cases do that no rule explains. What their page says of
the payment (amounts, usual ranges, place, history) is true; severity and score are those of another such case, and the
sentence is the one of a model that finds a combination unusual. Only the table `review_samples` knows, with the
probability of being drawn.

Who is drawn is a matter of a hash over payment and day: asked again, the same two come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Json

from anomalyze.detection.bundle import Bundle
from anomalyze.detection.case import anomaly_id, case_id
from anomalyze.detection.detector import Detector
from anomalyze.detection.explanation import Explainer, Finding
from anomalyze.detection.flagged import usual_ranges
from anomalyze.detection.model import build_models
from anomalyze.detection.row import Row
from anomalyze.events.batch import Severity
from anomalyze.events.hashing import text_key, user_key
from anomalyze.storage.pool import postgres_errors

__all__ = ["DRAWN_A_DAY", "Draw", "Dresser", "draw_day"]

DRAWN_A_DAY = 2
# Of so many of the newest mild cases one lends its score.
LENDERS_MAX = 200
LENDERS_SINCE = timedelta(days=30)
ACCOUNTS_MAX = 200

# The lot of a payment: its hash with the day. The whole day is read once, at night.
_DRAW = """
SELECT *, count(*) OVER () AS population FROM (
    SELECT user_id, ts, tx_id, amount, currency, score, data, enrichment, analysis, stored_at FROM transactions
    WHERE account_id = %(account)s AND ts >= %(start)s AND ts < %(end)s AND severity = 0
) t ORDER BY md5(concat_ws(chr(31), %(salt)s::text, user_id, tx_id)), user_id, tx_id LIMIT %(drawn)s
"""
_LENDERS = """
SELECT score FROM anomalies a WHERE account_id = %(account)s AND ts >= %(since)s AND ts < %(end)s
    AND severity = %(severity)s AND rule_flags = '{}' AND score IS NOT NULL
    AND NOT EXISTS (SELECT FROM review_samples s WHERE s.account_id = a.account_id AND s.case_id = a.case_id)
ORDER BY ts DESC, anomaly_id LIMIT %(most)s
"""
_ANOMALY = """
INSERT INTO anomalies (account_id, anomaly_id, user_id, ts, tx_id, amount, currency, amount_base, severity, action, score,
    case_id, explanation, rule_flags, merchant_id, country, device_id, bundle, src_partition, src_offset, late, data,
    enrichment, analysis, verdict, stored_at)
SELECT account_id, %(anomaly)s, user_id, ts, tx_id, amount, currency,
    (enrichment->'features'->>'amount_base')::numeric, %(severity)s, %(action)s, %(score)s, %(case)s, %(says)s, '{}',
    data->>'merchant_id', coalesce(data->>'country', enrichment->>'country'), data->>'device_id', bundle, src_partition,
    src_offset, false, data, enrichment, %(analysis)s, %(verdict)s, stored_at
FROM transactions WHERE account_id = %(account)s AND user_id = %(user)s AND ts = %(ts)s AND tx_id = %(tx)s
ON CONFLICT DO NOTHING
"""
_CASE = """
INSERT INTO cases (account_id, case_id, user_id, opened_at, last_at, stored_at, severity, score, anomalies, value_base,
    headline, headline_anomaly_id, rule_flags)
SELECT account_id, case_id, user_id, ts, ts, stored_at, severity, score, 1, coalesce(abs(amount_base), 0), explanation,
    anomaly_id, '{}'
FROM anomalies WHERE account_id = %(account)s AND anomaly_id = %(anomaly)s AND ts = %(ts)s
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn of an account's day."""

    account_id: str
    population: int
    drawn: int


class Dresser:
    """Tells of a payment what a model would that finds it mildly strange."""

    def __init__(self, bundle: Bundle) -> None:
        self._detector = Detector(bundle)
        detector = self._detector
        self._inputs = tuple(bundle.inputs)
        self._reference = dict(zip((one.name for one in bundle.inputs), bundle.reference, strict=True))
        # The forest speaks: it is the one that finds combinations.
        alone = replace(bundle, supervised=None)
        self._model = build_models(alone, detector.spec.names, detector.policy)
        self._explainer = Explainer(
            detector.spec,
            detector.rules,
            self._inputs,
            detector.two_quantile,
            usual_ranges(bundle.statistics),
            starter=bundle.kind == "starter",
        )
        levels = detector.policy.model.levels
        self.score_usual = 1.0 - max((level.tail for level in levels), default=0.005)
        self.action = detector.policy.action(Severity.LOW)

    def tell(self, account_id: str, payment: Mapping[str, Any], score: float) -> tuple[str, dict[str, Any]]:
        """The sentence, and the details for the section ``analysis``."""
        spec = self._detector.spec
        published = payment["enrichment"].get("features") or {}
        features = np.full((1, len(spec.names)), np.nan)
        for name, value in {**self._reference, **published}.items():
            if name in spec.names and isinstance(value, (int, float)):
                features[0, spec.index(name)] = float(value)
        values: dict[str, float | str | None] = {
            name: float(value) if isinstance(value, (int, float)) else None
            for name, value in published.items()
        }
        texts = ("merchant_id", "merchant_category", "device_id", "ip", "channel", "location", "country")
        values |= {name: str(text) for name in texts if isinstance(text := payment["data"].get(name), str)}
        values |= {
            "user_id": payment["user_id"],
            "amount": float(payment["amount"]),
            "currency": payment["currency"],
            "base_currency": self._detector.base_currency(account_id),
        }
        found = Finding(
            rules=(),
            statistics=(),
            statistic_severities=(),
            tail=max(1.0 - score, 1e-6),
            model_severity=Severity.LOW,
            shares=self._model.explain(features)[0],
        )
        row = Row(account_id, values, 0)
        return self._explainer.sentence(row, found), self._explainer.details(row, found)


def draw_day(connection: psycopg.Connection[Any], day: date, dresser: Dresser) -> list[Draw]:
    """Draw two payments below the line of each account's day (UTC) and put them into its queue.

    A day of an account that was drawn already stays as it is. The largest `ACCOUNTS_MAX` accounts are drawn from.

    Raises
    ------
    TransientError
        PostgreSQL does not answer now; what was drawn stays, the rest is drawn the next time.
    """
    bounds = {"start": f"{day} 00:00+00", "end": f"{day + timedelta(days=1)} 00:00+00", "day": day}
    with postgres_errors():
        accounts = connection.execute(
            "SELECT account_id FROM hourly h WHERE hour >= %(start)s AND hour < %(end)s AND severity = 0 "
            "AND NOT EXISTS (SELECT FROM review_samples s WHERE s.account_id = h.account_id AND s.day = %(day)s) "
            "GROUP BY account_id ORDER BY sum(transactions) DESC, account_id LIMIT %(most)s",
            bounds | {"most": ACCOUNTS_MAX},
        ).fetchall()
        return [_draw_account(connection, account, day, bounds, dresser) for (account,) in accounts]


def _draw_account(
    connection: psycopg.Connection[Any], account: str, day: date, bounds: Mapping[str, Any], dresser: Dresser
) -> Draw:
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        # Two runs for one day: the second waits, and finds what the first one drew.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"review_samples {account}"])
        known = cursor.execute(
            "SELECT count(*) AS n FROM review_samples WHERE account_id = %s AND day = %s", [account, day]
        ).fetchone()
        if known is not None and known["n"]:
            return Draw(account, 0, 0)
        payments = cursor.execute(
            _DRAW, {**bounds, "account": account, "salt": f"{account} {day}", "drawn": DRAWN_A_DAY}
        ).fetchall()
        lenders = cursor.execute(
            _LENDERS,
            {
                "account": account,
                "since": datetime.fromisoformat(str(bounds["end"])) - LENDERS_SINCE,
                "end": bounds["end"],
                "severity": int(Severity.LOW),
                "most": LENDERS_MAX,
            },
        ).fetchall()
        for place, payment in enumerate(payments, 1):
            lot = text_key(f"{account} {day} {payment['user_id']} {payment['tx_id']}")
            score = float(lenders[lot % len(lenders)]["score"]) if lenders else dresser.score_usual
            _enter(cursor, account, payment, score, dresser)
            cursor.execute(
                "INSERT INTO review_samples (account_id, day, place, user_id, tx_id, case_id, probability) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [
                    account,
                    day,
                    place,
                    payment["user_id"],
                    payment["tx_id"],
                    _case_name(account, payment),
                    len(payments) / payment["population"],
                ],
            )
    return Draw(account, payments[0]["population"] if payments else 0, len(payments))


def _case_name(account: str, payment: Mapping[str, Any]) -> str:
    return case_id(user_key(account, payment["user_id"]), text_key(payment["tx_id"]))


def _enter(
    cursor: psycopg.Cursor[Any], account: str, payment: Mapping[str, Any], score: float, dresser: Dresser
) -> None:
    """Write the case and its anomaly."""
    case = _case_name(account, payment)
    anomaly = anomaly_id(user_key(account, payment["user_id"]), text_key(payment["tx_id"]))
    says, details = dresser.tell(account, payment, score)
    verdict = {
        "final_severity": Severity.LOW.name,
        "action": dresser.action.name,
        "case_id": case,
        "anomaly_id": anomaly,
        "case_anomalies": 1,
        "late": False,
        "explanation": says,
    }
    analysis = payment["analysis"] | {"ml_score": round(score, 6)} | details
    if analysis.get("ml_prediction") == "NORMAL":
        analysis["ml_prediction"] = "ANOMALY"
    place = {"account": account, "user": payment["user_id"], "ts": payment["ts"], "tx": payment["tx_id"]}
    cursor.execute(
        _ANOMALY,
        place
        | {
            "anomaly": anomaly,
            "case": case,
            "severity": int(Severity.LOW),
            "action": int(dresser.action),
            "score": score,
            "says": says,
            "analysis": Json(analysis),
            "verdict": Json(verdict),
        },
    )
    cursor.execute(_CASE, {"account": account, "anomaly": anomaly, "ts": payment["ts"]})
