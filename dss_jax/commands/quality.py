"""`dss quality`: how good a teacher's labels and rationales are, as a table with examples.

Owns: the command's options, the layout. Does not own: what is measured (teacher/measures.py and
teacher/quality.py), the filters that go by it (teacher/filters.py, `dss prepare --filter`).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.datasets.release import Example
from dss_jax.settings import arguments
from dss_jax.settings.printable import one_line, printable
from dss_jax.teacher import measures

_DESCRIPTION = """\
Reads a prepared data set and says how good its teacher is: how many outputs have a label and a
rationale, agree with the gold label, repeat each other, have the label in the rationale, or are in
another script than their input; with K samples a row, what their vote says. Then examples of each
kind. The last line of the output is JSON; shares are from 0 to 1, null where there is nothing to
measure. A filter of `dss prepare` leaves its mark: for the teacher as such, prepare with
--filter=none.
"""
_EXAMPLES = 'dss quality --dataset=svamp --data_dir=data --split=train --examples=3'
MEASURES = {
  'rows': 'rows',
  'samples_a_row': 'samples a row',
  'parsed': 'with a usable label',
  'with_rationale': 'with a rationale',
  'agreement': 'label is the gold one',
  'vote_agreement': 'vote is the gold label',
  'unanimous': 'rows of one label',
  'margin': 'mean margin of the vote',
  'leaks': 'rationale has the label in it',
  'repeated': 'rationale came before',
  'foreign': 'rationale in another script',
}
"""What each line of the table is, by its name in the JSON."""
_NUMBERS = ('rows', 'samples_a_row', 'margin')
_LONGEST = 400
"""Characters of a text in an example."""


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0; wrong options exit with 2.

  Raises:
    ValueError, OSError: there is no such data set or split, or it cannot be read.
  """
  given = _options(argv)
  from dss_jax.tasks import prepared, registration, sources

  sources.add_prepared_datasets()
  info, notes = registration.dataset_named(given.dataset), {}
  source = info.source
  if given.dataset in datasets.names():
    source = prepared.PreparedSource(given.dataset, given.data_dir)
    notes = source.metadata
  splits = _splits(given, source.splits)
  found = {
    split: measures.measure(_examples(source, split), info.metric, given.examples)
    for split in splits
  }
  reports = {split: one.report() for split, one in found.items()}
  teacher = notes.get('teacher', info.teacher)
  print(f'{given.dataset}: teacher {printable(teacher) or "not known"}{_how(notes)}.')
  _print_table(reports)
  _print_statuses(notes, splits)
  for split, one in found.items():
    _print_examples(split, one.shown)
  print(json.dumps({'dataset': given.dataset, 'teacher': teacher, 'splits': reports}))
  return 0


def _splits(given: argparse.Namespace, existing: Sequence[str]) -> Sequence[str]:
  if given.split is not None and given.split not in existing:
    raise ValueError(
      f'the data set {given.dataset} has no split {given.split!r}, only {", ".join(existing)}; '
      'set --split to one of them, or leave it out.'
    )
  return existing if given.split is None else [given.split]


def _examples(source: Any, split: str) -> Iterator[Example]:
  """The examples of a split, with one sample or K of the teacher's."""
  for row in source.get_dataset(split, shuffle=False).as_numpy_iterator():
    samples = {field: row[field] for field in ('rationale', 'teacher_label')}
    texts = {
      field: tuple(one.decode() for one in ([value] if isinstance(value, bytes) else value))
      for field, value in samples.items()
    }
    yield Example(row['input'].decode(), row['label'].decode(), **texts)


def _how(notes: Mapping[str, Any]) -> str:
  """How the data set was prepared, if that is noted."""
  if 'filter' not in notes:
    return ''
  return f', filter {printable(notes["filter"])}, parser {printable(notes.get("parser", "own"))}'


def _print_table(reports: Mapping[str, Mapping[str, Any]]) -> None:
  """Prints a line a measure, a column a split."""
  lines = [('', *reports)]
  for name, meaning in MEASURES.items():
    lines.append((meaning, *(_cell(name, report[name]) for report in reports.values())))
  words = [report['words'] for report in reports.values()]
  for name, meaning in (('p5', '5th percentile'), ('p50', 'median'), ('p95', '95th percentile')):
    cells = [str(one[name]) if one else '-' for one in words]
    lines.append((f'words of a rationale, {meaning}', *cells))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  for first, *cells in lines:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
    print('  '.join([first.ljust(widths[0]), *padded]))


def _cell(name: str, value: float | None) -> str:
  if value is None:
    return '-'
  return f'{value:g}' if name in _NUMBERS else f'{value:.2%}'


def _print_statuses(notes: Mapping[str, Any], splits: Sequence[str]) -> None:
  """Prints how completions were read when the data set was prepared."""
  for split in splits:
    if statuses := notes.get('statuses', {}).get(split):
      counts = ', '.join(f'{printable(str(name))} {count}' for name, count in statuses.items())
      print(f'{split}, completions before any filter: {counts}.')


def _print_examples(split: str, shown: Mapping[str, Sequence[measures.Shown]]) -> None:
  for kind, samples in shown.items():
    if samples:
      print(f'\n{split}, {kind}: {measures.KINDS[kind]}')
    for row, sample in samples:
      print(f'  row {row}: {one_line(sample.input, _LONGEST)}')
      print(f'    rationale: {one_line(sample.rationale, _LONGEST)}')
      print(f'    label: {one_line(sample.label, _LONGEST)}')
      if sample.gold:
        print(f'    gold: {one_line(sample.gold, _LONGEST)}')


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('quality', _DESCRIPTION, _EXAMPLES)
  made.add_argument('--dataset', required=True, help='a prepared data set, or one of --module')
  made.add_argument(
    '--data_dir',
    metavar='DIR',
    help='TFDS folder, local or gs:// (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)',
  )
  made.add_argument('--split', help='one split (default: all)')
  made.add_argument(
    '--examples',
    type=arguments.whole(0),
    default=2,
    metavar='N',
    help='examples of each kind (default: 2)',
  )
  arguments.add_module_flag(made)
  return made


def _options(argv: Sequence[str]) -> argparse.Namespace:
  given = parser().parse_args(argv)
  arguments.import_modules(given.modules)
  return given
