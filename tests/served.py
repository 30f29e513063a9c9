"""A small student served over real HTTP in a thread, and a client of it.

Owns starting and ending a server for a test. The student is untrained, so its answers mean nothing;
they are compared with those of the same student asked directly.
"""

import asyncio
import contextlib
import dataclasses
import functools
import tempfile
import threading
import time
from collections.abc import Callable

import httpx2
import numpy as np
import run_folders
import uvicorn

from dss_jax.parallel import partitioning
from dss_jax.runs import student
from dss_jax.serving import app, engine, gate, meters, protocol, service
from dss_jax.serving import server as server_process
from dss_jax.serving.batcher import Batcher

WAIT_S = 20
ROWS = 8
ABOUT = {
  'name': 'tiny', 'step': 1, 'method': 'a test', 'needs': [], 'defer_below': None, 'examples': [],
}  # fmt: skip


_FOLDER = tempfile.TemporaryDirectory(prefix='served-')  # until the process ends


@functools.cache
def run_of(method: str) -> str:
  """The run folder of an untrained student; made once a process."""
  return run_folders.make_run(f'{_FOLDER.name}/{method}', method, steps=(1,))


@functools.cache
def engine_of(method: str) -> engine.Engine:
  """An untrained student of a method."""
  run = run_of(method)
  config = student.StudentConfig(run, mesh=partitioning.MeshConfig(), batch_size=ROWS)
  return engine.Engine(student.load(config).predictor(), ROWS, run_folders.CHOICES)


@functools.cache
def expected_of(asked: engine.Engine) -> dict[str, dict]:
  """Label, rationale and scores of a student asked directly, by input; all scores differ."""
  inputs, labels = run_folders.INPUTS, list(run_folders.CHOICES.labels)
  scores = np.exp(asked.predictor.label_scores(inputs, labels))
  answers = asked.predictor.answers(inputs)
  return {
    answer['input']: {**answer, 'scores': dict(zip(labels, map(float, of), strict=True))}
    for answer, of in zip(answers, scores, strict=True)
  }


def chat(text: str | list = run_folders.INPUTS[0], **more) -> dict:
  """A request in OpenAI's protocol."""
  return {'model': 'any', 'messages': [{'role': 'user', 'content': text}], **more}


@dataclasses.dataclass
class Served:
  """A running server.

  Attributes:
    url: its address.
    service: what it answers with.
    gate: what its requests pass first.
    go: batches begin while it is set.
  """

  url: str
  service: service.Service
  gate: gate.Gate
  go: threading.Event

  def client(self, **arguments) -> httpx2.Client:
    return httpx2.Client(base_url=self.url, timeout=WAIT_S, **arguments)

  def count(self, name: str, **labels: str) -> float:
    """A counter's value."""
    return self.service.meters.registry.get_sample_value(name, labels) or 0.0


def until(condition: Callable[[], bool]) -> None:
  """Waits for a condition, not for ever."""
  deadline = time.monotonic() + WAIT_S
  while not condition():
    assert time.monotonic() < deadline, 'it did not happen'
    time.sleep(0.005)


@contextlib.contextmanager
def serve(asked: engine.Engine, queue=64, prompt=None, deferral=None, about=None, **settings):
  """Serves a student on a free port of loopback."""
  go, counted = threading.Event(), meters.Meters()
  go.set()

  def begin(jobs):
    assert go.wait(WAIT_S)
    return asked.begin(jobs)

  form = protocol.load(prompt, 'none', asked.choices)
  with Batcher(begin, ROWS, queue, counted.rows.observe) as batcher:
    answering = service.Service(asked, batcher, counted, deferral and deferral(form))
    routes = app.make(answering, form, {**ABOUT, **(about or {})}, settings.get('why_not', str))
    passed = gate.Gate(routes, counted, **{'key': '', 'max_body_bytes': 4096, **settings})
    with _running(passed, answering) as port:
      yield Served(f'http://127.0.0.1:{port}', answering, passed, go)
      go.set()


@contextlib.contextmanager
def _running(passed: gate.Gate, answering: service.Service):
  """Runs an application in a thread; yields its port."""
  config = server_process.config_of(passed)
  config.port = 0
  server = uvicorn.Server(config)

  async def main():
    async with contextlib.AsyncExitStack() as stack:
      if answering.deferral is not None:
        await stack.enter_async_context(answering.deferral.client)
      await server.serve()

  thread = threading.Thread(target=asyncio.run, args=(main(),))
  thread.start()
  until(lambda: server.started)
  try:
    yield server.servers[0].sockets[0].getsockname()[1]
  finally:
    server.should_exit = True
    thread.join()


def events(response) -> list[tuple[str, str]]:
  """The (name, data) pairs of server-sent events."""
  found = []
  for part in filter(None, response.text.split('\n\n')):
    lines = dict(line.split(': ', 1) for line in part.split('\n'))
    found.append((lines.get('event', ''), lines['data']))
  return found
