"""Metrics over REST: values are sent, scored and seen; alerts are answered; accounts see their own batches only."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from anomalyze.metrics.library import load_batches
from anomalyze.metrics.sources import read
from anomalyze.monitoring.run import run_batch
from anomalyze.settings import Settings
from anomalyze.storage.pool import connect
from realtime.api import metric_routes
from tests.test_monitoring.shop import calm
from tests.test_realtime.conftest import Api, Platform, running_api

# Slashes at the ends and in between, quotes, per cent, a question mark, other scripts.
# What SQL, templates, paths and pages would make something of, if any of it reached them.
NAMES = [
    "/a//b/",
    "{{ 7 * 7 }}{% for x in start.__class__ %}'; DROP TABLE metric_values; -- :start %(x)s",
    "say \"what?\" 100%2F 'ü' 売上 🎉",
    "visits",
]
HOURS = 300
PUSHED = "account: {account}\nsource: {{kind: push}}\ndirection: up\nmetrics:\n  visits: {{unit: people}}\n"
READ = "account: acct_a\nsource: {kind: sqlite, path: none.db}\nsql: SELECT 1 AS visits\n"


@dataclass
class Watched(Platform):
    """The platform with batches of its own."""

    config_dir: Path = Path()

    def settings(self, **changes: Any) -> Settings:
        return Settings(_env_file=None, data_dir=self.folder, config_dir=self.config_dir, **changes)

    def run(self, batch: str) -> None:
        entry = load_batches(self.config_dir).batches[batch]
        with connect(self.dsn) as connection:
            run_batch(connection, entry, self.folder / "banks")


@pytest.fixture(scope="module")
def watched(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    config_dir = tmp_path_factory.mktemp("watched")
    made = Watched(platform.dsn, platform.redis_url, platform.folder, platform.bundles, config_dir)
    (config_dir / "metrics").mkdir()
    (config_dir / "metrics" / "unread.yaml").write_text(READ)
    (config_dir / "metrics" / "resting.yaml").write_text(PUSHED.format(account="acct_a") + "enabled: false\n")
    with running_api(made) as running:
        yield running


@pytest.fixture
def batch(watched: Api) -> str:
    return add_batch(watched)


def add_batch(api: Api, account: str = "acct_a") -> str:
    """A file more, which the API takes up by itself."""
    name = f"b{uuid.uuid4().hex[:10]}"
    folder = api.platform.settings().config_dir / "metrics"
    (folder / f"{name}.yaml").write_text(PUSHED.format(account=account))
    api.app.state.shared.batches._looked_s = float("-inf")  # not to wait for a second
    return name


def newest() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


def rows(metric: str, values: list[float]) -> list[dict[str, Any]]:
    first = newest() - timedelta(hours=len(values) - 1)
    return [
        {"metric": metric, "timestamp": (first + timedelta(hours=i)).isoformat(), "value": value}
        for i, value in enumerate(values)
    ]


def push(client: httpx.Client, batch: str, sent: Any) -> dict[str, Any]:
    response = client.post(f"/v1/metrics/{batch}", json=sent)
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json()
    return found


def spike(client: httpx.Client, api: Api, batch: str) -> list[float]:
    """All of NAMES with a history; the last of them does something unheard of at its end."""
    values = calm(HOURS)
    for name in NAMES[:-1]:
        push(client, batch, rows(name, values))
    strange = [*values[:-1], max(values) * 8]
    push(client, batch, rows(NAMES[-1], strange))
    api.platform.run(batch)  # type: ignore[attr-defined]
    return strange


def test_values_that_are_sent_are_scored_and_told(watched: Api, batch: str) -> None:
    client = watched.client("admin")
    strange = spike(client, watched, batch)
    found = client.get("/v1/metrics", params={"batch": batch}).json()["metrics"]
    assert [one["metric"] for one in found] == sorted(NAMES, key=lambda name: name.encode())
    by_name = {one["metric"]: one for one in found}
    seen, calmer = by_name["visits"], by_name[NAMES[0]]
    assert (seen["unit"], calmer["unit"], seen["direction"]) == ("people", "", "up")
    assert seen["newest"]["value"] == pytest.approx(strange[-1])
    assert seen["newest"]["lower"] < seen["newest"]["expected"] < seen["newest"]["upper"] < strange[-1]
    assert datetime.fromisoformat(seen["newest"]["timestamp"]) == newest()
    assert seen["points"] == HOURS
    assert seen["alert"]["severity"] == "CRITICAL"
    assert calmer["alert"] is None

    for name in NAMES:
        for path in (quote(name, safe=""), quote(name, safe="/")):
            answer = client.get(f"/v1/metrics/{batch}/{path}").json()
            assert answer["metric"]["metric"] == name
            assert 166 <= len(answer["points"]) <= 168
            anomalies = sum(point["is_anomaly"] for point in answer["points"])
            assert by_name[name]["anomalies"] == anomalies < 20
            assert by_name[name]["anomaly_rate"] == pytest.approx(anomalies / len(answer["points"]))
            assert answer["points"][-1]["is_anomaly"] is (name == "visits")
    last = answer["points"][-1]
    assert last["value"] == last["judged"] == pytest.approx(strange[-1])
    since, until = newest() - timedelta(hours=9), newest() - timedelta(hours=5)
    answer = client.get(
        f"/v1/metrics/{batch}/visits", params={"from": since.isoformat(), "to": until.isoformat()}
    ).json()
    assert [point["value"] for point in answer["points"]] == pytest.approx(strange[-10:-5])


def test_a_detector_by_name_has_a_band_of_its_own(watched: Api, batch: str) -> None:
    client = watched.client("admin")
    path = watched.platform.settings().config_dir / "metrics" / f"{batch}.yaml"
    path.write_text(path.read_text() + "detectors: [novelty, {pyod: ecod}]\n")
    watched.app.state.shared.batches._looked_s = float("-inf")
    spike(client, watched, batch)

    def points(**asked: str) -> tuple[str, dict[str, Any]]:
        found = client.get(f"/v1/metrics/{batch}/visits", params=asked).json()
        return found["band_of"], found["points"][-1]

    (default, of_default), (named, of_named) = points(), points(detector="pyod_ecod")
    assert (default, named) == ("novelty", "pyod_ecod")
    assert of_named["lower"] < of_named["expected"] < of_named["upper"] < of_named["value"]
    assert of_named["upper"] != of_default["upper"]
    assert {key for key in of_default if of_default[key] != of_named[key]} <= {
        "lower",
        "expected",
        "upper",
        "severity",
    }
    refused = client.get(f"/v1/metrics/{batch}/visits", params={"detector": "pca"})
    assert refused.status_code == 422
    assert "a detector that this metric names (pyod_ecod), got 'pca'" in refused.json()["detail"]


def test_the_example_over_http_reads_this_api(
    watched: Api, batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = watched.client("admin")
    values = calm(60)
    push(client, batch, rows("visits", values))
    watched.platform.run(batch)  # type: ignore[attr-defined]
    text = (Path(__file__).parents[2] / "metrics_config/metrics/examples/payments_over_rest.yaml").read_text()
    text = text.replace("http://127.0.0.1:8000", watched.url)
    (tmp_path / "metrics").mkdir()
    file = tmp_path / "metrics/over_rest.yaml"
    file.write_text(text.replace("payments/transactions", f"{batch}/visits"))
    monkeypatch.setenv("ANOMALYZE_SOURCE_API_KEY", client.headers["Authorization"].removeprefix("Bearer "))
    entry = load_batches(tmp_path).batches["over_rest"]
    reading = read(entry, entry.batch.window_at(datetime.now(UTC), timedelta(days=2)))
    assert reading.notes == ()
    assert reading.frame["metric"].unique().to_list() == ["payments"]
    assert reading.frame.sort("timestamp")["value"].to_list() == values[-48:]


def test_values_count_once_and_are_corrected(watched: Api, batch: str) -> None:
    client = watched.client("ingest", "read")
    sent = rows("visits", calm(48))
    assert push(client, batch, sent) == {"new": 48, "corrected": 0, "repeated": 0, "rejected": []}
    assert push(client, batch, sent[:10]) == {"new": 0, "corrected": 0, "repeated": 10, "rejected": []}
    assert push(client, batch, {**sent[7], "value": None})["corrected"] == 1
    watched.platform.run(batch)  # type: ignore[attr-defined]
    point = client.get(f"/v1/metrics/{batch}/visits").json()["points"][7]
    assert (point["value"], point["revision"], point["severity"]) == (None, 1, None)


def test_alerts_are_listed_answered_and_snoozed(watched: Api, batch: str) -> None:
    admin, reader = watched.client("admin"), watched.client("read")
    spike(admin, watched, batch)
    listed = reader.get("/v1/alerts", params={"batch": batch, "state": "open"}).json()["alerts"]
    (alert,) = [one for one in listed if one["metric"] == "visits"]
    assert (alert["kind"], alert["direction"], alert["muted"]) == ("unusual", "up", None)
    assert alert["told_at"] is not None
    assert alert["sentence"]
    where = f"/v1/alerts/{alert['id']}"
    whole = reader.get(where).json()
    assert whole["alert"] == alert
    (notice,) = whole["notices"]
    assert (notice["kind"], notice["severity"], notice["told_with"]) == ("opened", alert["severity"], None)
    assert notice["at"] >= alert["told_at"]
    assert "visits" in notice["said"]
    assert reader.post(f"{where}/feedback", json={"verdict": "dismiss"}).status_code == 403
    assert admin.post(f"{where}/feedback", json={"verdict": "dismiss", "note": "a sale"}).status_code == 200
    again = reader.get("/v1/alerts", params={"batch": batch, "metric": "visits", "state": "open"}).json()
    assert again["alerts"][0]["feedback"] == "dismiss"
    until = (newest() + timedelta(days=2)).isoformat()
    assert admin.post(f"{where}/snooze", json={"until": until, "reason": 5}).status_code == 422
    assert (
        admin.post(f"{where}/snooze", json={"until": until, "reason": "a sale"}).json()["metric"] == "visits"
    )
    assert admin.post(f"{where}/snooze", json={"until": until, "whole_batch": True}).json()["metric"] is None
    shown = {
        m["metric"]: m["snoozed_until"] for m in reader.get(f"/v1/metrics?batch={batch}").json()["metrics"]
    }
    assert all(datetime.fromisoformat(one) == datetime.fromisoformat(until) for one in shown.values())
    admin.post(f"{where}/snooze", json={"until": None, "whole_batch": True})
    shown = {
        m["metric"]: m["snoozed_until"] for m in reader.get(f"/v1/metrics?batch={batch}").json()["metrics"]
    }
    assert [name for name, one in shown.items() if one is not None] == ["visits"]


def test_an_alert_has_a_picture_of_its_account_only(watched: Api, batch: str) -> None:
    owner = watched.client("admin")
    spike(owner, watched, batch)
    (alert,) = owner.get("/v1/alerts", params={"batch": batch, "metric": "visits", "state": "open"}).json()[
        "alerts"
    ]
    drawn = owner.get(alert["image"])
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    assert "private" in drawn.headers["cache-control"]
    assert "visits" in drawn.text
    assert drawn.text.count('class="f-critical"') == 1
    pixels = owner.get(alert["image"], params={"format": "png"})
    assert pixels.headers["content-type"] == "image/png"
    assert pixels.content.startswith(b"\x89PNG")
    assert pixels.headers["etag"] != drawn.headers["etag"]
    assert owner.get(alert["image"], params={"format": "gif"}).status_code == 422
    same = owner.get(alert["image"], headers={"If-None-Match": drawn.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    push(owner, batch, rows("visits", [1.0]))
    watched.platform.run(batch)  # type: ignore[attr-defined]
    changed = owner.get(alert["image"], headers={"If-None-Match": drawn.headers["etag"]})
    assert changed.status_code == 200
    assert watched.client("admin", account="acct_b").get(alert["image"]).status_code == 404
    assert watched.stranger().get(alert["image"]).status_code == 401
    assert owner.get("/v1/alerts/0/image").status_code == 422


@pytest.mark.parametrize(("path", "field"), [("/v1/metrics", "metrics"), ("/v1/alerts", "alerts")])
def test_a_walk_meets_everything_once(watched: Api, batch: str, path: str, field: str) -> None:
    client = watched.client("admin")
    spike(client, watched, batch)
    whole = client.get(path, params={"batch": batch, "limit": 1000}).json()[field]
    assert len(whole) >= 1
    met, cursor = [], None
    for _ in range(len(whole) + 1):
        page = client.get(
            path, params={"batch": batch, "limit": 1, **({"cursor": cursor} if cursor else {})}
        ).json()
        met += page[field]
        cursor = page["cursor"]
    assert (met, cursor) == (whole, None)
    first = client.get(path, params={"batch": batch, "limit": 1}).json()["cursor"]
    assert client.get(path, params={"cursor": first}).status_code == 422


def test_batches_of_other_accounts_are_not_there(watched: Api, batch: str) -> None:
    owner, other = watched.client("admin"), watched.client("admin", account="acct_b")
    spike(owner, watched, batch)
    alert = owner.get("/v1/alerts", params={"batch": batch}).json()["alerts"][0]["id"]
    own = add_batch(watched, "acct_b")
    push(other, own, rows("visits", [1.0]))
    assert {one["batch"] for one in other.get("/v1/metrics").json()["metrics"]} == {own}
    assert other.get("/v1/alerts").json()["alerts"] == []
    for response in (
        other.get(f"/v1/metrics/{batch}/visits"),
        other.get("/v1/metrics", params={"batch": batch}),
        other.get("/v1/alerts", params={"batch": batch}),
        other.post(f"/v1/metrics/{batch}", json=rows("visits", [1.0])),
        other.get(f"/v1/alerts/{alert}"),
        other.post(f"/v1/alerts/{alert}/feedback", json={"verdict": "confirm"}),
        other.post(f"/v1/alerts/{alert}/snooze", json={"until": None}),
    ):
        assert response.status_code == 404, response.text
    told = other.post(f"/v1/metrics/{batch}", json=rows("visits", [1.0])).json()["detail"]
    assert "account: acct_b" in told
    assert "kind: push" in told


def test_what_cannot_be_taken_is_named(watched: Api, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = watched.client("ingest", "read")
    good = rows("visits", [5.0])[0]
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    bad = [
        ({**good, "timestamp": ahead}, "timestamp"),
        ({**good, "timestamp": "1999-01-01T00:00:00Z"}, "timestamp"),
        ({**good, "timestamp": "2026-11-20T09:00:00"}, "timestamp"),
        ({**good, "timestamp": 5}, "timestamp"),
        ({**good, "value": True}, "value"),
        ({**good, "value": "5"}, "value"),
        ({**good, "value": 10**400}, "value"),
        ({**good, "metric": ""}, "metric"),
        ({**good, "metric": "two\nlines"}, "metric"),
        ({**good, "metric": "x" * 201}, "metric"),
        ({**good, "metric": "n\0ul"}, "metric"),
        ({**good, "unit": "EUR"}, "unit"),
        ({"metric": "visits", "value": 1}, "timestamp"),
        (7, ""),
    ]
    taken = push(client, batch, [good, *(item for item, _ in bad)])
    assert taken["new"] == 1
    assert [(one["index"], one["field"]) for one in taken["rejected"]] == [
        (at, field) for at, (_, field) in enumerate(bad, 1)
    ]
    refused = client.post(f"/v1/metrics/{batch}", json=[bad[0][0]])
    assert (refused.status_code, len(refused.json()["rejected"])) == (422, 1)
    assert client.post(f"/v1/metrics/{batch}", json=[]).status_code == 422
    assert client.post(f"/v1/metrics/{batch}", json=[good] * 20_001).status_code == 422
    assert client.post(f"/v1/metrics/{batch}", content=b"{").status_code == 422
    for name, why in (("unread", "after its first run"), ("resting", "enabled: false")):
        refused = client.post(f"/v1/metrics/{name}", json=good)
        assert (refused.status_code, why in refused.json()["detail"]) == (409, True)
    assert watched.client("read").post(f"/v1/metrics/{batch}", json=good).status_code == 403
    assert watched.stranger().get("/v1/metrics").status_code == 401
    assert client.get(f"/v1/metrics/{batch}/n%00ul").status_code == 422
    assert client.get(f"/v1/metrics/{batch}/nothing").status_code == 404
    monkeypatch.setattr(metric_routes, "POINTS_MAX", 3)
    push(client, batch, rows("visits", [1.0, 2.0, 3.0, 4.0]))
    long = client.get(f"/v1/metrics/{batch}/visits")
    assert long.status_code == 422
    fitting = long.json()["detail"].split("to=")[1].split(",")[0]
    assert len(client.get(f"/v1/metrics/{batch}/visits", params={"to": fitting}).json()["points"]) == 3


def test_no_question_is_an_error_of_ours(watched: Api, batch: str) -> None:
    client = watched.client("admin")
    spike(client, watched, batch)
    alert = client.get("/v1/alerts", params={"batch": batch}).json()["alerts"][0]["id"]
    series, feedback, snooze = (
        f"/v1/metrics/{batch}/visits",
        f"/v1/alerts/{alert}/feedback",
        f"/v1/alerts/{alert}/snooze",
    )
    ends = {"from": "0001-01-01T00:00:00+14:00", "to": "9999-12-31T23:59:59-14:00"}
    assert len(client.get(series, params=ends).json()["points"]) == HOURS
    turned = {"from": ends["to"], "to": ends["from"]}
    assert client.get(series, params=turned).json()["points"] == []
    assert client.get(series, params={"from": "2026-01-01T12:00:00"}).status_code == 422
    for path in ("/v1/metrics", "/v1/alerts"):
        for wrong in ({"cursor": "x"}, {"limit": 0}, {"limit": 2001}, {"cursor": "eyJ9"}):
            assert client.get(path, params=wrong).status_code == 422, (path, wrong)
        assert client.get(path, params={"batch": "a/b\0"}).status_code == 404
    assert client.get("/v1/alerts", params={"metric": "\0"}).status_code == 422
    assert client.get("/v1/alerts", params={"state": "pending"}).status_code == 422
    for number in (2**63, 0, "x"):
        assert client.post(f"/v1/alerts/{number}/feedback", json={"verdict": "confirm"}).status_code == 422
    assert client.post(f"/v1/alerts/{2**63 - 1}/feedback", json={"verdict": "confirm"}).status_code == 404
    past, far = "2020-01-01T00:00:00Z", f"{datetime.now(UTC).year + 3}-01-01T00:00:00Z"
    for path, sent in [
        (feedback, {"verdict": "maybe"}),
        (feedback, {"verdict": 1}),
        (feedback, {}),
        (feedback, []),
        (feedback, {"verdict": "confirm", "note": "x" * 2001}),
        (feedback, {"verdict": "confirm", "note": "\0"}),
        (feedback, {"verdict": "confirm", "who": "me"}),
        (snooze, {}),
        (snooze, {"until": past}),
        (snooze, {"until": far}),
        (snooze, {"until": 5}),
        (snooze, {"until": None, "whole_batch": "yes"}),
    ]:
        assert client.post(path, json=sent).status_code == 422, (path, sent)
