"""The statements of the sink's write path (`anomalyze.storage.store` says in which order).

They change rows in the order of their keys, so that two sinks that meet in a table wait for each other instead
of deadlocking.
"""

from __future__ import annotations

from anomalyze.storage.scored import COPY_COLUMNS

__all__ = [
    "COPY_STAGED",
    "COPY_TRANSACTIONS",
    "EMPTY_STAGED",
    "INSERT_ANOMALIES",
    "INSERT_STAGED",
    "MAKE_STAGED",
    "UPDATE_STATUSES",
    "UPSERT_CASES",
    "UPSERT_HOURLY",
    "UPSERT_RULE_HOURLY",
    "UPSERT_USERS",
]

_COLUMNS = ", ".join(COPY_COLUMNS)

COPY_TRANSACTIONS = f"COPY transactions ({_COLUMNS}) FROM STDIN (FORMAT binary)"

# Rows stay whole within their page, and in memory: they live for milliseconds.
MAKE_STAGED = (
    "SET temp_buffers = '64MB'; "
    "CREATE TEMPORARY TABLE IF NOT EXISTS staged (LIKE transactions INCLUDING DEFAULTS) "
    "WITH (toast_tuple_target = 8160) ON COMMIT DELETE ROWS"
)
COPY_STAGED = f"COPY staged ({_COLUMNS}) FROM STDIN (FORMAT binary)"
EMPTY_STAGED = "TRUNCATE staged"

# Returns the rows that were there already.
INSERT_STAGED = f"""
WITH inserted AS (
    INSERT INTO transactions ({_COLUMNS}) SELECT {_COLUMNS} FROM staged
    ON CONFLICT DO NOTHING
    RETURNING src_partition, src_offset
)
SELECT src_partition, src_offset FROM staged s WHERE NOT EXISTS (
    SELECT FROM inserted i WHERE i.src_partition = s.src_partition AND i.src_offset = s.src_offset)
"""  # noqa: S608 - constants

INSERT_ANOMALIES = """
INSERT INTO anomalies (account_id, anomaly_id, user_id, ts, tx_id, amount, currency, amount_base, severity,
    action, score, case_id, explanation, rule_flags, merchant_id, country, device_id, bundle, src_partition,
    src_offset, late, data, enrichment, analysis, verdict)
SELECT account_id, verdict->>'anomaly_id', user_id, ts, tx_id, amount, currency,
    (enrichment->'features'->>'amount_base')::numeric, severity, action, score, case_id,
    coalesce(verdict->>'explanation', ''), ARRAY(SELECT json_array_elements_text(analysis->'rule_flags')),
    data->>'merchant_id', coalesce(data->>'country', enrichment->>'country'), data->>'device_id', bundle,
    src_partition, src_offset, coalesce((verdict->>'late')::boolean, false), data, enrichment, analysis, verdict
FROM staged
ON CONFLICT DO NOTHING
"""

# A case that somebody decided comes back to the queue when it grows: when its severity rises, or when the value
# of its anomalies is at least twice what it was at the decision. Less than that stays decided.
UPSERT_CASES = """
INSERT INTO cases (account_id, case_id, user_id, opened_at, last_at, severity, score, anomalies, value_base,
    headline, headline_anomaly_id, rule_flags)
SELECT account_id, case_id, min(user_id), min(ts), max(ts), max(severity), max(score), count(*),
    coalesce(sum(abs((enrichment->'features'->>'amount_base')::numeric)), 0),
    (array_agg(coalesce(verdict->>'explanation', '') ORDER BY severity DESC, src_offset))[1],
    (array_agg(verdict->>'anomaly_id' ORDER BY severity DESC, src_offset))[1],
    ARRAY(SELECT DISTINCT f FROM unnest(array_agg(analysis->'rule_flags')) a, json_array_elements_text(a) f
        ORDER BY f)
FROM staged
GROUP BY account_id, case_id ORDER BY account_id, case_id
ON CONFLICT (account_id, case_id) DO UPDATE SET
    opened_at = least(cases.opened_at, excluded.opened_at),
    last_at = greatest(cases.last_at, excluded.last_at),
    severity = greatest(cases.severity, excluded.severity),
    score = greatest(cases.score, excluded.score),
    anomalies = cases.anomalies + excluded.anomalies,
    value_base = cases.value_base + excluded.value_base,
    headline = CASE WHEN excluded.severity > cases.severity THEN excluded.headline ELSE cases.headline END,
    headline_anomaly_id = CASE WHEN excluded.severity > cases.severity
        THEN excluded.headline_anomaly_id ELSE cases.headline_anomaly_id END,
    rule_flags = ARRAY(SELECT DISTINCT f FROM unnest(cases.rule_flags || excluded.rule_flags) f ORDER BY f),
    (state, stored_at) = (
        SELECT CASE WHEN g.reopens THEN 'open' ELSE cases.state END,
            CASE WHEN g.reopens THEN now() ELSE cases.stored_at END
        FROM (SELECT cases.state <> 'open' AND (
            excluded.severity > cases.severity
            OR excluded.value_base > 0 AND cases.value_base + excluded.value_base >= 2 * (
                SELECT coalesce(sum(abs(a.amount_base)), 0) FROM anomalies a
                WHERE a.account_id = cases.account_id AND a.case_id = cases.case_id
                AND a.stored_at <= cases.decided_at)) AS reopens) g)
"""

# The payment is found by its identity, the newest first: its event time, which the table's key holds too, may
# differ from the update's. Rows of this transaction that come after the update in the log are none of its
# business; of several updates of a payment the last one counts. Returns how many updates found their payment.
UPDATE_STATUSES = """
WITH found AS (
    SELECT w.*, t.ts FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
        AS w (account_id, user_id, tx_id, status, src_offset)
    CROSS JOIN LATERAL (
        SELECT ts FROM transactions
        WHERE account_id = w.account_id AND user_id = w.user_id AND tx_id = w.tx_id
        AND NOT (stored_at = now() AND transactions.src_offset > w.src_offset)
        ORDER BY ts DESC LIMIT 1) t
), last AS (
    SELECT DISTINCT ON (account_id, user_id, ts, tx_id) * FROM found
    ORDER BY account_id, user_id, ts, tx_id, src_offset DESC
), updated AS (
    UPDATE transactions t SET status = l.status::smallint FROM last l
    WHERE t.account_id = l.account_id AND t.user_id = l.user_id AND t.ts = l.ts AND t.tx_id = l.tx_id
    AND t.status <> l.status
)
SELECT count(*) FROM found
"""

UPSERT_USERS = """
INSERT INTO users (account_id, user_id, first_ts, last_ts, transactions, anomalies)
SELECT account_id, user_id, 'epoch'::timestamptz + first_us * interval '1 microsecond',
    'epoch'::timestamptz + last_us * interval '1 microsecond', n, anomalies
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS u (account_id, user_id, first_us, last_us, n, anomalies)
ON CONFLICT (account_id, user_id) DO UPDATE SET
    first_ts = least(users.first_ts, excluded.first_ts),
    last_ts = greatest(users.last_ts, excluded.last_ts),
    transactions = users.transactions + excluded.transactions,
    anomalies = users.anomalies + excluded.anomalies
"""

UPSERT_HOURLY = """
INSERT INTO hourly (account_id, hour, severity, transactions)
SELECT account_id, 'epoch'::timestamptz + hour * interval '1 hour', severity::smallint, n
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[]) AS h (account_id, hour, severity, n)
ON CONFLICT (account_id, hour, severity) DO UPDATE SET transactions = hourly.transactions + excluded.transactions
"""

UPSERT_RULE_HOURLY = """
INSERT INTO rule_hourly (account_id, hour, rule_id, hits)
SELECT account_id, 'epoch'::timestamptz + hour * interval '1 hour', rule_id, n
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bigint[]) AS h (account_id, hour, rule_id, n)
ON CONFLICT (account_id, hour, rule_id) DO UPDATE SET hits = rule_hourly.hits + excluded.hits
"""
