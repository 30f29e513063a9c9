"""The embedded data sets as raw files: prepared with a teacher's outputs, and trained on."""

import json

import seqio

from dss_jax import cli, datasets
from dss_jax.datasets import completions, embedded, embedded_raw, release
from dss_jax.tasks import prepared, sources


def test_raw_files_have_the_inputs_and_gold_labels_and_no_rationale(tmp_path):
  files = embedded_raw.write(tmp_path)
  assert len(files) == 6
  dataset = datasets.get('embedded_llm')
  split = release.split_files(dataset, tmp_path, 'test')
  examples = list(release.read_examples(dataset, split, 'test'))
  assert [one.input for one in examples] == [row['input'] for row in embedded.problems('test')]
  assert [one.label for one in examples] == [row['label'] for row in embedded.problems('test')]
  assert set(json.loads(split.rows.read_text().splitlines()[0])) == {'input', 'label'}


def test_a_teachers_outputs_about_them_become_a_data_set_with_tasks(tmp_path, capsys):
  embedded_raw.write(tmp_path / 'raw')
  outputs = tmp_path / 'out'
  outputs.mkdir()
  rows = embedded.problems('train')[:50]
  lines = [
    json.dumps({
      'input': row['input'],
      'completions': [f'{row["rationale"]} So the answer is {row["teacher_label"]}.'],
    })
    for row in rows
  ]  # fmt: skip
  (outputs / 'train.jsonl').write_text('\n'.join(lines))
  (outputs / completions.TEACHER_FILE).write_text('{"teacher": "my model"}')
  command = ['--dataset=embedded_llm', f'--raw_dir={tmp_path / "raw"}']
  command += [f'--teacher_outputs={outputs}', f'--data_dir={tmp_path / "data"}']
  assert cli.main(['prepare', *command]) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert report['splits']['train']['examples'] == 50
  assert report['splits']['test']['teacher_accuracy'] is None
  source = prepared.PreparedSource('embedded_llm', str(tmp_path / 'data'))
  first = next(source.get_dataset('train', shuffle=False).as_numpy_iterator())
  assert first['rationale'].tolist() == [rows[0]['rationale'].encode()]
  assert first['teacher_label'].tolist() == [rows[0]['teacher_label'].encode()]
  sources.add_prepared_datasets()
  assert 'embedded_llm_dss' in seqio.MixtureRegistry.names()
