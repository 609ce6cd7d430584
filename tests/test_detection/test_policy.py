"""The policy file: what is accepted, and what mistakes are told as."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyze.detection.policy import load_policy, parse_policy, policy_schema
from anomalyze.errors import ConfigError
from anomalyze.events.batch import Action, Severity

SHIPPED = Path(__file__).parents[2] / "metrics_config" / "policy.yaml"


def test_the_shipped_file_is_valid_and_survives_the_bundle() -> None:
    import json

    policy = load_policy(SHIPPED)
    assert parse_policy(json.dumps(policy.to_json())) == policy
    assert [policy.action(s) for s in Severity] == [
        Action.ALLOW,
        Action.ALLOW,
        Action.REVIEW,
        Action.REVIEW,
        Action.BLOCK,
    ]
    assert policy.case_window_ms == 24 * 3_600_000
    assert policy.model.learning_rows_min == 2000


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("version: 1\ncaps:\n  model_alone: HIGH\n", 3, "at most MEDIUM"),
        ("version: 1\nraise:\n  groups: 1\n", 3, "greater than or equal to 2"),
        (
            "version: 1\nmodel:\n  levels:\n    - {tail: 0.01, severity: LOW}\n    - {tail: 3, severity: LOW}\n",
            5,
            "less than or equal to 0.05",
        ),
        ("version: 1\nmodle:\n  levels: []\n", 2, "Did you mean model?"),
        ("version: 1\nactions:\n  LOW: BLOCK\n", 3, "milder"),
        ("version: 1\nstatistics:\n  robust_z: [{over: 3, severity: BAD}]\n", 3, "'BAD'"),
        ("caps: {}\n", 1, "expected the key version"),
        ("version: 1\n  x: [\n", 2, "expected YAML"),
        ("- 1\n", 1, "expected keys and values"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, "p.yaml")
    assert f"p.yaml:{line}:" in str(caught.value)
    assert message in str(caught.value)


def test_all_mistakes_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy("version: 1\nraise: {groups: 1}\ncaps: {model_alone: HIGH}\n")
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        load_policy(tmp_path / "policy.yaml")


def test_the_schema_names_every_section() -> None:
    assert {"statistics", "raise", "caps", "lists", "actions", "case"} <= set(policy_schema()["properties"])
