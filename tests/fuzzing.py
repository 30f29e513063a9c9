"""Fuzzing of a reader: hostile inputs for seconds; only a result or a sentence may come out.

    @fuzzing.fuzz(strategies.binary())
    def test_any_bytes(content): ...

A test runs for DSS_FUZZ_SECONDS (default 2), in rounds whose seeds are 0, 1, 2, ..., so that a
failure repeats. `pytest -s` prints the number of inputs.
"""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies

from dss_jax.settings import errors

SECONDS = float(os.environ.get('DSS_FUZZ_SECONDS', 2))
ROUND = 50
LONGEST = 1000  # characters of a message


def fuzz(*given: hypothesis.strategies.SearchStrategy) -> Callable[[Callable], Callable]:
  """Makes a check of one input (a value of each strategy) into a test of many."""

  def decorate(check: Callable) -> Callable:
    def test():
      end, inputs, round_number = time.monotonic() + SECONDS, 0, 0

      def counted(values):
        nonlocal inputs
        inputs += 1
        check(*values)

      settings = hypothesis.settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
      )
      while round_number == 0 or time.monotonic() < end:
        run = hypothesis.given(hypothesis.strategies.tuples(*given))(counted)
        hypothesis.seed(round_number)(settings(run))()
        round_number += 1
      print(f'{check.__name__}: {inputs} inputs')

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test

  return decorate


class Refused(str):
  """The sentence by which an input is refused."""


def outcome(call: Callable[[], Any]) -> Any:
  """What a call returns, or `Refused`: one printable sentence for users; raises all else."""
  try:
    return call()
  except Exception as error:
    return _refusal(error)


@contextlib.contextmanager
def may_refuse() -> Iterator[None]:
  """As `outcome`, around checks of a result."""
  try:
    yield
  except Exception as error:
    _refusal(error)


def _refusal(error: Exception) -> Refused:
  message = str(error)
  if not errors.is_users(error) or isinstance(error, UnicodeError):
    raise error
  assert message.strip(), f'{type(error).__name__} without a message'
  assert len(message) <= LONGEST, f'{len(message)} characters: {message[:200]}'
  assert message.replace('\n', '').isprintable(), f'control characters: {message!r}'
  return Refused(message)


@contextlib.contextmanager
def file_of(content: bytes, name: str = 'input') -> Iterator[pathlib.Path]:
  """A file with this content, in a folder of its own."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / name
    path.write_bytes(content)
    yield path
