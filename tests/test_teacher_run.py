"""Asking many requests of a real HTTP server that fails: nothing lost, nothing asked twice."""

import asyncio
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import teacher_server

from dss_jax.settings.errors import ConfigError
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


def test_every_request_is_answered_and_none_is_asked_again(server, kept):
  questions = asked(100)
  assert ask(server, kept, questions).answered == 100
  assert texts(kept, questions) == [f'answer {n}' for n in range(100)]
  again = ask(server, kept, questions)
  assert (again.answered, again.before) == (0, 100)
  assert server.requests == 100 and set(server.asked.values()) == {1}


@pytest.mark.parametrize(
  'fault', ['429', '429:0.01', '500', '503', 'broken_json', 'empty_choices', 'drop', 'drop_midway']
)
def test_what_passes_is_asked_again(server, kept, fault):
  seen = []

  def fails_twice(number, body):
    question = body['messages'][-1]['content']
    seen.append(question)
    return fault if question.endswith(('1', '4', '7')) and seen.count(question) <= 2 else None

  server.fault = fails_twice
  questions = asked(40)
  progress = ask(server, kept, questions)
  assert progress.answered == 40 and not progress.failures
  assert texts(kept, questions) == [f'answer {n}' for n in range(40)]
  assert set(server.asked.values()) == {1}


def test_sustained_429_slows_down_and_loses_nothing(server, kept):
  start = time.monotonic()
  server.fault = lambda number, body: '429' if time.monotonic() - start < 1 else None
  progress = ask(server, kept, asked(60), most=16)
  assert progress.answered == 60 and progress.failed == 0
  assert progress.slowed > run.TRIES  # more often than any other error may come


def test_retry_after_holds_everything(server, kept):
  times = []

  def fault(number, body):
    times.append(time.monotonic())
    return '429:0.4' if number == 20 else None

  server.fault = fault
  assert ask(server, kept, asked(60), most=4).answered == 60
  gaps = [after - before for before, after in itertools.pairwise(times)]
  assert max(gaps) > 0.35  # and those that were on their way came before


def test_a_cut_off_answer_is_kept_with_its_reason_to_end(server, kept):
  server.fault = lambda number, body: 'cut_off'
  (question,) = asked(1)
  ask(server, kept, [question])
  assert kept.find(question).answer.finish_reason == 'length'


@pytest.mark.parametrize(
  'fault, reason',
  [('refusal', 'refusal: I cannot help with that.'), ('too_long', 'maximum context length')],
)
def test_a_failure_is_recorded_and_never_served_as_an_answer(server, kept, fault, reason):
  server.fault = lambda number, body: fault if number == 3 else None
  questions = asked(10)
  progress = ask(server, kept, questions, most=1)
  failed = kept.find(questions[3])
  assert (failed.state, failed.answer) == ('failed', None) and reason in failed.failure
  assert progress.answered == 9 and progress.failed == 1
  again = ask(server, kept, questions)
  assert (again.before, again.failed_before, server.requests) == (9, 1, 10)
  mended = ask(server, kept, questions, plan=run.Plan(retry_failed=True))
  assert mended.answered == 1 and kept.find(questions[3]).answer.text == 'answer 3'


def test_a_request_that_always_fails_ends_as_failed_with_its_reason(server, kept):
  bad = lambda body: body['messages'][-1]['content'] == 'q5'  # noqa: E731
  server.fault = lambda number, body: '500' if bad(body) else None
  progress = ask(server, kept, asked(20))
  assert progress.answered == 19
  assert progress.failures == {'HTTP 500: The server had an error.': 1}


def test_no_answer_in_time_is_tried_again_and_counts_as_charged(server, kept):
  server.fault = lambda number, body: 'hang' if number == 2 else None
  questions = asked(5)
  assert ask(server, kept, questions, plan=run.Plan(PRICE), timeout=0.3).answered == 5
  ledger = kept.ledger()
  assert (ledger.lost, ledger.sent, ledger.reserved, ledger.open) == (1, 6, 0, 0)
  charged = 5 * PRICE.cost(requests.Tokens(1, 0, 2)) + PRICE.worst(questions[0])
  assert ledger.spent == charged


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda server: setattr(server, 'key', 'right'), 'refuses the key.*OPENAI_API_KEY, which is'),
    (lambda server: setattr(server, 'models', {'other'}), 'The model `m` does not exist'),
    (lambda server: setattr(server, 'fault', lambda *_: 'quota'), 'exceeded your current quota'),
  ],
)
def test_what_cannot_pass_ends_the_run_at_once(server, kept, change, message):
  change(server)
  with pytest.raises(ConfigError, match=message):
    ask(server, kept, asked(50), plan=run.Plan(PRICE))
  assert server.requests == 1
  assert kept.ledger() == (0, 0, 0, 0, 0)


def test_a_server_that_calls_every_request_wrong_ends_the_run(server, kept):
  server.fault = lambda number, body: 'too_long'
  with pytest.raises(ConfigError, match='refuses every request: HTTP 400'):
    ask(server, kept, asked(100))
  assert server.requests < 40


def test_no_server_is_one_sentence_that_may_pass(kept, monkeypatch):
  monkeypatch.setattr(run, 'FIRST_PATIENCE_S', 0.1)
  with teacher_server.serve(ANSWERS) as gone:
    pass
  with pytest.raises(ConnectionError, match=r'has not answered for 0\.1 s'):
    ask(gone, kept, asked(3))


def test_refused_parameters_are_probed_once_and_left_out(server, kept):
  server.refuses = {'max_tokens', 'temperature', 'stop'}
  progress = ask(server, kept, asked(30, temperature=0.0, stop=['\n\n']))
  assert progress.answered == 30
  dialect = {'max_tokens': 'max_completion_tokens', 'temperature': None, 'stop': None}
  assert progress.dialect == dialect
  assert server.requests == 33 and server.statuses['400'] == 3
  assert server.bodies[-1].keys() == {'model', 'messages', 'max_completion_tokens'}
  assert server.bodies[-1]['max_completion_tokens'] == 8


def test_a_server_that_takes_no_cap_is_not_asked(server, kept):
  server.refuses = {'max_tokens', 'max_completion_tokens'}
  with pytest.raises(ConfigError, match='refuses every request'):
    ask(server, kept, asked(30))
  assert not server.asked


def test_an_answer_to_the_same_prompt_will_do_if_asked_for(server, kept):
  ask(server, kept, asked(10, temperature=0.0))
  warmer = asked(10, temperature=0.5)
  progress = ask(server, kept, warmer, plan=run.Plan(same_prompt=True))
  assert progress.before == 10 and server.requests == 10
  assert kept.find(warmer[3]) is None and kept.find(warmer[3], True).answer.text == 'answer 3'
  assert ask(server, kept, warmer).answered == 10


# ---------------------------------------------------------------- money


def test_the_limit_in_dollars_is_never_passed_and_is_raised_to_go_on(server, kept):
  questions = asked(110)[10:]  # of equal length
  worst, cost = PRICE.worst(questions[0]), PRICE.cost(requests.Tokens(1, 0, 2))
  limit = worst + 40 * cost
  plan = run.Plan(PRICE, store.Limits(spent=limit))
  progress = ask(server, kept, questions, plan=plan)
  ledger = kept.ledger()
  assert progress.stopped == run.OVER
  assert ledger.spent <= limit and ledger.spent + worst > limit  # as near as a reservation goes
  assert progress.answered == ledger.spent // cost == server.requests
  assert ask(server, kept, questions, plan=plan).answered == 0
  done = ask(server, kept, questions, plan=run.Plan(PRICE, store.Limits(spent=worst + 100 * cost)))
  assert done.answered == 100 - progress.answered and done.stopped is None


def test_a_tight_limit_and_a_server_that_slows_down_do_not_stop_each_other(server, kept):
  """Requests that wait for another try hold the money that others wait for; lost ones have none."""
  questions = asked(110)[10:]
  seen = []

  def fails_first(number, body):
    question = body['messages'][-1]['content']
    seen.append(question)
    first = seen.count(question) == 1 and number > 3
    return ('drop' if question == 'q50' else '429') if first else None

  server.fault = fails_first
  limit = 4 * PRICE.worst(questions[0]) + 100 * PRICE.cost(requests.Tokens(1, 0, 2))
  progress = ask(server, kept, questions, most=16, plan=run.Plan(PRICE, store.Limits(limit)))
  assert progress.answered == 100 and kept.ledger().spent <= limit


def test_the_limit_of_requests_holds_over_runs(server, kept):
  plan = run.Plan(limits=store.Limits(sent=30))
  assert ask(server, kept, asked(20), plan=plan).stopped is None
  progress = ask(server, kept, asked(100), plan=plan)
  assert (progress.stopped, progress.before, server.requests) == (run.OVER, 20, 30)


def test_a_server_that_counts_no_tokens_is_charged_the_worst_case(server, kept):
  server.has_usage = False
  (question,) = asked(1)
  ask(server, kept, [question], plan=run.Plan(PRICE))
  assert kept.ledger().spent == PRICE.worst(question)


def test_a_full_disk_ends_the_run_and_what_was_kept_stays(server, kept):
  pages = kept._sql.execute('PRAGMA page_count').fetchone()[0]
  kept._sql.execute(f'PRAGMA max_page_count = {pages + 4}')
  with pytest.raises(OSError, match=r'store\.sqlite: database or disk is full'):
    ask(server, kept, asked(200))
  kept._sql.execute('PRAGMA max_page_count = 100000')
  questions = asked(200)
  progress = ask(server, kept, questions)
  assert 0 < progress.before < 200 and texts(kept, questions) == list(ANSWERS.values())


# ---------------------------------------------------------------- processes

PROGRAM = """
  import asyncio, pathlib, sys
  from dss_jax.teacher import client, pace, prices, requests, run, store

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
    assert len(have) >= count - 10
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
