"""`dss prepare`: from the release's raw files to a data set that the tasks read.

Owns: the command's options, where its raw files come from, what it prints. Does not own: reading
them (datasets/release.py), building (tasks/builder.py), downloading and extracting
(datasets/download.py, datasets/unpacking.py).
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

from dss_jax import datasets
from dss_jax.datasets import download, release, unpacking
from dss_jax.settings import arguments

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
a rationale, and with a label that is not the gold one (disagree). null: no teacher outputs.
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

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  print(json.dumps(_prepare(given)))
  return 0


def _prepare(given: argparse.Namespace) -> dict[str, object]:
  """Prepares the data set, prints a report for people, and returns the one for programs."""
  from dss_jax.tasks import builder

  dataset = datasets.get(given.dataset)
  folder = release.release_folder(_raw_folder(given), dataset)
  splits = _available_splits(dataset, folder)
  outcome = builder.prepare(dataset, splits, given.data_dir, given.filter, given.parser)
  how = f'filter {given.filter}, parser {given.parser}'
  print(f'{dataset.name}: {outcome.folder} {_CHANGES[outcome.change]} ({how}).')
  for split, files in splits.items():
    if not files.completions:
      print(
        f'{split}: no teacher outputs (looked for {files.rows.parent}/llm/'
        f'{dataset.splits[split]}_CoT_0.json), so no rationales and no teacher labels.'
      )
  if given.filter != 'none' and 'train' in splits:
    print('The filter touches train only.')
  _print_table(outcome.counts)
  return {'dataset': dataset.name, 'splits': outcome.counts}


_CHANGES = {
  'new': 'is written',
  'replaced': 'is written and replaces what was prepared from other raw files or by another filter '
  'or parser',
  'unchanged': 'is up to date: same raw files, filter and parser',
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


def _available_splits(
  dataset: release.Dataset, folder: pathlib.Path
) -> dict[str, release.SplitFiles]:
  """The splits whose raw files exist; reports the others.

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


def options(argv: Sequence[str]) -> argparse.Namespace:
  """The flags of a command line, checked without reading anything; imports their modules.

  Raises:
    ValueError: no such data set, or an address or checksum that is refused.
  """
  parser = argparse.ArgumentParser(
    prog='dss prepare',
    description=_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    '--dataset', required=True, help=f'one of {", ".join(datasets.names())}, or of --module'
  )
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
  parser.add_argument('--sha256', metavar='SUM', help="the download's expected SHA-256")
  parser.add_argument(
    '--data_dir',
    metavar='DIR',
    help='TFDS folder, local or gs:// (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)',
  )
  parser.add_argument(
    '--filter',
    choices=release.FILTERS,
    default='none',
    help='clean drops train rows with an unparsed label or an empty rationale, agree also those '
    'whose teacher label is not the gold one; validation and test are never filtered '
    '(default: none, as in the paper)',
  )
  parser.add_argument(
    '--parser',
    choices=release.PARSERS,
    default=release.PARSERS[0],
    help="how the teacher's outputs are read: own takes what the teacher wrote, released does as "
    "the paper's code, which its students learned from (default: own)",
  )
  arguments.add_module_flag(parser)
  given = parser.parse_args(argv)
  if given.url is not None:
    download.check(given.url, given.sha256)
  elif '://' in given.raw_dir:
    raise ValueError(
      f'--raw_dir={given.raw_dir} is not on this machine, where raw files are read: copy them '
      'here, or give --url=https://... of an archive.'
    )
  arguments.import_modules(given.modules)
  datasets.get(given.dataset)
  return given
