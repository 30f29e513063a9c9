"""Work ahead in a background thread: order, errors, end, and stopping."""

import threading
import time

import pytest

from dss_jax.data.prefetch import Prefetch


def test_items_come_in_order_and_then_it_ends_for_good():
  ahead = Prefetch(range(20), lambda x: x * x)
  assert list(ahead) == [x * x for x in range(20)]
  assert list(ahead) == []


def test_it_works_ahead_by_its_depth_and_no_further():
  made: list[int] = []
  with Prefetch(iter(range(100)), made.append, depth=3):
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
      time.sleep(0.005)
    time.sleep(0.05)
    assert made == [0, 1, 2]


def test_an_error_is_raised_at_its_place():
  def put(x):
    if x == 2:
      raise KeyError('third item')
    return x

  ahead = Prefetch(range(5), put)
  assert [next(ahead), next(ahead)] == [0, 1]
  with pytest.raises(KeyError, match='third item'):
    next(ahead)


def test_an_error_of_the_source_is_raised_too():
  def source():
    yield 1
    raise OSError('disk')

  ahead = Prefetch(source(), lambda x: x)
  assert next(ahead) == 1
  with pytest.raises(OSError, match='disk'):
    next(ahead)


def test_closing_stops_the_thread():
  def names():
    return [t.name for t in threading.enumerate() if t.name.startswith('prefetch')]

  before = len(names())
  with Prefetch(iter(int, 1), lambda x: x) as ahead:
    next(ahead)
    assert len(names()) == before + 1
  assert len(names()) == before
  with pytest.raises(StopIteration):
    next(ahead)


def test_the_wait_of_the_consumer_is_measured():
  ahead = Prefetch(range(3), lambda x: time.sleep(0.05), depth=1)
  list(ahead)
  assert 0.02 <= ahead.wait_seconds < 5
