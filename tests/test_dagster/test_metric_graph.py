"""What a batch's file becomes in Dagster's graph, and when that is built again."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyze_dagster import follow
from anomalyze_dagster.metrics.assets import build_assets, describe_graph
from tests.test_dagster.shop import SHOP


def test_every_batch_says_how_long_it_is_fresh(folder: Path) -> None:
    for schedule, hours in {
        "5 * * * *": 1,
        "30 6 * * *": 24,
        "0 9 * * 1-5": 72,
        "*/5 8-17 * * 1-5": 62 + 1 / 12,
        "0 0 1 * *": 31 * 24,
    }.items():
        (folder / "metrics/shop.yaml").write_text(SHOP + f'schedule: "{schedule}"\ndelay: 2h\n')
        (spec,) = [one.get_asset_spec() for one in build_assets()]
        policy = spec.freshness_policy
        windows = [policy.warn_window.to_timedelta(), policy.fail_window.to_timedelta()]  # type: ignore[union-attr]
        expected = timedelta(hours=hours)
        assert windows == [expected + timedelta(hours=2.25), 2 * expected + timedelta(hours=2.25)], schedule


def test_whatever_a_file_may_say_makes_an_asset(folder: Path) -> None:
    before = describe_graph()
    (folder / "metrics/shop.yaml").write_text(
        SHOP + f'owner: "Ö & Söhne"\ntags: [a-, x_, "9", "{"z" * 64}"]\ndescription: "{{{{ }}}} %s"\n'
    )
    (asset,) = build_assets()
    assert len(asset.get_asset_spec().tags) >= 4
    assert describe_graph() != before
    # What only the run looks at makes no other graph.
    after = describe_graph()
    file = folder / "metrics/shop.yaml"
    file.write_text(file.read_text() + "unit: EUR\n")
    assert describe_graph() == after


def test_the_graph_is_built_again_for_another_graph_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[list[str]] = []

    class Ended:
        """Changes the files between two looks, as if time went by."""

        steps = iter(
            [
                lambda: (folder / "metrics/more.yaml").write_text(SHOP),
                lambda: (folder / "metrics/more.yaml").write_text(SHOP + "unit: EUR\n"),
                lambda: (folder / "metrics/shop.yaml").write_text(SHOP + "sheduled: 1h\n"),
                lambda: (folder / "metrics/shop.yaml").write_text(SHOP + "owner: ann@example.com\n"),
                lambda: (folder / "metrics/more.yaml").unlink(),
            ]
        )

        def wait(self, timeout: float) -> bool:
            time.sleep(0.01)
            step = next(self.steps, None)
            if step is not None:
                step()
            return step is None

    def reload(servicer: object) -> None:
        built.append(sorted(asset.key.path[-1] for asset in build_assets()))

    monkeypatch.setattr(follow, "reload", reload)
    follow.follow_batches(None, Ended())  # type: ignore[arg-type]
    assert built == [["more", "shop"], ["more", "shop"], ["shop"]]
