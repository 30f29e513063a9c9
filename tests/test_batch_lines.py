"""Lines of batch files are read as they were written."""

import json

import pytest

from dss_jax.teacher import answers, batch_lines
from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.requests import Request, Tokens

CHAT = [{'role': 'user', 'content': 'Why?'}]
REQUEST = Request('m', CHAT, {'max_tokens': 10})


def test_a_line_is_the_request_that_it_was_written_for_whatever_its_server_refuses():
  dialect = {'max_tokens': 'max_completion_tokens', 'temperature': None}
  asked = Request('m', CHAT, {'max_tokens': 10, 'temperature': 0.0})
  line = json.loads(batch_lines.of_request(asked, 'ab12', dialect))
  assert line['body'] == {'model': 'm', 'messages': CHAT, 'max_completion_tokens': 10}
  assert batch_lines.request_of(line) == REQUEST and batch_lines.request_of(line).likely_tokens()
  assert batch_lines.parts_of(line['custom_id'], '') == (asked.key, 'ab12')
  assert len(line['custom_id']) <= 64


@pytest.mark.parametrize(
  'outcome',
  [
    Answer('Yes.', 'Hm.', 'stop', Tokens(3, 1, 2)),
    Failure('no choices', 'broken', tokens=Tokens(3, 0, 2)),
    Failure('no answer within 9 s', 'lost'),
  ],
)
def test_an_outcome_is_read_as_it_was_written(outcome):
  assert batch_lines.outcome_of(batch_lines.of_outcome('name', outcome)) == outcome


@pytest.mark.parametrize('kind', ['limit', 'server', 'network', 'refused'])
def test_what_costs_nothing_is_read_as_what_costs_nothing(kind):
  line = batch_lines.of_outcome('name', Failure('x', kind))
  assert batch_lines.outcome_of(line).kind not in answers.CHARGED
