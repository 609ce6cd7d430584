"""What a candidate must pass before it may be published; each blocks what comes after it."""

from collections.abc import Iterator

import dagster as dg

from anomalyze_dagster.resources import ObjectsResource, PostgresResource
from anomalyze_dagster.retry import RETRY, retried

__all__ = ["candidate_checks"]

# The names of anomalyze.learning.gates, which a test compares; importing it here would cost the code server 150 MB.
WHAT = {
    "parity": "The file as stored scores as the trained model did, in both engines.",
    "calibration": "On days it never saw, as many rows lie beyond each threshold as promised.",
    "no_future_leak": "What came later changes no feature and no verdict.",
    "shuffled_labels": "Labels drawn by lot are not found again on later days: nothing tells of the future.",
    "alert_volume": "Cases a day stay within the budget; without one, near the champion's at MEDIUM or above.",
    "latency": "It judges about as fast as the champion.",
    "quality": "On matured days it surely finds more fraud value than the champion in as many cases; unknown below 50.",
}


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset="candidate_bundle", description=text, blocking=True)
        for name, text in WHAT.items()
    ],
    retry_policy=RETRY,
)
def candidate_checks(
    context: dg.AssetCheckExecutionContext, objects: ObjectsResource, postgres: PostgresResource
) -> Iterator[dg.AssetCheckResult]:
    from anomalyze.learning.gates import GATES
    from anomalyze.learning.shelf import load_candidate
    from anomalyze.storage.alarms import Alarm, raise_alarm

    with retried():
        bundle, evaluation = load_candidate(objects.open())
        for name, gate in GATES.items():
            outcome = gate(bundle, evaluation)
            if not outcome.passed and outcome.is_alarm:
                alarm = Alarm(
                    "bundle",
                    f"candidate:{bundle.id}:{name}",
                    f"The candidate failed the check {name} and was not published. {outcome.says}",
                    detail=dict(outcome.figures),
                    run_id=context.run.run_id,
                )
                with postgres.connect() as connection:
                    raise_alarm(connection, alarm)
            yield dg.AssetCheckResult(
                check_name=name,
                asset_key="candidate_bundle",
                passed=outcome.passed,
                severity=dg.AssetCheckSeverity.ERROR,
                description=outcome.says,
                metadata={"bundle": bundle.id, **outcome.figures},
            )
