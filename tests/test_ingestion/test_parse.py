"""Files of every kind become records of the log; what is no transaction is refused by line, column and reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyze.errors import ConfigError
from anomalyze.events.schema import parse_record
from anomalyze.ingestion.container import unpack
from anomalyze.ingestion.guess import guess_file
from anomalyze.ingestion.mapping import FileMapping, parse_mapping
from anomalyze.ingestion.order import OrderedRows
from anomalyze.ingestion.parse import Chunk, parse_file
from anomalyze.ingestion.records import Source, build_records
from anomalyze.ingestion.split import split_records

NOW_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
SOURCE = Source("acct_7", "ab" * 32, NOW_MS, 300_000)
PLAIN = {"tx_id": "id", "user_id": "user", "timestamp": "time", "amount": "amount", "currency": "currency"}


def mapping(**changes: Any) -> FileMapping:
    return FileMapping(**{"fields": PLAIN, **changes})


def parse(folder: Path, text: str | bytes, used: FileMapping | None = None) -> Chunk:
    """A file through unpacking and parsing, as one chunk."""
    path = unpack([text.encode() if isinstance(text, str) else text], folder)
    chunks = list(parse_file(path, used or mapping(), SOURCE))
    return Chunk(
        pl.concat(
            [
                build_records(pl.DataFrame(), np.empty(0, np.int64), mapping(), SOURCE).frame,
                *(chunk.frame for chunk in chunks),
            ]
        ),
        [error for chunk in chunks for error in chunk.errors],
        sum(chunk.rows for chunk in chunks),
    )


def data(chunk: Chunk) -> list[dict[str, Any]]:
    return [json.loads(value)["data"] for value in chunk.frame["value"]]


def test_a_file_with_everything_in_it(tmp_path: Path) -> None:
    chunk = parse(
        tmp_path,
        "id;customer;datum;betrag;waehrung;shop;status\r\n"
        't1;u1;24.12.2025 12:00;1.234,50;EUR;"a ""x"" b";ok\r\n'
        't2;u2;31.01.2025 12:00;-4,50;EUR;5" pipe;declined\r\n'
        "\r\n"
        "t3;;13.12.2025 12:00;4,50;EUR;q;ok\r\n"
        "t4;u;13.12.2025 99:00;4,50;EUR;q;ok\r\n"
        "t5;u;13.12.2025 11:00;4,5x;EUR;q;ok\r\n"
        "t6;u;13.12.2025 11:00;4,567;EUR;q;ok\r\n"
        "t7;u;13.12.2025 11:00;4,5;EUR;q;ok;extra\r\n"
        't8;u;13.12.2025 11:00;4,5;EUR;"multi\r\nline";ok\r\n'
        't9;u;13.12.2025 11:00;4,5;EUR;"never closed;ok\r\n'
        "t10;u;13.12.2025 11:00;4,5;EUX;q;ok\r\n",
        FileMapping(
            fields={
                "tx_id": "id",
                "user_id": "customer",
                "timestamp": "datum",
                "amount": "betrag",
                "currency": "waehrung",
                "merchant_id": "shop",
                "status": "status",
            },
            delimiter=";",
            decimal=",",
            time_format="%d.%m.%Y %H:%M",
            time_zone="Europe/Berlin",
        ),
    )
    assert chunk.rows == 10
    assert [(row["tx_id"], row["amount"], row["merchant_id"], row["status"]) for row in data(chunk)] == [
        ("t1", 1234.5, 'a "x" b', "approved"),
        ("t2", -4.5, '5" pipe', "declined"),
        ("t8", 4.5, "multi\r\nline", "approved"),
    ]
    assert chunk.frame["line"].to_list() == [2, 3, 10]
    assert json.loads(chunk.frame["value"][0])["meta"]["timestamp"] == "2025-12-24T11:00:00.000Z"
    assert [(e.line, e.column, e.reason) for e in chunk.errors] == [
        (5, "customer", "user_id: expected a value, got nothing"),
        (6, "datum", "timestamp: expected a time as %d.%m.%Y %H:%M, got 13.12.2025 99:00"),
        (7, "betrag", "amount: expected a number, got 4,5x"),
        (8, "betrag", "amount: expected at most 2 decimals for EUR, got 4.567"),
        (9, "", "row: expected 7 columns, got 8"),
        (12, "", "row: expected 7 columns, got 6"),
        (13, "waehrung", "currency: expected an ISO 4217 code such as USD, got EUX"),
    ]
    assert chunk.errors[4].raw == "t7;u;13.12.2025 11:00;4,5;EUR;q;ok;extra"


HEAD = "id,user,time,amount,currency\n"
ROW = "t1,u1,2025-12-20T12:00:00Z,12.50,USD\n"
RECORD = {"tx_id": "t1", "amount": 12.5, "currency": "USD"}


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    time = datetime(2025, 12, 20, 12, tzinfo=UTC)
    pl.DataFrame(
        {"id": ["t1"], "user": ["u1"], "time": [time], "amount": [12.5], "currency": ["USD"]}
    ).write_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        (HEAD + ROW).encode(),
        (HEAD + ROW).encode("utf-8-sig"),
        (HEAD + ROW).encode("utf-16"),
        (HEAD + ROW).replace("\n", "\r").encode(),
        gzip.compress((HEAD + ROW).encode()),
        gzip.compress(HEAD.encode()) + gzip.compress(ROW.encode()),
        zipped(a=(HEAD + ROW).encode()),
        parquet(),
        zipped(a=parquet()),
    ],
    ids=["plain", "bom", "utf-16", "returns", "gzip", "two members", "zip", "parquet", "zipped parquet"],
)
def test_packed_in_every_way(tmp_path: Path, content: bytes) -> None:
    chunk = parse(tmp_path, content)
    assert data(chunk) == [RECORD]
    assert json.loads(chunk.frame["value"][0])["meta"]["timestamp"] == "2025-12-20T12:00:00.000Z"


def test_an_old_encoding_is_found(tmp_path: Path) -> None:
    chunk = parse(tmp_path, (HEAD + ROW.replace("u1", "Müller")).encode("cp1252"))
    assert chunk.frame["user"].to_list() == ["Müller"]


def test_bytes_that_are_no_text_cost_their_row_only(tmp_path: Path) -> None:
    text = (HEAD + ROW.replace("u1", "Zoë") + ROW.replace("u1", "u2")).encode() + b"t3,\xff,x,1,USD\n"
    chunk = parse(tmp_path, text)
    assert chunk.frame["user"].to_list() == ["Zoë", "u2"]
    assert [e.line for e in chunk.errors] == [4]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\x03", "binary"),
        (b"\x1f\x8b\x08\x00nonsense", "gzip"),
        (b"PK\x03\x04nonsense", "zip"),
        (zipped(a=b"x", b=b"y"), "one by one"),
        (b"PAR1nonsense", "parquet"),
        (HEAD.replace("id,", "other,").encode() + ROW.encode(), "expected the columns id"),
        (gzip.compress(bytes(200_000_000), 9), "grows"),
    ],
)
def test_what_is_no_table_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(tmp_path, content)


@pytest.mark.parametrize(
    ("amount", "decimal", "read"),
    [
        ("1,234.50", ".", 1234.5),
        ("€ 12.50", ".", 12.5),
        ("12.50 EUR", ".", 12.5),
        ("(3.00)", ".", -3.0),
        ("3.00-", ".", -3.0),
        ("+007.5", ".", 7.5),
        (".5", ".", 0.5),
        ("85.64999999999999", ".", 85.65),
        ("1.234.567,8", ",", 1234567.8),
        ("1 234,50", ",", 1234.5),
        ("12", ",", 12.0),
        ("1e2", ".", 100.0),
        ("1,5", ".", None),
        ("1.5", ",", None),
        ("12..5", ".", None),
        ("NaN", ".", None),
        ("-", ".", None),
    ],
)
def test_amounts(tmp_path: Path, amount: str, decimal: str, read: float | None) -> None:
    text = f"{HEAD.replace(',', ';')}t1;u1;2025-12-20T12:00:00Z;{amount};EUR\n"
    chunk = parse(tmp_path, text, mapping(delimiter=";", decimal=decimal))
    assert [row["amount"] for row in data(chunk)] == ([] if read is None else [read])


def test_payments_booked_as_negative_are_turned_round(tmp_path: Path) -> None:
    rows = "".join(ROW.replace("12.50", amount) for amount in ("-12.50", "3", "0"))
    chunk = parse(tmp_path, HEAD + rows, mapping(refunds="positive"))
    assert [row["amount"] for row in data(chunk)] == [12.5, -3, 0]


@pytest.mark.parametrize(
    ("text", "form", "zone", "read"),
    [
        ("2025-12-20 12:00:00", "iso", "UTC", "2025-12-20T12:00:00.000Z"),
        ("2025-12-20T12:00:00.1239+0530", "iso", "UTC", "2025-12-20T06:30:00.123Z"),
        ("2025-12-20T12:00", "iso", "America/New_York", "2025-12-20T17:00:00.000Z"),
        ("2025-12-20", "iso", "Europe/Berlin", "2025-12-19T23:00:00.000Z"),
        # Twice a year a clock shows an hour twice, and once it skips one.
        ("2025-10-26 02:30:00", "iso", "Europe/Berlin", "2025-10-26T00:30:00.000Z"),
        ("2025-03-30 02:30:00", "iso", "Europe/Berlin", None),
        ("1766232000.5", "epoch_s", "UTC", "2025-12-20T12:00:00.500Z"),
        ("1766232000123", "epoch_ms", "UTC", "2025-12-20T12:00:00.123Z"),
        ("12/20/2025 01:02 PM", "%m/%d/%Y %I:%M %p", "UTC", "2025-12-20T13:02:00.000Z"),
        ("31.02.2025", "%d.%m.%Y", "UTC", None),
        ("2027-01-01", "iso", "UTC", None),
    ],
)
def test_times(tmp_path: Path, text: str, form: str, zone: str, read: str | None) -> None:
    chunk = parse(
        tmp_path, HEAD + ROW.replace("2025-12-20T12:00:00Z", text), mapping(time_format=form, time_zone=zone)
    )
    found = [json.loads(value)["meta"]["timestamp"] for value in chunk.frame["value"]]
    assert found == ([] if read is None else [read])
    assert len(chunk.errors) == (read is None)


def test_rows_without_an_id_are_named_after_file_and_line(tmp_path: Path) -> None:
    fields = {field: column for field, column in PLAIN.items() if field != "tx_id"}
    chunk = parse(tmp_path, HEAD + ROW + ROW, mapping(fields=fields))
    assert [row["tx_id"] for row in data(chunk)] == ["abababababababab-2", "abababababababab-3"]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["2025-12-20T12:00:00Z", "12.50", "USD", "u", '"', '5"', "a\nb", ",", "", "1e9", "\r\n"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(cells, min_size=1, max_size=6), min_size=1, max_size=8), st.booleans())
def test_whatever_comes_each_row_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], quoted: bool
) -> None:
    out = io.StringIO()
    out.write(HEAD)
    if quoted:
        csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    else:
        out.write("\n".join(",".join(row) for row in rows))
    chunk = parse(tmp_path_factory.mktemp("any"), out.getvalue())
    lines = [*chunk.frame["line"], *(e.line for e in chunk.errors)]
    assert sorted(set(lines)) == sorted(lines)
    assert len(lines) == chunk.rows
    for value in chunk.frame["value"]:
        parse_record(value.encode(), NOW_MS, 300_000)
    if quoted:
        assert chunk.rows == len(rows)


@settings(max_examples=100, deadline=None)
@given(st.text('ab,"\n', max_size=60), st.integers(1, 60))
def test_a_cut_between_blocks_changes_nothing(text: str, cut: int) -> None:
    block = (text + "\n").encode()
    whole = split_records(block, ",", last=True)
    first = split_records(block[:cut], ",", last=False)
    rest = split_records(block[first.used :], ",", last=True)
    starts = [*first.start.tolist(), *(rest.start + first.used).tolist()]
    assert starts == whole.start.tolist()
    assert [*first.line.tolist(), *(rest.line + first.lines).tolist()] == whole.line.tolist()


def test_lines_are_counted_on_from_block_to_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'"t{i}\n",u,2025-12-24T12:00:00Z,{"x" if i % 3 else "4.5"},EUR' for i in range(40)]
    text = "\n".join(["id,user,time,amount,currency", *rows]) + "\n"
    monkeypatch.setattr("anomalyze.ingestion.parse.BLOCK_BYTES", 200)
    chunk = parse(tmp_path, text)
    assert chunk.rows == 40
    assert sorted([*chunk.frame["line"], *(e.line for e in chunk.errors)]) == [2 + 2 * i for i in range(40)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 20), st.integers(0, 30), st.integers(1, 9))
def test_rows_come_in_the_order_of_their_time(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], run_rows: int, skip: int, batch: int
) -> None:
    ordered = OrderedRows(tmp_path_factory.mktemp("runs"), run_rows)
    rows = [(ts, line, "u", f"v{line}") for line, ts in enumerate(times)]
    for at in range(0, len(rows), 7):
        ordered.add(pl.DataFrame(rows[at : at + 7], schema=["ts", "line", "user", "value"], orient="row"))
    parts = list(ordered.read(skip, batch))
    assert all(part.height <= batch for part in parts)
    assert [row for part in parts for row in part.iter_rows()] == sorted(rows)[skip:]


def test_a_guess_has_a_limit_on_columns(tmp_path: Path) -> None:
    text = ",".join(f"c{i}" for i in range(1001)) + "\n" + ",".join("1" for _ in range(1001)) + "\n"
    with pytest.raises(ConfigError, match="at most 1000 columns"):
        guess_file(unpack([text.encode()], tmp_path))


def test_a_guess_that_is_sure(tmp_path: Path) -> None:
    text = "trans_num;cc_num;trans_datetime;amt;ccy;merchant;lat;long\n" + "".join(
        f"n{i};4{i:015d};2025-12-{i:02d} 10:11:12;{i},5{i % 10};EUR;shop {i};1,5;2,5\n" for i in range(1, 29)
    )
    guess = guess_file(unpack([text.encode()], tmp_path))
    found = guess.complete()
    assert guess.doubts == []
    assert found == FileMapping(
        fields={
            "tx_id": "trans_num",
            "user_id": "cc_num",
            "timestamp": "trans_datetime",
            "amount": "amt",
            "currency": "ccy",
            "merchant_id": "merchant",
            "latitude": "lat",
            "longitude": "long",
        },
        delimiter=";",
        decimal=",",
    )


@pytest.mark.parametrize(
    ("head", "row", "doubt"),
    [
        ("id,user,date,amount", "t{i},u,0{i}/0{i}/2025,1.50", "Times can be read as %d/%m/%Y or as %m/%d/%Y"),
        ("id,user,time,amount", "t{i},u,2025-12-0{i},1.50", "USD is assumed"),
        ("user,time,amount,currency", "u,2025-12-0{i},1.50,USD", "named after the file and its line"),
        ("id,user,time,amount,currency", "t{i},u,2025-12-0{i},-1.50,USD", "negative"),
        ("id,who,time,amount,currency", "t{i},u,2025-12-0{i},1.50,USD", "No column was found for user_id"),
    ],
)
def test_a_guess_says_what_is_not_sure(tmp_path: Path, head: str, row: str, doubt: str) -> None:
    text = head + "\n" + "\n".join(row.format(i=i) for i in range(1, 9))
    guess = guess_file(unpack([text.encode()], tmp_path))
    assert any(doubt in said for said in guess.doubts), guess.doubts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "JSON object"),
        ("{}", "mapping.fields"),
        ('{"fields": {"user_id": "a", "timestamp": "b", "amount": "c"}}', "currency"),
        ('{"fields": {"user_id": "a", "timestamp": "b", "amount": "c", "account_id": "d"}}', "account_id"),
        (
            '{"fields": {"user_id": "a", "timestamp": "b", "amount": "c"}, "constants": {"currency": "XXX"}}',
            "ISO",
        ),
        ('{"fields": {}, "time_zone": "Mars/Olympus"}', "time zone"),
        ('{"fields": {}, "hello": 1}', "mapping.hello"),
        (" " * 70_000, "at most"),
    ],
)
def test_a_mapping_that_cannot_be_says_where(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_mapping(text)
