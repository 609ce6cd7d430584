-- The first schema. Times are timestamptz (UTC). Money is numeric in units of its currency.
-- Severity: 0 NONE .. 4 CRITICAL. Action: 0 ALLOW, 1 REVIEW, 2 BLOCK. Status: 0 approved, 1 pending,
-- 2 declined, 3 refunded, 4 reversed. src_partition, src_offset: place in the topic `transactions`.

CREATE TABLE accounts (
    account_id text PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    key_id text PRIMARY KEY,                  -- shown: the key's first characters
    account_id text NOT NULL REFERENCES accounts,
    key_hash bytea NOT NULL UNIQUE,           -- SHA-256 of the whole key (256 random bits: no salt needed)
    name text NOT NULL,
    scopes text[] NOT NULL,                   -- ingest, read, admin
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text,
    last_used_at timestamptz,
    revoked_at timestamptz
);

-- One row a judged transaction. The primary key is also the index that answers a user's history.
CREATE TABLE transactions (
    account_id text NOT NULL,
    user_id text NOT NULL,
    ts timestamptz NOT NULL,
    tx_id text NOT NULL,
    amount numeric NOT NULL,
    currency text NOT NULL,
    status smallint NOT NULL,
    severity smallint NOT NULL,
    action smallint NOT NULL,
    score real,                               -- ml_score, null while there is none
    case_id text,
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL,
    source text NOT NULL,
    trace_id text,
    bundle text NOT NULL,
    data jsonb NOT NULL,                      -- section `data` as it came
    enrichment json NOT NULL,                 -- sections as the detector wrote them, byte for byte
    analysis json NOT NULL,
    verdict json NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, user_id, ts, tx_id)
) PARTITION BY RANGE (ts);
CREATE INDEX transactions_account_ts ON transactions (account_id, ts, user_id, tx_id);

CREATE TABLE anomalies (
    account_id text NOT NULL,
    anomaly_id text NOT NULL,                 -- made of (account, user, tx): the same log gives the same id
    user_id text NOT NULL,
    ts timestamptz NOT NULL,
    tx_id text NOT NULL,
    amount numeric NOT NULL,
    currency text NOT NULL,
    amount_base numeric,                      -- in the account's base currency
    severity smallint NOT NULL,
    action smallint NOT NULL,
    score real,
    case_id text NOT NULL,
    explanation text NOT NULL,
    rule_flags text[] NOT NULL,
    merchant_id text,
    country text,
    device_id text,
    bundle text NOT NULL,
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL,
    late boolean NOT NULL DEFAULT false,      -- older than an hour when judged: never notifies
    data jsonb NOT NULL,
    enrichment json NOT NULL,
    analysis json NOT NULL,
    verdict json NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, anomaly_id, ts)
) PARTITION BY RANGE (ts);
CREATE INDEX anomalies_account_ts ON anomalies (account_id, ts, anomaly_id);
CREATE INDEX anomalies_user ON anomalies (account_id, user_id, ts);
CREATE INDEX anomalies_case ON anomalies (account_id, case_id, ts);

-- Anomalies of one user within 24 hours: what people see, count, decide.
CREATE TABLE cases (
    account_id text NOT NULL,
    case_id text NOT NULL,
    user_id text NOT NULL,
    opened_at timestamptz NOT NULL,           -- event time of its first anomaly
    last_at timestamptz NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(), -- when it came (or came back) to the queue
    severity smallint NOT NULL,
    score real,
    anomalies integer NOT NULL,
    value_base numeric NOT NULL DEFAULT 0,    -- sum of |amount_base| of its anomalies
    headline text NOT NULL,                   -- explanation of its most severe anomaly
    headline_anomaly_id text NOT NULL,
    rule_flags text[] NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'confirmed', 'dismissed')),
    decided_at timestamptz,
    decided_by text,
    note text,
    PRIMARY KEY (account_id, case_id)
);
CREATE INDEX cases_state ON cases (account_id, state, last_at DESC, case_id);
CREATE INDEX cases_user ON cases (account_id, user_id, last_at DESC);
CREATE INDEX cases_last ON cases (account_id, last_at DESC, case_id);

-- What became known of a transaction: analysts' decisions now, chargebacks later. Never updated; the newest
-- recorded_at of (account, user, tx, source) counts; `fraud` null takes an earlier one back.
CREATE TABLE labels (
    label_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    user_id text NOT NULL,
    tx_id text NOT NULL,
    fraud boolean,
    reason text,
    known_at timestamptz NOT NULL,
    source text NOT NULL,                     -- analyst, chargeback, ...
    recorded_by text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX labels_tx ON labels (account_id, user_id, tx_id, recorded_at DESC);

-- Who has been seen: answers GET /users without reading transactions. Only the hour of last_ts is indexed and
-- pages have room to spare, so that counting a transaction nearly always touches no index.
CREATE TABLE users (
    account_id text NOT NULL,
    user_id text NOT NULL,
    first_ts timestamptz NOT NULL,
    last_ts timestamptz NOT NULL,
    transactions bigint NOT NULL,
    anomalies bigint NOT NULL,
    last_hour timestamptz GENERATED ALWAYS AS
        (date_bin('1 hour', last_ts, timestamptz '1970-01-01 00:00:00+00')) STORED,
    PRIMARY KEY (account_id, user_id)
) WITH (fillfactor = 70);
CREATE INDEX users_last ON users (account_id, last_hour DESC, user_id);

-- Transactions and anomalies by hour of event time, kept by the sink in its own transaction, so that pages
-- count without scanning.
CREATE TABLE hourly (
    account_id text NOT NULL,
    hour timestamptz NOT NULL,
    severity smallint NOT NULL,
    transactions bigint NOT NULL,
    PRIMARY KEY (account_id, hour, severity)
);

CREATE TABLE rule_hourly (
    account_id text NOT NULL,
    hour timestamptz NOT NULL,
    rule_id text NOT NULL,
    hits bigint NOT NULL,
    PRIMARY KEY (account_id, hour, rule_id)
);

CREATE TABLE dead_letters (
    log_id text NOT NULL,
    src_partition integer NOT NULL,
    src_offset bigint NOT NULL,
    account_id text,                          -- null when the record does not say it
    reason text NOT NULL,
    field text NOT NULL,
    expected text NOT NULL,
    got text NOT NULL,
    value bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, src_partition, src_offset)
);
CREATE INDEX dead_letters_at ON dead_letters (stored_at DESC);

-- How far each consumer has come, written in the transaction that stores what it read.
CREATE TABLE positions (
    consumer text NOT NULL,                   -- sink, ...
    log_id text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    src_offset bigint NOT NULL,               -- of `transactions`: highest stored
    next_offset bigint NOT NULL,              -- of `topic`: where to read on
    PRIMARY KEY (consumer, log_id, topic, partition)
);

CREATE TABLE list_entries (
    account_id text NOT NULL,
    list text NOT NULL,                       -- allow, block, ...
    field text NOT NULL,                      -- user_id, device_id, merchant_id, ip
    value text NOT NULL,
    note text,
    added_by text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    PRIMARY KEY (account_id, list, field, value)
);

-- Heartbeat of each running program, every two seconds: what /system and /ready show.
CREATE TABLE program_states (
    program text NOT NULL,                    -- api, detector, sink, dashboard
    instance text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    state jsonb NOT NULL,                     -- rate, lag, p99_ms, restarts, bundle, partitions ...
    PRIMARY KEY (program, instance)
);

CREATE TABLE audit_log (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    account_id text,
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
