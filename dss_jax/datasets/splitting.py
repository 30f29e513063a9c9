"""Train, validation and test of a user's rows: made where they are not given, and without leaks.

Owns which row goes to which split, and what is left out since another split has it. Does not own:
what a row is (columns.py).
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dss_jax.datasets import columns, rows
from dss_jax.datasets.columns import Record

SPLITS = ('train', 'validation', 'test')
FRACTION = 0.1
"""Of the inputs, for each split that is made out of train."""
FEWEST = 6
"""Groups of inputs that can be split."""
_ALIASES = {
  'train': 'train', 'training': 'train', 'validation': 'validation', 'valid': 'validation',
  'val': 'validation', 'dev': 'validation', 'test': 'test', 'testing': 'test',
}  # fmt: skip


class Split(NamedTuple):
  """Splits of a data set.

  Attributes:
    records: of each split, in order.
    notes: what was made or left out, for people.
    left_out: how many rows were left out: a later split has their input, or they have no label to
      be judged by.
  """

  records: dict[str, list[Record]]
  notes: tuple[str, ...]
  left_out: int


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

  Inputs are the same if they differ in case, white space and choices only. An input that is in two
  splits that were given stays in the later one: a test set stays as it is, so that its figures can
  be compared. Rows without a label stay in train, and only there.

  Args:
    given: the records of splits; train is among them. Those of one group go to one split that is
      made.
    seed: of the order in which rows are drawn.
    by_label: whether each split made gets the same share of every label.

  Raises:
    ValueError: there are too few inputs, or a split has no row left.
  """
  found = {name: list(given[name]) for name in SPLITS if name in given}
  notes = _without_leaks(found) + _without_unlabelled(found) + _shared_groups(found)
  if not found['train']:
    raise ValueError('no row is left in train: validation or test has all of its inputs.')
  if missing := [name for name in ('test', 'validation') if name not in found]:
    _check_enough(found['train'], missing[0])
    notes += [note for name in missing for note in _make(found, name, seed, by_label)]
    notes += _without_leaks(found)  # a group that was named may have inputs of other groups
  for name, records in found.items():
    if not records:
      raise ValueError(f'no row is left in {name}; expected at least one.')
  notes += _unseen_labels(found) if by_label else []
  notes += _contradictions(found)
  left_out = sum(map(len, given.values())) - sum(map(len, found.values()))
  return Split({name: found[name] for name in SPLITS}, tuple(notes), left_out)


def key(record: Record) -> str:
  """By which two inputs are the same, whatever the order of their choices."""
  return _folded(record.input.partition(columns.CHOICES)[0])


def _folded(text: str) -> str:
  return ' '.join(text.casefold().split())


def _group(record: Record) -> str:
  return _folded(record.group) or key(record)


# ---------------------------------------------------------------- splits that are given


def _without_leaks(found: dict[str, list[Record]]) -> list[str]:
  """Leaves out of each split what a later one has; returns notes."""
  notes = []
  for at, name in enumerate(SPLITS):
    later = {key(one) for other in SPLITS[at + 1 :] for one in found.get(other, ())}
    kept = [one for one in found.get(name, ()) if key(one) not in later]
    if name in found and len(kept) < len(found[name]):
      where = ' or '.join(SPLITS[at + 1 :])
      lost = len(found[name]) - len(kept)
      notes.append(f'{name}: {lost} rows are left out, since {where} has their input.')
      found[name] = kept
  return notes


def _without_unlabelled(found: dict[str, list[Record]]) -> list[str]:
  """Leaves out of validation and test what no answer can be compared with; returns notes.

  Raises:
    ValueError: nothing is left of a split.
  """
  notes = []
  for name in ('validation', 'test'):
    labelled = [one for one in found.get(name, ()) if one.label]
    lost = len(found.get(name, ())) - len(labelled)
    if lost and not labelled:
      raise ValueError(
        f'{name}: none of its {lost} rows has a label; expected labels to compare answers with. '
        'Leave them out: a split that is not given is made out of train.'
      )
    if lost:
      notes.append(f'{name}: {lost} rows without a label are left out.')
      found[name] = labelled
  return notes


def _shared_groups(found: Mapping[str, Sequence[Record]]) -> list[str]:
  """Notes on rows of validation and test whose group, such as a passage, train has too."""
  known = {_folded(one.group) for one in found['train']} - {''}
  notes = []
  for name in ('validation', 'test'):
    records = found.get(name, ())
    if shared := sum(_folded(one.group) in known for one in records):
      notes.append(
        f'{name}: {shared} of {len(records)} rows share their group with rows of train, so that '
        'its figures may be too good.'
      )
  return notes


# ---------------------------------------------------------------- splits that are made


def _check_enough(train: Sequence[Record], name: str) -> None:
  groups = len({_group(one) for one in train if one.label})
  if groups < FEWEST:
    raise ValueError(
      f'expected at least {FEWEST} different inputs with a label to draw {name} from, got '
      f'{groups}; give --{name}=FILE.'
    )


def _make(found: dict[str, list[Record]], name: str, seed: int, by_label: bool) -> list[str]:
  """Draws a split out of train, whole groups; both keep their order. Returns notes.

  Raises:
    ValueError: every group has the only rows of a label.
  """
  train, rng = found['train'], np.random.default_rng([seed, SPLITS.index(name)])
  groups = _drawn(train, rng, by_label)
  if not groups:
    raise ValueError(
      f'expected a label of two different inputs to draw {name} from; give --{name}=FILE.'
    )
  drawn = [one for one in train if _group(one) in groups]
  found['train'] = [one for one in train if _group(one) not in groups]
  found[name] = [one for one in drawn if one.label]
  same = ', the same share of every label' * (by_label and _has_shares(train, found[name]))
  notes = [f'{name}: {len(found[name])} of {len(train)} rows, drawn from train with seed {seed}'
           f'{same}.']  # fmt: skip
  if lost := len(drawn) - len(found[name]):
    notes.append(f'train: {lost} rows without a label are left out, since {name} has their input.')
  return notes


def _drawn(train: Sequence[Record], rng: np.random.Generator, by_label: bool) -> set[str]:
  """Groups that are drawn: FRACTION of those with a label.

  They are drawn at equal distances, from a random start, out of a list in random order, sorted by
  label if `by_label`: so each label has its share up to one group, and each group the same chance.
  A group is not drawn whose label no other group of train has.
  """
  labels: dict[str, dict[str, None]] = collections.defaultdict(dict)
  for one in train:
    if one.label:
      labels[_group(one)][one.label if by_label else ''] = None
  left = collections.Counter(label for several in labels.values() for label in several)
  spare = [group for group in labels if min(left[label] for label in labels[group]) > 1]
  order = [spare[at] for at in rng.permutation(len(spare)).tolist()]
  first = {group: next(iter(labels[group])) for group in order}
  rank = {label: at for at, label in enumerate(dict.fromkeys(first.values()))}
  order.sort(key=lambda group: rank[first[group]])
  count = min(max(1, round(FRACTION * len(labels))), len(order))
  distance = len(order) / max(count, 1)
  start, drawn = rng.random() * distance, set()
  for at in range(count):
    group = order[min(int(start + at * distance), len(order) - 1)]
    if min(left[label] for label in labels[group]) > 1:
      left.subtract(labels[group].keys())
      drawn.add(group)
  return drawn


def _has_shares(train: Sequence[Record], drawn: Sequence[Record]) -> bool:
  """Whether every label has its share among those drawn, up to one row, and is there at all."""
  whole = collections.Counter(one.label for one in train if one.label)
  part = collections.Counter(one.label for one in drawn)
  return all(part[label] and abs(part[label] - FRACTION * n) <= 1 for label, n in whole.items())


# ---------------------------------------------------------------- notes


def _unseen_labels(found: Mapping[str, Sequence[Record]]) -> list[str]:
  """Notes on labels that train, or a split that judges, has no row of."""
  own = {name: {one.label for one in records if one.label} for name, records in found.items()}
  notes = []
  for name in ('validation', 'test'):
    for without, labels in (('train', own[name] - own['train']), (name, own['train'] - own[name])):
      if labels:
        more = f' or {len(labels) - 1} others' if len(labels) > 1 else ''
        notes.append(
          f'{name}: no row of {without if without != name else "it"} has the label '
          f'{rows.shown(min(labels))}{more}.'
        )
  return notes


def _contradictions(found: Mapping[str, Sequence[Record]]) -> list[str]:
  """Notes on inputs that stand several times in a split."""
  notes = []
  for name, records in found.items():
    labels = collections.defaultdict(set)
    for one in records:
      labels[_folded(one.input)].add(one.label)
    again = len(records) - len(labels)
    several = sum(len(one - {''}) > 1 for one in labels.values())
    if again:
      more = f', and {several} inputs have several labels' if several else ''
      notes.append(f'{name}: {again} rows repeat an input of it{more}.')
  return notes
