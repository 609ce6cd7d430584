"""What BigQuery is asked, and in which order: a dry run first, a limit on what is billed, an end to what takes too long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from anomalyze.errors import ConfigError, TransientError
from tests.test_metrics.benches.bench import ROWS
from tests.test_metrics.benches.bigquery import BigQuery
from tests.test_metrics.servers import Servers


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Servers) -> Iterator[BigQuery]:
    with ExitStack() as stack:
        made = BigQuery(tmp_path, monkeypatch, stack, servers)
        made.store(ROWS)
        yield made


def test_a_query_is_tried_dry_then_begun_with_its_values_and_a_limit_on_what_is_billed(
    bench: BigQuery,
) -> None:
    document = bench.batch(bytes_billed_max=1_000) | {
        "params": {"n": 2, "rate": 0.5, "yes": True, "text": "a'b"}
    }
    document["sql"] += " AND :n = 2 AND :rate < 1 AND :yes AND :text <> ''"
    bench.read(document)
    dry, begun = (job["configuration"] for job in bench.jobs.values())
    assert (dry["dryRun"], begun.get("dryRun", False)) == (True, False)
    for configuration in (dry, begun):
        asked = configuration["query"]
        assert (asked["maximumBytesBilled"], asked["useLegacySql"]) == ("1000", False)
        assert "ts >= @start AND ts < @end AND @n = 2" in asked["query"]
        assert {one["name"]: one["parameterType"]["type"] for one in asked["queryParameters"]} == {
            "start": "TIMESTAMP",
            "end": "TIMESTAMP",
            "n": "INT64",
            "rate": "FLOAT64",
            "yes": "BOOL",
            "text": "STRING",
        }


def test_what_would_write_is_never_begun(bench: BigQuery) -> None:
    with pytest.raises(ConfigError, match="expected one SELECT, got DELETE"):
        bench.read(bench.batch() | {"sql": bench.writes[0]})
    assert bench.begun == []


def test_what_takes_too_long_is_cancelled(bench: BigQuery) -> None:
    with pytest.raises(TransientError, match="longer than 1 s"):
        bench.read(bench.slow())
    assert len(bench.cancelled) == 1
    assert bench.jobs[bench.cancelled[0]]["status"]["state"] == "RUNNING"
