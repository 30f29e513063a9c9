"""`dss prepare`: from the release's raw files to a data set that the tasks read.

Owns: the command's options, where its raw files come from, what it prints. Does not own: reading
them (datasets/release.py), building (tasks/builder.py), filters (teacher/filters.py), downloading
and extracting (datasets/download.py, datasets/unpacking.py).
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.datasets import completions, download, release, unpacking
from dss_jax.settings import arguments
from dss_jax.settings.printable import printable
from dss_jax.teacher import filters

RELEASE_COMMIT = 'ef944263c9ddfd40a9888557f3e7d17513fd1a7e'
RELEASE_URL = (
  f'https://github.com/google-research/distilling-step-by-step/raw/{RELEASE_COMMIT}/datasets.zip'
)
RELEASE_BLOB = 'fb9d88a0b44c2daac1ec1639f0bdae993e7e5bcd'
"""The id of datasets.zip in the tree of RELEASE_COMMIT, which is a hash of its content."""
COLUMNS = ('examples', 'teacher_accuracy', 'unparsed', 'empty_rationale', 'disagree')

_DESCRIPTION = """\
Parses the teacher's raw outputs into rationales and labels, and writes a TFDS data set.
The last line of the output is JSON: examples written and, counted over the whole split before any
filter, the teacher's accuracy against gold, completions without a usable label (unparsed), without
a rationale, and with a label that is not the gold one (disagree). null: no teacher outputs. Then
the teacher, how completions were read (statuses), and what each rule of the filter dropped.
"""
_EXAMPLES = """\
dss prepare --dataset=cqa --url --data_dir=data
dss prepare --dataset=svamp --raw_dir=datasets.zip --data_dir=data --filter=agree
dss prepare --dataset=mine --module=mine --raw_dir=raw --data_dir=gs://bucket/data
"""


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0; wrong options exit with 2.

  Raises:
    ValueError, OSError: raw files are missing, malformed or cannot be written.
  """
  given = options(argv)
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()  # tasks/builder.py shows one for all of it
  print(json.dumps(_prepare(given)))
  return 0


def _prepare(given: argparse.Namespace) -> dict[str, object]:
  """Prepares the data set that the options name; see `build`."""
  dataset = datasets.get(given.dataset)
  splits = available_splits(dataset, release.release_folder(_raw_folder(given), dataset))
  outputs = given.teacher_outputs and pathlib.Path(given.teacher_outputs).expanduser()
  return build(dataset, splits, given.data_dir, given.filter, given.parser, outputs)


def build(
  dataset: release.Dataset,
  splits: Mapping[str, release.SplitFiles],
  data_dir: str | None,
  row_filter: str = filters.NONE,
  parser: str = release.PARSERS[0],
  outputs: pathlib.Path | None = None,
) -> dict[str, object]:
  """Prepares a data set, prints a report for people, and returns the one for programs.

  Args:
    dataset: how its files are read.
    splits: its raw files.
    data_dir: TFDS folder; see tasks/prepared.py for the default.
    row_filter: rules of teacher/filters.py.
    parser: one of release.PARSERS.
    outputs: a folder that `dss annotate` wrote, whose completions take the place of the release's.

  Raises:
    ValueError, OSError: files are missing, malformed or cannot be written.
  """
  from dss_jax.tasks import builder

  provenance = None
  if outputs is not None:
    provenance = completions.read_provenance(outputs)
    splits = _asked(dataset, release.annotated(dataset, splits, outputs))
  outcome = builder.prepare(dataset, splits, data_dir, row_filter, parser, provenance)
  notes, how = outcome.notes, f'filter {row_filter}, parser {parser}'
  print(f'{dataset.name}: {outcome.folder} {_CHANGES[outcome.change]} ({how}).')
  print(f'Teacher: {printable(notes["teacher"]) or "not known"}.')
  for split, files in splits.items():
    count = notes['counts'][split]
    if not files.completions and count['teacher_accuracy'] is count['empty_rationale'] is None:
      looked_for = f'{files.rows.parent}/llm/{dataset.splits[split]}_CoT_0.json'
      if outputs is not None:
        looked_for = str(outputs / f'{dataset.splits[split]}.jsonl')
      print(
        f'{split}: no teacher outputs (looked for {looked_for}), so no rationales and no teacher '
        'labels.'
      )
  if row_filter != filters.NONE and 'train' in splits:
    print('The filter touches train only.')
  _print_table(notes['counts'])
  _print_reasons(notes)
  report = {name: notes[name] for name in ('teacher', 'statuses', 'dropped')}
  return {'dataset': dataset.name, 'splits': notes['counts'], **report}


def _asked(
  dataset: release.Dataset, splits: Mapping[str, release.SplitFiles]
) -> dict[str, release.SplitFiles]:
  """The splits without those of which no row was asked about; reports what is left out.

  Raises:
    ValueError: completions are malformed, or there is no other split.
  """
  for files in dict.fromkeys(splits.values()):
    count = sum(1 for _ in completions.read(files.completions))
    of = sum(1 for _ in dataset.read(files.rows))
    if files.completions and count < of:
      print(
        f'{files.completions[0]} has {count} of the {of} rows of {files.rows.name}; the others are '
        'left out.'
      )
  found = {
    split: files
    for split, files in splits.items()
    if not files.completions or any(True for _ in release.read_examples(dataset, files, split))
  }
  for split in splits.keys() - found.keys():
    print(f'{split} is left out: the teacher was asked about no row of it.')
  return found


_CHANGES = {
  'new': 'is written',
  'replaced': 'is written and replaces what was prepared from other raw files or by another '
  'filter, parser or teacher',
  'unchanged': 'is up to date: same raw files, filter, parser and teacher',
}


def _raw_folder(given: argparse.Namespace) -> pathlib.Path:
  """The folder of raw files, after downloading and extracting if the options ask for that."""
  from dss_jax.tasks import prepared

  data_dir = given.data_dir or prepared.default_data_dir()
  downloads = pathlib.Path('~' if '://' in data_dir else data_dir).expanduser() / 'downloads'
  if given.url is not None:
    known = RELEASE_BLOB if given.url == RELEASE_URL else None
    raw = download.fetch(given.url, downloads, given.sha256 or known)
  else:
    raw = pathlib.Path(given.raw_dir).expanduser()
  if raw.is_file():
    return unpacking.extract(raw, downloads / 'extracted')
  if not raw.is_dir():
    raise ValueError(f'--raw_dir={raw}: expected a folder of raw files or a zip archive of it.')
  return raw


def available_splits(
  dataset: release.Dataset, folder: pathlib.Path
) -> dict[str, release.SplitFiles]:
  """The splits whose raw files exist in a folder of the release's layout; reports the others.

  Raises:
    ValueError: there is no raw file.
  """
  splits = {}
  for split in dataset.splits:
    files = release.split_files(dataset, folder, split)
    if files is not None:
      splits[split] = files
      continue
    wanted = ' or '.join(map(str, release.wanted_files(dataset, folder, split)))
    print(f'{split} is left out: {wanted} is missing (it comes from {release.SOURCE}).')
  if not splits:
    raise ValueError(
      f'No raw file of {dataset.name} is in {folder / dataset.name}; get it from {release.SOURCE}.'
    )
  return splits


def _print_table(counts: Mapping[str, Mapping[str, object]]) -> None:
  """Prints a row per split."""
  rows: list[tuple[str, ...]] = [('split', *COLUMNS)]
  for split, entry in counts.items():
    values = ('-' if entry[column] is None else str(entry[column]) for column in COLUMNS)
    rows.append((split, *values))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print('  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _print_reasons(notes: Mapping[str, Mapping[str, Any]]) -> None:
  """Prints why completions gave nothing, and what each rule of the filter dropped."""
  for split, statuses in notes['statuses'].items():
    reasons = [f'{count} {status}' for status, count in statuses.items() if status != 'ok']
    if reasons:
      print(f'{split}, completions without label or rationale: {", ".join(reasons)}.')
  for rule, count in notes['dropped'].items():
    print(f'{rule} dropped {count} samples of train.')


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('prepare', _DESCRIPTION, _EXAMPLES)
  made.add_argument(
    '--dataset', required=True, help=f'one of {", ".join(datasets.names())}, or of --module'
  )
  _add_sources(made)
  made.add_argument(
    '--data_dir',
    metavar='DIR',
    help='TFDS folder, local or gs:// (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)',
  )
  made.add_argument(
    '--filter',
    default=filters.NONE,
    metavar='RULE,RULE',
    help='which samples of the teacher train keeps; validation and test are never filtered. clean '
    'drops those with an unparsed label or an empty rationale, agree also those whose label is not '
    'the gold one; vote those whose label is not that of most of the K samples of their row, '
    'margin=X (0 to 1) rows whose vote won by less; unique rationales that came before; no_leak '
    'those with the label in them; same_language those in another script than the input; '
    'words=MIN-MAX those of another length (default: none, as in the paper)',
  )
  made.add_argument(
    '--parser',
    choices=release.PARSERS,
    default=release.PARSERS[0],
    help="how the teacher's outputs are read: own takes what the teacher wrote, released does as "
    "the paper's code, which its students learned from (default: own)",
  )
  arguments.add_module_flag(made)
  return made


def options(argv: Sequence[str]) -> argparse.Namespace:
  """The flags of a command line, checked without reading anything; imports their modules.

  Raises:
    ValueError: no such data set, or an address or checksum that is refused.
  """
  given = parser().parse_args(argv)
  if given.url is not None:
    download.check(given.url, given.sha256)
  elif '://' in given.raw_dir:
    raise ValueError(
      f'--raw_dir={given.raw_dir} is not on this machine, where raw files are read: copy them '
      'here, or give --url=https://... of an archive.'
    )
  arguments.import_modules(given.modules)
  filters.Filter(given.filter, datasets.get(given.dataset).metric)
  return given


def _add_sources(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say where rows and completions come from."""
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    '--raw_dir', metavar='DIR', help='folder that holds NAME/, or a datasets.zip of it'
  )
  source.add_argument(
    '--url',
    nargs='?',
    const=RELEASE_URL,
    help='download a datasets.zip (https, http, file), kept in DATA_DIR/downloads; an interrupted '
    'download resumes; without a value: the release of the paper, whose content is checked, '
    '%(const)s',
  )
  parser.add_argument(
    '--teacher_outputs',
    metavar='OUT',
    help='folder of completions that take the place of those beside the raw files: SPLIT.jsonl and '
    'teacher.json, as `dss annotate` writes them; K completions a row',
  )
  parser.add_argument('--sha256', metavar='SUM', help="the download's expected SHA-256")
