"""The teacher behind the server: when it is asked, with what, what it costs, and its failures."""

import contextlib
import json

import pytest
import run_folders
import served
import teacher_server

from dss_jax.methods import Choices
from dss_jax.serving import deferral
from dss_jax.teacher.client import Client

chat = served.chat
INPUT = run_folders.INPUTS[0]
WRITTEN = 'Rain is water. The answer is entailment.'


@pytest.fixture(scope='module')
def engine():
  return served.engine_of('dss')


@pytest.fixture(scope='module')
def expected(engine):
  return served.expected_of(engine)


@contextlib.contextmanager
def behind_a_teacher(engine, most=9):
  """A server that always asks a teacher; yields both."""
  with teacher_server.serve({INPUT: WRITTEN}) as teacher:
    make = lambda form: deferral.Deferral(1.0, Client(teacher.url), 'big', form, most)  # noqa: E731
    with served.serve(engine, deferral=make) as server:
      yield teacher, server


def test_unsure_inputs_go_to_the_teacher_and_are_counted(engine, expected, caplog):
  written = WRITTEN
  with behind_a_teacher(engine) as (teacher, server), server.client() as client:
    ask = lambda **more: client.post('/predict', json={'input': INPUT, **more})  # noqa: E731
    answer = ask(rationale=True).json()
    assert answer['label'] == 'entailment' and answer['rationale'] == 'Rain is water.'
    assert answer['answered_by'] == 'teacher'
    assert answer['student_label'] == expected[INPUT]['label']
    stream = [json.loads(data) for _, data in served.events(ask(rationale=True, stream=True))]
    assert stream[0]['label'] == 'entailment' and stream[1] == {'text': 'Rain is water.'}
    reply = client.post('/v1/chat/completions', json=chat()).json()
    assert reply['choices'][0]['message']['content'] == written
    assert reply['usage']['completion_tokens'] == len(written.split()), "the teacher's count"
    assert server.count('dss_answered_total', by='teacher') == 3
    assert server.count('dss_cancelled_total') == 0
    for fault in ('500', 'broken_json', 'cut_off', 'drop', '401'):
      teacher.fault = lambda number, body, fault=fault: fault
      answer = ask().json()
      assert answer['answered_by'] == 'student' and answer['label'] == expected[INPUT]['label']
    assert server.count('dss_teacher_failures_total') == 5
    assert server.count('dss_answered_total', by='student') == 5
    told = [record.message for record in caplog.records if 'the teacher failed' in record.message]
    assert len(told) == len(set(told)) >= 3 and 'ConfigError' in told[-1]


def test_a_chat_is_sent_on_as_it_came_but_for_what_it_may_cost(engine):
  parts = [
    {'type': 'text', 'text': INPUT}, {'type': 'image_url', 'image_url': {'url': 'data:,'}}
  ]  # fmt: skip
  calls = [{'id': '1', 'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}]
  messages = [
    {'role': 'user', 'name': 'Ann', 'content': 'Hello'},
    {'role': 'assistant', 'content': None, 'tool_calls': calls},
    {'role': 'tool', 'tool_call_id': '1', 'content': 'x'},
    {'role': 'user', 'content': parts},
  ]
  more = {'top_p': 0.5, 'stop': 'Q:', 'tools': [{'type': 'function'}], 'unheard': {'of': 1}}
  with behind_a_teacher(engine) as (teacher, server), server.client() as client:
    teacher._completion = lambda path, body: {}
    asked = {'model': 'any', 'messages': messages, 'n': 1, 'stream': True, **more}
    for cap, sent in (({}, 256), ({'max_tokens': 9}, 9), ({'max_tokens': 10**6}, 256)):
      client.post('/v1/chat/completions', json={**asked, **cap})
      assert teacher.bodies[-1] == {
        'model': 'big', 'messages': messages, 'max_tokens': sent, **more,
      }  # fmt: skip
    client.post('/v1/chat/completions', json={**asked, 'max_completion_tokens': 9999})
    assert teacher.bodies[-1]['max_completion_tokens'] == 256
    assert 'max_tokens' not in teacher.bodies[-1]


def test_what_is_refused_of_a_chat_changes_no_other_request(engine):
  with behind_a_teacher(engine) as (teacher, server), server.client() as client:
    teacher.refuses = {'stop'}
    reply = client.post('/v1/chat/completions', json=chat(stop='Q:')).json()
    assert reply['choices'][0]['message']['content'] == WRITTEN
    assert 'stop' in teacher.bodies[-2] and 'stop' not in teacher.bodies[-1]
    assert server.service.deferral.client.dialect == {}


def test_the_teachers_finish_reason_and_missing_counts_are_said(engine):
  with behind_a_teacher(engine) as (teacher, server), server.client() as client:
    teacher.has_usage = False
    whole = teacher._completion

    def cut(path, body, counted=True):
      answer = whole(path, body, counted)
      answer['choices'][0]['finish_reason'] = 'tool_calls'
      return answer

    teacher._completion = cut
    reply = client.post('/v1/chat/completions', json=chat()).json()
    assert reply['choices'][0]['finish_reason'] == 'tool_calls' and reply['usage'] is None


@pytest.mark.parametrize('fault', ['error', 'listed', 'full'])
def test_whatever_befalls_the_teacher_the_student_answers(engine, expected, fault, monkeypatch):
  with behind_a_teacher(engine, most=0 if fault == 'full' else 9) as (teacher, server):
    behind = server.service.deferral
    if fault == 'error':
      monkeypatch.setattr(type(behind.client), 'ask', lambda self, request: 1 / 0)
    if fault == 'listed':  # the input lists none
      object.__setattr__(behind.protocol, 'choices', Choices(listed=3))
    with server.client() as client:
      answer = client.post('/predict', json={'input': INPUT})
    assert answer.status_code == 200 and answer.json()['label'] == expected[INPUT]['label']
    assert server.count('dss_teacher_failures_total') == 1
    assert not behind._waiting and teacher.requests == (fault == 'listed')


def test_a_sure_student_asks_nobody(engine):
  with teacher_server.serve({}) as teacher:
    behind = lambda form: deferral.Deferral(1e-300, Client(teacher.url), 'big', form)  # noqa: E731
    with served.serve(engine, deferral=behind) as server, server.client() as client:
      assert client.post('/predict', json={'input': INPUT}).json()['answered_by'] == 'student'
    assert teacher.requests == 0
