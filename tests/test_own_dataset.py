"""A data set of a user's own: prepared from raw files by a definition outside of the package."""

import json

import seqio
from test_prepare import raw, rows, run, source_of  # noqa: F401  the fixture and its readers

from dss_jax.tasks import sources

OWN = """
from dss_jax import datasets
from dss_jax.datasets import svamp
import dataclasses

datasets.register(dataclasses.replace(svamp.DATASET, name='my_sums', teacher='my teacher'))
"""


def test_a_data_set_of_a_users_own_is_prepared_and_has_its_tasks(
  raw,  # noqa: F811
  tmp_path,
  capsys,
  monkeypatch,
):
  """Of K samples each a filter keeps its own; the teacher's name is noted with the data."""
  (tmp_path / 'my_data_sets.py').write_text(OWN)
  monkeypatch.syspath_prepend(str(tmp_path))
  for path in list((raw / 'svamp').rglob('svamp_*.json')):
    path.rename(path.with_name(path.name.replace('svamp', 'my_sums')))
  (raw / 'svamp').rename(raw / 'my_sums')
  completions = raw / 'my_sums' / 'llm' / 'train_CoT_0.json'
  asked_twice = [
    [text, 'Again. The answer is (0 - 1).'] for text in json.loads(completions.read_text())
  ]
  completions.write_text(json.dumps(asked_twice))
  status, lines, errors = run(
    capsys, '--dataset=my_sums', f'--raw_dir={raw}', f'--data_dir={tmp_path / "data"}',
    '--module=my_data_sets', '--filter=agree',
  )  # fmt: skip
  assert status == 0, errors
  counts = json.loads(lines[-1])['splits']['train']
  assert counts['examples'] == 5  # of nine rows, those with a sample that agrees
  assert counts['disagree'] == 1 + 9  # samples
  source = source_of(tmp_path, 'my_sums')
  assert source.metadata['teacher'] == 'my teacher'
  assert all(len(row.rationale) == 1 for row in rows(source, 'train'))
  sources.add_prepared_datasets()
  assert 'my_sums_dss' in seqio.MixtureRegistry.names()
