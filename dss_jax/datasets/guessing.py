"""Which column of a user's table is what, by the names that people give them.

Owns the usual names and the guess. Does not own: what is made of the columns (columns.py).
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dss_jax.datasets import columns, tables
from dss_jax.datasets.columns import Columns
from dss_jax.methods.choices import LETTERS

ANSWER_MARKS = ('####',)
"""After these stands the answer, in columns that hold a rationale and the answer."""
FEWEST_GROUPS = 10
"""Values of a first part of the input whose rows go together: fewer are kinds, not sources."""

_NAMES = {
  'label': (
    'label', 'labels', 'gold_label', 'gold', 'answer', 'answerkey', 'correct_answer', 'correct',
    'q_ans', 'target', 'class', 'output', 'sentiment', 'intent', 'y',
  ),
  'rationale': (
    'rationale', 'rationales', 'explanation', 'explanation_1', 'reasoning', 'reason', 'cot',
    'chain_of_thought', 'solution', 'taska_pos', 'why',
  ),
  'teacher_label': ('teacher_label', 'llm_label', 'model_answer', 'predicted_label'),
  'choices': ('choices', 'options', 'endings', 'question.choices', 'choices.text'),
  'split': ('split', 'subset', 'fold', 'partition'),
}  # fmt: skip
_INPUTS = (  # the first whose columns are all there
  ('input',), ('premise', 'hypothesis'), ('sentence1', 'sentence2'), ('premise', 'question'),
  ('passage', 'question'), ('context', 'question'), ('article', 'question'), ('body', 'question'),
  ('question',), ('question.stem',), ('q_text',), ('question_stem',), ('problem',), ('query',),
  ('text',), ('sentence',), ('review',), ('prompt',), ('content',), ('document',), ('premise',),
)  # fmt: skip
_OPTION = re.compile(
  r'((?:q_)?(?:op|opt|option|choice|ans|answer|ending|sol))[ _.]?([a-z]|\d{1,2})'
)


def guess(table: tables.Table, given: Columns) -> Columns:
  """Completes the columns that were named with those that have a usual name.

  Raises:
    ValueError: a named column does not exist, or none looks like input or label; the message shows
      all columns.
  """
  columns.check(table, given)
  free = {name.strip().lower(): name for name in table.columns if name not in given.used}
  found = dataclasses.asdict(given)
  for role, names in _NAMES.items():
    fitting = (free[name] for name in names if name in free and _fits(role, free[name], table))
    known = '' if found[role] else next(fitting, '')
    if known:
      found[role] = (known,) if role == 'choices' else known
      del free[known.strip().lower()]
  found['choices'] = found['choices'] or _options(free)
  for one in found['choices']:
    free.pop(one.strip().lower(), None)
  if not found['inputs']:
    several = next((names for names in _INPUTS if all(name in free for name in names)), ())
    found['inputs'] = tuple(free.pop(name) for name in several)
  _take_the_last(found, free)
  if not found['inputs'] or not found['label']:
    missing = 'input' if not found['inputs'] else 'label'
    raise ValueError(
      f'no column is named like the {missing}; name it by --{missing}=COLUMN. '
      f'{columns.listing(table)}'
    )
  if not found['answer_after'] and not found['rationale']:
    found['answer_after'] = _mark(tables.values(table.rows, found['label']))
  found['group'] = found['group'] or _group(found['inputs'], table)
  return Columns(**found)


def _fits(role: str, column: str, table: tables.Table) -> bool:
  """Whether a column of a usual name holds what it should: choices are lists, others texts."""
  values = [one for one in tables.values(table.rows, column) if one is not None][:100]
  are_lists = bool(values) and all(isinstance(one, list) for one in values)
  return are_lists if role == 'choices' else not are_lists or role in ('rationale', 'teacher_label')


def _options(free: Mapping[str, str]) -> tuple[str, ...]:
  """Columns such as option1, option2 or A, B, C, D: all of a family, in order from the first."""
  families: dict[str, dict[str, str]] = collections.defaultdict(dict)
  for lower, name in free.items():
    if match := _OPTION.fullmatch(lower):
      families[match.group(1)][match.group(2)] = name
  letters = {one: free[one] for one in itertools.takewhile(free.__contains__, LETTERS)}
  for family in (*families.values(), letters):
    for order in (LETTERS, map(str, itertools.count(0)), map(str, itertools.count(1))):
      found = tuple(family[one] for one in itertools.takewhile(family.__contains__, order))
      if 2 <= len(found) == len(family):
        return found
  return ()


def _take_the_last(found: dict[str, Any], free: Mapping[str, str]) -> None:
  """If one role is missing and one column is left, they belong together."""
  left = [
    name
    for lower, name in free.items()
    if name != found['group'] and not re.fullmatch(r'(.*_)?(id|idx|index)', lower)
  ]
  if len(left) == 1 and bool(found['inputs']) != bool(found['label']):
    role = 'label' if found['inputs'] else 'inputs'
    found[role] = left[0] if role == 'label' else (left[0],)


def _mark(values: Iterable[Any]) -> str:
  texts = [one for one in values if isinstance(one, str) and one.strip()]
  found = (mark for mark in ANSWER_MARKS if texts and all(f'\n{mark}' in one for one in texts))
  return next(found, '')


def _group(inputs: tuple[str, ...], table: tables.Table) -> str:
  """The first of several parts, such as a passage with many questions."""
  values = tables.values(table.rows, inputs[0])
  different = {one for one in values if isinstance(one, str)}
  return inputs[0] if len(inputs) > 1 and len(different) >= FEWEST_GROUPS else ''
