-- What the scores of a series, and the values before they are judged, were made by; 0: not known. Another number than
-- that of its settings has the series taken again.
ALTER TABLE metric_series ADD COLUMN judged_by bigint NOT NULL DEFAULT 0, ADD COLUMN shaped_by bigint NOT NULL DEFAULT 0;
-- What a batch's values are read by since a time; those before were read by something else. 0 and null: not known.
ALTER TABLE metric_batches ADD COLUMN read_by bigint NOT NULL DEFAULT 0, ADD COLUMN read_since timestamptz;
