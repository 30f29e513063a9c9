"""`dss report`: one HTML page of a sweep, or of two, with its tables and figures beside it.

Owns the command line and what is printed. The report is experiments/report's. Neither TensorFlow
nor JAX is imported.
"""

import argparse
from collections.abc import Sequence

from etils import epath

from dss_jax.experiments.report import cost, folder
from dss_jax.settings import arguments, fields, whole_files
from dss_jax.settings.printable import printable

NAME = 'report.html'
_DESCRIPTION = """\
Writes a self-contained HTML page of what is done of a sweep: accuracy against data and student
size, paired tests, cost, asking the teacher when unsure, learning curves, a browser of test
examples, the settings of every run. Beside it, in FILE_files/: CSV, JSON, SVG and PNG.
With a second folder, the same cells of both are compared.
"""
_EXAMPLES = """\
dss report runs/sweep
dss report runs/sweep runs/other --output=both.html --price_file=prices.json
"""


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0; wrong options exit with 2.

  Raises:
    ValueError: a folder or file is missing or damaged, or the extra `report` is not installed.
  """
  given = parser().parse_args(argv)
  folders = [whole_files.absolute(fields.expanded(path)) for path in given.folders]
  if len(folders) > 2:
    raise ValueError(f'expected one folder, or two to compare, not {len(folders)}.')
  prices = None if given.price_file is None else cost.read_prices(fields.expanded(given.price_file))
  prefixes = ('',) if len(folders) == 1 else ('A: ', 'B: ')
  sweeps = [
    folder.read(path, given.baseline, prefix)
    for path, prefix in zip(folders, prefixes, strict=True)
  ]
  try:
    from dss_jax.experiments.report import make
  except ImportError as error:
    raise ImportError(
      f"{error}: the page needs the extra `report`: pip install 'dss_jax[report]'."
    ) from error
  output = _output(given.output, folders[0])
  made = make.make(sweeps, output, prices, _path(given.samples))
  files = made.page.with_name(f'{made.page.stem}_files')
  for sweep in sweeps:
    if note := folder.unfinished_note(sweep):
      print(printable(note))
  size = made.page.stat().length / 1e6
  print(printable(f'{made.page}: {size:.2f} MB, {made.packed.examples:,} examples; {files}/'))
  if made.packed.without_rationales:
    print(f'rationales of {made.packed.without_rationales} runs did not fit into the page.')
  if made.packed.left_out:
    print(f'{made.packed.left_out:,} examples did not fit into the page.')
  if made.samples:
    print(printable(f'{len(made.samples)} files of samples in {given.samples}'))
  return 0


def _path(given: str | None) -> epath.Path | None:
  return None if given is None else whole_files.absolute(fields.expanded(given))


def _output(given: str | None, first: epath.Path) -> epath.Path:
  """Where the page is written: beside the results unless --output says where.

  Raises:
    ValueError: it is no file for HTML.
  """
  if given is None:
    return (first if first.is_dir() else first.parent) / NAME
  path = whole_files.absolute(fields.expanded(given))
  if path.suffix not in ('.html', '.htm') or path.is_dir():
    raise ValueError(f'--output={given}: expected a file that ends in .html.')
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('report', _DESCRIPTION, _EXAMPLES)
  made.add_argument(
    'folders',
    nargs='+',
    metavar='RUNS_DIR',
    help='of `dss sweep`, or its results.jsonl; one or two',
  )
  made.add_argument('--output', metavar='FILE.html', help=f'default: RUNS_DIR/{NAME}')
  made.add_argument(
    '--baseline', metavar='NAME', help="what others are compared to; default: the sweep's first"
  )
  made.add_argument(
    '--price_file', metavar='FILE', help=f'JSON with dollars and counts: {cost.EXAMPLE}'
  )
  made.add_argument(
    '--samples', metavar='DIR', help='also write answers in the samples format of lm-eval-harness'
  )
  return made
