"""A small SVAMP in the release's layout, and what `dss prepare` makes of it."""

import dataclasses
import json

import pytest

from dss_jax import cli, datasets
from dss_jax.datasets import release
from dss_jax.tasks import prepared

GOOD = 'Two and {n}. The answer is (2 + {n}).\n\nQ: X'
TRAIN_COMPLETIONS = {
  0: 'Never ends and',  # unparsed, without rationale
  1: 'Two. The answer is ((2 + 1',  # unparsed
  2: ' The answer is (2 + 2).',  # without rationale
  3: 'Two. The answer is (2 - 3).',  # disagrees
}


@pytest.fixture
def raw(tmp_path):
  """SVAMP in the release's layout: 10 train rows, 4 of them odd, and 3 test rows."""
  folder = tmp_path / 'raw' / 'svamp'
  (folder / 'llm').mkdir(parents=True)
  for split, count, odd in (('train', 10, TRAIN_COMPLETIONS), ('test', 3, {0: 'Never ends'})):
    rows = [{'input': f'2 and {n}.\nSum?', 'label': f'( 2.0 + {n}.0 )'} for n in range(count)]
    (folder / f'svamp_{split}.json').write_text('\n'.join(map(json.dumps, rows)))
    completions = [odd.get(n, GOOD.format(n=n)) for n in range(count)]
    (folder / 'llm' / f'{split}_CoT_0.json').write_text(json.dumps(completions))
  return tmp_path / 'raw'


def run(capsys, *argv):
  """Runs the command; returns its status, output lines, and messages."""
  status = cli.main(['prepare', *argv])
  output = capsys.readouterr()
  return status, output.out.splitlines(), output.err


def prepare_svamp(capsys, raw, tmp_path, *more):
  status, lines, errors = run(
    capsys, '--dataset=svamp', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}', *more
  )
  assert status == 0, errors
  return lines


def rows(source, split):
  """The rows of a source in its order, as Examples."""
  dataset = source.get_dataset(split, shuffle=False).as_numpy_iterator()
  return [
    release.Example(
      row['input'].decode(),
      row['label'].decode(),
      *(tuple(text.decode() for text in row[key]) for key in ('rationale', 'teacher_label')),
    )
    for row in dataset
  ]


def source_of(tmp_path, name='svamp'):
  return prepared.PreparedSource(name, str(tmp_path / 'data'))


def parsed(raw, split, name='svamp'):
  dataset = datasets.get(name)
  files = release.split_files(dataset, raw, split)
  # Prepared data has one sample at least, blank where there is none.
  return [
    dataclasses.replace(e, rationale=e.rationale or ('',), teacher_label=e.teacher_label or ('',))
    for e in release.read_examples(dataset, files, split)
  ]
