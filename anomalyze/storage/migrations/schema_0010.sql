-- Payments from below the line that entered the queue by lot, two a day, so that what is missed can be estimated.
-- In `cases` and `anomalies` they look as others do; only this table knows which they are.

CREATE TABLE review_samples (
    account_id text NOT NULL,
    day date NOT NULL,                        -- of the event, UTC
    place smallint NOT NULL,                  -- 1, 2: in the order drawn
    user_id text NOT NULL,
    tx_id text NOT NULL,
    case_id text NOT NULL,
    probability double precision NOT NULL,    -- of being drawn: drawn that day / payments below the line
    drawn_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, day, place)
);
CREATE UNIQUE INDEX review_samples_case ON review_samples (account_id, case_id);

-- What became known lately, and the anomaly that a label speaks of: one that names the transaction only is found too.
CREATE INDEX labels_recorded ON labels (account_id, recorded_at);
CREATE INDEX anomalies_tx ON anomalies (account_id, tx_id);
