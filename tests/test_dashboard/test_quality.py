"""The Quality page: what it teaches without labels, and what it says with them, of this account only."""

from __future__ import annotations

import html
import re

from tests.browser.site import Site

LABEL_CASES = (
    "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
    "SELECT a.account_id, a.user_id, a.tx_id, c.state = 'confirmed', now(), 'analyst', 'k' FROM cases c "
    "JOIN anomalies a USING (account_id, case_id) WHERE c.account_id = %s AND c.state <> 'open'"
)


def page_of(site: Site, key: str) -> str:
    answer = site.client(key).get("/quality")
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(answer.text)))


def test_quality_of_an_account(site: Site) -> None:
    empty = page_of(site, site.other.admin_key)
    assert "no case is known yet" in empty
    assert "/v1/labels" in empty
    assert "By rule" not in empty
    with site.connect() as connection:
        connection.execute(LABEL_CASES, [site.mine.account_id])
        fraud, known = connection.execute(
            "SELECT count(*) FILTER (WHERE state = 'confirmed'), count(*) FROM cases "
            "WHERE account_id = %s AND state <> 'open'",
            [site.mine.account_id],
        ).fetchone()  # type: ignore[misc]
        connection.execute(
            "INSERT INTO review_samples SELECT account_id, now()::date - 2, n::smallint, user_id, tx_id, 'case_s' || n, "
            "0.1 FROM (SELECT *, row_number() OVER (ORDER BY tx_id) AS n FROM transactions "
            "WHERE account_id = %s AND severity = 0 LIMIT 2) t",
            [site.mine.account_id],
        )
    full = page_of(site, site.mine.admin_key)
    assert f"{fraud} of {known}" in full.replace("\u00a0", " ")
    assert "AMOUNT_SPIKE" in full
    assert "0 of 2 drawn payments reviewed" in full
    assert "no case is known yet" in page_of(site, site.other.admin_key)
    with site.connect() as connection:
        connection.execute(
            "INSERT INTO labels (account_id, user_id, tx_id, fraud, known_at, source, recorded_by) "
            "SELECT account_id, user_id, tx_id, false, now(), 'analyst', 'k' FROM review_samples"
        )
        day = (
            "SELECT (ts AT TIME ZONE 'UTC')::date FROM anomalies a JOIN cases c USING (account_id, case_id) "
        )
        connection.execute(
            f"UPDATE review_samples SET day = ({day} WHERE c.state = 'confirmed' AND account_id = %s LIMIT 1)",
            [site.mine.account_id],
        )
    assert "2 of 2 drawn reviewed" in page_of(site, site.mine.admin_key)
