"""Foreign files through the detector: mapping, order, labels, figures; and the same from PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import psycopg
import pytest

from anomalyze.backtest.mapping import ColumnMapping, SourceChunk, load_mapping, read_file
from anomalyze.backtest.report import summarise
from anomalyze.backtest.run import Replay, run_backtest
from anomalyze.backtest.stored import read_stored
from anomalyze.config import ConfigProblems
from anomalyze.detection.detector import Detector
from anomalyze.detection.training import build_bundle
from anomalyze.errors import ConfigError
from anomalyze.ingestion.mapping import FileMapping
from anomalyze.ingestion.parse import parse_file
from anomalyze.ingestion.records import Source
from anomalyze.simulation.record import flat_records
from anomalyze.simulation.world import Simulation
from anomalyze.storage.migrate import migrate

REPOSITORY = Path(__file__).parents[2]
START_MS = 1_760_054_400_000
DAYS = 40
FIELDS = {
    "tx_id": "id",
    "user_id": "customer",
    "timestamp": "at",
    "amount": "paid",
    "currency": "code",
    "merchant_id": "shop",
    "channel": "channel",
    "latitude": "lat",
    "longitude": "lon",
    "status": "status",
}


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    rows = []
    for chunk in Simulation(120, 4, START_MS, DAYS, incidents_per_10k=40.0).chunks():
        for body, label in zip(flat_records(chunk, "x"), chunk.label.tolist(), strict=True):
            flat = msgspec.json.decode(body)
            names = {**FIELDS, "amount": "paid"}
            rows.append(
                {column: flat.get(field) for field, column in names.items()} | {"bad": int(label > 0)}
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def test_days_are_days_on_every_way(tmp_path: Path) -> None:
    """A file judged as an upload's rows and as a backtest's: the same features, to the bit."""
    path = tmp_path / "days.csv"
    lines = [
        f"t{i},u{i % 3},2025-{1 + i // 60:02d}-{1 + i // 3 % 20 + 1:02d},{i % 50 + 1}.25,USD"
        for i in range(180)
    ]
    path.write_text("id,who,on,much,code\n" + "\n".join(lines) + "\n")
    fields = {"tx_id": "id", "user_id": "who", "timestamp": "on", "amount": "much", "currency": "code"}
    detector = Detector(build_bundle(REPOSITORY / "metrics_config"))

    def features(users: list[str], times: list[int], values: list[bytes]) -> np.ndarray:
        replay = Replay(detector)
        batch = replay.decode(SourceChunk(users, times, values, [-1] * len(users)))
        assert batch.day_only.all()
        return replay.detector.process(batch, replay.states).features

    mapping = ColumnMapping.of_options([f"{f}={c}" for f, c in fields.items()] + ["time_resolution='day'"])
    (chunk,) = read_file(path, mapping, "acct")
    tested = features(chunk.users, chunk.append_ms, chunk.values)
    source = Source("acct", "d", 1 << 42, 0)
    (part,) = parse_file(path, FileMapping(fields=fields, time_resolution="day"), source)
    rows = part.frame.sort("ts", "line")
    sent = features(rows["user"].to_list(), rows["ts"].to_list(), rows["value"].cast(pl.Binary).to_list())
    assert tested.tobytes() == sent.tobytes()
    hours = detector.spec.index("user_tx_count_1h")
    assert np.isnan(sent[:, hours]).all()


@pytest.fixture(scope="module")
def csv(table: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "history.csv"
    table.sample(fraction=1.0, shuffle=True, seed=1).write_csv(path)  # a file need not be in order
    return path


MAPPING = ColumnMapping(fields=FIELDS, label="bad")


def test_a_file_is_judged_trained_on_and_counted(csv: Path, table: pl.DataFrame) -> None:
    bundle = build_bundle(REPOSITORY / "metrics_config")
    middle = START_MS + 25 * 86_400_000
    seen: list[int] = []
    findings, judge = run_backtest(
        read_file(csv, MAPPING, "acct", chunk_rows=1_000),
        bundle,
        train_until_ms=middle,
        start_ms=middle,
        progress=seen.append,
    )
    report = summarise(findings)
    assert sum(seen) == len(table)
    assert judge.kind == "trained"
    assert report["dead_letters"] == 0
    assert report["days"] == DAYS - 25
    later = table.filter(
        pl.col("at").str.to_datetime(time_zone="UTC") >= datetime.fromtimestamp(middle / 1000, UTC)
    )
    assert report["transactions"] == len(later)
    assert report["frauds"] == later["bad"].sum() > 20
    # The way back home from an impossible place is impossible too, and labelled ordinary.
    assert report["rules"]["GEO_IMPOSSIBLE"]["precision"] >= 0.4
    assert report["severity"]["MEDIUM"]["recall"] > 0.5
    assert report["severity"]["LOW"]["10k"] >= report["severity"]["MEDIUM"]["10k"]
    assert report["model"]["average_precision"] > 5 * later["bad"].mean()
    assert 0 < report["cases_day"] < report["anomalies_day"]


def test_bad_rows_are_counted_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,who,at,paid\n1,u,2025-01-01T10:00:00,5.00\n2,u,2025-01-02T10:00:00,5.001\n")
    options = ["tx_id=id", "user_id=who", "timestamp=at", "amount=paid", "currency='USD'"]
    bundle = build_bundle(REPOSITORY / "metrics_config")
    findings, _ = run_backtest(read_file(path, ColumnMapping.of_options(options), "acct"), bundle)
    assert (findings.rows, findings.dead_total) == (1, 1)
    assert findings.dead[0].field == "data.amount"
    report = summarise(findings)
    assert report["severity"]["LOW"]["precision"] is None
    assert "model" not in report


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["tx_id=id"], "user_id"),
        (["colour=c"], "colour"),
        (["tx_id"], "field=column"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(options: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ColumnMapping.of_options(options)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id\n1\n")
    with pytest.raises(ConfigError, match="customer"):
        list(read_file(path, MAPPING, "acct"))
    with pytest.raises(ConfigError, match="CSV or parquet"):
        list(read_file(tmp_path / "none.csv", MAPPING, "acct"))


def test_times_without_offset_take_the_mappings_zone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,who,at,paid\n1,u,2025-07-01 10:00:00,5.00\n")
    options = ["tx_id=id", "user_id=who", "timestamp=at", "amount=paid", "currency='EUR'"]
    mapping = ColumnMapping.of_options([*options, "time_zone=Europe/Berlin"])
    (chunk,) = read_file(path, mapping, "acct")
    assert msgspec.json.decode(chunk.values[0])["meta"]["timestamp"] == "2025-07-01T08:00:00.000Z"


@pytest.mark.parametrize("name", ["fdh", "sparkov"])
def test_the_shipped_mappings_are_valid(name: str) -> None:
    assert load_mapping(REPOSITORY / "benchmarks" / "mappings" / f"{name}.yaml").label


def test_a_mistake_in_a_mapping_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("fields:\n  tx_id: a\nlabell: b\n")
    with pytest.raises(ConfigProblems, match=r"m\.yaml:3"):
        load_mapping(path)


def test_stored_transactions_come_in_the_order_of_their_log(empty_database: str) -> None:
    migrate(empty_database)
    at = datetime(2025, 12, 20, 12, tzinfo=UTC)
    with psycopg.connect(empty_database) as connection:
        connection.execute("INSERT INTO accounts VALUES ('acct', 'A'), ('other', 'B') ON CONFLICT DO NOTHING")
        connection.execute("CREATE TABLE everything PARTITION OF transactions DEFAULT")
        for offset, (tx, account) in enumerate((("b", "acct"), ("a", "acct"), ("c", "other"))):
            connection.execute(
                """INSERT INTO transactions (account_id, user_id, ts, tx_id, amount, currency, status, severity,
                action, src_partition, src_offset, source, bundle, data, enrichment, analysis, verdict)
                VALUES (%s, 'u', %s, %s, 5, 'USD', 0, 0, 0, 0, %s, 'CSV', 'x', %s, '{}', '{}', '{}')""",
                (
                    account,
                    at,
                    tx,
                    offset,
                    msgspec.json.encode({"tx_id": tx, "amount": 5, "currency": "USD"}).decode(),
                ),
            )
        for fraud in (False, True):
            connection.execute(
                """INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by)
                VALUES ('acct', 'u', 'a', %s, now(), 'analyst', 'me')""",
                (fraud,),
            )
    (chunk,) = read_stored(empty_database, "acct", 0, 4_000_000_000_000)
    assert [msgspec.json.decode(v)["data"]["tx_id"] for v in chunk.values] == ["b", "a"]
    assert chunk.labels == [-1, 1]
    bundle = build_bundle(REPOSITORY / "metrics_config")
    assert run_backtest(iter([chunk]), bundle)[0].rows == 2
