-- Anomalies alone, for what counts them: a hundredth of the scores.
CREATE INDEX metric_scores_strange ON metric_scores (batch, ts, metric) WHERE severity > 0;
