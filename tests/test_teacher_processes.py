"""Processes that ask for one store: killed, stopped, two at once; and what the teacher imports."""

# ruff: noqa: F811  fixtures

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

from teacher_runs import PRICE, ask, asked, kept, quick, server, texts  # noqa: F401  fixtures

from dss_jax.teacher import requests, run, store

PROGRAM = """
  import asyncio, pathlib, sys
  from dss_jax.teacher import answers, client, pace, prices, requests, run, store

  async def main(url, path, count):
    asked = [
      requests.Request('m', [{'role': 'user', 'content': f'q{n}'}], {'max_tokens': 8})
      for n in range(count)
    ]
    kept, progress = store.Store(pathlib.Path(path)), run.Progress()
    try:
      async with client.Client(url) as one:
        plan = run.Plan(prices.Price(1.0, 2.0))
        await run.run(asked, kept, one, pace.Pace(4), plan, progress)
    finally:
      kept.close()
    print(progress.answered, progress.before, progress.stopped)

  asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start(server, path, count=200):
  words = [sys.executable, '-c', textwrap.dedent(PROGRAM), server.url, str(path), str(count)]
  return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def wait_for(server, count):
  deadline = time.monotonic() + 60
  while sum(server.asked.values()) < count:
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_killed_at_any_moment_nothing_is_lost_or_asked_twice(server, tmp_path):
  server.fault = lambda number, body: 'slow:0.02'
  path = tmp_path / 'store.sqlite'
  questions, had = asked(200), []
  for count in (30, 90):
    process = start(server, path)
    wait_for(server, count)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = store.Store(path)
    have = [n for n, one in enumerate(questions) if (found := kept.find(one)) and found.answer]
    had.append({f'q{n}': server.asked[f'q{n}'] for n in have})
    kept.close()
    assert len(have) >= count - 12  # one of each worker may not be on disk
  kept = store.Store(path)
  assert ask(server, kept, questions, plan=run.Plan(PRICE)).before == len(had[-1])
  assert all(server.asked[one] == times for part in had for one, times in part.items())
  twice = [question for question, times in server.asked.items() if times > 1]
  assert len(twice) <= 2 * 12  # were on their way, or not on disk, at a kill
  assert texts(kept, questions) == [f'answer {n}' for n in range(200)]
  ledger = kept.ledger()
  cost = PRICE.cost(requests.Tokens(1, 0, 2))
  assert ledger.spent >= 200 * cost + ledger.lost * PRICE.worst(questions[0])
  assert len(twice) <= ledger.lost <= 2 * 12 and not ledger.reserved and not ledger.open
  kept.close()


def test_sigterm_lets_answers_come_in_and_gives_back_the_rest(server, tmp_path):
  server.fault = lambda number, body: 'slow:0.1'
  path = tmp_path / 'store.sqlite'
  process = start(server, path)
  wait_for(server, 12)
  process.send_signal(signal.SIGTERM)
  answered, _, stopped = process.communicate(timeout=30)[0].split()
  assert stopped == str(int(signal.SIGTERM)) and process.returncode == 0
  kept = store.Store(path)
  ledger = kept.ledger()
  assert int(answered) == server.requests == ledger.sent and ledger.lost == ledger.open == 0
  kept.close()
  assert os.listdir(tmp_path) == ['store.sqlite']


def test_two_processes_share_a_store_and_its_work(server, tmp_path):
  server.fault = lambda number, body: 'slow:0.01'
  path = tmp_path / 'store.sqlite'
  pair = [start(server, path) for _ in range(2)]
  answered = [int(one.communicate(timeout=60)[0].split()[0]) for one in pair]
  assert sum(answered) == 200 and set(server.asked.values()) == {1}


def test_a_run_waits_for_what_another_process_asks(server, kept, tmp_path):
  other = store.Store(tmp_path / 'store.sqlite')
  (question,) = asked(1)
  with other.transaction():
    assert other.claim(question, 5, store.NO_LIMITS) == 'claimed'
  threading.Timer(0.3, other.close).start()  # as a process that dies
  progress = ask(server, kept, [question])
  assert progress.answered == 1 and kept.ledger().lost == 1


def test_the_teacher_imports_neither_tensorflow_nor_jax():
  folder = pathlib.Path(run.__file__).parent
  names = [f'dss_jax.teacher.{path.stem}' for path in folder.glob('*.py') if path.stem != 'beam']
  program = (
    f'import importlib, sys\nfor name in {names}: importlib.import_module(name)\n'
    "print({'tensorflow', 'jax', 'flax', 'seqio', 'torch'} & set(sys.modules))"
  )
  assert 'dss_jax.teacher.run' in names
  printed = subprocess.check_output([sys.executable, '-c', program], text=True)
  assert printed.strip() == 'set()'
