"""`anomalyze mcp` as an assistant meets it: the SDK's client, standard input and output, a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mcp import Client, StdioServerParameters, stdio_client

from anomalyze.access.admin import ADMIN_KEY_FILE, store_secret
from anomalyze.access.keys import create_key, revoke_key
from anomalyze.errors import ConfigError
from anomalyze.metrics.library import load_batches
from anomalyze.metrics.rules import rules_of
from anomalyze.monitoring.score import score_batch
from anomalyze.settings import Settings
from anomalyze.storage.metrics_runs import begin_run, finish_run
from anomalyze.storage.metrics_values import Failure, store_values
from anomalyze.storage.metrics_view import SeriesPoint
from anomalyze.storage.pool import connect
from anomalyze.storage.query import Query
from realtime.api.assistant.desk import Desk as Real
from realtime.api.assistant.thin import thin_points
from tests.test_monitoring.shop import HOUR, calm, frame
from tests.test_storage.records import scored, store

ODD = "say \"what?\" 100% 'ü' 売上"
POINTS = 400
END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
PUSHED = "account: {account}\nsource: {{kind: push}}\ndescription: What the shop sells\nunit: EUR\n"
Ask = Callable[..., Awaitable[Any]]


class Desk:
    """A data folder and a configuration for the program, and the keys of two accounts."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn, self.folder = dsn, folder
        self.settings = Settings(_env_file=None, config_dir=folder)
        (folder / "metrics").mkdir()
        for name, account in {"shop": "acct_a", "cafe": "acct_a", "secret": "acct_b"}.items():
            (folder / f"metrics/{name}.yaml").write_text(PUSHED.format(account=account))
        with connect(dsn) as connection:
            self.key = create_key(connection, "acct_a", "assistant", ["read"], "tests")[1]
            self.other = create_key(connection, "acct_b", "assistant", ["read"], "tests")[1]
            self.blind = create_key(connection, "acct_a", "sender", ["ingest"], "tests")[1]
            self._fill(connection)
        suspicious = [
            scored(0, account="acct_a", severity="HIGH", case="c1", flags=("FAST",)),
            scored(1, account="acct_b", severity="HIGH", case="c2"),
        ]
        with connect(dsn) as connection:
            store(connection, suspicious)

    def environment(self, key: str | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANOMALYZE_")}
        kept |= {
            "ANOMALYZE_POSTGRES_DSN": self.dsn,
            "ANOMALYZE_DATA_DIR": str(self.folder / "data"),
            "ANOMALYZE_CONFIG_DIR": str(self.folder),
        }
        return kept | ({} if key is None else {"ANOMALYZE_API_KEY": key})

    def talk(self, conversation: Callable[[Ask, Client], Awaitable[None]], key: str | None = None) -> None:
        """One conversation with a server of its own."""
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "anomalyze", "mcp"],
            env=self.environment(self.key if key is None else key or None),
            cwd=str(self.folder),
        )

        async def run() -> None:
            async with Client(stdio_client(server)) as client:

                async def ask(tool: str, **arguments: Any) -> Any:
                    result = await client.call_tool(tool, arguments)
                    text = result.content[0].text  # type: ignore[union-attr]
                    return text if result.is_error else json.loads(text)

                await conversation(ask, client)

        asyncio.run(asyncio.wait_for(run(), 60))

    def _fill(self, connection: psycopg.Connection[Any]) -> None:
        batches = load_batches(self.folder).batches
        values = calm(POINTS)
        strange, also = ([*values[:-2], max(values) * times, values[-1]] for times in (9, 3))
        for batch in batches:
            series = (
                {ODD: strange, "baskets": also, "visits": values} if batch != "cafe" else {"cups": values}
            )
            store_values(connection, batch, frame(series, END), END)
            rules = rules_of(batches[batch].batch, list(series))
            score_batch(connection, batch, rules, self.folder / "banks", END)
        run = begin_run(connection, "cafe", "ingest")
        finish_run(
            connection, run, rows_read=7, failures=[Failure("cups", "value: expected a number, got 'x'")]
        )


@pytest.fixture
def desk(database: str, tmp_path: Path) -> Desk:
    return Desk(database, tmp_path)


def test_an_assistant_learns_what_is_strange_and_why(desk: Desk) -> None:
    async def conversation(ask: Ask, client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} >= {"strangest", "list_alerts", "explain_case"}
        for tool in tools:
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint, tool.name
            assert len(tool.description or "") > 60, tool.name

        batches = (await ask("list_batches"))["batches"]
        assert [one["batch"] for one in batches] == ["shop", "cafe"]
        assert batches[0]["open_alerts"] == 2
        assert batches[0]["description"] == "What the shop sells"
        assert batches[1]["last_run"]["failed_metrics"] == 1

        found = (await ask("strangest"))["metrics"]
        assert (found[0]["batch"], found[0]["metric"], found[0]["unit"]) == ("shop", ODD, "EUR")
        peak = found[0]["strangest"]
        assert peak["severity"] == "CRITICAL"
        assert peak["value"] > peak["upper"] > peak["lower"]
        ranked = await ask("list_metrics", limit=1)
        assert ranked["metrics"][0]["metric"] == ODD
        assert "more than 1" in ranked["note"]
        assert [one["metric"] for one in (await ask("list_metrics", text="VISIT"))["metrics"]] == ["visits"]

        alerts = await ask(
            "list_alerts", severity_min="HIGH", state="open", since=(END - 9 * HOUR).isoformat()
        )
        assert {one["metric"] for one in alerts["alerts"]} == {ODD, "baskets"}
        (alert,) = [one for one in alerts["alerts"] if one["metric"] == ODD]
        assert ODD in alert["sentence"]
        assert (await ask("list_alerts", since=END.isoformat(), until=(END + HOUR).isoformat()))[
            "alerts"
        ] == []
        assert (await ask("list_alerts", cursor=alerts["cursor"], severity_min="HIGH", state="open",
                          since=(END - 9 * HOUR).isoformat()))["alerts"] == []  # fmt: skip
        told = await ask("get_alert", alert_id=alert["id"])
        assert told["alert"] == alert
        assert [one["kind"] for one in told["told"]] == ["opened"]
        assert told["also_strange"]["metrics"] == 1
        (other,) = told["also_strange"]["strongest"]
        assert other["metric"] == "baskets"
        assert other["alert_id"] in [one["id"] for one in alerts["alerts"]]

        (failed,) = (await ask("list_runs", failed_only=True))["runs"]
        assert failed["failures"] == [{"metric": "cups", "reason": "value: expected a number, got 'x'"}]
        assert len((await ask("list_runs", batch="shop"))["runs"]) == 1

        (case,) = (await ask("list_cases"))["cases"]
        told = await ask("explain_case", case_id=case["id"])
        assert told["anomalies"][0]["explanation"] == "tx_0_0 is HIGH"
        assert told["anomalies"][0]["rule_flags"] == ["FAST"]

    desk.talk(conversation)


def test_a_long_series_is_thinned_and_says_so(desk: Desk) -> None:
    async def conversation(ask: Ask, client: Client) -> None:
        since = (END - 30 * 24 * HOUR).isoformat()
        whole = await ask("metric_series", batch="shop", metric=ODD, since=since, points=1_000)
        assert len(whole["points"]) == POINTS
        assert whole["note"] is None
        thin = await ask("metric_series", batch="shop", metric=ODD, since=since, points=50)
        assert len(thin["points"]) == 50
        assert "400 points in 50 rows, each of 8" in thin["note"]
        assert thin["anomalies"] == whole["anomalies"]
        peak = max(point["value"] for point in whole["points"])
        assert max(point["max"] for point in thin["points"]) == peak
        assert whole["anomalies"][-1]["value"] == peak
        # A week, which is what is shown without a word.
        assert 166 <= sum(1 for _ in (await ask("metric_series", batch="shop", metric=ODD))["points"]) <= 168

    desk.talk(conversation)


def test_an_account_sees_its_own_alone(desk: Desk) -> None:
    async def conversation(ask: Ask, client: Client) -> None:
        assert [one["batch"] for one in (await ask("list_batches"))["batches"]] == ["secret"]
        assert {one["batch"] for one in (await ask("strangest"))["metrics"]} == {"secret"}
        with psycopg.connect(desk.dsn) as connection:
            (theirs,) = connection.execute(
                "SELECT max(alert_id) FROM metric_alerts WHERE batch = 'shop'"
            ).fetchone()  # type: ignore[misc]
        for refused in (
            await ask("metric_series", batch="shop", metric=ODD),
            await ask("list_alerts", batch="shop"),
            await ask("get_alert", alert_id=theirs),
            await ask("explain_case", case_id="c1"),
        ):
            assert "this account" in refused
        assert {run["batch"] for run in (await ask("list_runs"))["runs"]} == {"secret"}

    desk.talk(conversation, desk.other)


def test_what_cannot_be_asked_is_refused_in_words(desk: Desk) -> None:
    async def conversation(ask: Ask, client: Client) -> None:
        for expected, tool, arguments in [
            ("less than or equal to 100", "strangest", {"limit": 10_000}),
            ("got sinse; perhaps since", "strangest", {"sinse": "2026-01-01T00:00:00Z"}),
            ("expected the argument alert_id, got none", "get_alert", {}),
            ("valid datetime", "strangest", {"since": "yesterday"}),
            ("before until", "strangest", {"since": "2026-02-01", "until": "2026-01-01"}),
            ("NUL", "list_metrics", {"text": "a\0b"}),
            (
                "expected a metric of shop",
                "metric_series",
                {"batch": "shop", "metric": "'; DROP TABLE metric_values"},
            ),
            ("cursor", "list_alerts", {"cursor": "nonsense"}),
            ("at most 200", "list_alerts", {"metric": "x" * 9_999}),
        ]:
            said = await ask(tool, **arguments)
            assert isinstance(said, str), (tool, arguments, said)
            assert expected in said, (tool, said)
        for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
            assert (await ask("strangest", since="1970-01-01", until=moment)) is not None

    desk.talk(conversation)


def test_it_lets_nobody_in_without_a_key_that_reads(desk: Desk) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "anomalyze", "mcp"],
        env=desk.environment(None), cwd=desk.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "got none" in ended.stderr
    for key, said in (("az_nobody", "not revoked"), (desk.blind, "scope read"), ("x" * 9_999, "not revoked")):
        with pytest.raises(ConfigError, match=said) as refused:
            Real(desk.settings, desk.dsn, key)
        assert key not in str(refused.value)

    async def conversation(ask: Ask, client: Client) -> None:
        assert "metrics" in await ask("strangest")
        with connect(desk.dsn) as connection:
            revoke_key(connection, desk.key[:11], "tests")
        await asyncio.sleep(0.3)
        assert "not revoked" in await ask("strangest")

    # Without a key of its own it has the operator's, from where `anomalyze up` keeps it.
    store_secret(desk.folder / "data" / ADMIN_KEY_FILE, desk.key, replace=True)
    desk.talk(conversation, "")


def test_what_it_reads_by_can_change_nothing(desk: Desk) -> None:
    real = Real(desk.settings, desk.dsn, desk.key)
    try:
        for statement in (
            "DELETE FROM metric_values",
            "CREATE TABLE x (y int)",
            "SELECT nextval('metric_alerts_alert_id_seq')",
        ):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), real.sit() as sitting:
                sitting.run(Query(statement, {}, list))
        with real.sit() as sitting:
            (told,) = sitting.run(Query("SHOW statement_timeout", {}, lambda rows: [*rows[0].values()]))
        assert told == "10s"
    finally:
        real.close()


def test_thinning_keeps_extremes_and_counts() -> None:
    points = [
        SeriesPoint(
            END + timedelta(hours=i),
            None if i == 3 else float(i),
            0,
            None,
            None,
            None,
            None,
            None,
            None,
            2 * (i == 5),
        )
        for i in range(10)
    ]
    thin = thin_points(points, 4)
    assert [one["points"] for one in thin] == [3, 3, 3, 1]
    assert [(one["min"], one["mean"], one["max"], one["anomalies"]) for one in thin] == [
        (0, 1, 2, 0), (4, 4.5, 5, 1), (6, 7, 8, 0), (9, 9, 9, 0),
    ]  # fmt: skip
    assert len(thin_points(points, 10)) == 10
