"""Train, validation and test of a user's rows: made where they are not given, and without leaks.

Owns which row goes to which split, and what is left out since another split has it. Does not own:
what a row is (columns.py).
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.datasets import rows
from dss_jax.datasets.columns import Record

SPLITS = ('train', 'validation', 'test')
FRACTION = 0.1
"""Of the inputs, for each split that is made out of train."""
FEWEST = 6
"""Inputs that can be split."""
_ALIASES = {
  'train': 'train', 'training': 'train', 'validation': 'validation', 'valid': 'validation',
  'val': 'validation', 'dev': 'validation', 'test': 'test', 'testing': 'test',
}  # fmt: skip


class Split(NamedTuple):
  """Splits of a data set.

  Attributes:
    records: of each split, in order.
    notes: what was made or left out, for people.
    leaks: how many rows were left out since a later split has their input.
  """

  records: dict[str, list[Record]]
  notes: tuple[str, ...]
  leaks: int


def named(value: str) -> str:
  """The split that a cell of a column of splits names.

  Raises:
    ValueError: it names none.
  """
  if value.strip().lower() not in _ALIASES:
    raise ValueError(
      f'expected train, validation or test, got {rows.shown(value)}; give --split=COLUMN of '
      'another column, or --split=none to make splits.'
    )
  return _ALIASES[value.strip().lower()]


def split(given: Mapping[str, Sequence[Record]], seed: int, by_label: bool) -> Split:
  """Splits without a common input, validation and test made out of train where they are missing.

  Inputs are the same if they differ in case and white space only. An input that is in two splits
  that were given stays in the later one: a test set stays as it is, so that its figures can be
  compared. Rows without a label stay in train.

  Args:
    given: the records of splits; train is among them.
    seed: of the order in which rows are drawn.
    by_label: whether each split made gets the same share of every label.

  Raises:
    ValueError: there are too few inputs, or a split has no row left.
  """
  found = {name: list(given[name]) for name in SPLITS if name in given}
  notes, leaks = _without_leaks(found)
  if not found['train']:
    raise ValueError('no row is left in train: validation or test has all of its inputs.')
  made = [name for name in ('test', 'validation') if name not in found]
  for name in made:
    of = len(found['train'])
    found['train'], found[name] = _drawn(found['train'], seed, by_label, name)
    notes.append(
      f'{name}: {len(found[name])} of {of} rows, drawn from train with seed {seed}'
      + (', the same share of every label.' if by_label else '.')
    )
  for name, records in found.items():
    if not records:
      raise ValueError(f'no row is left in {name}; expected at least one.')
  notes += _unseen_labels(found) if by_label else []
  notes += _contradictions(found)
  return Split({name: found[name] for name in SPLITS}, tuple(notes), leaks)


def key(record: Record) -> str:
  """By which two inputs are the same."""
  return ' '.join(record.input.casefold().split())


def _without_leaks(found: dict[str, list[Record]]) -> tuple[list[str], int]:
  """Leaves out of each split what a later one has; returns notes, and how many rows it was."""
  notes, total = [], 0
  for at, name in enumerate(SPLITS):
    later = {key(one) for other in SPLITS[at + 1 :] for one in found.get(other, ())}
    kept = [one for one in found.get(name, ()) if key(one) not in later]
    if name in found and len(kept) < len(found[name]):
      lost = len(found[name]) - len(kept)
      where = ' or '.join(SPLITS[at + 1 :])
      notes.append(f'{name}: {lost} rows are left out, since {where} has their input.')
      found[name], total = kept, total + lost
  return notes, total


def _drawn(
  records: Sequence[Record], seed: int, by_label: bool, name: str
) -> tuple[list[Record], list[Record]]:
  """What stays and what is drawn; rows of the same input go together, and both keep their order.

  Every tenth input is drawn of a list in random order, sorted by label if `by_label`: so each label
  has its share up to one row.
  """
  labels = {key(one): one.label for one in records if one.label}
  keys = list(labels)
  if len(keys) < FEWEST:
    raise ValueError(
      f'expected at least {FEWEST} different inputs with a label to draw {name} from, got '
      f'{len(keys)}; give --{name}=FILE.'
    )
  order = np.random.default_rng([seed, SPLITS.index(name)]).permutation(len(keys))
  shuffled = [keys[at] for at in order.tolist()]
  if by_label:
    shuffled.sort(key=labels.__getitem__)
  every = round(1 / FRACTION)
  drawn = set(shuffled[every // 2 :: every])
  return ([one for one in records if key(one) not in drawn],
          [one for one in records if key(one) in drawn])  # fmt: skip


def _unseen_labels(found: Mapping[str, Sequence[Record]]) -> list[str]:
  known = {one.label for one in found['train']}
  notes = []
  for name in ('validation', 'test'):
    unseen = sorted({one.label for one in found[name] if one.label} - known)
    if unseen:
      notes.append(f'{name}: no row of train has the label {rows.shown(unseen[0])}'
                   + (f' or {len(unseen) - 1} others.' if len(unseen) > 1 else '.'))  # fmt: skip
  return notes


def _contradictions(found: Mapping[str, Sequence[Record]]) -> list[str]:
  """Notes on inputs that stand several times in a split."""
  notes = []
  for name, records in found.items():
    labels = collections.defaultdict(set)
    for one in records:
      labels[key(one)].add(one.label)
    again = len(records) - len(labels)
    several = sum(len(one - {''}) > 1 for one in labels.values())
    if again:
      more = f', and {several} inputs have several labels' if several else ''
      notes.append(f'{name}: {again} rows repeat an input of it{more}.')
  return notes
