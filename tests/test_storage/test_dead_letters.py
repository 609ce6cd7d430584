"""Dead letters on the wire and in the table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyze.errors import ContractError
from anomalyze.events.batch import DeadLetter
from anomalyze.storage.dead_letters import decode_dead_letter, encode_dead_letter

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        DeadLetter,
        partition=st.integers(0, 1023),
        offset=st.integers(0, 2**60),
        reason=texts,
        field=texts,
        expected=texts,
        got=texts,
        value=st.binary(max_size=200),
    )
)
def test_the_wire_form_keeps_everything(letter: DeadLetter) -> None:
    assert decode_dead_letter(encode_dead_letter(letter)) == letter


def test_what_postgresql_cannot_hold_is_shown_by_a_sign() -> None:
    letter = decode_dead_letter(
        encode_dead_letter(DeadLetter(0, 1, "malformed", "", "JSON", "a\0\ud800", b"\0"))
    )
    assert letter.got == "a\ufffd?"
    assert letter.value == b"\0"


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[]", b'{"partition":0,"offset":1,"reason":"x","value_base64":"*"}']
)
def test_other_records_are_refused(value: bytes) -> None:
    with pytest.raises(ContractError, match="topic dead-letters"):
        decode_dead_letter(value)
