"""The statements that spread a staged batch over the tables (`anomalyze.storage.store` says in which order).

Each works on the whole batch in the temporary table ``staged``. They sort by the key of the rows they change, so
that two sinks that meet in a table wait for each other instead of deadlocking.
"""

from __future__ import annotations

from anomalyze.storage.scored import COPY_COLUMNS, Kind

__all__ = [
    "COPY_STAGED",
    "FORGET_REPEATED",
    "INSERT_ANOMALIES",
    "INSERT_TRANSACTIONS",
    "MAKE_STAGED",
    "UPDATE_STATUSES",
    "UPSERT_CASES",
    "UPSERT_HOURLY",
    "UPSERT_RULE_HOURLY",
    "UPSERT_USERS",
]

# Rows stay whole within their page: they live for milliseconds.
MAKE_STAGED = (
    "CREATE TEMPORARY TABLE IF NOT EXISTS staged ("
    + ", ".join(f"{name} {kind}" for name, kind in COPY_COLUMNS)
    + ") WITH (toast_tuple_target = 8160) ON COMMIT DELETE ROWS"
)

COPY_STAGED = f"COPY staged ({', '.join(name for name, _ in COPY_COLUMNS)}) FROM STDIN (FORMAT binary)"

_IS_TRANSACTION = f"kind = {int(Kind.TRANSACTION)}"
_IS_UPDATE = f"kind = {int(Kind.STATUS_UPDATE)}"

# Returns the rows that were there already.
INSERT_TRANSACTIONS = f"""
WITH inserted AS (
    INSERT INTO transactions (account_id, user_id, ts, tx_id, amount, currency, status, severity, action, score,
        case_id, src_partition, src_offset, source, trace_id, bundle, data, enrichment, analysis, verdict)
    SELECT account_id, user_id, ts, tx_id, amount::numeric, currency, status, severity, action, score,
        case_id, src_partition, src_offset, source, trace_id, bundle, data, enrichment, analysis, verdict
    FROM staged WHERE {_IS_TRANSACTION}
    ON CONFLICT DO NOTHING
    RETURNING src_partition, src_offset
)
SELECT src_partition, src_offset FROM staged s WHERE {_IS_TRANSACTION} AND NOT EXISTS (
    SELECT FROM inserted i WHERE i.src_partition = s.src_partition AND i.src_offset = s.src_offset)
"""  # noqa: S608 - constants

FORGET_REPEATED = """
DELETE FROM staged s USING unnest(%s::int[], %s::bigint[]) AS r (src_partition, src_offset)
WHERE s.src_partition = r.src_partition AND s.src_offset = r.src_offset
"""

INSERT_ANOMALIES = f"""
INSERT INTO anomalies (account_id, anomaly_id, user_id, ts, tx_id, amount, currency, amount_base, severity,
    action, score, case_id, explanation, rule_flags, merchant_id, country, device_id, bundle, src_partition,
    src_offset, late, data, enrichment, analysis, verdict)
SELECT account_id, verdict->>'anomaly_id', user_id, ts, tx_id, amount::numeric, currency,
    (enrichment->'features'->>'amount_base')::numeric, severity, action, score, case_id,
    coalesce(verdict->>'explanation', ''), coalesce(string_to_array(flags, E'\\n'), '{{}}'),
    data->>'merchant_id', coalesce(data->>'country', enrichment->>'country'), data->>'device_id', bundle,
    src_partition, src_offset, coalesce((verdict->>'late')::boolean, false), data, enrichment, analysis, verdict
FROM staged WHERE {_IS_TRANSACTION} AND severity > 0
ON CONFLICT DO NOTHING
"""  # noqa: S608 - constants

UPSERT_USERS = f"""
INSERT INTO users (account_id, user_id, first_ts, last_ts, transactions, anomalies)
SELECT account_id, user_id, min(ts), max(ts), count(*), count(*) FILTER (WHERE severity > 0)
FROM staged WHERE {_IS_TRANSACTION} GROUP BY account_id, user_id ORDER BY account_id, user_id
ON CONFLICT (account_id, user_id) DO UPDATE SET
    first_ts = least(users.first_ts, excluded.first_ts),
    last_ts = greatest(users.last_ts, excluded.last_ts),
    transactions = users.transactions + excluded.transactions,
    anomalies = users.anomalies + excluded.anomalies
"""  # noqa: S608 - constants

# A case that somebody decided comes back to the queue when it grows: when its severity rises, or when the value
# of its anomalies is at least twice what it was at the decision. Less than that stays decided.
UPSERT_CASES = f"""
INSERT INTO cases (account_id, case_id, user_id, opened_at, last_at, severity, score, anomalies, value_base,
    headline, headline_anomaly_id, rule_flags)
SELECT account_id, case_id, min(user_id), min(ts), max(ts), max(severity), max(score), count(*),
    coalesce(sum(abs((enrichment->'features'->>'amount_base')::numeric)), 0),
    (array_agg(coalesce(verdict->>'explanation', '') ORDER BY severity DESC, src_offset))[1],
    (array_agg(verdict->>'anomaly_id' ORDER BY severity DESC, src_offset))[1],
    ARRAY(SELECT DISTINCT f FROM unnest(string_to_array(string_agg(flags, E'\\n'), E'\\n')) f ORDER BY f)
FROM staged WHERE {_IS_TRANSACTION} AND severity > 0
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
"""  # noqa: S608 - constants

# The payment is found by its identity, the newest first: its event time, which the table's key holds too, may
# differ from the update's. Returns how many payments were to be updated, and how many of them are stored.
UPDATE_STATUSES = f"""
WITH wanted AS (
    SELECT DISTINCT ON (account_id, user_id, tx_id) account_id, user_id, tx_id, status
    FROM staged WHERE {_IS_UPDATE} ORDER BY account_id, user_id, tx_id, src_offset DESC
), found AS (
    SELECT w.*, t.ts FROM wanted w CROSS JOIN LATERAL (
        SELECT ts FROM transactions
        WHERE account_id = w.account_id AND user_id = w.user_id AND tx_id = w.tx_id
        ORDER BY ts DESC LIMIT 1) t
), updated AS (
    UPDATE transactions t SET status = f.status FROM found f
    WHERE t.account_id = f.account_id AND t.user_id = f.user_id AND t.ts = f.ts AND t.tx_id = f.tx_id
    AND t.status <> f.status
)
SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM found)
"""  # noqa: S608 - constants

UPSERT_HOURLY = f"""
INSERT INTO hourly (account_id, hour, severity, transactions)
SELECT account_id, date_trunc('hour', ts, 'UTC') AS hour, severity, count(*)
FROM staged WHERE {_IS_TRANSACTION} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (account_id, hour, severity) DO UPDATE SET transactions = hourly.transactions + excluded.transactions
"""  # noqa: S608 - constants

UPSERT_RULE_HOURLY = f"""
INSERT INTO rule_hourly (account_id, hour, rule_id, hits)
SELECT account_id, date_trunc('hour', ts, 'UTC') AS hour, f, count(*)
FROM staged, unnest(string_to_array(flags, E'\\n')) f
WHERE {_IS_TRANSACTION} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (account_id, hour, rule_id) DO UPDATE SET hits = rule_hourly.hits + excluded.hits
"""  # noqa: S608 - constants
