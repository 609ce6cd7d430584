"""Alarms on the System page: an account's own, and the platform's for its operator only."""

from __future__ import annotations

import html

from anomalyze.access.keys import create_key
from anomalyze.storage.alarms import Alarm, raise_alarm
from anomalyze.storage.heartbeat import beat
from anomalyze.storage.pool import connect
from tests.browser.site import Site


def test_alarms_are_shown_to_whom_they_concern_with_their_run(site: Site) -> None:
    with connect(site.dsn) as connection:
        mine = site.mine.account_id
        assert raise_alarm(
            connection, Alarm("drift", "k1", "score of <today> differs.", mine, run_id="0123456789ab")
        )
        assert not raise_alarm(connection, Alarm("drift", "k1", "score of today differs.", mine))
        assert raise_alarm(connection, Alarm("run", "k2", "The run of train failed: no.", None))
        assert raise_alarm(connection, Alarm("drift", "k3", "Somebody else's drift.", "somebody-else"))
        beat(
            connection,
            program="dagster",
            instance="h-0",
            started_at=connection.execute("SELECT now()").fetchone()[0],  # type: ignore[index]
            state={"address": "http://localhost:3999"},
        )
        _, operator_key = create_key(connection, "default", "operator", ["admin"], "test")
    page = html.unescape(site.client(site.mine.admin_key).get("/system").text)
    assert "score of <today> differs." in page
    assert "score of <today>" not in site.client(site.mine.admin_key).get("/system").text
    assert 'href="http://localhost:3999/runs/0123456789ab"' in page
    assert 'href="http://localhost:3999"' in page
    assert "The run of train failed" not in page
    assert "Somebody else" not in page
    operators = site.client(operator_key).get("/system").text
    assert "The run of train failed: no." in operators
    assert "score of" not in operators
