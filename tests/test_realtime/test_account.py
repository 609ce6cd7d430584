"""Settings of an account over REST: checked, versioned, audited, in force within seconds, undone by nobody's model."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest

from anomalyze.bus.embedded import EmbeddedBus
from anomalyze.errors import ContractError
from anomalyze.learning.account import bring_into_force, is_unsettled
from anomalyze.learning.promotion import CHAMPION, promote, roll_back
from anomalyze.storage.account_version import store_version
from tests.test_realtime.conftest import Api, Platform, running_api, wait_until

WAIT_S = 60.0


@pytest.fixture
def account() -> str:
    """An account that nobody else uses."""
    return f"acct_{uuid.uuid4().hex[:10]}"


def limit_of(limit: float) -> dict[str, Any]:
    return {"rules": {"AMOUNT_LIMIT": {"parameters": {"limit": limit}}}}


def flags_soon(
    client: httpx.Client, make: Callable[..., dict[str, Any]], wanted: list[str], **fields: Any
) -> str:
    """Wait until a transaction is judged so; the bundle that did it."""

    def look() -> str | None:
        answer = client.post("/v1/score?timeout_ms=10000", json=make(**fields))
        if answer.status_code != 200:
            return None  # the detector is starting
        analysis = answer.json()["analysis"]
        return str(analysis["bundle"]) if analysis["rule_flags"] == wanted else None

    return str(wait_until(look, f"{wanted} on {fields}", WAIT_S))


def test_a_saved_limit_judges_within_seconds_and_is_told(
    api: Api, account: str, transaction: Callable[..., dict[str, Any]]
) -> None:
    client, other = api.client(account=account), api.client(account=f"{account}_b")
    first = client.get("/v1/account")
    assert (first.json()["version"], first.json()["document"], first.headers["etag"]) == (0, {}, '"0"')
    flags_soon(client, transaction, [], amount=60)

    tried = client.put("/v1/account?dry_run=true", json=limit_of(50)).json()
    assert tried == {
        "version": 0, "saved": False, "in_force": False, "bundle": None,
        "changes": ["rules.AMOUNT_LIMIT.parameters.limit: default → 50"],
    }  # fmt: skip
    saved = client.put("/v1/account?note=small+shop", json=limit_of(50), headers={"If-Match": '"0"'})
    assert saved.status_code == 200, saved.text
    assert saved.json()["in_force"]
    bundle = flags_soon(client, transaction, ["AMOUNT_LIMIT"], amount=60)
    assert bundle == saved.json()["bundle"] == api.platform.bundles.pointer(CHAMPION)
    assert flags_soon(other, transaction, [], amount=60) == bundle

    assert (
        client.put("/v1/account", json=limit_of(50)).json()["version"] == 1
    )  # the same again is no new version
    history = client.get("/v1/account/versions").json()["versions"]
    assert [(v["version"], v["note"], v["in_force"]) for v in history] == [(1, "small shop", True)]
    assert other.get("/v1/account/versions").json()["versions"] == []
    with psycopg.connect(api.platform.dsn) as connection:
        rows = connection.execute(
            "SELECT actor, action, detail -> 'changes' FROM audit_log WHERE account_id = %s AND action = 'account.save'",
            [account],
        ).fetchall()
    assert rows == [(history[0]["saved_by"], "account.save", tried["changes"])]

    assert client.put("/v1/account", json={"time_zone": "Europe/Riga"}).json()["version"] == 2
    flags_soon(client, transaction, [], amount=60)
    assert client.post("/v1/account/versions/1/restore").json()["version"] == 3
    flags_soon(client, transaction, ["AMOUNT_LIMIT"], amount=60)
    assert client.get("/v1/account/versions/9/").status_code in (404, 307)
    assert client.get("/v1/account/versions/9").status_code == 404


def test_two_editors_do_not_overwrite_each_other(api: Api, account: str) -> None:
    client = api.client(account=account)
    client.put("/v1/account", json=limit_of(50), headers={"If-Match": '"0"'})
    late = client.put("/v1/account", json=limit_of(70), headers={"If-Match": '"0"'})
    assert late.status_code == 412
    assert "expected version 0 to be the newest, it is 1" in late.json()["detail"]
    assert client.get("/v1/account").json()["document"] == limit_of(50)
    assert client.put("/v1/account", json=limit_of(70), headers={"If-Match": "W/nothing"}).status_code == 422


def test_mistakes_are_named_at_their_field(api: Api, account: str) -> None:
    client = api.client(account=account)
    document = {
        "rules": {
            "AMOUNT_LIMT": {"mode": "off"},
            "AMOUNT_LIMIT": {"parameters": {"limit": "x", "limits": 3}},
        },
        "thresholds": {"caps": {"statistics_alone": "CRITICAL"}},
    }
    refused = client.put("/v1/account", json=document)
    assert refused.status_code == 422
    found = {(p["field"], p["suggestion"]) for p in refused.json()["problems"]}
    assert found == {
        ("rules.AMOUNT_LIMT", "AMOUNT_LIMIT"),
        ("rules.AMOUNT_LIMIT.parameters.limit", ""),
        ("rules.AMOUNT_LIMIT.parameters.limits", "limit"),
        ("thresholds.caps.statistics_alone", ""),
    }
    for body, field in (
        ({"time_zone": "Europe/Rig"}, "time_zone"),
        ({"base_currency": "EURO"}, "base_currency"),
        ({"base_currency": "EUX"}, "base_currency"),
        ({"label_delay_days": 400}, "label_delay_days"),
        ({"tresholds": {}}, "tresholds"),
        ({"currency_rates": {"pivot": "EUR", "tables": []}}, "currency_rates.tables"),
        (
            {"rules": {"GEO_FENCE": {"parameters": {"countries": ["D\u0000"]}}}},
            "rules.GEO_FENCE.parameters.countries",
        ),
    ):
        refused = client.put("/v1/account", json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text
    assert client.put("/v1/account", content=b" " * 70_000).status_code == 413
    assert client.put("/v1/account", content=b"\xff").status_code == 422
    assert client.get("/v1/account").json()["version"] == 0


def test_only_an_admin_of_the_account_saves(api: Api, account: str) -> None:
    reader = api.client("read", account=account)
    assert reader.get("/v1/account").status_code == 200
    assert reader.put("/v1/account", json={}).status_code == 403
    assert reader.post("/v1/lists", json={}).status_code == 403
    assert reader.delete("/v1/lists?list=block&field=ip&value=x").status_code == 403
    assert api.stranger().get("/v1/account").status_code == 401


def test_neither_an_older_model_nor_a_roll_back_undoes_an_edit(
    api: Api, account: str, transaction: Callable[..., dict[str, Any]]
) -> None:
    client, store = api.client(account=account), api.platform.bundles
    before = store.load(str(store.pointer(CHAMPION)))
    trained = replace(before, policy=before.policy + f"\n# trained before {account}\n")
    store.publish(trained)
    client.put("/v1/account", json=limit_of(50))
    bus = EmbeddedBus(api.platform.dsn)
    try:
        move = promote(store, bus, trained.id)
        assert move.id != trained.id
        assert store.load(move.id).policy == trained.policy
        assert flags_soon(client, transaction, ["AMOUNT_LIMIT"], amount=60) == move.id
        client.put("/v1/account", json=limit_of(55))
        with pytest.raises(ContractError, match="look again"):
            promote(store, bus, trained.id, expected=before.id)
        assert promote(store, bus, trained.id, expected=move.id).id != move.id  # only settings changed since
        back = roll_back(store, bus)
        assert store.load(back.id).policy == before.policy
        assert store.load(back.id).overlays[account]["rules"] == limit_of(55)["rules"]
        assert flags_soon(client, transaction, ["AMOUNT_LIMIT"], amount=60) == back.id
    finally:
        bus.close()


def test_a_save_that_died_is_brought_into_force_by_the_next_start(judged: Platform, account: str) -> None:
    judged.key(account=account)
    with psycopg.connect(judged.dsn, autocommit=True) as connection:
        store_version(connection, account, limit_of(50), [], by="az_dead", note="", after=0)
        assert is_unsettled(connection)
        with running_api(judged) as api:
            wait_until(lambda: not is_unsettled(connection), "the version is in force", 15)
            found = api.client(account=account).get("/v1/account").json()
        champion = str(judged.bundles.pointer(CHAMPION))
        assert (found["bundle"], found["in_force"]) == (champion, True)
        assert judged.bundles.load(champion).overlays[account]["saved"] == 1
        bus = EmbeddedBus(judged.dsn)
        try:
            assert bring_into_force(connection, judged.bundles, bus) == champion  # again changes nothing
        finally:
            bus.close()


def test_a_value_on_a_list_counts_until_it_is_taken_off(
    api: Api, account: str, transaction: Callable[..., dict[str, Any]]
) -> None:
    client = api.client(account=account)
    entry = {
        "list": "block",
        "field": "device_id",
        "value": "dev_1",
        "expires_at": "2099-01-01T00:00:00Z",
        "note": "stolen",
    }
    assert client.post("/v1/lists", json=entry).json() == {"changed": 1, "told": True}
    assert client.post("/v1/lists", json=[entry]).json() == {"changed": 0, "told": True}
    flags_soon(client, transaction, ["BLOCK_LIST"], amount=1, device_id="dev_1")
    held = client.get("/v1/lists?list=block").json()
    assert [(e["value"], e["expires_at"], e["note"]) for e in held["entries"]] == [
        ("dev_1", "2099-01-01T00:00:00.000Z", "stolen")
    ]
    assert client.get("/v1/lists", params={"cursor": held["cursor"]}).json() == {
        "entries": [],
        "cursor": None,
    }
    gone = client.delete("/v1/lists?list=block&field=device_id&value=dev_1")
    assert gone.json() == {"changed": 1, "told": True}
    flags_soon(client, transaction, [], amount=1, device_id="dev_1")
    assert client.get("/v1/lists").json()["entries"] == []
    over = {**entry, "expires_at": "2020-01-01T00:00:00Z"}
    assert client.post("/v1/lists", json=over).json()["changed"] == 1
    assert client.get("/v1/lists").json()["entries"] == []
    for wrong, field in (
        ({**entry, "field": "devices"}, "field"),
        ({**entry, "list": "Block"}, "list"),
        ({**entry, "until": 1}, "entries.0.until"),
        ({**entry, "value": ""}, "list"),
        ({**entry, "expires_at": "tomorrow"}, "timestamp"),
    ):
        refused = client.post("/v1/lists", json=[wrong])
        assert refused.status_code == 422, refused.text
        assert refused.json()["field"].endswith(field), refused.text
