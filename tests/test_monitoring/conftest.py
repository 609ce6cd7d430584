"""A database with our schema, and a folder for banks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from anomalyze.storage.pool import connect


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    """In autocommit mode."""
    with connect(database) as opened:
        yield opened
