"""`dss serve` under load, and with a teacher behind it.

    python benchmarks/serving_load.py RUN [--requests=10000] [--clients=64]

A server of its own process answers 64 clients on this machine over real HTTP: 10,000 requests, of
which some are streams and chats, and some are malformed, too large, or cancelled by their client.
Every answer is compared with that of the same student asked directly. Printed as JSON: answers that
were lost or another's (both have to be 0), statuses of bad requests, percentiles, the server's
memory before and after. Then the deferral curve: accuracy and the share that goes to the teacher by
`--defer_below`, from the confidences that the server gave, with the data set's recorded teacher;
and one point of it measured with a recorded teacher's server behind `--teacher`. The run is one on
the embedded data. Results: benchmarks/RESULTS.md.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np

from dss_jax.experiments.report import deferral
from dss_jax.runs import student
from dss_jax.tasks import registration, sources

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'tests'))
import teacher_server

KINDS = {
  'label': 0.4, 'rationale': 0.25, 'stream': 0.1, 'chat': 0.15, 'malformed': 0.03,
  'oversized': 0.02, 'cancelled': 0.05,
}  # fmt: skip
BAD = {'malformed': 400, 'oversized': 413}
PROMPT = 'embedded_llm'
BELOW = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999, 1.0)


@contextlib.contextmanager
def served(run: str, *flags: str):
  """A server of its own; yields its port, its process id and how long it compiled."""
  command = [sys.executable, '-m', 'dss_jax', 'serve', run, '--port=0', f'--prompt={PROMPT}']
  process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
  try:
    port = int(re.search(r':(\d+) and', process.stdout.readline()).group(1))
    started = time.perf_counter()
    assert process.stdout.readline() == 'ready\n'
    yield port, process.pid, time.perf_counter() - started
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
  finally:
    process.kill()


async def exchange(reader, writer, path: str, content: bytes) -> tuple[int, bytes]:
  """One request over an open connection: status and body."""
  head = f'POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
  writer.write(f'{head}Content-Length: {len(content)}\r\n\r\n'.encode() + content)
  await writer.drain()
  lines = (await reader.readuntil(b'\r\n\r\n')).decode().lower().split('\r\n')
  headers = dict(line.split(': ', 1) for line in lines[1:] if line)
  status = int(lines[0].split()[1])
  if 'content-length' in headers:
    return status, await reader.readexactly(int(headers['content-length']))
  body = b''
  while size := int(await reader.readuntil(b'\r\n'), 16):
    body += (await reader.readexactly(size + 2))[:-2]
  await reader.readexactly(2)
  return status, body


def content_of(kind: str, text: str) -> tuple[str, bytes]:
  """Path and body of a request."""
  if kind == 'chat':
    message = {'role': 'user', 'content': 'Premise and claim: ' + text.replace('</s>', '\n')}
    return '/v1/chat/completions', json.dumps({'model': 'm', 'messages': [message]}).encode()
  body = {'input': text, 'rationale': kind != 'label', 'stream': kind == 'stream'}
  content = json.dumps(body).encode()
  if kind == 'malformed':
    content = content[:-3]
  return '/predict', content if kind != 'oversized' else b' ' * 70_000 + content


def is_own(kind: str, body: bytes, wanted: dict) -> bool:
  """Whether an answer is that of its question."""
  if kind == 'chat':
    content = json.loads(body)['choices'][0]['message']['content']
    return content == f'{wanted["rationale"]} So the answer is {wanted["label"]}.'.strip()
  if kind == 'stream':
    events = [json.loads(line[6:]) for line in body.decode().split('\n') if line[:5] == 'data:']
    pieces = ''.join(one.get('text', '') for one in events)
    return (events[0]['label'], pieces) == (wanted['label'], wanted['rationale'])
  answer = json.loads(body)
  rationale = wanted['rationale'] if kind == 'rationale' else None
  return (answer['label'], answer['rationale']) == (wanted['label'], rationale)


class Load:
  """64 clients and what they saw."""

  def __init__(self, port: int, expected: dict[str, dict], requests: int):
    draw = random.Random(0)
    self.port, self.expected, texts = port, expected, list(expected)
    kinds = draw.choices(list(KINDS), KINDS.values(), k=requests)
    self.waiting = iter([(kind, draw.choice(texts)) for kind in kinds])
    self.statuses: collections.Counter = collections.Counter()
    self.seconds: dict[str, list[float]] = collections.defaultdict(list)
    self.wrong = self.lost = 0

  async def client(self) -> None:
    """Asks one request after the other, over one connection as long as it holds."""
    stream = None
    for kind, text in self.waiting:
      stream = stream or await asyncio.open_connection('127.0.0.1', self.port)
      path, content = content_of(kind, text)
      started = time.perf_counter()
      try:
        if kind == 'cancelled':
          with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exchange(*stream, path, content), random.random() * 0.05)
          self.statuses['cancelled'] += 1
          stream[1].close()
          stream = None
          continue
        status, body = await exchange(*stream, path, content)
      except (OSError, asyncio.IncompleteReadError, ValueError):
        self.lost += 1
        stream = None
        continue
      self.statuses[f'{kind} {status}'] += 1
      if kind in BAD:
        self.wrong += status != BAD[kind]
        continue
      self.seconds[kind].append(time.perf_counter() - started)
      self.lost += status != 200
      self.wrong += status == 200 and not is_own(kind, body, self.expected[text])
    if stream is not None:
      stream[1].close()

  async def run(self, clients: int) -> float:
    """Runs all clients; returns the seconds."""
    started = time.perf_counter()
    await asyncio.gather(*(self.client() for _ in range(clients)))
    return time.perf_counter() - started


def resident_mb(pid: int) -> float:
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  return int(re.search(r'VmRSS:\s+(\d+)', status).group(1)) / 1024


def processor_s(pid: int) -> float:
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def metric(port: int, name: str) -> float:
  import urllib.request

  text = urllib.request.urlopen(f'http://localhost:{port}/metrics').read().decode()
  return sum(float(line.split()[-1]) for line in text.split('\n') if line.startswith(name))


def loaded(given: argparse.Namespace, expected: dict[str, dict]) -> dict:
  """The load test."""
  with served(given.run, f'--queue_size={4 * given.clients}') as (port, pid, compiling):
    asyncio.run(Load(port, expected, 500).run(given.clients))  # memory grows at first
    before, load = resident_mb(pid), Load(port, expected, given.requests)
    started = processor_s(pid)
    seconds = asyncio.run(load.run(given.clients))
    used = processor_s(pid) - started
    every = [one for values in load.seconds.values() for one in values]
    percentiles = {
      name: [round(1000 * float(one)) for one in np.percentile(values, [50, 90, 99, 100])]
      for name, values in {**load.seconds, 'all': every}.items()
    }
    return {
      'compiling_s': round(compiling, 1), 'requests': given.requests, 'clients': given.clients,
      'seconds': round(seconds, 1), 'requests_a_second': round(given.requests / seconds),
      'server_processor_ms_a_request': round(1000 * used / given.requests, 2),
      'lost': load.lost, 'of_another': load.wrong, 'statuses': dict(sorted(load.statuses.items())),
      'milliseconds_50_90_99_100': percentiles,
      'left_before_the_answer': metric(port, 'dss_cancelled_total'),
      'rss_mb': [round(before, 1), round(resident_mb(pid), 1)],
    }  # fmt: skip


async def asked_all(port: int, texts: list[str]) -> list[dict]:
  """The server's answers, 16 at once."""
  answers: dict[str, dict] = {}
  waiting = iter(texts)

  async def client() -> None:
    stream = await asyncio.open_connection('127.0.0.1', port)
    for text in waiting:
      answers[text] = json.loads((await exchange(*stream, *content_of('label', text)))[1])
    stream[1].close()

  await asyncio.gather(*(client() for _ in range(16)))
  return [answers[text] for text in texts]


def deferred(given: argparse.Namespace, rows: list[dict]) -> dict:
  """The deferral curve, and one measured point of it."""
  texts = [row['input'] for row in rows]
  with served(given.run) as (port, _, _):
    answers = asyncio.run(asked_all(port, texts))
  gold = np.array([row['label'] for row in rows])
  right = np.array([answer['label'] for answer in answers]) == gold
  taught = np.array([row['teacher_label'] for row in rows]) == gold
  confidences = np.array([answer['confidence'] for answer in answers])
  curve = [
    {
      'below': below, 'to_teacher': float((confidences < below).mean()),
      'accuracy': float(np.where(confidences < below, taught, right).mean()),
    }
    for below in BELOW
  ]  # fmt: skip
  best = deferral.accuracies(right, confidences, taught)
  said = {
    'Premise and claim: ' + row['input'].replace('</s>', '\n'):
      f'{row["rationale"]} So the answer is {row["teacher_label"]}.'
    for row in rows
  }  # fmt: skip
  with teacher_server.serve(said) as teacher:
    flags = [f'--defer_below={given.below}', f'--teacher={teacher.url}', '--teacher_model=recorded']
    with served(given.run, *flags) as (port, _, _):
      answers = asyncio.run(asked_all(port, texts))
      counted = metric(port, 'dss_answered_total{by="teacher"}')
  measured = {
    'below': given.below, 'to_teacher': counted / len(rows), 'teacher_saw': teacher.requests,
    'accuracy': float((np.array([answer['label'] for answer in answers]) == gold).mean()),
  }  # fmt: skip
  return {
    'inputs': len(rows), 'student': float(right.mean()), 'teacher': float(taught.mean()),
    'curve': curve, 'measured': measured, 'best': float(best.max()),
    'best_share': int(best.argmax()) / len(rows),
  }  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0], allow_abbrev=False)
  parser.add_argument('run')
  parser.add_argument('--requests', type=int, default=10_000)
  parser.add_argument('--clients', type=int, default=64)
  parser.add_argument('--below', type=float, default=0.9, help='the point that is measured')
  given = parser.parse_args()
  sources.add_prepared_datasets()
  task = json.loads((pathlib.Path(given.run) / 'config.json').read_text())['data']
  rows = registration.first_examples(task['mixture_or_task_name'], 'test', 600)
  predictor = student.load(student.StudentConfig(given.run)).predictor()
  expected = {one['input']: one for one in predictor.answers([row['input'] for row in rows])}
  print(json.dumps(loaded(given, expected)), flush=True)
  print(json.dumps(deferred(given, rows)))


if __name__ == '__main__':
  main()
