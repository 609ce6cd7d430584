-- Metrics: what batches yielded, what the detector says of it, and what people are told.

-- One row a batch: how far its values were changed, and how far they were scored. Its row is the lock under which
-- values change, so that no number below one that was scored comes late.
CREATE TABLE metric_batches (
    batch text PRIMARY KEY,
    ingest bigint NOT NULL DEFAULT 0,
    scored_ingest bigint NOT NULL DEFAULT 0,
    turn bigint NOT NULL DEFAULT 0,
    period_s double precision,
    snoozed_until timestamptz
);

-- One row a series: what a list of metrics shows, and where its detector stands.
CREATE TABLE metric_series (
    series_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch text NOT NULL,
    metric text NOT NULL,
    detector text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 0,
    points bigint NOT NULL DEFAULT 0,
    newest_ts timestamptz,
    newest_value double precision,
    newest_novelty real,
    newest_severity smallint NOT NULL DEFAULT 0,
    flat_points bigint NOT NULL DEFAULT 0,
    flat_points_max bigint NOT NULL DEFAULT 0,
    snoozed_until timestamptz,
    first_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (batch, metric)
);

CREATE TABLE metric_values (
    batch text NOT NULL,
    metric text NOT NULL,
    ts timestamptz NOT NULL,
    value double precision,
    ingest bigint NOT NULL,
    revision integer NOT NULL DEFAULT 0,
    ingested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch, metric, ts)
) PARTITION BY RANGE (ts);
CREATE INDEX metric_values_ingest ON metric_values (batch, ingest);

CREATE TABLE metric_scores (
    batch text NOT NULL,
    metric text NOT NULL,
    ts timestamptz NOT NULL,
    detector text NOT NULL,
    version integer NOT NULL,
    value double precision NOT NULL,
    novelty real NOT NULL,
    surprise real NOT NULL,
    rarity real NOT NULL,
    expected double precision,
    lower double precision,
    upper double precision,
    severity smallint NOT NULL,
    flags smallint NOT NULL,
    PRIMARY KEY (batch, metric, ts, detector, version)
) PARTITION BY RANGE (ts);

-- One row an incident; state 0: shorter than its minimum yet, 1: open, 2: over.
CREATE TABLE metric_alerts (
    alert_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch text NOT NULL,
    metric text NOT NULL,
    kind text NOT NULL,
    direction smallint NOT NULL DEFAULT 0,
    state smallint NOT NULL,
    severity smallint NOT NULL,
    opened_ts timestamptz NOT NULL,
    last_ts timestamptz NOT NULL,
    seen_ts timestamptz NOT NULL,
    strange_points integer NOT NULL,
    calm_points integer NOT NULL,
    peak_ts timestamptz NOT NULL,
    peak_value double precision,
    peak_expected double precision,
    peak_lower double precision,
    peak_upper double precision,
    peak_strength double precision NOT NULL,
    sentence text NOT NULL,
    muted text,
    opened_at timestamptz NOT NULL DEFAULT now(),
    notified_at timestamptz,
    resolved_at timestamptz,
    resolution text,
    UNIQUE (batch, metric, kind, opened_ts)
);
CREATE UNIQUE INDEX metric_alerts_one_open ON metric_alerts (batch, metric, kind) WHERE state < 2;
CREATE INDEX metric_alerts_newest ON metric_alerts (opened_at DESC, alert_id DESC);

-- What people are told of an alert: opened, grown, reminder, resolved; each once.
CREATE TABLE metric_notices (
    notice_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id bigint NOT NULL REFERENCES metric_alerts ON DELETE CASCADE,
    kind text NOT NULL,
    number integer NOT NULL,
    severity smallint NOT NULL,
    sentence text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (alert_id, kind, number)
);

CREATE TABLE metric_feedback (
    feedback_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id bigint NOT NULL REFERENCES metric_alerts ON DELETE CASCADE,
    verdict text NOT NULL CHECK (verdict IN ('confirm', 'dismiss')),
    actor text NOT NULL,
    note text,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX metric_feedback_alert ON metric_feedback (alert_id, feedback_id DESC);

CREATE TABLE metric_runs (
    run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch text NOT NULL,
    kind text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_new bigint NOT NULL DEFAULT 0,
    rows_corrected bigint NOT NULL DEFAULT 0,
    scored bigint NOT NULL DEFAULT 0,
    rebuilt bigint NOT NULL DEFAULT 0,
    alerts bigint NOT NULL DEFAULT 0,
    failures jsonb NOT NULL DEFAULT '[]',
    error text
);
CREATE INDEX metric_runs_newest ON metric_runs (batch, run_id DESC);
