"""`anomalyze keys` and `anomalyze migrate`, as an operator types them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from anomalyze.access.verify import KeyVerifier
from anomalyze.cli import app
from anomalyze.storage.migrate import HEAD
from anomalyze.storage.pool import Pool


def test_a_key_is_created_listed_and_revoked(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYZE_POSTGRES_DSN", empty_database)
    runner = CliRunner()

    def run(*words: str) -> str:
        done = runner.invoke(app, [*words])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert json.loads(run("migrate", "--json")) == {"revision": HEAD}
    secret = run("keys", "create", "till 3", "--account", "acct_7", "--scopes", "read, ingest").strip()
    pool = Pool(empty_database)
    verifier = KeyVerifier(pool, ttl_s=0)
    principal = verifier.verify_key(secret)
    assert principal is not None
    assert (principal.account_id, principal.scopes) == ("acct_7", {"read", "ingest"})
    (listed,) = json.loads(run("keys", "list", "--json"))["keys"]
    assert listed["key_id"] == principal.key_id
    assert listed["created_by"].startswith("cli")
    assert secret not in run("keys", "list")
    assert "is revoked" in run("keys", "revoke", principal.key_id)
    assert verifier.verify_key(secret) is None
    pool.close()

    for words in (["keys", "revoke", "az_unknown"], ["keys", "create", "x", "--scopes", "root"]):
        assert runner.invoke(app, words).exit_code == 1
