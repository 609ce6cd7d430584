"""Sources that are asked over HTTP: ClickHouse and Prometheus, by their recorded words, and a real Prometheus."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import socket
import threading
import time
from pathlib import Path

import pytest

from anomalyze.errors import ConfigError, TransientError
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from anomalyze.metrics.window import Window
from tests.test_metrics.benches import START, WINDOW, hour
from tests.test_metrics.benches.web import SAMPLES
from tests.test_metrics.servers import PASSWORD, USER, Missing, Servers
from tests.test_metrics.web import web_server


def test_clickhouse_keeps_the_limits_and_gets_values_as_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against words recorded of ClickHouse's HTTP interface."""
    asked: list[tuple[str, dict[str, str], dict[str, str], str]] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        asked.append((path, query, headers, body))
        if "nowhere" in body:
            return (
                404,
                "Code: 60. hush-hush DB::Exception: Table shop.nowhere does not exist. (UNKNOWN_TABLE)",
            )
        return 200, json.dumps(
            {
                "meta": [{"name": "timestamp", "type": "DateTime"}, {"name": "orders", "type": "UInt64"}],
                "data": [["2025-11-03T01:00:00Z", 12]],
                "rows": 1,
            }
        )

    (tmp_path / "metrics").mkdir()
    file = tmp_path / "metrics" / "one.yaml"
    document = {
        "source": {"kind": "clickhouse", "url": "ANOMALYZE_SOURCE_CH", "timeout_s": 7, "rows_max": 10},
        "sql": "SELECT t AS timestamp, count() AS orders FROM x WHERE t >= :start AND shop = :shop GROUP BY t;",
        "params": {"shop": "a\tb"},
    }
    with web_server(answer) as address:
        monkeypatch.setenv("ANOMALYZE_SOURCE_CH", address.replace("://", "://reader:hush-hush@") + "/shop")
        file.write_text(json.dumps(document))
        assert read(load_batches(tmp_path, {}).batches["one"], WINDOW).frame.rows() == [
            ("orders", hour(1), 12.0)
        ]
        file.write_text(json.dumps(document | {"sql": "SELECT 1 FROM nowhere"}))
        with pytest.raises(ConfigError, match=r"60\. … DB::Exception.*UNKNOWN_TABLE"):
            read(load_batches(tmp_path, {}).batches["one"], WINDOW)
    path, query, headers, body = asked[0]
    assert path == "/"
    assert headers["Authorization"] == "Basic cmVhZGVyOmh1c2gtaHVzaA=="
    assert query["readonly"] == "2"
    assert (query["max_execution_time"], query["max_result_rows"], query["database"]) == ("7", "11", "shop")
    assert (query["param_shop"], query["param_start"]) == ("a\\tb", "2025-11-03 00:00:00.000")
    assert "t >= {start:DateTime64(3,'UTC')} AND shop = {shop:String} GROUP BY t\nFORMAT JSONCompact" in body


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Code: 159. DB::Exception: Timeout exceeded: elapsed 1.2 s. (TIMEOUT_EXCEEDED)", TransientError),
        (
            "Code: 395. DB::Exception: hush-hush is not zero. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)",
            ConfigError,
        ),
    ],
)
def test_an_error_of_clickhouse_in_the_midst_of_an_answer_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    (tmp_path / "metrics").mkdir()
    document = {"source": {"kind": "clickhouse", "url": "ANOMALYZE_SOURCE_CH"}, "sql": "SELECT 1 AS a"}
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
    begun = '{"meta": [{"name": "a", "type": "UInt8"}], "data": [[1],\n'
    with web_server(lambda *_: (200, begun + said)) as address:
        monkeypatch.setenv("ANOMALYZE_SOURCE_CH", address.replace("://", "://reader:hush-hush@"))
        with pytest.raises(kind, match=said[:26].replace(".", r"\.")) as told:
            read(load_batches(tmp_path, {}).batches["one"], WINDOW)
    assert "hush-hush" not in str(told.value)


def test_an_answer_that_drips_is_ended(tmp_path: Path) -> None:
    """Each byte comes in time; all of them do not."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(100):
                connection.sendall(b"1")
                time.sleep(0.1)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    (tmp_path / "metrics").mkdir()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    document = {"source": {"kind": "http", "url": address, "timeout_s": 1}}
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
    with listener, pytest.raises(TransientError, match="longer than 1 s"):
        read(load_batches(tmp_path, {}).batches["one"], WINDOW)


def test_labels_of_prometheus_become_part_of_the_name(tmp_path: Path) -> None:
    recorded = (
        '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"prometheus",'
        '"instance":"localhost:9090"},"values":[[1762128000,"1"],[1762131600,"+Inf"]]},{"metric":{"instance":'
        '"localhost:9091","job":"node"},"values":[[1762128000,"0"]]}]}}'
    )
    (tmp_path / "metrics").mkdir()
    asked: list[dict[str, str]] = []

    def answer(path: str, query: dict[str, str], headers: dict[str, str], body: str) -> tuple[int, str]:
        asked.append(query)
        return 200, recorded

    with web_server(answer) as address:
        document = {"source": {"kind": "prometheus", "url": address, "timeout_s": 7, "queries": {"up": "up"}}}
        (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
        found = read(load_batches(tmp_path, {}).batches["one"], WINDOW)
    assert found.frame.rows() == [
        ('up{instance="localhost:9090",job="prometheus"}', hour(0), 1.0),
        ('up{instance="localhost:9090",job="prometheus"}', hour(1), None),
        ('up{instance="localhost:9091",job="node"}', hour(0), 0.0),
    ]
    assert math.isfinite(found.frame["value"].drop_nulls().sum())
    assert [query["timeout"] for query in asked] == ["7s"]


def test_a_real_prometheus_is_asked_in_parts_it_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Servers
) -> None:
    try:
        host = servers.prometheus(SAMPLES)
    except Missing as missing:
        pytest.skip(str(missing))
    monkeypatch.setenv("ANOMALYZE_SOURCE_PROM", f"http://{USER}:{PASSWORD}@{host}")
    (tmp_path / "metrics").mkdir()
    queries = {"const": 'label_replace(vector(3), "shop", "a", "", "")', "clock": "time()"}
    document = {
        "source": {"kind": "prometheus", "url": "ANOMALYZE_SOURCE_PROM", "queries": queries},
        "step": "1m",
    }
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
    # More points than Prometheus gives in one answer.
    window = Window(START, START + dt.timedelta(minutes=12_000), dt.timedelta(minutes=1))
    frame = read(load_batches(tmp_path, {}).batches["one"], window).frame
    assert len(frame) == 24_000
    assert set(frame["metric"]) == {'const{shop="a"}', "clock"}
    clock = frame.filter(frame["metric"] == "clock")
    assert clock["value"].to_list() == (clock["timestamp"].dt.epoch("s")).to_list()
