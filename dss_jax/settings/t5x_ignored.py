"""Ignored statements of T5X's files: those that change nothing here, against the table.

Owns finding them by trial: each statement gets other values, and what a run gets from T5X's
statements, and which of them are refused, has to change with one of these.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from dss_jax.settings import t5x_names, t5x_translation
from dss_jax.settings.statements import Reference, Statement
from dss_jax.settings.t5x_verdicts import DIFFERS, NOTHING, Verdict

OTHER_VALUES = (
  None, True, False, 7919, 0.8191, 'another', (3, 5), {'inputs': 7919}, Reference('mine.Another'),
)  # fmt: skip


def find(
  parsed: Sequence[Statement],
  candidates: Sequence[Statement],
  is_read: Callable[[Statement], bool],
) -> list[Statement]:
  """The candidates that are ignored.

  Args:
    parsed: all statements, in the order in which they count.
    candidates: of these; each is neither refused nor overridden.
    is_read: whether a run reads what a statement of ours sets.
  """
  effective = {id(one) for one in candidates}

  def is_allowed(statement: Statement, depth: int = 20) -> bool:
    """Whether the table says of any value that it needs nothing here, or what is done instead."""
    rule = t5x_names.rule_of(statement) if t5x_names.is_theirs(statement) else None
    if isinstance(rule, Verdict) and rule.kind in (NOTHING, DIFFERS):
      return True
    readers = [one for one in parsed if statement.name in one.macros]
    # A reader that is refused or overridden depends on no macro, in T5X either.
    return bool(depth and readers) and all(
      id(one) not in effective or is_allowed(one, depth - 1) for one in readers
    )

  ignored = []
  for statement in candidates:
    is_theirs = t5x_names.is_theirs(statement)
    if (not is_theirs and is_read(statement)) or is_allowed(statement):
      continue
    before = _outcome(parsed, None if is_theirs else statement)
    changed = (dataclasses.replace(statement, value=value) for value in OTHER_VALUES)
    if all(before == _outcome(_exchanged(parsed, statement, one), None if is_theirs else one)
           for one in changed):  # fmt: skip
      ignored.append(statement)
  return ignored


def _exchanged(
  parsed: Sequence[Statement], statement: Statement, other: Statement
) -> list[Statement]:
  return [other if one is statement else one for one in parsed]


def _outcome(parsed: Sequence[Statement], without: Statement | None) -> Any:
  """What a run gets from all statements, one of ours left out."""
  judged = t5x_translation.judge(parsed)
  made = t5x_translation.settle(parsed, judged)
  refused = [t5x_translation.sentence(one) for one in judged
             if one.verdict.is_refused and not one.overridden_by]  # fmt: skip
  ours = [one for one in parsed if one is not without and not t5x_names.is_theirs(one)]
  return ([one.text for one in made if not one.overridden_by],
          [one.conflict for one in made], refused, ours)  # fmt: skip
