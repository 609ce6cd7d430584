-- Uploaded files on their way to the log, the rows of them that were refused, and labels by transaction.

CREATE TABLE uploads (
    upload_id text PRIMARY KEY,
    account_id text NOT NULL,
    name text NOT NULL,                       -- as the sender calls the file
    sha256 text NOT NULL,                     -- of the bytes as they came
    bytes bigint NOT NULL,
    parts integer NOT NULL,                   -- objects under uploads/<upload_id>/
    state text NOT NULL CHECK (state IN ('waiting', 'started', 'running', 'done', 'failed')),
    attempt integer NOT NULL DEFAULT 0,       -- grows each time somebody is asked to work it off
    mapping jsonb,                            -- null until a guess was good enough or somebody gave one
    rows_total bigint,                        -- null until the whole file was read
    rows_read bigint NOT NULL DEFAULT 0,
    rows_accepted bigint NOT NULL DEFAULT 0,
    rows_refused bigint NOT NULL DEFAULT 0,
    rows_published bigint NOT NULL DEFAULT 0, -- in event-time order; a retry goes on behind them
    rows_scored bigint NOT NULL DEFAULT 0,    -- at least so many were judged
    note text,                                -- what it is doing or waiting for
    error text,                               -- why it failed
    run_id text,                              -- of the orchestrator
    created_by text NOT NULL,                 -- key
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    seen_at timestamptz,                      -- last sign of life of who works it off
    finished_at timestamptz,
    UNIQUE (account_id, sha256)
);
CREATE INDEX uploads_account ON uploads (account_id, created_at DESC, upload_id);
CREATE INDEX uploads_open ON uploads (created_at) WHERE state IN ('started', 'running');

CREATE TABLE upload_errors (
    upload_id text NOT NULL REFERENCES uploads ON DELETE CASCADE,
    line bigint NOT NULL,                     -- of the file, from 1
    column_name text NOT NULL,                -- empty: the row as a whole
    reason text NOT NULL,
    raw text NOT NULL,                        -- the line as it came, cut at a limit
    PRIMARY KEY (upload_id, line, column_name)
);

-- A chargeback often names the transaction only: user_id is then empty.
CREATE INDEX labels_by_tx ON labels (account_id, tx_id, recorded_at DESC);
