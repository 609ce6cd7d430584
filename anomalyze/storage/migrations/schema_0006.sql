-- What accounts say of how they are judged: every version, never changed but for the bundle that first had it.
CREATE TABLE account_versions (
    account_id text NOT NULL REFERENCES accounts,
    version integer NOT NULL CHECK (version > 0),
    document jsonb NOT NULL,
    changes jsonb NOT NULL DEFAULT '[]',      -- what differs from the version before, a line each
    saved_at timestamptz NOT NULL DEFAULT now(),
    saved_by text NOT NULL,
    note text NOT NULL DEFAULT '',
    bundle text,                              -- null until a champion has it
    PRIMARY KEY (account_id, version)
);

-- Changes of lists in their order; the newest of an entry says whether it is on the list. Each is told to every
-- partition of the log, in this order.
CREATE TABLE list_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts,
    op text NOT NULL,                         -- add, remove
    list text NOT NULL,
    field text NOT NULL,
    value text NOT NULL,
    expires_at timestamptz,
    note text NOT NULL DEFAULT '',
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL,
    told boolean NOT NULL DEFAULT false
);
CREATE INDEX list_changes_entry ON list_changes (account_id, list, field, value, change_id DESC);
CREATE INDEX list_changes_untold ON list_changes (change_id) WHERE NOT told;
