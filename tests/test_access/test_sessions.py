"""Session cookies and CSRF tokens."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.access.sessions import SESSION_SECRET_FILE, SessionSigner

SIGNER = SessionSigner("a secret")


def test_a_cookie_names_its_key_and_no_secret() -> None:
    session, token = SIGNER.sign("az_12345678")
    assert SIGNER.load(token) == session
    assert session.key_id == "az_12345678"
    assert SIGNER.sign("az_12345678")[0].session_id != session.session_id


def test_a_cookie_ends() -> None:
    _, token = SIGNER.sign("az_12345678")
    assert SIGNER.load(token, age_max_s=-1) is None


def test_another_secret_signs_nothing_of_ours() -> None:
    _, token = SessionSigner("another secret").sign("az_12345678")
    assert SIGNER.load(token) is None


@given(st.data())
def test_a_changed_cookie_is_refused(data: st.DataObject) -> None:
    _, token = SIGNER.sign("az_12345678")
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_.~\0é"))
    changed = token[:place] + letter + token[place + 1 :]
    loaded = SIGNER.load(changed)
    # The last character of base64 has bits that mean nothing: what it signs is the same then.
    assert changed == token or loaded is None or loaded == SIGNER.load(token)


@given(st.text(max_size=2000))
def test_nonsense_is_refused(text: str) -> None:
    assert SIGNER.load(text) is None


def test_a_csrf_token_belongs_to_one_session() -> None:
    first, _ = SIGNER.sign("az_12345678")
    second, _ = SIGNER.sign("az_12345678")
    token = SIGNER.csrf_token(first)
    assert SIGNER.check_csrf_token(first, token)
    assert not SIGNER.check_csrf_token(second, token)
    assert not SessionSigner("another secret").check_csrf_token(first, token)


@pytest.mark.parametrize("token", [None, "", "é", "\ud800", "0" * 64])
def test_other_csrf_tokens_are_refused(token: str | None) -> None:
    assert not SIGNER.check_csrf_token(SIGNER.sign("az_12345678")[0], token)


def test_all_processes_of_a_folder_share_one_secret(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ThreadPoolExecutor(8) as pool:
        signers = list(pool.map(lambda _: SessionSigner.from_data_dir(folder), range(8)))
    _, token = signers[0].sign("az_12345678")
    assert all(signer.load(token) is not None for signer in signers)
    assert SessionSigner.from_data_dir(folder).load(token) is not None
    path = folder / SESSION_SECRET_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(folder.iterdir()) == [path]
