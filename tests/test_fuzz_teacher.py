"""Fuzzing of what a server answers: an answer or a failure, which can be kept and printed."""

import json
import pathlib
import tempfile

import fuzzing
from hypothesis import strategies

from dss_jax.teacher import answers, batch_lines, store
from dss_jax.teacher.answers import Answer
from dss_jax.teacher.requests import Request

TEXTS = strategies.text(max_size=30) | strategies.sampled_from(
  ['<think>', '</think>', '\ud800', '\0', '\x1b[2J', 'stop', 'length']
)
VALUES = strategies.recursive(
  strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | TEXTS,
  lambda inner: (
    strategies.lists(inner, max_size=3) | strategies.dictionaries(TEXTS, inner, max_size=3)
  ),
  max_leaves=8,
)


def maybe(**fields):
  """Objects with these fields, each with what belongs there, with anything, or without it."""
  return strategies.fixed_dictionaries(
    {}, optional={name: strategy | VALUES for name, strategy in fields.items()}
  )


MESSAGES = maybe(content=TEXTS, reasoning=TEXTS, reasoning_content=TEXTS, refusal=TEXTS)
CHOICES = strategies.lists(maybe(message=MESSAGES, text=TEXTS, finish_reason=TEXTS), max_size=2)
COUNTS = strategies.integers()
USAGE = maybe(
  prompt_tokens=COUNTS, completion_tokens=COUNTS, prompt_tokens_details=maybe(cached_tokens=COUNTS)
)
BODIES = maybe(choices=CHOICES, usage=USAGE) | VALUES
REQUEST = Request('m', 'Why?', {'max_tokens': 5})


@fuzzing.fuzz(BODIES)
def test_any_body_is_an_answer_or_a_failure_that_can_be_kept(body):
  outcome = answers.read(body)
  with tempfile.TemporaryDirectory() as folder:
    kept = store.Store(pathlib.Path(folder) / 'store.sqlite')
    with kept.transaction():
      kept.claim(REQUEST, 10, store.NO_LIMITS)
      if isinstance(outcome, Answer):
        kept.answered(REQUEST.key, outcome, None)
      else:
        kept.failed(REQUEST.key, outcome.reason, None, outcome.tokens)
    found = kept.find(REQUEST)
    assert (found.answer or found.failure) == getattr(outcome, 'reason', outcome)
    assert found.failure.isprintable() and len(found.failure) < 400
    kept.close()


@fuzzing.fuzz(maybe(error=maybe(message=TEXTS, code=TEXTS), detail=TEXTS) | VALUES)
def test_any_error_is_one_line(body):
  said = answers.error_message(body, 'HTTP status 500')
  assert said.isprintable() and 0 < len(said) <= answers.MAX_MESSAGE + 3


@fuzzing.fuzz(maybe(response=maybe(status_code=COUNTS, body=BODIES), error=VALUES))
def test_any_line_of_a_batch_is_an_answer_or_a_failure(line):
  outcome = batch_lines.outcome_of(json.loads(json.dumps(line)))
  assert isinstance(outcome, Answer) or outcome.reason.isprintable()
