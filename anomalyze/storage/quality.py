"""What labels say of what was flagged: cases by rule, severity and day, and the payments drawn below the line.

Each is one statement over indexes: from the labels recorded since a day to their anomalies; no table of transactions
is read and no JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from anomalyze.storage.query import Query

__all__ = ["LABELS_MAX", "Outcomes", "Reviewed", "load_outcomes", "load_samples", "load_waiting"]

# A page reads so many of an account's newest labels: a second or two of work (56,000 labels, 300,000 anomalies: 1.5 s).
LABELS_MAX = 50_000

# Fraud counts whoever says so last; of a payment nobody labelled nothing is known. A label of the payment and its user
# goes before one of the payment alone. Drawn payments are no finding of any rule.
_OUTCOMES = """
WITH newest AS (
    SELECT DISTINCT ON (user_id, tx_id, source) user_id, tx_id, source, fraud, known_at, label_id
    FROM (
        SELECT * FROM labels WHERE account_id = %(account)s AND recorded_at >= %(since)s
        ORDER BY recorded_at DESC LIMIT %(labels_max)s
    ) newest_labels
    ORDER BY user_id, tx_id, source, recorded_at DESC, label_id DESC
), known AS (
    SELECT DISTINCT ON (user_id, tx_id) user_id, tx_id, fraud FROM newest WHERE fraud IS NOT NULL
    ORDER BY user_id, tx_id, known_at DESC, label_id DESC
), judged AS (
    SELECT DISTINCT ON (a.anomaly_id) a.case_id, a.ts, a.severity, a.rule_flags, k.fraud, k.tx_id
    FROM known k JOIN anomalies a ON a.account_id = %(account)s AND a.tx_id = k.tx_id AND a.ts >= %(since)s
        AND (k.user_id = '' OR a.user_id = k.user_id)
    WHERE NOT EXISTS (SELECT FROM review_samples s WHERE s.account_id = a.account_id AND s.case_id = a.case_id)
    ORDER BY a.anomaly_id, k.user_id DESC
), of_case AS (
    SELECT case_id, bool_or(fraud) AS fraud, max(severity) AS severity,
        (min(ts) AT TIME ZONE 'UTC')::date AS day, bool_and(rule_flags = '{}') AS no_rule
    FROM judged GROUP BY case_id
), by_rule AS (
    SELECT DISTINCT j.case_id, f.rule, c.fraud FROM judged j
    JOIN of_case c USING (case_id), unnest(j.rule_flags) AS f (rule)
    UNION ALL SELECT case_id, '', fraud FROM of_case WHERE no_rule
)
SELECT 'rule' AS kind, rule AS name, count(*) FILTER (WHERE fraud) AS fraud, count(*) AS reviewed
FROM by_rule GROUP BY rule
UNION ALL SELECT 'severity', severity::text, count(*) FILTER (WHERE fraud), count(*) FROM of_case GROUP BY severity
UNION ALL SELECT 'day', day::text, count(*) FILTER (WHERE fraud), count(*) FROM of_case GROUP BY day
UNION ALL SELECT 'label', '', count(*) FILTER (WHERE fraud), count(*) FROM known
UNION ALL SELECT 'read', '', 0, count(*) FROM (
    SELECT FROM labels WHERE account_id = %(account)s AND recorded_at >= %(since)s LIMIT %(labels_max)s) l
UNION ALL SELECT 'found', '', count(*) FILTER (WHERE fraud), count(*) FROM judged
    WHERE (ts AT TIME ZONE 'UTC')::date IN (SELECT day FROM review_samples WHERE account_id = %(account)s)
UNION ALL SELECT 'unseen', '', count(*), count(*) FROM known k
    WHERE k.fraud AND NOT EXISTS (SELECT FROM judged j WHERE j.tx_id = k.tx_id)
"""

_SAMPLES = """
SELECT s.probability, l.fraud FROM review_samples s LEFT JOIN LATERAL (
    SELECT fraud FROM labels
    WHERE account_id = s.account_id AND tx_id = s.tx_id AND user_id IN (s.user_id, '')
    ORDER BY user_id DESC, recorded_at DESC, label_id DESC LIMIT 1
) l ON true
WHERE s.account_id = %(account)s AND s.day >= %(since)s ORDER BY s.day, s.place
"""

_WAITING = """
SELECT coalesce(sum(transactions), 0)::bigint AS rows FROM hourly
WHERE account_id = %(account)s AND hour >= %(since)s
"""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Cases of which it is known whether they were fraud, and how many were."""

    fraud: int
    reviewed: int


NOTHING = Reviewed(0, 0)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What labels say of an account's cases.

    Attributes
    ----------
    rules
        By rule that fired in the case; ``""``: none did. A case of several rules counts for each.
    severities, days
        By the severity of the case's labelled anomalies, and by the day (UTC) of the first of them.
    labels
        Payments with a label at all.
    found
        Flagged payments known as fraud, on days with a draw.
    unseen
        Payments known as fraud that nothing flagged.
    truncated
        There are more labels than were read: all of this is of the newest ones.
    """

    rules: Mapping[str, Reviewed] = field(default_factory=dict)
    severities: Mapping[int, Reviewed] = field(default_factory=dict)
    days: Mapping[date, Reviewed] = field(default_factory=dict)
    labels: Reviewed = NOTHING
    found: int = 0
    unseen: int = 0
    truncated: bool = False

    @property
    def cases(self) -> Reviewed:
        """All cases."""
        return Reviewed(
            sum(one.fraud for one in self.severities.values()),
            sum(one.reviewed for one in self.severities.values()),
        )


def load_outcomes(account_id: str, since: datetime, labels_max: int = LABELS_MAX) -> Query[Outcomes]:
    """Precision by rule, severity and day, of events and labels since a moment; of the newest labels, if many."""

    def build(rows: list[dict[str, Any]]) -> Outcomes:
        by: dict[str, dict[str, Reviewed]] = {}
        for row in rows:
            by.setdefault(row["kind"], {})[row["name"]] = Reviewed(row["fraud"], row["reviewed"])
        return Outcomes(
            by.get("rule", {}),
            {int(name): one for name, one in by.get("severity", {}).items()},
            {date.fromisoformat(name): one for name, one in sorted(by.get("day", {}).items())},
            by["label"][""],
            by["found"][""].fraud,
            by["unseen"][""].fraud,
            by["read"][""].reviewed == labels_max,
        )

    return Query(_OUTCOMES, {"account": account_id, "since": since, "labels_max": labels_max}, build)


def load_samples(account_id: str, since: datetime) -> Query[list[tuple[float, bool | None]]]:
    """Payments drawn below the line since a day: the probability of being drawn, and whether it was fraud."""
    return Query(
        _SAMPLES,
        {"account": account_id, "since": since.date()},
        lambda rows: [(row["probability"], row["fraud"]) for row in rows],
    )


def load_waiting(account_id: str, since: datetime) -> Query[int]:
    """Transactions since a moment: younger than the delay, so that silence says nothing of them yet."""
    return Query(_WAITING, {"account": account_id, "since": since}, lambda rows: int(rows[0]["rows"]))
