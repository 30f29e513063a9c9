"""The e-SNLI of the evidence: its validation split is the training data, 500 rows of it held out.

    python benchmarks/evidence_data.py --raw_dir=DIR --output=RAW
    dss prepare --dataset=esnli --raw_dir=RAW --data_dir=DATA

e-SNLI's 549,367 training rows are too many for two cores. The first 500 rows of its validation
split, which end where a premise ends, become validation; the other 9,342 become train. Test is
unchanged.
"""

import argparse
import json
import os
import pathlib

HELD_OUT = 500


def main() -> None:
  """Writes RAW/esnli in the form of the release."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--raw_dir', default=os.environ.get('DSS_RAW_DIR'), type=pathlib.Path)
  parser.add_argument('--output', required=True, type=pathlib.Path)
  options = parser.parse_args()
  source, output = options.raw_dir / 'esnli', options.output / 'esnli'
  (output / 'llm').mkdir(parents=True)
  rows = (source / 'esnli_valid.json').read_text().splitlines(keepends=True)
  said = _completions(source, 'valid')
  _write(output, 'valid', rows[:HELD_OUT], said[:HELD_OUT])
  _write(output, 'train', rows[HELD_OUT:], said[HELD_OUT:])
  test = (source / 'esnli_test.json').read_text().splitlines(keepends=True)
  _write(output, 'test', test, _completions(source, 'test'))


def _completions(folder: pathlib.Path, split: str) -> list[str]:
  count = len(list((folder / 'llm').glob(f'{split}_CoT_*.json')))
  batches = [folder / 'llm' / f'{split}_CoT_{number}.json' for number in range(count)]
  return [text for path in batches for text in json.loads(path.read_text())]


def _write(folder: pathlib.Path, split: str, rows: list[str], said: list[str]) -> None:
  assert len(rows) == len(said)
  (folder / f'esnli_{split}.json').write_text(''.join(rows))
  (folder / 'llm' / f'{split}_CoT_0.json').write_text(json.dumps(said))


if __name__ == '__main__':
  main()
