"""``anomalyze check``: every mistake in one go; and the shipped configuration has none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anomalyze.cli import app
from anomalyze.cli.check import schema_text
from anomalyze.cli.configuration import KINDS, check_configuration

SHIPPED = Path(__file__).parents[2] / "metrics_config"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the shipped configuration."""
    folder = tmp_path / "config"
    shutil.copytree(SHIPPED, folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def line_of(path: Path, words: str) -> int:
    return path.read_text()[: path.read_text().index(words)].count("\n") + 1


def test_the_shipped_configuration_has_no_mistake() -> None:
    result = check_configuration(SHIPPED)
    assert [str(problem) for problem in result.problems] == []
    assert set(result.loaded) == {kind.name for kind in KINDS} - {"places", "accounts", "uploads", "sources"}


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_schemas_are_up_to_date_and_headed(name: str) -> None:
    """`anomalyze check --schemas` writes them."""
    assert (SHIPPED / "schema" / f"{name}.json").read_text() == schema_text(name)
    kind = next(kind for kind in KINDS if kind.name == name)
    for path in SHIPPED.glob(kind.pattern):
        up = "../" * (len(path.relative_to(SHIPPED).parts) - 1)
        assert path.read_text().startswith(f"# yaml-language-server: $schema={up}schema/{name}.json\n")


def test_every_mistake_of_every_file_is_told_with_line_and_suggestion(config: Path) -> None:
    speed, policy = config / "rules/speed.yaml", config / "policy.yaml"
    edit(speed, "user_tx_count_5m >= :count", "user_tx_cuont_5m >= :coutn")
    edit(speed, "user_tx_count_7d - user_tx_count_1h", "user_tx_count_7d - user_tx_count_9h")
    edit(speed, "severity: HIGH", "severity: high")
    edit(speed, "{user_declined_streak} declines", "{user_declined_streek} declines")
    edit(policy, "caps:", "cups:")
    edit(config / "features.yaml", "unit: km, ", "unit: miles, ")
    edit(config / "currency_rates.yaml", "pivot: EUR", "pivot: euro")
    (config / "rules/more.yml").write_text("version: 1\n")
    (config / "places.yaml").write_text(
        "places:\n  HQ: {latitude: 91, longitude: 0, radius_km: 1, country: DE}\n"
    )
    features_broken = check_configuration(config)
    told = {Path(problem.file).name for problem in features_broken.problems}
    assert told == {"features.yaml", "policy.yaml", "currency_rates.yaml", "places.yaml", "more.yml", "rules"}

    edit(config / "features.yaml", "unit: miles, ", "unit: km, ")
    problems = check_configuration(config).problems
    found = {(Path(p.file).name, p.line, p.suggestion) for p in problems}
    assert found == {
        ("speed.yaml", line_of(speed, "user_tx_cuont"), "user_tx_count_5m"),
        ("speed.yaml", line_of(speed, ":coutn"), "count"),
        ("speed.yaml", line_of(speed, "user_tx_count_9h"), "user_tx_count_1h"),
        ("speed.yaml", line_of(speed, "severity: high"), "HIGH"),
        ("speed.yaml", line_of(speed, "user_declined_streek"), "user_declined_streak"),
        ("policy.yaml", line_of(policy, "cups:"), "caps"),
        ("currency_rates.yaml", line_of(config / "currency_rates.yaml", "pivot: euro"), ""),
        ("places.yaml", 2, ""),
        ("more.yml", 1, "rules/more.yaml"),
    }
    place = next(p for p in problems if "user_tx_count_9h" in p.message)
    line = speed.read_text().splitlines()[place.line - 1]
    assert line[place.column - 1 :].startswith("user_tx_count_9h")


def test_overlays_are_checked_too(config: Path) -> None:
    (config / "rules/accounts.yaml").write_text(
        "version: 1\naccounts:\n  acct_7:\n    GEO_FENCE: {mode: live, parameters: {countries: [NO, SE]}}\n"
        "    GEO_FENC: {mode: live}\n    AMOUNT_LIMIT: {parameters: {limit: many, limits: 3}}\n"
    )
    problems = check_configuration(config).problems
    assert [(p.line, p.path, p.suggestion) for p in problems] == [
        (5, "accounts.acct_7.GEO_FENC", "GEO_FENCE"),
        (6, "accounts.acct_7.AMOUNT_LIMIT.parameters.limit", ""),
        (6, "accounts.acct_7.AMOUNT_LIMIT.parameters.limits", "limit"),
    ]
    assert "expected number, got 'many'" in problems[1].message


def test_a_rule_told_twice_names_the_first(config: Path) -> None:
    text = (config / "rules/time.yaml").read_text()
    (config / "rules/zzz.yaml").write_text(text)
    problems = check_configuration(config).problems
    assert len(problems) == 1
    assert "ODD_HOUR already at" in problems[0].message
    assert "time.yaml:" in problems[0].message


def test_the_command_for_people_and_for_machines(config: Path) -> None:
    runner = CliRunner()
    fine = runner.invoke(app, ["check", "--config-dir", str(config)])
    assert fine.exit_code == 0
    assert "no mistake" in fine.stdout
    edit(config / "rules/time.yaml", "hour_rarity >= :rarity", "hour_rarity => :rarity")
    wrong = runner.invoke(app, ["check", "--config-dir", str(config)])
    assert wrong.exit_code == 1
    assert f"{config / 'rules/time.yaml'}:" in wrong.stdout
    machine = runner.invoke(app, ["check", "--config-dir", str(config), "--json"])
    document = json.loads(machine.stdout)
    assert machine.exit_code == 1
    assert document["ok"] is False
    assert document["problems"][0]["line"] == line_of(config / "rules/time.yaml", "hour_rarity =>")


def test_a_folder_that_is_missing_or_empty_says_what_it_wants(tmp_path: Path) -> None:
    assert "got none" in check_configuration(tmp_path / "nowhere").problems[0].message
    wanted = {Path(problem.file).name for problem in check_configuration(tmp_path).problems}
    assert wanted == {"features.yaml", "policy.yaml", "currency_rates.yaml", "*.yaml"}


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "anomalyze.cli", "--help"]
    before = time.perf_counter()
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - before < 5  # a busy machine; what is loaded is the real measure
    assert "check" in shown.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines()}
    assert not loaded & {"numpy", "numba", "pydantic", "sqlglot", "yaml", "polars", "fastapi", "psycopg"}
