"""What a decision teaches: only what somebody found out."""

from __future__ import annotations

import re

import pytest

from tests.browser.site import Site


@pytest.mark.parametrize(
    ("decision", "why", "fraud"),
    [
        ("confirmed", "", True),
        ("dismissed", "verified", False),
        ("dismissed", "", None),
        ("confirmed", "verified", True),
    ],
)
def test_only_what_was_found_out_becomes_a_label(
    site: Site, decision: str, why: str, fraud: bool | None
) -> None:
    case_id = site.add_case()
    client = site.client(site.mine.admin_key)
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/transactions").text)
    assert token is not None
    answer = client.post(
        f"/cases/{case_id}/decision", data={"csrf": token[1], "decision": decision, "why": why}
    )
    assert answer.status_code == 303
    with site.connect() as connection:
        found = connection.execute(
            "SELECT DISTINCT l.fraud FROM labels l JOIN anomalies a USING (account_id, user_id, tx_id) "
            "WHERE a.case_id = %s",
            [case_id],
        ).fetchall()
    assert found == [(fraud,)]
