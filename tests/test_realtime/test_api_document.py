"""The API is what its OpenAPI document says: requests are made up from it, answers held against it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.test_realtime.conftest import Api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_answers_are_as_documented(api: Api) -> None:
    """Made-up requests to every operation, without the endless streams."""
    headers = {"Authorization": f"Bearer {api.platform.key('admin', account='acct_fuzz')}"}
    document = schemathesis.openapi.from_url(f"{api.url}/openapi.json").exclude(path_regex="^/sse/")
    asked: Counter[tuple[str, int]] = Counter()

    def ask(operation: Any) -> None:
        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            st.one_of(
                operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
                operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
            )
        )
        def run(case: Any) -> None:
            response = case.call_and_validate(checks=CHECKS, headers=headers, timeout=20)
            asked[operation.label, response.status_code] += 1

        run()

    for found in document.get_all_operations():
        ask(found.ok())
    labels = {label for label, _ in asked}
    assert len(labels) >= 11
    # Ids that somebody makes up lead nowhere.
    for label in [label for label in labels if "}" not in label]:
        assert asked[label, 200] + asked[label, 202] > 0, f"nothing right was asked of {label}: {asked}"
    assert sum(n for (_, status), n in asked.items() if status == 422) > 0


def test_every_operation_is_documented_for_people(api: Api) -> None:
    found = api.stranger().get("/openapi.json").json()
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["description"], where
            if path == "/health":
                assert operation["security"] == []
                continue
            assert {"401", "403", "503"} <= operation["responses"].keys(), where
            for status, response in operation["responses"].items():
                kind = "application/problem+json" if status >= "400" else None
                assert response["description"], where
                assert kind is None or list(response["content"]) == [kind], (where, status)
    assert found["security"] == [{"key": []}]
