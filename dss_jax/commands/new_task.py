"""`dss new-task`: from a table of a user's to a data set that every other command knows.

Owns: the options, what is printed, which files are written. Does not own: reading tables
(datasets/tables.py), columns (datasets/columns.py), splits (datasets/splitting.py), the texts of
the files (new_task_files.py).
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import keyword
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from dss_jax import datasets
from dss_jax.commands import new_task_files
from dss_jax.datasets import columns, guessing, rows, splitting, tables
from dss_jax.datasets.columns import Columns, Labels, Record
from dss_jax.settings import arguments, whole_files
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line, printable

RAW = 'raw'
SHOWN = 3
_CUT = 110
_DESCRIPTION = """\
Reads a table of yours, makes the splits that it does not have, and writes into the working
directory what one would write by hand: NAME.py, which registers the data set, NAME.toml, which a
teacher is asked by, NAME.gin, which trains, and raw/NAME/ with the rows. Prints what each column
was taken for; a flag corrects it. The last line of the output is JSON.
"""
_EXAMPLES = """\
dss new-task reviews --from=reviews.csv
dss new-task gsm --from=train.jsonl --test=test.jsonl
dss new-task ecqa --from=val.csv --test=test.csv --rationale=taskA_pos
dss new-task sums --from=ASDiv.xml --input=Body,Question --label=Formula
"""


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0.

  Raises:
    ValueError, OSError: the table cannot be read, or files cannot be written.
  """
  flags = parser().parse_args(argv)
  _check_name(flags.name)
  _check_free(flags)
  read = {split: tables.read(path, flags.encoding) for split, path in _files(flags).items()}
  found = guessing.guess(read['train'], _given(flags))
  if flags.split == 'none':
    found = dataclasses.replace(found, split='')
  if flags.group == 'none':
    found = dataclasses.replace(found, group='')
  _check_one_split(flags, found, read)
  given = _records(flags, read, found)
  everything = [one for records in given.values() for one in records]
  labels = columns.labels_of(everything, found, flags.metric or '')
  by_label = bool(labels.choices and labels.choices.labels)
  split = splitting.split(given, flags.seed, by_label)
  blank = sum(len(table.rows) for table in read.values()) - len(everything)
  _show_columns(read, found, split.records['train'])
  if blank:
    _say(f'note: {blank} rows without an input are left out.')
  _show_labels(labels, split)
  folder = _write(flags, split, labels)
  _say_next(flags.name, split)
  counts = {name: len(records) for name, records in split.records.items()}
  report = {'dataset': flags.name, 'splits': counts, 'left_out': split.left_out + blank,
            'metric': labels.metric, 'files': [str(one) for one in folder]}  # fmt: skip
  print(json.dumps(report))
  return 0


# ---------------------------------------------------------------- reading


def _files(flags: argparse.Namespace) -> dict[str, str]:
  named = {'train': flags.table, 'validation': flags.validation, 'test': flags.test}
  return {split: path for split, path in named.items() if path}


def _given(flags: argparse.Namespace) -> Columns:
  """The columns that were named."""
  if flags.split not in (None, 'none') and (flags.validation or flags.test):
    raise ConfigError('expected --split=COLUMN or --validation=FILE and --test=FILE, not both.')
  return Columns(
    inputs=flags.input or (), label=flags.label or '', rationale=flags.rationale or '',
    teacher_label=flags.teacher_label or '', choices=flags.choices or (),
    split='' if flags.split in (None, 'none') else flags.split,
    answer_after=flags.answer_after or '',
    group='' if flags.group in (None, 'none') else flags.group,
  )  # fmt: skip


def _records(
  flags: argparse.Namespace, read: Mapping[str, tables.Table], found: Columns
) -> dict[str, list[Record]]:
  """The records of each split that is given.

  Raises:
    ValueError: another file lacks a column, or a row is malformed.
  """
  files, given = _files(flags), dict[str, list[Record]]()
  for split, table in read.items():
    columns.check(table, found, files[split])
  named = columns.naming({files[split]: table for split, table in read.items()}, found)
  for split, table in read.items():
    for number, row, record in columns.records(table, found, files[split], named):
      name = split
      if found.split:
        with rows.at(f'{one_line(files[split])}, row at {number}, column {found.split!r}'):
          name = splitting.named(tables.text(row.get(found.split)))
      given.setdefault(name, []).append(record)
  if 'train' not in given:
    raise ConfigError(f'column {found.split!r}: no row is of train; give --split=none.')
  return given


# ---------------------------------------------------------------- checks


def _check_one_split(
  flags: argparse.Namespace, found: Columns, read: Mapping[str, tables.Table]
) -> None:
  """Refuses a column of splits next to files of splits: rows of test must not go into train."""
  if found.split and len(read) > 1:
    raise ConfigError(
      f'{one_line(flags.table)}: column {rows.shown(found.split)} names the split of each row, and '
      '--validation or --test gives a split too; expected one of them. Leave the file out, or '
      'ignore the column by --split=none.'
    )


def _check_name(name: str) -> None:
  """Refuses names that Python or the registry could not tell from others."""
  if not re.fullmatch('[a-z][a-z0-9_]{0,40}', name) or keyword.iskeyword(name):
    raise ConfigError(
      f'NAME is that of a module and of tasks: small letters, digits and _, as in my_reviews, not '
      f'{one_line(name, 60)!r}.'
    )
  if name in datasets.names() or name in datasets.EMBEDDED:
    raise ConfigError(f'a data set {name!r} ships with the package; choose another name.')
  if pathlib.Path(name, '__init__.py').exists():
    raise ConfigError(f'the folder {name} here is a module of that name; choose another name.')
  found = importlib.util.find_spec(name)
  origin = found.origin if found is not None else None  # a folder without a module has none
  if origin not in (None, str(pathlib.Path(f'{name}.py').absolute())):
    raise ConfigError(f'Python has a module {name!r} already ({origin}); choose another name.')


def _paths(name: str) -> dict[str, pathlib.Path]:
  raw = pathlib.Path(RAW, name)
  files = {ending: pathlib.Path(f'{name}.{ending}') for ending in ('py', 'toml', 'gin')}
  return files | {one: raw / f'{name}_{one}.json' for one in splitting.SPLITS}


def _check_free(flags: argparse.Namespace) -> None:
  """Refuses to write over a table that is read, and without --replace over anything."""
  taken = [str(path) for path in _paths(flags.name).values() if path.exists()]
  for read in map(os.path.expanduser, _files(flags).values()):
    for path in taken:
      if os.path.exists(read) and os.path.samefile(read, path):
        raise ConfigError(
          f'{one_line(read)} is read, and {path} would be written over it; choose another name, or '
          'move the table elsewhere.'
        )
  if taken and not flags.replace:
    raise ConfigError(
      f'{", ".join(taken)} exist; choose another name, or write over them by --replace.'
    )


# ---------------------------------------------------------------- writing and printing


def _write(flags: argparse.Namespace, split: splitting.Split, labels: Labels) -> list[pathlib.Path]:
  """Writes the files next to those of an earlier try, and moves them there when all are whole."""
  paths, name = _paths(flags.name), flags.name
  texts = {
    'py': new_task_files.module(name, split, flags.teacher or ''),
    'toml': new_task_files.prompt(name, split, labels),
    'gin': new_task_files.gin(name, split, RAW),
  } | {one: new_task_files.rows_text(records) for one, records in split.records.items()}
  paths['train'].parent.mkdir(parents=True, exist_ok=True)
  staged = {one: path.with_name(f'.{path.name}.new') for one, path in paths.items()}
  try:
    for one, text in texts.items():
      whole_files.write_text(staged[one], text)
    for one, path in staged.items():
      path.replace(paths[one])
  finally:
    for path in staged.values():
      path.unlink(missing_ok=True)
  return list(paths.values())


def _show_columns(
  read: Mapping[str, tables.Table], found: Columns, train: Sequence[Record]
) -> None:
  for note in dict.fromkeys(note for table in read.values() for note in table.notes):
    _say(f'note: {note}')
  after = f', after {found.answer_after!r}; before it the rationale' if found.answer_after else ''
  lines = {
    'input': ' + '.join(found.inputs), 'choices': ' + '.join(found.choices),
    'label': found.label + after, 'rationale': found.rationale,
    'teacher_label': found.teacher_label, 'split': found.split, 'group': found.group,
  }  # fmt: skip
  _say('columns (correct them by --input=A,B --label=C and so on):')
  for role, value in lines.items():
    if value:
      _say(f'  {role:13}  {value}')
  unused = [one for one in read['train'].columns if one not in (*found.used, found.group)]
  if unused:
    _say(f'  not used       {", ".join(unused)}')
  for number, record in enumerate(train[:SHOWN], start=1):
    _say(f'row {number}:')
    for role, value in record._asdict().items():
      if value and role != 'group':
        _say(f'  {role:13}  {one_line(str(value), _CUT)}')


def _show_labels(labels: Labels, split: splitting.Split) -> None:
  if labels.choices is None:
    how = 'by value' if labels.metric == 'equation' else 'as texts'
    _say(f'labels: compared {how}.')
  elif labels.choices.labels:
    several = ', '.join(
      f'{label} ({sum(one.label == label for one in split.records["train"])})'
      for label in labels.choices.labels
    )
    _say(f'labels: {len(labels.choices.labels)} classes, rows of train in brackets: {several}.')
  else:
    _say(f'labels: one of {labels.choices.listed} choices that each input lists.')
  for note in (*labels.notes, *split.notes, *new_task_files.lengths(split).notes):
    _say(f'note: {note}')
  _say(f'splits: {new_task_files.counts_text(split)}.')


def _say_next(name: str, split: splitting.Split) -> None:
  """The commands that come next."""
  method = new_task_files.method_of(split)
  _say(f'written: {", ".join(map(str, _paths(name).values()))}. Next:')
  if not new_task_files.has_rationales(split):
    some = new_task_files.rationales(split)
    _say(
      f'  # {some or "none"} of {len(split.records["train"])} rows have a rationale. '
      'A teacher writes them (dss annotate also prepares the data):'
    )
    _say(f'  dss annotate --dataset={name} --module={name} --prompt={name}.toml --raw_dir={RAW} '
         '--data_dir=data --model=MODEL --preview')  # fmt: skip
    _say('  # or train on the labels alone:')
  _say(f'  dss prepare --dataset={name} --module={name} --raw_dir={RAW} --data_dir=data')
  _say(f'  dss vocab --module={name} --data_dir=data --task={name}_{method} --output={name}.model')
  _say(f'  dss train --gin_file=models/t5_1_1/tiny.gin --gin_file={name}.gin '
       f'--gin_file=methods/{method}.gin --train_steps=1000 --model_dir=runs/{name}')  # fmt: skip
  _say(f'  dss evaluate --model_dir=runs/{name} --module={name}')


def _say(text: str) -> None:
  print(printable(text), file=sys.stdout)


# ---------------------------------------------------------------- options


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('new-task', _DESCRIPTION, _EXAMPLES)
  made.add_argument('name', metavar='NAME', help='of the data set: small letters, digits and _')
  _add_files(made.add_argument_group('the table'))
  _add_columns(made.add_argument_group('its columns, guessed by their names if left out'))
  return made


def _add_files(group: argparse._ArgumentGroup) -> None:
  add = functools.partial(group.add_argument, type=arguments.given)
  add('--from', dest='table', required=True, metavar='FILE',
      help=f'{", ".join(tables.FORMATS)}, perhaps with .gz: all rows, or train')  # fmt: skip
  add('--validation', metavar='FILE', help='a table of it (default: 10 %% of train)')
  add('--test', metavar='FILE', help='a table of it (default: 10 %% of train)')
  add('--encoding', metavar='NAME', help='of the text (default: UTF-8, else Windows-1252)')
  add(
    '--seed',
    type=arguments.whole(0),
    default=0,
    metavar='N',
    help='of the splits that are made (0)',
  )
  group.add_argument(
    '--replace', action='store_true', help='write over the files of an earlier try'
  )


def _add_columns(group: argparse._ArgumentGroup) -> None:
  add = functools.partial(group.add_argument, type=arguments.given)
  add('--input', type=_names, metavar='A,B',
      help='what the student reads; several are joined by </s>')  # fmt: skip
  add('--label', metavar='C', help='what it answers')
  add('--rationale', metavar='C', help='why: a text, or a list of texts')
  add('--teacher_label', metavar='C', help="a teacher's answer, which may be wrong")
  add('--choices', type=_names, metavar='C or A,B,C',
      help='among which the label is: lists, or a column each')  # fmt: skip
  add('--answer_after', metavar='TEXT', help="the label's column has a rationale, TEXT, the label")
  add('--split', type=_name_or_none, metavar='C',
      help="each row's split; none: make splits all the same")  # fmt: skip
  add('--group', type=_name_or_none, metavar='C',
      help='rows of one go to one split (default: the first part of several inputs)')  # fmt: skip
  add('--metric', choices=('text', 'equation'), help='compare labels as texts, or by their value')
  add('--teacher', metavar='WHO', help='who wrote the rationales, for model cards')


def _name_or_none(text: str) -> str:
  """The type of a flag whose `none` says something else than leaving it out."""
  return 'none' if text.strip().lower() == 'none' else arguments.given(text)


def _names(text: str) -> tuple[str, ...]:
  """The type of a flag that names columns."""
  found = tuple(filter(None, (name.strip() for name in arguments.given(text).split(','))))
  if not found:
    raise argparse.ArgumentTypeError(f'expected names of columns, got {text!r}')
  return found
