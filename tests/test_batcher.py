"""The queue of the server: who is in a batch, and that every job gets exactly one end."""

import random
import threading
import time

import pytest

from dss_jax.serving import batcher
from dss_jax.serving.batcher import Batcher, DrainingError, Failed, Job, QueueFullError

WAIT_S = 10


class Batch:
  """Answers each job with its own work after `steps` steps."""

  def __init__(self, jobs, steps=1):
    self.jobs, self.left = jobs, steps

  def advance(self):
    self.left -= 1
    if self.left > 0:
      return True
    for job in self.jobs:
      job.end(job.work)
    return False


class Log:
  """Batches that begin when `go` is set, and what every job was sent."""

  def __init__(self, steps=1):
    self.batches, self.events, self.go, self.steps = [], {}, threading.Event(), steps
    self.go.set()

  def begin(self, jobs):
    assert self.go.wait(WAIT_S)
    self.batches.append([job.work for job in jobs])
    return Batch(jobs, self.steps)

  def job(self, work, rows=1):
    sent = self.events.setdefault(work, [])
    return Job(work, rows, sent.append)


def until(condition):
  deadline = time.monotonic() + WAIT_S
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.001)


def held(log, queue):
  """Holds the thread in a first batch, so that later jobs gather."""
  log.go.clear()
  queue.submit(log.job('first'))
  until(lambda: not queue.waiting)


def test_what_gathers_is_batched_in_order_as_far_as_it_fits():
  log = Log()
  with Batcher(log.begin, rows=4, queue=10) as queue:
    held(log, queue)
    for work in 'abcde':
      queue.submit(log.job(work, rows=2 if work == 'c' else 1))
    log.go.set()
    until(lambda: log.events['e'])
  assert log.batches == [['first'], ['a', 'b', 'c'], ['d', 'e']]
  assert log.events == {work: [work] for work in ('first', *'abcde')}


def test_cancelled_jobs_leave_the_queue_before_they_are_batched():
  log = Log()
  with Batcher(log.begin, rows=4, queue=10) as queue:
    held(log, queue)
    jobs = {work: log.job(work) for work in 'abc'}
    for job in jobs.values():
      queue.submit(job)
    assert queue.cancel(jobs['b']) and not queue.cancel(jobs['b'])
    assert queue.waiting == 2
    log.go.set()
    until(lambda: log.events['c'])
    assert not queue.cancel(jobs['c']), 'it has ended'
  assert log.batches == [['first'], ['a', 'c']] and log.events['b'] == []


def test_a_full_queue_and_a_draining_one_refuse():
  log = Log()
  with Batcher(log.begin, rows=2, queue=2) as queue:
    held(log, queue)
    queue.submit(log.job('a'))
    queue.submit(log.job('b'))
    with pytest.raises(QueueFullError):
      queue.submit(log.job('c'))
    queue.drain()
    with pytest.raises(DrainingError):
      queue.submit(log.job('d'))
    log.go.set()
    until(lambda: log.events['b'])
  assert log.events == {'first': ['first'], 'a': ['a'], 'b': ['b'], 'c': [], 'd': []}


def test_a_job_that_fits_no_batch_is_refused():
  with Batcher(Log().begin, rows=2, queue=2) as queue, pytest.raises(ValueError, match='3 rows'):
    queue.submit(Log().job('a', rows=3))


@pytest.mark.parametrize('place', ['begin', 'advance', 'silent'])
def test_a_batch_that_fails_fails_its_jobs_alone_and_logs_nothing_of_them(place, caplog):
  log = Log()

  class Broken(Batch):
    def advance(self):
      if place == 'advance':
        raise RuntimeError(3 * self.jobs[0].work)
      return False

  def begin(jobs):
    if jobs[0].work != 'bad':
      return log.begin(jobs)
    if place == 'begin':
      raise RuntimeError(3 * jobs[0].work)
    return Broken(jobs)

  with Batcher(begin, rows=2, queue=9) as queue:
    queue.submit(log.job('bad'))
    until(lambda: log.events['bad'])
    queue.submit(log.job('good'))
    until(lambda: log.events['good'])
  (event,) = log.events['bad']
  assert isinstance(event, Failed) and log.events['good'] == ['good']
  assert 'badbadbad' not in caplog.text and ('RuntimeError' in caplog.text) == (place != 'silent')


def test_a_short_batch_does_not_wait_for_a_long_one():
  assert batcher.RUNNING == 2
  log = Log(steps=10**9)
  with Batcher(log.begin, rows=1, queue=9) as queue:
    long = log.job('long')
    queue.submit(long)
    until(lambda: log.batches)
    log.steps = 1
    queue.submit(log.job('short'))
    until(lambda: log.events['short'])
    assert not long.ended
  (event,) = log.events['long']
  assert isinstance(event, Failed), 'the server stopped'


def test_every_job_of_many_threads_has_one_end_of_its_own():
  log, jobs, draw = Log(steps=2), [], random.Random(0)
  with Batcher(log.begin, rows=8, queue=10**6) as queue:

    def submit(start):
      for number in range(start, start + 200):
        job = log.job(number, rows=1 + number % 2)
        jobs.append(job)
        queue.submit(job)
        if draw.random() < 0.2:
          queue.cancel(job)

    threads = [threading.Thread(target=submit, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    until(lambda: all(job.ended or job.cancelled for job in jobs))
  assert len(jobs) == 1600
  for job in jobs:
    expected = [[job.work], []] if job.cancelled else [[job.work]]
    assert log.events[job.work] in expected
  batched = [work for batch in log.batches for work in batch]
  assert len(batched) == len(set(batched)), 'nobody is decoded twice'
