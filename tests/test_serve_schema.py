"""The OpenAPI of the server against what it does: schemathesis asks what it allows, and not.

Only its checks of the response: no 500, no status, type or body that the schema does not name.
"""

import hypothesis
import pytest
import served

schemathesis = pytest.importorskip('schemathesis')
responses = pytest.importorskip('schemathesis.specs.openapi.checks')

EXAMPLES = 8


@pytest.mark.parametrize('mode', ['positive', 'negative'])
def test_every_answer_is_one_that_the_schema_names(mode):
  checks = [
    schemathesis.checks.not_a_server_error,
    responses.status_code_conformance,
    responses.content_type_conformance,
    responses.response_schema_conformance,
  ]
  statuses = set()
  with served.serve(served.engine_of('dss')) as server:
    schema = schemathesis.openapi.from_url(f'{server.url}/openapi.json')
    operations = [one.ok() for one in schema.get_all_operations()]
    paths = {one.path for one in operations}
    assert {'/predict', '/v1/chat/completions', '/health', '/ready'} <= paths
    asked = [one for one in operations if mode == 'positive' or one.method == 'post']
    for operation in asked:
      generation = schemathesis.GenerationMode(mode)

      @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
      )  # fmt: skip
      @hypothesis.given(case=operation.as_strategy(generation_mode=generation))
      def ask(case):
        response = case.call(base_url=server.url)
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

      ask()
  assert (200 if mode == 'positive' else 422) in statuses, statuses
