"""Runs of the teacher against the loopback server, for its tests; fixtures to import."""

import asyncio

import pytest
import teacher_server

from dss_jax.teacher import client, pace, prices, requests, run, store

ANSWERS = {f'q{number}': f'answer {number}' for number in range(200)}
NOT_PAID = run.Plan()
PRICE = prices.Price(input=1.0, output=2.0)


@pytest.fixture
def server():
  with teacher_server.serve(ANSWERS) as one:
    yield one


@pytest.fixture
def kept(tmp_path):
  one = store.Store(tmp_path / 'store.sqlite')
  yield one
  one.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(pace, 'LONGEST_PAUSE', 0.02)
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)


def asked(count, **parameters):
  return [
    requests.Request('m', [{'role': 'user', 'content': f'q{n}'}], {'max_tokens': 8, **parameters})
    for n in range(count)
  ]


def question_of(body):
  return body['messages'][-1]['content']


def ask(server, kept, questions, most=8, plan=NOT_PAID, timeout=10.0, dialect=None):
  """Runs to the end; returns the progress and the dialect."""
  progress = run.Progress()

  async def go():
    async with client.Client(server.url, timeout=timeout, dialect=dialect) as one:
      try:
        await run.run(questions, kept, one, pace.Pace(most), plan, progress)
      finally:
        progress.dialect = one.dialect
    return progress

  return asyncio.run(go())


def texts(kept, questions):
  return [kept.find(one).answer.text for one in questions]
