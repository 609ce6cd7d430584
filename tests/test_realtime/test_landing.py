"""Files that other systems drop into the object store, and an account's own mappings."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path

import pytest

from anomalyze.cli.configuration import check_configuration
from anomalyze.errors import ConfigError
from anomalyze.ingestion.account import find_mapping
from anomalyze.ingestion.landing import take_landed
from anomalyze.storage.objects import open_objects
from tests.test_realtime.conftest import CONFIGURATION, Api
from tests.test_realtime.test_uploads import objects_of, rows

OWN = """
files:
  - name: day-*.csv
    mapping:
      fields: {user_id: who, timestamp: "on", amount: much}
      constants: {currency: EUR}
"""


def test_what_has_landed_is_taken_once(api: Api, tmp_path: Path) -> None:
    objects = open_objects((api.platform.folder / "objects").as_uri())
    own, sure, unsure = uuid.uuid4().hex, rows(4), f"id,user,time,amount\n{uuid.uuid4().hex},u,2025-12-01,3\n"
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "acct_a.yaml").write_text(OWN)
    api.client("read")
    objects.put("landing/acct_a/sure.csv", sure.encode())
    objects.put("landing/acct_a/unsure.csv", unsure.encode())
    objects.put("landing/acct_a/day-1.csv", f"who,on,much\n{own},2025-12-01,3\n".encode())
    objects.put("landing/acct_a/picture.csv", b"\0\1")
    objects.put("landing/nobody/sure.csv", sure.encode())
    objects.put("landing/acct_a/large.csv", rows(400).encode())
    before = objects_of(api)
    found = asyncio.run(take_landed(objects, api.platform.dsn, tmp_path, 10_000))
    assert {upload.name: upload.state for upload in found} == {
        "sure.csv": "started", "unsure.csv": "waiting", "day-1.csv": "started",
    }  # fmt: skip
    assert objects.list("landing") == []
    assert objects.list("landing-refused") == [
        "landing-refused/acct_a/large.csv",
        "landing-refused/acct_a/picture.csv",
        "landing-refused/nobody/sure.csv",
    ]
    assert len(objects_of(api)) == len(before) + 3
    # The same file dropped once more, as after a crash before it was removed.
    objects.put("landing/acct_a/sure.csv", sure.encode())
    (again,) = asyncio.run(take_landed(objects, api.platform.dsn, tmp_path, 10_000))
    assert again.upload_id in {upload.upload_id for upload in found}
    shutil.rmtree(api.platform.folder / "objects" / "landing-refused")


@pytest.mark.parametrize("account", ["../acct", "a/b", "", ".hidden", "none"])
def test_an_account_leads_to_no_other_file(tmp_path: Path, account: str) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "acct.yaml").write_text(OWN)
    (tmp_path / "uploads" / ".hidden.yaml").write_text(OWN)
    assert find_mapping(tmp_path, account, "day-1.csv") is None


def test_mistakes_are_named_with_their_line(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    shutil.copytree(CONFIGURATION, folder)
    (folder / "uploads").mkdir(exist_ok=True)
    path = folder / "uploads" / "acct.yaml"
    path.write_text(OWN)
    assert check_configuration(folder).problems == []
    path.write_text(OWN.replace("currency: EUR", "currency: EURO").replace("amount: much", "amuont: much"))
    assert any("acct.yaml" in problem.file for problem in check_configuration(folder).problems)
    with pytest.raises(ConfigError, match=r"acct\.yaml"):
        find_mapping(folder, "acct", "day-1.csv")
