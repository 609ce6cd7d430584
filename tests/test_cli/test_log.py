"""Log lines go to whatever the standard stream is when they are written."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
import structlog

from anomalyze.log import configure, get


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def test_a_stream_that_was_redirected_and_closed_is_not_written_to() -> None:
    log = get()
    first, second = io.StringIO(), io.StringIO()
    with redirect_stderr(first):
        configure("cli", "WARNING", "stderr")
        log.warning("one")
        log.info("nothing")
    assert [json.loads(line)["event"] for line in first.getvalue().splitlines()] == ["one"]
    first.close()
    with redirect_stderr(second):
        log.warning("two", dsn="postgresql://u:secret@h/d")
    line = json.loads(second.getvalue())
    assert (line["event"], line["program"], line["dsn"]) == ("two", "cli", "postgresql://u:…@h/d")
