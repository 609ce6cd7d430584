"""Objects in S3 through DuckDB, from a real server of the protocol; by the engines' DuckDB, whose extension is a package."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from anomalyze.metrics.library import load_batches
from anomalyze.metrics.source_file import S3Access
from anomalyze.metrics.sources.duckdb import s3_secret
from tests.system_packages import ROOT, engines_python
from tests.test_metrics.benches import START

KEY_ID, SECRET = "hush-id", "hush's secret"
ACCESS = {"key_id": "ANOMALYZE_SOURCE_ID", "secret": "ANOMALYZE_SOURCE_SECRET", "region": "us-east-1"}
OBJECTS = "SELECT * FROM 's3://shop/orders/*.parquet'"
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """``host:port`` of S3-compatible storage without TLS, with one parquet file in the bucket ``shop``."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="shop")
        body = io.BytesIO()
        pl.DataFrame({"timestamp": [START], "orders": [12.0]}).write_parquet(body)
        client.put_object(Bucket="shop", Key="orders/one.parquet", Body=body.getvalue())
        yield f"{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def answers(storage: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Of one program that reads all batches of these tests, by their names."""
    folder, home = tmp_path_factory.mktemp("s3"), tmp_path_factory.mktemp("home")
    write(folder / "there", f"http://{storage}", OBJECTS)
    write(folder / "not_there", f"http://{storage}", "SELECT * FROM 's3://shop/none/*.parquet'")
    # Storage without TLS, asked with it.
    write(folder / "silent", storage, OBJECTS)
    environment = os.environ | {"ANOMALYZE_SOURCE_ID": KEY_ID, "ANOMALYZE_SOURCE_SECRET": SECRET}
    python, site = engines_python(), ""
    if python is not None:
        site = str(next((python.parents[1] / "lib").glob("python*/site-packages")))
        environment |= {"HOME": str(home)}
    elif not has_httpfs():
        pytest.skip("DuckDB's extension httpfs is not installed: python -m tests.system_packages fetches it")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "engines" / "read_batches.py"), site, str(folder)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Answer] = json.loads(done.stdout)
    return found


def has_httpfs() -> bool:
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
            connection.execute("LOAD httpfs")
    except duckdb.Error:
        return False
    return True


def write(folder: Path, endpoint: str, sql: str) -> None:
    (folder / "metrics").mkdir(parents=True)
    document = {"source": {"kind": "duckdb", "s3": ACCESS | {"endpoint": endpoint}}, "sql": sql}
    (folder / "metrics" / "one.yaml").write_text(json.dumps(document))


def test_objects_are_tables(answers: dict[str, Answer]) -> None:
    assert answers["there"] == {"rows": [["orders", START.isoformat(), 12.0]]}


def test_objects_that_are_not_there_wait_for_their_owner(answers: dict[str, Answer]) -> None:
    assert answers["not_there"]["error"] == "ConfigError"
    assert "No files found" in answers["not_there"]["said"]
    assert "s3://shop/none" in answers["not_there"]["said"]


def test_a_host_that_does_not_answer_is_asked_again_later(answers: dict[str, Answer]) -> None:
    assert answers["silent"]["error"] == "TransientError"
    assert "does not answer" in answers["silent"]["said"]
    assert "hush" not in answers["silent"]["said"]


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
def test_tls_is_left_out_only_where_the_address_says_so(
    endpoint: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALYZE_SOURCE_ID", KEY_ID)
    monkeypatch.setenv("ANOMALYZE_SOURCE_SECRET", SECRET)
    secrets: list[str] = []
    text = s3_secret(S3Access.model_validate(ACCESS | {"endpoint": endpoint}), secrets)
    assert said in text
    assert "SECRET 'hush''s secret'" in text
    assert secrets == ["hush-id", "hush's secret"]


def test_an_endpoint_is_a_host(tmp_path: Path) -> None:
    write(tmp_path, "http://a/b'c", OBJECTS)
    assert any("endpoint" in str(one) for one in load_batches(tmp_path, {}).problems)
