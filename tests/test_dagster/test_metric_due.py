"""When a batch of metrics is due, and which time it then reads."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from anomalyze.metrics.duration import parse_duration
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.window import floor_to_step
from anomalyze.monitoring.due import Asked, Watch, build_entry, describe_entry, last_due_s, span_to_read
from anomalyze.monitoring.run import window_between
from tests.test_dagster.shop import HOUR, SHOP

PAYMENTS = load_batches(Path(__file__).parents[2] / "metrics_config").batches["payments"].batch
NOW = datetime(2026, 3, 29, 12, 30, tzinfo=UTC)


def test_a_batch_is_due_when_it_is_new_changed_or_its_time_came(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    file = tmp_path / "metrics/shop.yaml"
    file.write_text(SHOP)
    (tmp_path / "metrics/off.yaml").write_text(SHOP + "enabled: false\n")
    watch = Watch(tmp_path)
    watch.refresh()
    asked = watch.find_due({}, NOW)
    assert list(asked) == ["shop"]
    assert not watch.find_due(asked, NOW)
    assert not watch.find_due(asked, NOW + timedelta(minutes=34, seconds=59))
    assert list(watch.find_due(asked, NOW + timedelta(minutes=35))) == ["shop"]
    assert len(watch.find_due(asked, NOW + timedelta(days=7))) == 1
    time.sleep(0.01)
    file.write_text(SHOP + "unit: EUR\n")
    watch.refresh()
    assert list(watch.find_due(asked, NOW)) == ["shop"]
    file.unlink()
    watch.refresh()
    assert not watch.find_due({}, NOW + timedelta(days=7))


def test_a_batch_as_text_is_the_batch(tmp_path: Path) -> None:
    loaded = load_batches(Path(__file__).parents[2] / "metrics_config")
    for entry in loaded.batches.values():
        assert build_entry(describe_entry(entry)) == replace(entry, text="")
        assert build_entry(describe_entry(entry)).batch.settings("amount_EUR") == entry.batch.settings(
            "amount_EUR"
        )


@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
    st.integers(1, 5_000),
)
def test_no_hour_is_asked_for_twice_or_left_out_across_daylight_saving(
    zone: str, at: datetime, later: int
) -> None:
    batch = PAYMENTS.model_copy(update={"timezone": zone})
    before, after = (last_due_s(batch, one) for one in (at, at + timedelta(seconds=later)))
    assert before <= at.timestamp()
    assert after >= before
    if later >= 3_600:
        assert after > before


def test_what_was_missed_is_read_up_to_the_history(tmp_path: Path) -> None:
    batch = PAYMENTS
    assert span_to_read(batch, None, NOW) == batch.history
    assert span_to_read(batch, NOW - HOUR, NOW) == batch.window + HOUR
    assert span_to_read(batch, NOW - timedelta(days=400), NOW) == batch.history
    assert Asked(1, "a") != Asked(1, "b")


@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC", "Australia/Lord_Howe"]),
    st.dates(date(2024, 1, 1), date(2027, 1, 1)),
    st.integers(1, 40),
    st.sampled_from(["1h", "7h", "1d", "7d"]),
)
def test_days_that_are_chosen_are_read_whole_across_daylight_saving(
    zone: str, first: Any, days: int, step: str
) -> None:
    batch = PAYMENTS.model_copy(update={"timezone": zone, "step": parse_duration(step)})
    local = datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(zone))
    since, until = local.astimezone(UTC), (local + timedelta(days=days)).astimezone(UTC)
    window = window_between(batch, since, until, datetime(2030, 1, 1, tzinfo=UTC))
    assert window is not None
    assert window.start <= since < until <= window.end
    for edge in (window.start, window.end):
        assert floor_to_step(edge, batch.step, ZoneInfo(zone)) == edge
    assert since - window.start < batch.step
    assert window.end - until < batch.step + HOUR
    assert window_between(batch, since, until, since) is None
