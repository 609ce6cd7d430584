-- What the platform found wrong with itself: drift, a silent stream, a failed run. For the operator, not of one
-- account's analysts, so account_id is null where it concerns all.
CREATE TABLE alarms (
    alarm_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,                       -- drift, stream, run, bundle
    key text NOT NULL UNIQUE,                 -- what raised it, once: a repeated run raises it no second time
    account_id text,
    summary text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    run_id text                               -- of Dagster, null for others
);
CREATE INDEX alarms_at ON alarms (at DESC);
