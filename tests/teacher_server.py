"""A teacher on this machine: real HTTP, the OpenAI protocol, recorded answers, faults on command.

Owns the protocol (chat and completions, errors as OpenAI words them) and a log of what was asked.
Does not own the answers: `answers` maps a question, the last message or the end of the prompt, to
the text. Runs in a thread (`serve`) or as a program of its own (`python teacher_server.py --help`).
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import threading
import time
from collections.abc import Callable, Mapping

CHAT, COMPLETIONS = '/v1/chat/completions', '/v1/completions'
REASONS = {200: 'OK', 400: 'Bad Request', 401: 'Unauthorized', 404: 'Not Found'}


class Server:
  """Answers by question, and fails as `fault` says.

  Attributes:
    fault: from (number of the request from 0, its body) to a fault's name, or None for an answer:
      429 (`429:2` with Retry-After), another HTTP status, quota, too_long, broken_json, cut_off,
      empty_choices, refusal, drop (before the head), drop_midway, hang, slow:SECONDS.
    key: what the Authorization header must have; None: anything.
    models: the names that exist; None: all.
    refuses: parameters that are refused, `temperature` unless it is 1.
    reasoning: where the answer's reasoning is: 'reasoning', 'reasoning_content', 'think', or None.
    asked: how often each question was answered, with status 200 and an answer.
    bodies: what was sent, in order; statuses: what was said to it.
  """

  def __init__(self, answers: Mapping[str, str]):
    self.answers = dict(answers)
    self.fault: Callable[[int, dict], str | None] = lambda number, body: None
    self.key: str | None = None
    self.models: set[str] | None = None
    self.refuses: set[str] = set()
    self.reasoning: str | None = None
    self.has_usage = True
    self.cached_tokens = 0
    self.asked: collections.Counter[str] = collections.Counter()
    self.statuses: collections.Counter[str] = collections.Counter()
    self.bodies: list[dict] = []
    self.keep_bodies = True
    self.requests = self.in_flight = self.most_in_flight = self.port = 0
    self._writers: set[asyncio.StreamWriter] = set()

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.port}/v1'

  async def start(self, port: int = 0) -> asyncio.Server:
    server = await asyncio.start_server(self._connection, '127.0.0.1', port, backlog=1024)
    self.port = server.sockets[0].getsockname()[1]
    return server

  async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    self._writers.add(writer)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
      while head := await reader.readuntil(b'\r\n\r\n'):
        lines = head.decode('latin-1').split('\r\n')
        headers = {
          name.lower(): value.strip() for name, _, value in (s.partition(':') for s in lines[1:])
        }
        content = await reader.readexactly(int(headers.get('content-length', 0)))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
          if not await self._answer(lines[0].split(' ')[1], headers, content, writer):
            break
        finally:
          self.in_flight -= 1
    self._writers.discard(writer)
    writer.close()

  def close_connections(self) -> None:
    for writer in list(self._writers):
      writer.transport.abort()

  async def _answer(self, path, headers, content, writer) -> bool:
    """Answers one request; returns whether the connection stays."""
    body = json.loads(content)
    number, self.requests = self.requests, self.requests + 1
    if self.keep_bodies:
      self.bodies.append(body)
    fault = self.fault(number, body)
    refusal = self._refusal(path, headers, body)
    name, _, value = (fault or '').partition(':')
    if refusal is None and name == 'slow':
      await asyncio.sleep(float(value))
    elif refusal is None and fault:
      self.statuses[name] += 1
      return await self._fail(name, value, path, body, writer)
    status, answer = refusal or (200, self._completion(path, body))
    self.statuses[str(status)] += 1
    await _send(writer, status, json.dumps(answer).encode())
    return True

  async def _fail(self, name, value, path, body, writer) -> bool:
    if name == 'drop':
      writer.transport.abort()
      return False
    if name == 'hang':
      await asyncio.sleep(3600)
    whole = json.dumps(self._completion(path, body, counted=False)).encode()
    if name == 'drop_midway':
      head = f'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(whole)}'
      writer.write(f'{head}\r\n\r\n'.encode() + whole[: len(whole) // 2])
      await writer.drain()
      writer.close()
      return False
    if name == 'broken_json':
      await _send(writer, 200, whole[: len(whole) // 2])
    elif name in ('cut_off', 'empty_choices', 'refusal'):
      answer = self._completion(path, body, counted=name != 'empty_choices')
      if name == 'empty_choices':
        answer['choices'] = []
      else:
        choice = answer['choices'][0]
        place = choice['message'] if path == CHAT else choice
        field = 'content' if path == CHAT else 'text'
        if name == 'cut_off':
          place[field] = place[field][: len(place[field]) // 3]
          choice['finish_reason'] = 'length'
        else:
          place[field], place['refusal'] = None, 'I cannot help with that.'
      await _send(writer, 200, json.dumps(answer).encode())
    else:
      status, answer = _error(name)
      more = f'Retry-After: {value}\r\n' if value else ''
      await _send(writer, status, json.dumps(answer).encode(), more)
    return True

  def _refusal(self, path, headers, body):
    """The status and answer for what a server does not take; None if it takes it."""
    given = headers.get('authorization', '').removeprefix('Bearer ')
    if self.key is not None and given != self.key:
      text = f'Incorrect API key provided: {given}. You can find your key at your account.'
      return 401, {'error': {'message': text, 'code': 'invalid_api_key', 'param': None}}
    if path not in (CHAT, COMPLETIONS):
      return 404, {'detail': 'Not Found'}
    if self.models is not None and body['model'] not in self.models:
      text = f'The model `{body["model"]}` does not exist.'
      return 404, {'error': {'message': text, 'code': 'model_not_found', 'param': 'model'}}
    if not body.get('messages' if path == CHAT else 'prompt'):
      return 400, {'error': {'message': 'Nothing is asked.', 'code': None, 'param': None}}
    for name in sorted(self.refuses & set(body)):
      if name == 'temperature' and body[name] == 1:
        continue
      code = 'unsupported_value' if name == 'temperature' else 'unsupported_parameter'
      instead = " Use 'max_completion_tokens' instead." if name == 'max_tokens' else ''
      text = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
      return 400, {'error': {'message': text, 'code': code, 'param': name}}
    return None

  def _completion(self, path, body, counted=True) -> dict:
    asked = body['messages'][-1]['content'] if path == CHAT else body['prompt']
    question = self._question(asked)
    text = self.answers[question]
    self.asked[question] += counted
    thought = f'Let me think about this. {question}' if self.reasoning else ''
    if self.reasoning == 'think':
      text = f'<think>\n{thought}\n</think>\n\n{text}'
    choice: dict = {'index': 0, 'finish_reason': 'stop'}
    if path == CHAT:
      choice['message'] = {'role': 'assistant', 'content': text}
      if self.reasoning and self.reasoning != 'think':
        choice['message'][self.reasoning] = thought
    else:
      choice['text'] = text
    answer = {'id': 'cmpl-1', 'object': 'completion', 'model': body['model'], 'choices': [choice]}
    if self.has_usage:
      given, written = _words(body.get('messages') or body['prompt']), len(text.split())
      answer['usage'] = {
        'prompt_tokens': given,
        'completion_tokens': written,
        'total_tokens': given + written,
        'prompt_tokens_details': {'cached_tokens': self.cached_tokens},
      }
    return answer

  def _question(self, asked: str) -> str:
    """The question that a prompt ends with, without the letters around it."""
    if asked in self.answers:
      return asked
    end = asked.rstrip()
    end = end.removesuffix('Answer:').removesuffix('Reasonings:').removesuffix('A:').strip()
    starts = (end.rfind(mark) + len(mark) for mark in ('\nQ: ', '\nPremise: ') if mark in end)
    for start in sorted(starts, reverse=True):
      if (question := end[start:]) in self.answers:
        return question
    return end.removeprefix('Q:').removeprefix('Premise:').strip()


def _words(value) -> int:
  text = value if isinstance(value, str) else ' '.join(one['content'] for one in value)
  return len(text.split())


def _error(name: str) -> tuple[int, dict]:
  message, code = {
    '429': ('Rate limit reached.', 'rate_limit_exceeded'),
    'quota': ('You exceeded your current quota.', 'insufficient_quota'),
    'too_long': ("This model's maximum context length is 8192.", 'context_length_exceeded'),
    '403': ('Not allowed.', 'forbidden'),
  }.get(name, ('The server had an error.', 'server_error'))
  status = {'quota': 429, 'too_long': 400}.get(name) or int(name)
  return status, {'error': {'message': message, 'code': code, 'param': None}}


async def _send(writer, status: int, content: bytes, more: str = '') -> None:
  reason = REASONS.get(status, 'Error')
  head = f'HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n{more}'
  writer.write(f'{head}Content-Length: {len(content)}\r\n\r\n'.encode() + content)
  await writer.drain()


@contextlib.contextmanager
def serve(answers: Mapping[str, str]):
  """Runs a server in a thread, on a free port."""
  server, loop = Server(answers), asyncio.new_event_loop()
  listening = loop.run_until_complete(server.start())
  thread = threading.Thread(target=loop.run_forever, daemon=True)
  thread.start()

  async def end():
    listening.close()
    server.close_connections()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
      task.cancel()
    await asyncio.sleep(0)

  try:
    yield server
  finally:
    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


# ---------------------------------------------------------------- as a program of its own

MIXED = ('429', '429:1', '500', '503', 'broken_json', 'empty_choices', 'drop', 'drop_midway')


def _faults(options) -> Callable[[int, dict], str | None]:
  """`rate` of the requests fail in one of MIXED; from request `storm_at` all are 429 for a time."""
  draw, storm = random.Random(options.seed), [0.0]

  def fault(number: int, body: dict) -> str | None:
    if options.storm_at is not None and number >= options.storm_at:
      storm[0] = storm[0] or time.monotonic()
      if time.monotonic() - storm[0] < options.storm_seconds:
        return '429'
    if draw.random() < options.rate:
      return draw.choice(MIXED)
    return f'slow:{options.delay}' if options.delay else None

  return fault


async def _program(options) -> None:
  server = Server(json.loads(pathlib.Path(options.answers).read_text()))
  server.fault, server.keep_bodies, server.key = _faults(options), False, options.key
  listening = await server.start(options.port)
  log = pathlib.Path(options.log)
  while True:
    state = {
      'url': server.url,
      'requests': server.requests,
      'statuses': server.statuses,
      'repeats': {question: n for question, n in server.asked.items() if n > 1},
      'answered': len(server.asked),
    }
    log.with_suffix('.new').write_text(json.dumps(state))
    log.with_suffix('.new').replace(log)
    await asyncio.sleep(0.2)
  listening.close()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
  parser.add_argument('--answers', required=True, help='JSON, from question to text')
  parser.add_argument('--log', required=True, help='JSON of what was asked, rewritten as it goes')
  parser.add_argument('--port', type=int, default=0)
  parser.add_argument('--rate', type=float, default=0.0, help='of requests that fail')
  parser.add_argument('--delay', type=float, default=0.0, help='seconds before an answer')
  parser.add_argument('--storm_at', type=int, help='number of a request from which all get 429')
  parser.add_argument('--storm_seconds', type=float, default=60.0)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--key')
  asyncio.run(_program(parser.parse_args()))


if __name__ == '__main__':
  main()
