"""Objects in S3 through DuckDB, from a real server of the protocol; where DuckDB's extension httpfs is installed."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from anomalyze.errors import ConfigError, TransientError
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.source_file import S3Access
from anomalyze.metrics.sources import Reading, read
from anomalyze.metrics.sources.duckdb import s3_secret
from anomalyze.metrics.window import Window

START = dt.datetime(2025, 11, 3, tzinfo=dt.UTC)
WINDOW = Window(START, START + dt.timedelta(hours=4), dt.timedelta(hours=1))
ACCESS = {"key_id": "ANOMALYZE_SOURCE_ID", "secret": "ANOMALYZE_SOURCE_SECRET", "region": "us-east-1"}
OBJECTS = "SELECT * FROM 's3://shop/orders/*.parquet'"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYZE_SOURCE_ID", "hush-id")
    monkeypatch.setenv("ANOMALYZE_SOURCE_SECRET", "hush's secret")


@pytest.fixture
def storage() -> Iterator[str]:
    """``host:port`` of S3-compatible storage without TLS, with one parquet file in the bucket ``shop``."""
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
            connection.execute("LOAD httpfs")
    except duckdb.Error:
        pytest.skip("DuckDB's extension httpfs is not installed")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="hush-id",
            aws_secret_access_key="hush's secret",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="shop")
        body = io.BytesIO()
        pl.DataFrame({"timestamp": [START], "orders": [12.0]}).write_parquet(body)
        client.put_object(Bucket="shop", Key="orders/one.parquet", Body=body.getvalue())
        yield f"{host}:{port}"
    finally:
        server.stop()


def reading(folder: Path, endpoint: str, sql: str = OBJECTS) -> Reading:
    (folder / "metrics").mkdir(exist_ok=True)
    document = {"source": {"kind": "duckdb", "s3": ACCESS | {"endpoint": endpoint}}, "sql": sql}
    (folder / "metrics" / "one.yaml").write_text(json.dumps(document))
    return read(load_batches(folder, {}).batches["one"], WINDOW)


def test_objects_are_tables(tmp_path: Path, storage: str) -> None:
    assert reading(tmp_path, f"http://{storage}").frame.rows() == [("orders", START, 12.0)]


def test_objects_that_are_not_there_wait_for_their_owner(tmp_path: Path, storage: str) -> None:
    with pytest.raises(ConfigError, match=r"No files found.*s3://shop/none"):
        reading(tmp_path, f"http://{storage}", "SELECT * FROM 's3://shop/none/*.parquet'")


def test_a_host_that_does_not_answer_is_asked_again_later(tmp_path: Path, storage: str) -> None:
    """Storage without TLS, asked with it."""
    with pytest.raises(TransientError, match="does not answer") as caught:
        reading(tmp_path, storage)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("storage.example.com", "ENDPOINT 'storage.example.com', URL_STYLE 'path', USE_SSL True"),
        (
            "https://storage.example.com:9000",
            "ENDPOINT 'storage.example.com:9000', URL_STYLE 'path', USE_SSL True",
        ),
        ("http://127.0.0.1:9000", "ENDPOINT '127.0.0.1:9000', URL_STYLE 'path', USE_SSL False"),
        (None, "REGION 'us-east-1')"),
    ],
)
def test_tls_is_left_out_only_where_the_address_says_so(endpoint: str | None, said: str) -> None:
    secrets: list[str] = []
    text = s3_secret(S3Access.model_validate(ACCESS | {"endpoint": endpoint}), secrets)
    assert said in text
    assert "SECRET 'hush''s secret'" in text
    assert secrets == ["hush-id", "hush's secret"]


def test_an_endpoint_is_a_host(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    document = {"source": {"kind": "duckdb", "s3": ACCESS | {"endpoint": "http://a/b'c"}}, "sql": OBJECTS}
    (tmp_path / "metrics" / "one.yaml").write_text(json.dumps(document))
    assert any("endpoint" in str(one) for one in load_batches(tmp_path, {}).problems)
