-- What counts anomalies asks which detector judged as well: with it in the index the scores themselves are not read.
CREATE INDEX metric_scores_counted ON metric_scores (batch, ts, metric) INCLUDE (detector, version) WHERE severity > 0;
DROP INDEX metric_scores_strange;
