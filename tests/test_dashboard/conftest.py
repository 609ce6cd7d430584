"""A site without a browser: what HTTP alone can show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anomalyze.embedded.postgres import EmbeddedPostgres
from tests.browser.site import Site, seeded_site


@pytest.fixture(scope="session")
def site(postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two accounts with data."""
    with seeded_site(postgres_server, tmp_path_factory.mktemp("dashboard")) as running:
        yield running
