-- What each night's fit of the alert budget found for an account, in force from that day (UTC) on.
CREATE TABLE budget_days (
    account_id text NOT NULL,
    day date NOT NULL,
    cases_per_day double precision,           -- null once the policy has no budget any more
    severity smallint NOT NULL,               -- cases of at least this severity count
    threshold double precision,               -- of risk; null while there is too little history
    expected double precision,                -- cases a day that it would have shown on the days of the fit
    days integer NOT NULL,
    says text NOT NULL,
    fitted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, day)
);
