-- Alerts of metrics: how important their batch is, how rare their worst value was, and why and by whom people want to
-- hear nothing for a while. A notice that was told together with others names the alert whose line they were told in.
ALTER TABLE metric_alerts ADD COLUMN priority smallint NOT NULL DEFAULT 3;
-- Share of the values kept that were as far out; null: too few to say.
ALTER TABLE metric_alerts ADD COLUMN peak_tail double precision;
ALTER TABLE metric_notices ADD COLUMN told_with bigint REFERENCES metric_alerts (alert_id) ON DELETE SET NULL;
CREATE INDEX metric_notices_told_with ON metric_notices (told_with) WHERE told_with IS NOT NULL;
ALTER TABLE metric_series ADD COLUMN snooze_reason text, ADD COLUMN snoozed_by text;
ALTER TABLE metric_batches ADD COLUMN snooze_reason text, ADD COLUMN snoozed_by text;

-- What an account was told of a day, once.
CREATE TABLE metric_digests (
    account_id text NOT NULL,
    until_ts timestamptz NOT NULL,
    since_ts timestamptz NOT NULL,
    incidents integer NOT NULL,
    still_open integer NOT NULL,
    text text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, until_ts)
);
