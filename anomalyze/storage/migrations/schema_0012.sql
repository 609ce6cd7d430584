-- Event times of an upload's first and last good row: where its transactions and cases are found. Null: not read yet.
ALTER TABLE uploads ADD COLUMN first_ts timestamptz;
ALTER TABLE uploads ADD COLUMN last_ts timestamptz;
