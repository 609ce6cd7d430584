"""The compiled decoder against the plain one, on records as they come, mutated ones, and noise."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomalyze.errors import EventError
from anomalyze.events.batch import Decoded, MicroBatch, Status
from anomalyze.events.decode import decode_records, decode_records_plain
from anomalyze.events.gazetteer import COUNTRIES, Gazetteer
from anomalyze.events.hashing import text_key, user_key
from anomalyze.events.money import CURRENCIES
from anomalyze.events.murmur2 import murmur2_partition_bytes
from anomalyze.events.schema import DEPTH_MAX, RECORD_BYTES_MAX, parse_record, parse_timestamp

GAZETTEER = Gazetteer.load()
NOW_MS = 1_766_232_000_000  # 2025-12-20T12:00:00Z
TOLERANCE_MS = 300_000

META = {
    "trace_id": "abc-123-xyz",
    "timestamp": "2025-12-20T12:00:00Z",
    "source": "REALTIME_API",
    "user_id": "user_99",
    "account_id": "acct_7",
}
DATA = {"tx_id": "tx_555", "amount": 4500.50, "currency": "USD", "location": "NY"}


def record(meta: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> bytes:
    sections = {"meta": {**META, **(meta or {})}, "data": {**DATA, **(data or {})}}
    return json.dumps(sections, ensure_ascii=False, separators=(",", ":")).encode()


def home(user_id: str, count: int) -> int:
    key = user_id.encode()
    return int(murmur2_partition_bytes(np.array(bytearray(key) or [0], dtype=np.uint8), 0, len(key), count))


def decode(values: list[bytes], plain: bool = False, partition: int = 0, count: int = 1) -> Decoded:
    function = decode_records_plain if plain else decode_records
    return function(
        [partition] * len(values),
        list(range(len(values))),
        [NOW_MS] * len(values),
        values,
        partition_count=count,
        future_tolerance_ms=TOLERANCE_MS,
        gazetteer=GAZETTEER,
    )


def assert_equal(left: Decoded, right: Decoded) -> None:
    assert left.dead == right.dead
    assert left.controls == right.controls
    for name in MicroBatch.__dataclass_fields__:
        one, other = getattr(left.batch, name), getattr(right.batch, name)
        if name == "account":  # its numbers are the batch's own
            one = [left.batch.accounts[i] for i in one]
            other = [right.batch.accounts[i] for i in other]
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, name
            assert one.flags.c_contiguous, name
            assert one.tobytes() == other.tobytes(), name
        elif name != "accounts":
            assert one == other, name


def only(value: bytes) -> MicroBatch:
    compiled, plain = decode([value]), decode([value], plain=True)
    assert_equal(compiled, plain)
    assert compiled.dead == []
    return compiled.batch


def letter(value: bytes, **where: int) -> tuple[str, str]:
    """(reason, field) of the dead letter that the record becomes."""
    compiled, plain = decode([value], **where), decode([value], plain=True, **where)
    assert_equal(compiled, plain)
    assert compiled.batch.n == 0
    (dead,) = compiled.dead
    assert dead.value == value
    assert dead.expected
    return dead.reason, dead.field


def test_columns_of_a_record() -> None:
    batch = only(
        record(
            {"reply_to": "replies:7"},
            {
                "country": "US",
                "merchant_id": "m_1",
                "merchant_category": "5411",
                "device_id": "d",
                "ip": "10.0.0.1",
                "channel": "online",
                "status": "declined",
                "note": {"x": [1, None]},
            },
        )
    )
    assert batch.n == 1
    assert batch.accounts == ["acct_7"]
    assert batch.account[0] == 0
    assert tuple(batch.user_key[0].tolist()) == user_key("acct_7", "user_99")
    assert batch.tx_key[0] == text_key("tx_555")
    assert batch.ts_ms[0] == NOW_MS
    assert batch.amount_minor[0] == 450050
    assert CURRENCIES[batch.currency[0]] == "USD"
    assert batch.status[0] == Status.DECLINED
    assert COUNTRIES[batch.country[0]] == "US"
    place = GAZETTEER.places[GAZETTEER.lookup("NY", "US")]
    assert (batch.latitude[0], batch.longitude[0], batch.radius_km[0]) == (
        place.latitude,
        place.longitude,
        place.radius_km,
    )
    for name, text in (
        ("merchant", "m_1"),
        ("merchant_category", "5411"),
        ("device", "d"),
        ("ip", "10.0.0.1"),
    ):
        assert getattr(batch, name)[0] == text_key(text)
    assert batch.channel[0] == text_key("online")
    assert batch.replies == {0: "replies:7"}
    assert batch.groups == [(0, 0, 1)]


def test_what_is_missing_is_null() -> None:
    batch = only(record(data={"location": None, "merchant_id": "", "status": None, "latitude": None}))
    assert batch.country[0] == -1
    assert np.isnan([batch.latitude[0], batch.longitude[0], batch.radius_km[0]]).all()
    assert batch.merchant[0] == batch.device[0] == 0
    assert batch.status[0] == Status.APPROVED
    assert batch.replies == {}


def test_times_may_be_known_to_the_day_only() -> None:
    for word, known in (("day", True), ("second", False), ("", False), (None, False)):
        assert only(record(data={"time_resolution": word})).day_only.tolist() == [known]
    assert not only(record()).day_only[0]
    for word in ("hour", "seconds", "days", "d\u0061y!", "a day", "Day", "secondly"):
        assert letter(record(data={"time_resolution": word})) == ("invalid", "data.time_resolution")
    assert letter(record(data={"time_resolution": 1})) == ("invalid", "data.time_resolution")


def test_coordinates_beat_the_place_and_the_place_gives_the_country() -> None:
    batch = only(record(data={"location": "Lagos", "latitude": 6.5, "longitude": -0.0}))
    assert (batch.latitude[0], batch.longitude[0], batch.radius_km[0]) == (6.5, 0.0, 0.0)
    assert not np.signbit(batch.longitude[0])
    assert COUNTRIES[batch.country[0]] == "NG"


def test_one_text_means_different_places_in_one_batch() -> None:
    hints: list[dict[str, Any]] = [
        {"currency": "USD"},
        {"currency": "EUR"},
        {"country": "US", "currency": "EUR"},
    ]
    values = [record(data={"location": "CA", **hint}) for hint in [*hints, *reversed(hints)]]
    decoded = decode(values)
    assert_equal(decoded, decode(values, plain=True))
    assert [COUNTRIES[i] for i in decoded.batch.country] == ["US", "CA", "US", "US", "CA", "US"]


def test_coordinates_are_the_nearest_doubles() -> None:
    random = np.random.default_rng(7)
    latitudes = random.uniform(-90, 90, 400)
    values = [record(data={"latitude": float(x), "longitude": float(x)}) for x in latitudes]
    batch = decode(values).batch
    assert batch.latitude.tolist() == latitudes.tolist()
    assert batch.longitude.tolist() == latitudes.tolist()


def test_payload_key_ignores_identity_status_and_the_unknown() -> None:
    same = [
        record(),
        record(data={"tx_id": "other", "status": "declined", "note": 1, "time_resolution": "day"}),
        record({"timestamp": "2025-12-20T11:00:00Z"}),
        record(data={"amount": 4500.5, "merchant_id": None}),
        record().replace(b"4500.5", b"4500.500"),
    ]
    assert len({int(only(value).payload_key[0]) for value in same}) == 1
    known = {"amount": 1, "currency": "EUR", "location": "LA", "country": "US", "merchant_id": "m", "ip": "i"}
    known |= {"merchant_category": "m", "device_id": "m", "channel": "m"}
    other = [record(data={name: value}) for name, value in known.items()]
    other.append(record(data={"latitude": 1, "longitude": 2}))
    other.append(record(data={"latitude": 2, "longitude": 1}))
    keys = {int(only(value).payload_key[0]) for value in [*same, *other]}
    assert len(keys) == 1 + len(other)


def test_of_a_key_sent_twice_the_last_one_counts() -> None:
    twice = record().replace(
        b'"location":"NY"', b'"location":"NY","merchant_id":"m","location":null,"merchant_id":"n"'
    )
    batch = only(twice)
    assert batch.country[0] == -1
    assert batch.merchant[0] == text_key("n")
    disguised = record().replace(b'"amount":4500.5', b'"amount":4500.5,"\\u0061mount":7')
    assert only(disguised).amount_minor[0] == 700
    sections = record()[:-1] + b',"meta":' + json.dumps({**META, "user_id": "other"}).encode() + b"}"
    assert tuple(only(sections).user_key[0].tolist()) == user_key("acct_7", "other")


def test_data_end_is_where_sections_are_spliced() -> None:
    for value in (record(), b" " + record() + b" \r\n", record(data={"note": "a \\ b"})):
        batch = only(value)
        start, end = int(batch.starts[0]), int(batch.data_end[0])
        assert batch.row_bytes(0) == value
        spliced = batch.buffer[start:end].tobytes() + b',"src":{}}'
        assert json.loads(spliced) == {**json.loads(value), "src": {}}


def test_rows_are_sorted_and_grouped() -> None:
    values = [record({"user_id": f"u{i}", "account_id": f"a{i % 3}"}) for i in range(40)]
    places = [(home(f"u{i}", 4), 100 - i) for i in range(40)]
    decoded = decode_records(
        [p for p, _ in places],
        [o for _, o in places],
        [NOW_MS] * 40,
        values,
        partition_count=4,
        future_tolerance_ms=0,
        gazetteer=GAZETTEER,
    )
    assert decoded.dead == []
    batch = decoded.batch
    assert list(zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)) == sorted(places)
    assert [p for p, _, _ in batch.groups] == sorted({p for p, _ in places})
    for partition, first, end in batch.groups:
        assert set(batch.partition[first:end].tolist()) == {partition}
    assert sum(end - first for _, first, end in batch.groups) == 40
    for row in range(40):
        i = 100 - int(batch.offset[row])
        assert batch.row_bytes(row) == values[i]
        assert batch.accounts[batch.account[row]] == f"a{i % 3}"


def test_bad_records_leave_no_gap() -> None:
    values = [
        record(),
        b"{",
        record({"user_id": "b"}),
        b'{"control":"bundle","n":1}',
        record({"user_id": "c"}),
    ]
    values[4] = record({"user_id": "c", "reply_to": "r"})
    decoded = decode(values)
    assert_equal(decoded, decode(values, plain=True))
    assert decoded.batch.offset.tolist() == [0, 2, 4]
    assert decoded.batch.replies == {2: "r"}
    assert [(d.offset, d.reason) for d in decoded.dead] == [(1, "malformed")]
    assert [(c.offset, c.kind, c.body["n"]) for c in decoded.controls] == [(3, "bundle", 1)]


def test_empty_poll() -> None:
    decoded = decode([])
    assert decoded.batch.n == 0
    assert decoded.batch.groups == []
    assert_equal(decoded, decode([], plain=True))


@pytest.mark.parametrize("field", ["timestamp", "user_id", "account_id"])
@pytest.mark.parametrize("value", [None, 5, ["x"], {}, True, ""])
def test_wrong_meta(field: str, value: Any) -> None:
    assert letter(record({field: value})) == ("invalid", f"meta.{field}")
    assert letter(record().replace(b'"%s"' % field.encode(), b'"nothing"')) == ("invalid", f"meta.{field}")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tx_id", [None, 5, "", "x" * 129, "a\tb", "a\x7fb", "a\x85b"]),
        ("amount", [None, "5", True, [], 1.001, 1e15, 10**13]),
        ("currency", [None, "usd", "XXX", "US", "DOLLAR", 5]),
        ("country", ["us", "ZZ", "USA", 5]),
        ("status", ["APPROVED", "paid", 5]),
        ("latitude", ["5", True, [], 5]),
        ("location", [5, "x" * 257, []]),
        ("merchant_id", [5, "x" * 129, {}]),
    ],
)
def test_wrong_data(field: str, values: list[Any]) -> None:
    for value in values:
        if field == "latitude" and value == 5:  # alone
            assert letter(record(data={field: value})) == ("invalid", "data.longitude")
        else:
            assert letter(record(data={field: value})) == ("invalid", f"data.{field}"), value


def test_wrong_places() -> None:
    assert letter(record(data={"latitude": 90.1, "longitude": 0})) == ("invalid", "data.latitude")
    assert letter(record(data={"latitude": 0, "longitude": -180.5})) == ("invalid", "data.longitude")
    assert only(record(data={"latitude": -90, "longitude": 180})).longitude[0] == 180


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{}x",
        record()[:-1],
        record() + b"}",
        record().replace(b"4500.5", b"NaN"),
        record().replace(b"4500.5", b"Infinity"),
        record().replace(b"4500.5", b"04500.5"),
        record().replace(b"4500.5", b"4500."),
        record().replace(b"4500.5", b"1e999"),
        record().replace(b"NY", b"\xff"),
        record().replace(b"NY", b"\xed\xa0\x80"),
        record().replace(b"NY", b"\\u0000"),
        record().replace(b"NY", b"\\ud800"),
        record().replace(b"NY", b"a\nb"),
        record().replace(b'"NY"', b"[" * DEPTH_MAX + b"]" * DEPTH_MAX),
        record(data={"note": 0}).replace(b'"note":0', b'"note":' + b"[" * 5000 + b"]" * 5000),
        record(data={"note": 0}).replace(b'"note":0', b'"note":' + b"9" * 5000),
        b"\xef\xbb\xbf" + record(),
    ],
)
def test_malformed(value: bytes) -> None:
    assert letter(value) == ("malformed", "")


def test_depth_is_counted_outside_strings() -> None:
    nested = b"[" * (DEPTH_MAX - 2) + b"]" * (DEPTH_MAX - 2)
    only(record(data={"note": 0, "text": "[[[{" * 20}).replace(b'"note":0', b'"note":' + nested))
    deeper = b'"note":[' + nested + b"]"
    assert letter(record(data={"note": 0}).replace(b'"note":0', deeper)) == ("malformed", "")


def test_nobody_sends_his_own_verdict() -> None:
    for section in ("verdict", "analysis", "enrichment", "src", "x"):
        value = record()[:-1] + b',"%s":{}}' % section.encode()
        assert letter(value) == ("invalid", section)
    assert letter(b'{"meta":{}}') == ("invalid", "meta.timestamp")


def test_size_limit() -> None:
    padding = RECORD_BYTES_MAX - len(record(data={"note": ""}))
    only(record(data={"note": "x" * padding}))
    assert letter(record(data={"note": "x" * (padding + 1)})) == ("too_large", "")
    control = b'{"control":"list","ids":"' + b"x" * RECORD_BYTES_MAX + b'"}'
    assert decode([control]).controls[0].kind == "list"


def test_broken_control_records_are_dead_letters() -> None:
    assert letter(b'{"control":') == ("malformed", "")
    assert letter(b'{"control":5}') == ("invalid", "control")


def test_wrong_partition() -> None:
    right = home("user_99", 64)
    assert decode([record()], partition=right, count=64).dead == []
    assert letter(record(), partition=right ^ 1, count=64) == ("wrong_partition", "meta.user_id")
    assert decode([record()], partition=right ^ 1, count=0).dead == []


def test_time_is_bounded_by_the_log_not_by_a_clock() -> None:
    only(record({"timestamp": "2025-12-20T12:05:00Z"}))
    assert letter(record({"timestamp": "2025-12-20T12:05:00.001Z"})) == ("invalid", "meta.timestamp")
    assert letter(record({"timestamp": "1969-12-31T23:59:59Z"})) == ("invalid", "meta.timestamp")
    assert letter(record({"timestamp": "1970-01-01T00:00:00+00:01"})) == ("invalid", "meta.timestamp")
    assert only(record({"timestamp": "1970-01-01T00:00:00Z"})).ts_ms[0] == 0


@pytest.mark.parametrize(
    ("text", "ts_ms"),
    [
        ("2025-12-20T12:00:00Z", NOW_MS),
        ("2025-12-20t12:00:00z", NOW_MS),
        ("2025-12-20 13:30:00+01:30", NOW_MS),
        ("2025-12-20T00:00:00-12:00", NOW_MS),
        ("2025-12-20T11:59:59.9999Z", NOW_MS - 1),
        ("2025-12-20T12:00:00.123456789Z", NOW_MS + 123),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2000-02-29T23:59:59.5-00:00", 951_868_799_500),
    ],
)
def test_timestamps(text: str, ts_ms: int) -> None:
    assert parse_timestamp(text) == ts_ms
    assert only(record({"timestamp": text})).ts_ms[0] == ts_ms


@pytest.mark.parametrize(
    "text",
    [
        "2025-12-20T12:00:00",
        "2025-12-20",
        "2025-12-20T12:00Z",
        "2025-13-01T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2025-04-31T00:00:00Z",
        "2025-12-20T24:00:00Z",
        "2025-12-20T12:60:00Z",
        "2025-12-20T12:00:60Z",
        "2025-12-20T12:00:00.Z",
        "2025-12-20T12:00:00.1234567890Z",
        "2025-12-20T12:00:00+24:00",
        "2025-12-20T12:00:00+0100",
        "2025-12-20T12:00:00Z ",
        "２０２５-12-20T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "1766232000",
    ],
)
def test_timestamps_that_are_refused(text: str) -> None:
    assert letter(record({"timestamp": text})) == ("invalid", "meta.timestamp")


# --- compiled = plain, on anything -----------------------------------------------------------------------

WORDS = st.text(alphabet="abcXYZ019_-. /:é", min_size=1, max_size=20)
PLAIN = st.text(alphabet="abcXYZ019_-. /:", min_size=1, max_size=20)
IDS = st.one_of(PLAIN, WORDS, st.text(max_size=20), st.just("x" * 129))
TEXTS = st.one_of(
    PLAIN, WORDS, st.text(max_size=20), st.sampled_from([None, "", "x" * 128, "é" * 100, 'a"b\\c'])
)
CENTS = st.integers(-(10**6), 10**6).map(lambda cents: cents / 100)
WHOLE = st.integers(-(10**6), 10**6)
AMOUNTS = st.one_of(CENTS, WHOLE, st.integers(-(10**15), 10**15), st.floats(allow_nan=False))
DEGREES = st.one_of(st.integers(-90, 90), st.integers(-(9 * 10**5), 9 * 10**5).map(lambda x: x / 10**4))
NOTES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
STATUSES = ["approved", "pending", "declined", "refunded", "reversed", "", None]
PLACES = ["NY", "DE", "Georgia", "Lagos, NG", "são paulo", "São Paulo, BR", "Zürich", "nówhere", "st. louis"]
OTHERS = ("merchant_id", "merchant_category", "device_id", "ip", "channel")


def sections(odd: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Sections as producers write them or, ``odd``, with values that are wrong or strange."""
    ids, texts = (IDS, TEXTS) if odd else (PLAIN, st.one_of(PLAIN, WORDS, st.just("")))
    times = st.datetimes(datetime(1969, 12, 1) if odd else datetime(1970, 1, 2), datetime(2025, 12, 19))
    degrees = (
        st.one_of(DEGREES, st.floats(-90, 90), st.sampled_from([None, 90.1, -181, -0.0])) if odd else DEGREES
    )
    meta = st.fixed_dictionaries(
        {
            "user_id": ids,
            "account_id": st.sampled_from(["a", "b", "acct_7", "ü"] if odd else ["a", "b", "acct_7"]),
        },
        optional={
            "timestamp": times.map(lambda t: t.isoformat() + ("Z" if t.second % 2 else "+02:00")),
            "source": st.sampled_from(
                ["CSV", "KAFKA", "SIMULATION", "POLL", "WEBSOCKET", *(["kafka"] * odd)]
            ),
            "trace_id": texts,
            "reply_to": texts,
            "extra": NOTES,
        },
    )
    data = st.fixed_dictionaries(
        {
            "tx_id": ids,
            "amount": AMOUNTS if odd else WHOLE,
            "currency": st.sampled_from(["USD", "EUR", "JPY", "KWD", "CLF", *(["usd", "XXX"] * odd)]),
        },
        optional={
            "location": st.one_of(texts, st.sampled_from(PLACES)),
            "latitude": degrees,
            "longitude": degrees,
            "country": st.sampled_from(["US", "DE", "GE", "", None, *(["ZZ"] * odd)]),
            "status": st.sampled_from([*STATUSES, *(["x"] * odd)]),
            **dict.fromkeys(OTHERS, texts),
            "note": NOTES,
        },
    )
    return st.fixed_dictionaries({"meta": meta, "data": data})


@st.composite
def records(draw: st.DrawFn) -> bytes:
    odd = draw(st.booleans())
    drawn = draw(sections(odd))
    if not odd and ("latitude" in drawn["data"]) != ("longitude" in drawn["data"]):
        drawn["data"].update(latitude=1.5, longitude=-7.25)
    content = {"meta": {**META, **drawn["meta"]}, "data": {**DATA, **drawn["data"]}}
    if draw(st.booleans()):
        content = dict(reversed(content.items()))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    ascii_only = odd and draw(st.booleans())
    return json.dumps(content, ensure_ascii=ascii_only, separators=separators).encode(
        "utf-8", "surrogatepass"
    )


FRAGMENTS = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b".",
    b"e",
    b" ",
    b"\0",
    b"\x7f",
    b"\xc3",
]
FRAGMENTS += [b"\\u00e9", b"\\uD83D", b"\\u12", b"\\ud83d\\ude00"]
FRAGMENTS += [
    b"null",
    b"true",
    b"\\u0061",
    b"\\u0000",
    b"\\n",
    b"\xc3\xa9",
    b'"amount":1,',
    b'"meta":{},',
    b"1e5",
]
FRAGMENTS += [
    b'"tx_id":"t",',
    b'"data":{"tx_id":"t"},',
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80",
    b"\xf5",
    b"9" * 20,
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    value = draw(records())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        end = min(len(value), at + draw(st.integers(0, 4)))
        value = value[:at] + draw(st.sampled_from([b"", *FRAGMENTS])) + value[end:]
    return value


@given(st.lists(records(), max_size=4))
@settings(max_examples=120, deadline=None)
def test_compiled_equals_plain_on_records(values: list[bytes]) -> None:
    assert_equal(decode(values), decode(values, plain=True))


@given(st.lists(mutated(), min_size=1, max_size=4))
@settings(max_examples=120, deadline=None)
def test_compiled_equals_plain_on_mutations(values: list[bytes]) -> None:
    assert_equal(decode(values, count=2), decode(values, plain=True, count=2))


@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(FRAGMENTS)).map(b"".join)), max_size=4
    )
)
@settings(max_examples=100, deadline=None)
@example([b'{"control":1e5}', b'{"control":"x"}', b'{"meta', b'{"meta":{"user_id":"'])
def test_no_bytes_break_the_decoder(values: list[bytes]) -> None:
    decoded = decode(values)
    assert_equal(decoded, decode(values, plain=True))
    assert decoded.batch.n + len(decoded.dead) + len(decoded.controls) == len(values)


@given(records(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_cuts_change_nothing(value: bytes, neighbours: int) -> None:
    """A record reads the same whatever lies beside it."""
    alone = decode([value])
    crowd = decode([*[record({"user_id": f"n{i}"}) for i in range(neighbours)], value, record()[:-3]])
    if alone.batch.n == 0:
        assert crowd.dead[0].reason == alone.dead[0].reason
        return
    for name in ("user_key", "payload_key", "ts_ms", "amount_minor", "latitude", "radius_km", "country"):
        assert getattr(crowd.batch, name)[neighbours].tobytes() == getattr(alone.batch, name)[0].tobytes()


def test_ordinary_records_take_the_compiled_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an ordinary record went to the plain parser")

    monkeypatch.setattr("anomalyze.events.decode.parse_record", refuse)
    values = [
        record(),
        record({"reply_to": "r", "extra": 1}, {"latitude": 6.4541, "longitude": -3.394}),
        record(data={"amount": -5, "merchant_id": "Café Ünïcode", "note": {"a": [1.5, "x\\n", {}], "b": []}}),
        json.dumps(json.loads(record()), indent=1).encode(),
        record(data={"location": "São Paulo", "country": "BR"}),
        json.dumps({"meta": META, "data": {**DATA, "note": "Caf\u00e9"}}).encode(),
    ]
    assert decode(values).batch.n == len(values)


def test_plain_parser_names_the_offence() -> None:
    with pytest.raises(EventError, match=r"at most 2 decimals for USD, got 1\.005"):
        parse_record(record(data={"amount": 1.005}), NOW_MS, 0)
    with pytest.raises(EventError, match="expected text, got 5"):
        parse_record(record(data={"tx_id": 5}), NOW_MS, 0)
