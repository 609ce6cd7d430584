-- Profiles of whole days: what every user, merchant, device, address and country did, as of the end of a day. A version
-- is never changed; its file lies in the object store, which is what verdicts are made from. Here it can be asked.
CREATE TABLE profile_versions (
    version text PRIMARY KEY,                 -- sha256:... as the log and verdicts name it
    day date NOT NULL,                        -- the last day in it (UTC)
    as_of timestamptz NOT NULL,               -- first moment of the day after
    computed_at timestamptz NOT NULL DEFAULT now(),
    transactions bigint NOT NULL,             -- of its 90 days
    entities integer NOT NULL,
    file_bytes bigint NOT NULL
);
CREATE INDEX profile_versions_as_of ON profile_versions (as_of DESC, computed_at DESC);

-- Of the newest days only (learning/daily.py says how many).
CREATE TABLE entity_profiles (
    version text NOT NULL REFERENCES profile_versions ON DELETE CASCADE,
    account_id text NOT NULL,
    entity text NOT NULL,                     -- user, merchant, device, ip, country
    id text NOT NULL,
    first_seen timestamptz NOT NULL,
    tx_count_1d real NOT NULL, tx_count_7d real NOT NULL, tx_count_30d real NOT NULL, tx_count_90d real NOT NULL,
    amount_sum_1d real NOT NULL, amount_sum_7d real NOT NULL, amount_sum_30d real NOT NULL, amount_sum_90d real NOT NULL,
    amount_mean_1d real, amount_mean_7d real, amount_mean_30d real, amount_mean_90d real,
    amount_median_1d real, amount_median_7d real, amount_median_30d real, amount_median_90d real,
    amount_p95_1d real, amount_p95_7d real, amount_p95_30d real, amount_p95_90d real,
    fraud_count_1d real NOT NULL, fraud_count_7d real NOT NULL, fraud_count_30d real NOT NULL, fraud_count_90d real NOT NULL,
    fraud_share_1d real NOT NULL, fraud_share_7d real NOT NULL, fraud_share_30d real NOT NULL, fraud_share_90d real NOT NULL,
    PRIMARY KEY (version, account_id, entity, id)
);
