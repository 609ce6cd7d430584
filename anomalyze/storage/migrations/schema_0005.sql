-- Tables of other systems that are polled: how far each was read, and its rows that were refused.

CREATE TABLE sources (
    name text PRIMARY KEY,                    -- of metrics_config/sources/<name>.yaml
    account_id text NOT NULL,
    identity text NOT NULL,                   -- table and cursor that the position belongs to
    table_name text NOT NULL,                 -- for people
    active boolean NOT NULL DEFAULT true,     -- false: its file is gone
    position jsonb,                           -- cursor and tie-break of the last row that the log has; null: none yet
    safe jsonb,                               -- rows up to this cursor were surely committed; null: not known yet
    bound jsonb,                              -- largest cursor that was there at bound_at: safe once the lag has passed
    bound_at timestamptz,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_published bigint NOT NULL DEFAULT 0,
    rows_refused bigint NOT NULL DEFAULT 0,
    looked_at timestamptz,                    -- last look that the table answered
    read_at timestamptz,                      -- last rows
    error text,                               -- why it cannot be read; null when it can
    failures integer NOT NULL DEFAULT 0,      -- in a row
    next_at timestamptz NOT NULL DEFAULT now(),
    run_id text                               -- of the orchestrator
);
CREATE INDEX sources_account ON sources (account_id, name);

CREATE TABLE source_errors (
    error_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL REFERENCES sources (name) ON DELETE CASCADE,
    account_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    column_name text NOT NULL,                -- empty: the row as a whole
    reason text NOT NULL,
    raw text NOT NULL                         -- the row as JSON, cut at a limit
);
CREATE INDEX source_errors_source ON source_errors (source, error_id DESC);
