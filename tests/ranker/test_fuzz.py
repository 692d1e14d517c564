"""Whatever the API's own description allows, and whatever it does not: no 5xx, and every answer as described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.ranker.serving import N_SLATES, Serving
from tests.worlds import TWO_KINDS, liked, small

OPERATIONS = (
    *(("post", "/v1/rank"), ("post", "/v1/events"), ("get", "/v1/similar/{item}")),
    *(("get", "/v1/explain"), ("get", "/version")),
)


@pytest.fixture(scope="module")
def described() -> Iterator[Any]:
    """The description of an API that answers from a model, for users, items and events of any kind.

    The model's actions are of two kinds, so that answers hold all they may.
    """
    serving = Serving(small(stream=TWO_KINDS), max_waiting=10**7, sent=liked(N_SLATES)[0])
    serving.learn()
    serving.live.follow()
    with serving.listening() as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json", wait_for_schema=10.0)


def as_written(value: Any) -> Any:
    """Whole numbers as JSON writers write them: to JSON schema 5.0 is an integer, to us it is none."""
    if isinstance(value, dict):
        return {key: as_written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_written(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value


def test_these_are_all_operations(described: Any) -> None:
    found = [one.ok() for one in described.get_all_operations()]
    assert {(one.method, one.path) for one in found} == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_api_answers_as_it_says_of_itself(
    described: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = described[path][method]
    if mode is GenerationMode.NEGATIVE and path == "/version":
        return  # nothing is asked there that could be wrong
    # of several events each is judged by itself, so that some are wrong refuses no request
    apart = [negative_data_rejection] if path == "/v1/events" else []
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        if isinstance(case.body, dict | list):
            case.body = as_written(case.body)
        answer = case.call(timeout=10)
        statuses[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=apart)

    holds()
    wanted = 400 if mode is GenerationMode.NEGATIVE else 404 if "similar" in path else 200
    assert statuses[wanted] >= (1 if path == "/version" else 10), statuses
