"""Size and time of `dss report`: a made-up sweep of 500 runs on 1,000 examples, and its page.

    python benchmarks/report_size.py [--runs=500] [--items=1000] [--folder=DIR]

Ten methods, five data fractions and as many seeds as it takes. Students differ from each other as
in a real sweep: easy examples are right for most. Inputs and rationales are random words, which
deflate less than language. Prints JSON: bytes of the page, seconds, peak memory, and what fitted.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / 'tests'))

import sweep_folders  # noqa: E402  of the tests

METHODS = (
  'standard', 'dss', 'single_task', 'label_first', 'shuffled_rationale', 'other_rationale',
  'cue_words', 'copy_input', 'truncated_rationale', 'self_evaluation',
)  # fmt: skip
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
WORDS = 20  # of a rationale or an input


def main() -> None:
  """Writes the sweep, reports it, prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--runs', type=int, default=500)
  parser.add_argument('--items', type=int, default=1000)
  parser.add_argument('--folder', help='kept; default: a temporary one')
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(given.folder or temporary) / 'sweep'
    seeds = range(-(-given.runs // (len(METHODS) * len(FRACTIONS))))
    cells = [
      sweep_folders.Cell(
        name,
        name,
        {'TRAIN_FRACTION': fraction, 'RANDOM_SEED': seed},
        0.5 + 0.3 * fraction + 0.01 * place,
        1.0 + (place > 0),
      )
      for fraction in FRACTIONS
      for seed in seeds
      for place, name in enumerate(METHODS)
    ][: given.runs]
    teacher = sweep_folders.results.TEACHER
    cells.append(sweep_folders.Cell(teacher, teacher, {'RANDOM_SEED': 0}, 0.7, 0.0))
    sweep_folders.write(folder, cells, given.items, text=_words)
    started = time.monotonic()
    command = [sys.executable, '-m', 'dss_jax', 'report', str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {
      'runs': len(cells),
      'items': given.items,
      'seconds': round(time.monotonic() - started, 1),
      'peak_mb': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
      'page_bytes': (folder / 'report.html').stat().st_size,
      'printed': printed.strip(),
    }
  print(json.dumps(found))


def _words(*key: object) -> str:
  """A text of words, always the same for a key."""
  rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
  words = rng.zipf(1.2, WORDS) % 5000  # a few are frequent, as in language
  return ' '.join(f'{word * 7919:x}' for word in words.tolist())


if __name__ == '__main__':
  main()
