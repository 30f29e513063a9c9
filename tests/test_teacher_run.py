"""Asking many requests of a real HTTP server that fails: nothing lost, nothing asked twice."""

# ruff: noqa: F811  fixtures

import asyncio
import collections
import threading
import time

import pytest
import teacher_server
from teacher_runs import (  # noqa: F401  fixtures
  ANSWERS,
  NOT_PAID,
  PRICE,
  ask,
  asked,
  kept,
  question_of,
  quick,
  server,
  texts,
)  # fmt: skip

from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import answers, client, pace, requests, run, store


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
    question = question_of(body)
    seen.append(question)
    return fault if question.endswith(('1', '4', '7')) and seen.count(question) <= 2 else None

  server.fault = fails_twice
  questions = asked(40)
  progress = ask(server, kept, questions)
  assert progress.answered == 40 and not progress.failures
  assert texts(kept, questions) == [f'answer {n}' for n in range(40)]
  assert set(server.asked.values()) == {1}


def test_sustained_429_slows_down_and_loses_nothing(server, kept):
  each = run.TRIES + 1  # more often than any other error may come
  seen = collections.Counter()

  def fault(number, body):
    seen[question_of(body)] += 1
    return '429' if seen[question_of(body)] <= each else None

  server.fault = fault
  progress = ask(server, kept, asked(20), most=16)
  assert (progress.answered, progress.failed, progress.slowed) == (20, 0, 20 * each)


def test_a_wait_of_nothing_is_no_leave_to_ask_without_end(server, kept, monkeypatch):
  monkeypatch.setattr(pace, 'LONGEST_PAUSE', 0.4)
  until = []

  def fault(number, body):
    until.append(time.monotonic() + 0.5)
    return '429:0' if time.monotonic() < until[0] else None

  server.fault = fault
  progress = ask(server, kept, asked(1))
  assert progress.answered == 1 and progress.slowed <= 4  # 0.12 s at least, then 0.2 s


def test_retry_after_is_waited_for(server, kept):
  times = []

  def fault(number, body):
    if question_of(body) != 'q20':
      return None
    times.append(time.monotonic())
    return '429:0.4' if len(times) == 1 else None

  server.fault = fault
  assert ask(server, kept, asked(40), most=4).answered == 40
  assert times[1] - times[0] >= 0.4


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
  bad = lambda body: question_of(body) == 'q3' and not mended  # noqa: E731
  mended = False
  server.fault = lambda number, body: fault if bad(body) else None
  questions = asked(10)
  progress = ask(server, kept, questions)
  failed = kept.find(questions[3])
  assert (failed.state, failed.answer) == ('failed', None) and reason in failed.failure
  assert progress.answered == 9 and progress.failed == 1
  again = ask(server, kept, questions)
  assert (again.before, again.failed_before, server.requests) == (9, 1, 10)
  mended = True
  last = ask(server, kept, questions, plan=run.Plan(retry_failed=True))
  assert last.answered == 1 and kept.find(questions[3]).answer.text == 'answer 3'


def test_a_request_that_always_fails_ends_as_failed_with_its_reason(server, kept):
  server.fault = lambda number, body: '500' if question_of(body) == 'q5' else None
  progress = ask(server, kept, asked(20))
  assert progress.answered == 19
  assert progress.failures == {'HTTP 500: The server had an error.': 1}


def test_no_answer_in_time_is_tried_again_and_counts_as_charged(server, kept):
  seen = []

  def hangs_once(number, body):
    seen.append(question_of(body))
    return 'hang' if question_of(body) == 'q2' and seen.count('q2') == 1 else None

  server.fault = hangs_once
  questions = asked(5)
  assert ask(server, kept, questions, plan=run.Plan(PRICE), timeout=1.5).answered == 5
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


def test_a_request_that_is_forbidden_after_an_answer_fails_alone(server, kept):
  server.fault = lambda number, body: '403' if question_of(body) == 'q5' else None
  progress = ask(server, kept, asked(20))
  assert progress.answered == 19 and progress.failures == {'HTTP 403: Not allowed.': 1}


@pytest.mark.parametrize('name', ['403', '402'])
def test_what_is_forbidden_from_the_start_ends_the_run(server, kept, name):
  server.fault = lambda number, body: name
  with pytest.raises(ConfigError, match=f'{server.url}, asked for --model=m'):
    ask(server, kept, asked(50))
  assert server.requests == 1


def test_answers_on_their_way_are_kept_when_an_error_ends_the_run(server, kept):
  def fault(number, body):
    if question_of(body) != 'q9':
      return 'slow:0.3' if number else None
    return 'quota'

  server.fault = fault
  with pytest.raises(ConfigError, match='exceeded your current quota'):
    ask(server, kept, asked(100), most=16)
  assert 1 < kept.ledger().sent == sum(server.asked.values()) < 100
  assert kept.ledger().lost == kept.ledger().open == 0


def test_patience_lasts_from_the_last_thing_that_the_server_said(kept):
  one = run._Run(
    kept, client.Client('http://127.0.0.1:1/v1'), pace.Pace(4), NOT_PAID, run.Progress(), None
  )
  one.started -= 10_000
  one.pace.last_response = time.monotonic()
  went_on = one._may_go_on(asked(1)[0], answers.Failure('HTTP 503', 'server'))
  assert asyncio.run(went_on)
  one.pace.last_response -= 10_000
  with pytest.raises(ConnectionError, match='has not answered for 720 s'):
    asyncio.run(one._may_go_on(asked(1)[0], answers.Failure('HTTP 503', 'server')))


def test_a_store_with_answers_is_no_sign_that_every_request_is_wrong(server, kept):
  ask(server, kept, asked(1))
  server.fault = lambda number, body: 'too_long'
  assert ask(server, kept, asked(30)).failed == 29


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
    question = question_of(body)
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


def test_a_gateway_that_gave_up_may_have_been_charged(server, kept):
  seen = []

  def fault(number, body):
    seen.append(question_of(body))
    return '504' if seen.count('q0') == 1 and question_of(body) == 'q0' else None

  server.fault = fault
  (question,) = asked(1)
  assert ask(server, kept, [question], plan=run.Plan(PRICE)).answered == 1
  assert kept.ledger().lost == 1
  both = PRICE.worst(question) + PRICE.cost(requests.Tokens(1, 0, 2))
  assert kept.ledger().spent == kept.find(question).charged == both


def test_what_a_dead_process_reserved_does_not_hold_up_others_for_ever(server, kept, tmp_path):
  dead = store.Store(tmp_path / 'store.sqlite')
  questions, worst = asked(3), PRICE.worst(asked(1)[0])
  with dead.transaction():
    assert dead.claim(questions[2], worst, store.NO_LIMITS) == 'claimed'
  threading.Timer(0.3, dead._owner.close).start()  # as by SIGKILL: nobody settles the claim
  plan = run.Plan(PRICE, store.Limits(spent=worst + 10))
  progress = ask(server, kept, questions[:2], plan=plan)
  assert progress.stopped == run.OVER and kept.ledger() == (worst, 0, 1, 0, 1)


def test_a_full_disk_ends_the_run_and_what_was_kept_stays(server, kept):
  pages = kept._sql.execute('PRAGMA page_count').fetchone()[0]
  kept._sql.execute(f'PRAGMA max_page_count = {pages + 4}')
  with pytest.raises(OSError, match=r'store\.sqlite: database or disk is full'):
    ask(server, kept, asked(200))
  kept._sql.execute('PRAGMA max_page_count = 100000')
  questions = asked(200)
  progress = ask(server, kept, questions)
  assert 0 < progress.before < 200 and texts(kept, questions) == list(ANSWERS.values())
