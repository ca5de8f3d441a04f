"""What a client makes up from the OpenAPI file (schemathesis): every answer is one that the file describes, and none a fault.

Whether a request is refused is not compared with the file: that a form's fields are all texts, and that a query is of something, cannot be
said in it.
"""

from __future__ import annotations

import pytest

from tests.inference.service.conftest import PATIENCE

schemathesis = pytest.importorskip("schemathesis", reason='schemathesis is not installed: pip install "omnivast[dev]"')
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

EXAMPLES = 15
"""Requests of each route, and as many that break the rules of the file."""
ROUTES = [("/api/search", "POST"), ("/api/caption", "POST"), ("/api/answer", "POST"), ("/api/chat", "POST"), ("/api/embed", "POST"),
          ("/api/index", "POST"), ("/api/index", "GET"), ("/api/health", "GET"), ("/api/metrics", "GET"), ("/media/{path}", "GET")]


@pytest.fixture(scope="module")
def described(served):
    return schemathesis.openapi.from_url(f"{served.url}/api/openapi.json", timeout=PATIENCE)


def test_every_route_is_tried(described):
    assert sorted((route.path, route.method.upper()) for route in (one.ok() for one in described.get_all_operations())) == sorted(ROUTES)


@pytest.mark.parametrize("valid", [True, False], ids=["as described", "otherwise"])
@pytest.mark.parametrize(("path", "method"), ROUTES, ids=lambda value: value)
def test_every_answer_is_one_that_is_described(described, path, method, valid):
    from schemathesis.specs.openapi import checks as of

    kind = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE

    @hypothesis.given(case=described[path][method].as_strategy(generation_mode=kind))
    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    def answered(case):
        case.call_and_validate(timeout=PATIENCE, excluded_checks=[of.positive_data_acceptance, of.negative_data_rejection])

    try:
        answered()
    except hypothesis.errors.Unsatisfiable:
        assert not valid and method == "GET"  # without fields there is nothing to break


@pytest.mark.parametrize("path", ["/api/search", "/api/health"])
def test_other_methods_are_told_which_there_are(served, path):
    told = served.client.delete(path)
    assert told.status_code == 405 and told.headers["allow"] in ("POST", "GET") and told.json()["error"]
