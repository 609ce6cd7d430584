-- What the shadowed challenger would have said beside the champion: counted by hour of event time, and kept where
-- the severities differ. Bundles by id.
CREATE TABLE challenger_hourly (
    account_id text NOT NULL,
    hour timestamptz NOT NULL,
    champion text NOT NULL,
    challenger text NOT NULL,
    severity smallint NOT NULL,
    challenger_severity smallint NOT NULL,
    transactions bigint NOT NULL,
    PRIMARY KEY (account_id, hour, champion, challenger, severity, challenger_severity)
);

CREATE TABLE challenger_differences (
    account_id text NOT NULL,
    challenger text NOT NULL,
    champion text NOT NULL,
    ts timestamptz NOT NULL,
    user_id text NOT NULL,
    tx_id text NOT NULL,
    amount numeric NOT NULL,
    currency text NOT NULL,
    severity smallint NOT NULL,
    challenger_severity smallint NOT NULL,
    score real,
    challenger_score real,
    rule_flags text[] NOT NULL,
    challenger_flags text[] NOT NULL,
    PRIMARY KEY (account_id, challenger, ts, user_id, tx_id)
);
