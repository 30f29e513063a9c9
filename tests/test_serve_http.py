"""The server over real HTTP: what it answers, what it refuses, who is cancelled, what it counts."""

import asyncio
import base64
import hashlib
import itertools
import json
import math
import re
import socket
import threading

import openai
import pytest
import run_folders
import served
import teacher_server

from dss_jax.serving import bodies, gate, protocol
from dss_jax.serving import chat as serving_chat
from dss_jax.serving import server as server_process
from dss_jax.serving.batcher import Job
from dss_jax.serving.engine import Answer, End, Piece
from dss_jax.serving.service import Labelled

chat = served.chat
KEY = 'a key of many letters'
INPUT = run_folders.INPUTS[0]


@pytest.fixture(scope='module')
def engine():
  return served.engine_of('dss')


@pytest.fixture(scope='module')
def server(engine):
  with served.serve(engine, about={'examples': [{'input': INPUT, 'label': 'yes'}]}) as one:
    yield one


@pytest.fixture(scope='module')
def expected(engine):
  return served.expected_of(engine)


# ---------------------------------------------------------------- answers


def test_a_prediction_is_that_of_dss_predict(server, expected):
  with server.client() as client:
    for text in run_folders.INPUTS:
      answer = client.post('/predict', json={'input': text, 'rationale': True}).json()
      assert answer['label'] == answer['student_label'] == expected[text]['label']
      assert answer['rationale'] == expected[text]['rationale']
      assert list(answer['scores']) == list(run_folders.CHOICES.labels)
      assert answer['answered_by'] == 'student' and not answer['truncated']
    short = client.post('/predict', json={'input': INPUT, 'scores': False}).json()
    assert short['scores'] is None and short['rationale'] is None


def test_a_stream_has_the_label_first_then_the_rationale(server, expected):
  with server.client() as client:
    response = client.post('/predict', json={'input': INPUT, 'rationale': True, 'stream': True})
  assert response.headers['content-type'].startswith('text/event-stream')
  found = [(name, json.loads(data)) for name, data in served.events(response)]
  assert [name for name, _ in found][:1] == ['label'] and found[-1][0] == 'end'
  assert found[0][1]['label'] == expected[INPUT]['label']
  pieces = ''.join(value['text'] for name, value in found if name == 'rationale')
  assert pieces == found[-1][1]['rationale'] == expected[INPUT]['rationale']


def test_many_clients_at_once_get_their_own_answers(server, expected):
  wrong = []

  def ask(text):
    with server.client() as client:
      for _ in range(5):
        answer = client.post('/predict', json={'input': text, 'rationale': True}).json()
        own = expected[text]
        if any(answer[name] != own[name] for name in ('label', 'rationale')) or (
          answer['scores'] != pytest.approx(own['scores'], rel=1e-4)
        ):
          wrong.append((text, answer))

  for one, other in itertools.combinations(expected.values(), 2):
    assert one['scores'] != pytest.approx(other['scores'], rel=1e-3), 'else nothing is tested'
  threads = [threading.Thread(target=ask, args=(text,)) for text in 2 * run_folders.INPUTS]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_the_openai_client_moves_from_teacher_to_student_by_its_base_url(server, expected):
  written = 'Rain is water. The answer is yes.'
  answer = expected[INPUT]
  own = f'{answer["rationale"]} The answer is {answer["label"]}.'.strip()
  with teacher_server.serve({INPUT: written}) as teacher:
    # The student is untrained: it writes up to its limit.
    for url, content, reason in (
      (teacher.url, written, 'stop'), (f'{server.url}/v1', own, 'length'),
    ):  # fmt: skip
      client = openai.OpenAI(base_url=url, api_key='none', max_retries=0)
      reply = client.chat.completions.create(**chat(max_tokens=64, temperature=0, stop=['\nQ:']))
      assert reply.choices[0].message.content == content
      assert reply.choices[0].finish_reason == reason and reply.model == 'any'
      assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
  parts = list(
    client.chat.completions.create(**chat(stream=True, stream_options={'include_usage': True}))
  )
  assert ''.join(part.choices[0].delta.content or '' for part in parts if part.choices) == own
  assert parts[-2].choices[0].finish_reason == 'length' and parts[-1].usage.total_tokens > 0
  assert [one.id for one in client.models.list()] == ['tiny']


def test_a_stream_is_the_whole_answer_whatever_white_space_it_begins_with(engine):
  answer = Labelled('yes', Answer('yes', 0.5, None, False))
  pieces = (' ', '\n Rain', ' is wet.')

  async def events():
    yield answer
    for text in pieces:
      yield Piece(text)
    yield End(''.join(pieces), 3, 4)

  async def both():
    form = protocol.load(None, 'none', None)
    body = bodies.Chat.model_validate(chat())
    reply = serving_chat.Reply(body, serving_chat.Asked(INPUT, False), form)
    return await reply.whole(events()), [part async for part in reply.chunks(events())]

  whole, parts = asyncio.run(both())
  deltas = [json.loads(part.removeprefix(b'data: '))['choices'][0]['delta'] for part in parts[:-1]]
  content = whole['choices'][0]['message']['content']
  assert ''.join(delta.get('content', '') for delta in deltas) == content
  assert content == 'Rain is wet. The answer is yes.'


def test_a_structured_answer_has_the_schema_of_annotate(server, expected):
  from dss_jax.teacher.asking import SCHEMA

  with server.client() as client:
    body = chat(response_format=SCHEMA)
    reply = client.post('/v1/chat/completions', json=body).json()
    assert json.loads(reply['choices'][0]['message']['content']) == {
      'rationale': expected[INPUT]['rationale'], 'answer': expected[INPUT]['label'],
    }  # fmt: skip
    stream = client.post('/v1/chat/completions', json={**body, 'stream': True})
    parts = [json.loads(data) for _, data in served.events(stream)[:-1]]
    text = ''.join(part['choices'][0]['delta'].get('content', '') for part in parts)
    assert json.loads(text)['answer'] == expected[INPUT]['label']


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
  ('path', 'content', 'status', 'message'),
  [
    ('/predict', b'', 400, 'the body is not JSON'),
    ('/predict', b'{"input": ', 400, 'the body is not JSON'),
    ('/predict', b'[1]', 400, 'expected a JSON object'),
    ('/predict', b'\xff', 400, 'the body is not JSON'),
    ('/predict', b'[' * 4000, 400, 'nested too deeply'),
    ('/predict', b'{"input": "\\ud800"}', 400, 'which is no character'),
    ('/predict', b'{"input": "' + b'a' * 4096 + b'"}', 413, 'at most 4096 bytes'),
    ('/predict', b'{}', 422, "field 'input': Field required"),
    ('/predict', b'{"input": " \\n"}', 422, "field 'input'"),
    ('/predict', b'{"input": 3}', 422, "field 'input': Input should be a valid string"),
    ('/predict', b'{"input": "a", "x": 1}', 422, "field 'x': Extra inputs are not permitted"),
    ('/predict', b'{"input": "a", "stream": 1}', 422, "field 'stream'"),
    ('/v1/chat/completions', b'{"model": "m", "messages": []}', 422, "field 'messages'"),
    (
      '/v1/chat/completions', json.dumps({'model': 'm', 'messages': [{'role': 'system'}]}).encode(),
      422, "a message of the role 'user'",
    ),
    ('/v1/chat/completions', json.dumps(chat(n=2)).encode(), 422, "field 'n'"),
    ('/v1/chat/completions', json.dumps(chat(temperature=math.nan)).encode(), 400, 'not finite'),
    ('/v1/chat/completions', json.dumps(chat(x=[{'y': -math.inf}])).encode(), 400, 'not finite'),
    ('/v1/chat/completions', json.dumps(chat(temperature='1')).encode(), 422, "'temperature'"),
    ('/v1/chat/completions', json.dumps(chat(max_tokens=0)).encode(), 422, "field 'max_tokens'"),
    ('/v1/chat/completions', json.dumps(chat(stop=[3])).encode(), 422, "field 'stop"),
    (
      '/v1/chat/completions',
      json.dumps(chat([{'type': 'text', 'text': 'a'}, {'type': 'image_url'}])).encode(),
      422, 'a student reads text',
    ),
    (
      '/v1/chat/completions', json.dumps(chat(response_format={'type': 'json_object'})).encode(),
      422, 'a student answers in text',
    ),
    ('/nowhere', b'{}', 404, 'Not Found'),
    ('/health', b'{}', 405, 'Method Not Allowed'),
  ],
)  # fmt: skip
def test_bad_input_gets_a_status_and_one_sentence(server, path, content, status, message):
  with server.client(headers={'Content-Type': 'application/json'}) as client:
    response = client.post(path, content=content)
  assert response.status_code == status
  error = response.json()['error']
  assert message in error['message'] and set(error) == {'message', 'type', 'code'}
  assert '\n' not in error['message'] and len(error['message']) < 310


def test_a_form_of_another_page_is_refused(server):
  with server.client() as client:
    assert client.post('/predict', content=b'{"input": "a"}').status_code == 415
    evil = client.post('/predict', json={'input': 'a'}, headers={'Host': 'evil.example'})
    assert evil.status_code == 400 and 'DSS_API_KEY' in evil.json()['error']['message']
    for host in ('localhost:80', '127.1.2.3', '[::1]:9'):
      assert client.get('/health', headers={'Host': host}).status_code == 200


def test_with_a_key_requests_without_it_get_401(engine):
  with served.serve(engine, key=KEY) as server, server.client() as client:
    for given in (None, 'Bearer wrong', KEY, f'Basic {KEY}', f'Bearer {KEY.upper()}'):
      headers = {} if given is None else {'Authorization': given}
      for path in ('/predict', '/v1/chat/completions'):
        refused = client.post(path, json={'input': INPUT}, headers=headers)
        assert refused.status_code == 401 and refused.headers['www-authenticate'] == 'Bearer'
      for path in ('/metrics', '/student', '/v1/models', '/openapi.json', '/nowhere'):
        assert client.get(path, headers=headers).status_code == 401
    assert all(client.get(path).status_code == 200 for path in ('/', '/health', '/ready'))
    for scheme in ('Bearer', 'bearer', 'BEARER '):
      known = {'Authorization': f'{scheme} {KEY}', 'Host': 'student.example'}
      assert client.get('/student', headers=known).status_code == 200
    assert client.post('/predict', json={'input': INPUT}, headers=known).status_code == 200


def test_a_full_queue_gets_429_and_when_to_come_back(engine):
  with served.serve(engine, queue=1) as server:
    server.go.clear()
    threads, answers = [], []

    def ask(stream):
      with server.client() as client:
        body = {'input': INPUT, 'stream': stream}
        answers.append(client.post('/predict', json=body).status_code)

    for waiting in (0, 1):
      threads.append(threading.Thread(target=ask, args=(bool(waiting),)))
      threads[-1].start()
      served.until(lambda: server.gate.active == len(threads))
      served.until(lambda: server.service.batcher.waiting == waiting)  # noqa: B023
    with server.client() as client:
      for stream in (False, True):
        refused = client.post('/predict', json={'input': INPUT, 'stream': stream})
        assert refused.status_code == 429 and refused.headers['retry-after'] == '1'
    server.go.set()
    for thread in threads:
      thread.join()
    assert answers == [200, 200]


def test_what_is_not_ready_or_stops_gets_503(engine):
  reasons = ['compiling']
  with served.serve(engine, why_not=lambda: reasons[0]) as server, server.client() as client:
    assert client.get('/ready').status_code == 503
    refused = client.post('/predict', json={'input': INPUT})
    assert refused.status_code == 503 and refused.headers['retry-after'] == '1'
    reasons[0] = ''
    assert client.get('/ready').json() == {'status': 'ready'}
    server.service.batcher.drain()
    refused = client.post('/predict', json={'input': INPUT, 'stream': True})
    assert refused.status_code == 503 and 'stopping' in refused.json()['error']['message']


def test_a_failure_says_nothing_of_the_request(engine, monkeypatch, caplog):
  with served.serve(engine) as server, server.client() as client:
    monkeypatch.setattr(server.service.batcher, '_begin', lambda jobs: 1 / 0)
    assert client.post('/predict', json={'input': 'private'}).status_code == 500
    broken = lambda *arguments: (_ for _ in ()).throw(TypeError('private'))  # noqa: E731
    monkeypatch.setattr(engine, 'work', broken)
    assert client.post('/predict', json={'input': 'private'}).status_code == 500
    monkeypatch.undo()
    assert client.post('/predict', json={'input': INPUT}).status_code == 200
  assert 'TypeError' in caplog.text and 'ZeroDivisionError' in caplog.text
  assert 'private' not in re.sub(r'.*lambda.*\n', '', caplog.text)


# ---------------------------------------------------------------- cancelling, counting


@pytest.mark.parametrize('stream', [False, True])
def test_a_client_that_goes_leaves_the_queue_before_it_is_batched(engine, stream):
  with served.serve(engine) as server:
    server.go.clear()
    first = server.client()
    thread = threading.Thread(
      target=first.post, args=('/predict',), kwargs={'json': {'input': 'x'}}
    )
    thread.start()
    served.until(lambda: server.gate.active == 1 and not server.service.batcher.waiting)
    gone = served.httpx2.Client(base_url=server.url, timeout=0.3)
    with pytest.raises(served.httpx2.TimeoutException):
      gone.post('/predict', json={'input': INPUT, 'stream': stream})
    gone.close()
    served.until(lambda: server.count('dss_cancelled_total') == 1)
    assert not server.service.batcher.waiting
    server.go.set()
    thread.join()
    first.close()
    served.until(lambda: server.gate.active == 0)
    assert server.count('dss_batch_rows_sum') == 1, 'one row was ever batched'


def test_metrics_count_and_only_what_is_asked_for_is_logged(engine, caplog):
  caplog.set_level('WARNING', 'httpx2')
  caplog.set_level('INFO', 'dss_jax')
  for logs in (False, True):
    caplog.clear()
    with served.serve(engine, logs=logs) as server, server.client() as client:
      client.post('/predict', json={'input': 'private'})
      client.post('/predict', content=b'private')
      client.get('/private')
      text = client.get('/metrics').text
    assert 'dss_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'dss_requests_total{path="/predict",status="415"} 1.0' in text
    assert 'dss_answered_total{by="student"} 1.0' in text and 'process_resident' in text
    assert 'dss_cancelled_total 0.0' in text
    assert 'private' not in caplog.text + text
    own = [record for record in caplog.records if record.name == 'dss_jax.serving']
    assert bool(own) == logs


def test_a_student_that_needs_a_rationale_refuses_chats_and_names_the_field():
  with served.serve(served.engine_of('pinto')) as server, server.client() as client:
    refused = client.post('/v1/chat/completions', json=chat())
    assert refused.status_code == 422 and 'ask /predict' in refused.json()['error']['message']
    refused = client.post('/predict', json={'input': INPUT})
    message = refused.json()['error']['message']
    assert refused.status_code == 422 and "lacks the field 'rationale'" in message
    assert 'JSON lines' not in message


def test_a_job_has_ended_before_its_last_event_is_sent():
  seen = []
  job = Job(None, 1, lambda event: seen.append(job.ended))
  job.end('the end')
  job.end('again')
  assert seen == [True], 'so that whoever gets it cannot cancel it'


def test_a_long_text_is_encoded_off_the_loop(engine, monkeypatch):
  threads = []
  work = engine.work
  monkeypatch.setattr(
    engine,
    'work',
    lambda *given: (threads.append(threading.current_thread().name), work(*given))[1],
  )
  with served.serve(engine, max_body_bytes=1 << 16) as server, server.client() as client:
    for length in (10, 10_000):
      assert client.post('/predict', json={'input': 'a ' * length}).status_code == 200
  assert threads[0] != threads[1] and threads[1].startswith('asyncio_')


def test_slow_heads_and_bodies_and_chunked_ones_that_are_too_large_are_refused(engine, monkeypatch):
  monkeypatch.setattr(gate, 'BODY_S', 0.3)
  monkeypatch.setattr(server_process, 'HEAD_S', 0.3)
  head = b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
  with served.serve(engine) as server:
    chunk = b'1000\r\n' + b'a' * 4096 + b'\r\n'
    for sent, status in (
      (b'', b''),
      (head, b''),
      (head + b'Content-Length: 9\r\n\r\n{', b'HTTP/1.1 408 '),
      (head + b'Transfer-Encoding: chunked\r\n\r\n' + 2 * chunk + b'0\r\n\r\n', b'HTTP/1.1 413 '),
    ):
      address = ('127.0.0.1', int(server.url.rpartition(':')[2]))
      with socket.create_connection(address, timeout=served.WAIT_S) as one:
        one.sendall(sent)
        assert one.recv(13) == status
        while one.recv(4096):  # until it is closed
          pass


def test_the_page_allows_itself_alone(server):
  with server.client() as client:
    response = client.get('/')
    policy = response.headers['content-security-policy']
    (script,) = re.findall('<script>(.*?)</script>', response.text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy and 'http' not in policy.replace('https://', '')
    assert not re.search(r'(src|href)="(?!data:)', response.text), 'nothing comes from elsewhere'
    assert client.get('/student').json()['examples'] == [{'input': INPUT, 'label': 'yes'}]
