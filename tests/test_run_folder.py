"""A run's files: settings that are read back and defended against others, metrics, evaluations."""

import dataclasses
import json
import pathlib

import pytest
from small_runs import untrained_run

from dss_jax import methods
from dss_jax.parallel import partitioning
from dss_jax.runs import metric_writer, run_config
from dss_jax.runs.run_config import EvalConfig
from dss_jax.runs.run_folder import RunFolder
from dss_jax.tasks import vocabulary
from dss_jax.training import losses, optimizers


@pytest.fixture(autouse=True)
def _bytes():
  """The vocabulary of the process is that of `run`."""
  with vocabulary.temporary_vocabulary('bytes'):
    yield


@pytest.fixture
def run(tmp_path):
  return untrained_run(tmp_path / 'run')


def _changed(run, name, value):
  """`run` with a nested setting changed, 'data.seed' for one."""
  first, _, rest = name.partition('.')
  if rest:
    value = _changed(getattr(run, first), rest, value)
  return dataclasses.replace(run, **{first: value})


@pytest.fixture
def folder(run):
  """The folder of `run`, with its settings in it."""
  folder = RunFolder(run.model_dir)
  folder.save_settings(run)
  return folder


# Settings


def test_settings_survive_the_folder(run):
  run = dataclasses.replace(run, loss=losses.LossConfig(alpha=0.5), eval=EvalConfig(patience=3))
  RunFolder(run.model_dir).save_settings(run)
  assert RunFolder(run.model_dir).load_settings() == run


def test_a_folder_that_was_moved_is_read_where_it_is(run, folder, tmp_path):
  folder.path.rename(tmp_path / 'elsewhere')
  loaded = RunFolder(tmp_path / 'elsewhere').load_settings()
  assert loaded == dataclasses.replace(run, model_dir=str(tmp_path / 'elsewhere'))


def test_a_folder_without_a_run_is_told(tmp_path):
  with pytest.raises(ValueError, match=r'holds no run: no config\.json; MODEL_DIR is what'):
    RunFolder(tmp_path).load_settings()


def test_settings_that_are_not_json_are_told(folder):
  folder.settings_file.write_text('{')
  with pytest.raises(ValueError, match=r'config\.json is not JSON'):
    folder.load_settings()


def test_the_file_is_plain_json(folder):
  values = json.loads(folder.settings_file.read_text())
  assert values == folder.load_values()
  assert values['data']['task_feature_lengths'] == {'inputs': 64, 'targets': 32}
  assert values['model']['mlp_activations'] == ['gelu', 'linear']


@pytest.mark.parametrize(
  'name, value, line',
  [
    ('data.seed', 1, 'data.seed: 0 -> 1'),
    ('data.batch_size', 16, 'data.batch_size: 8 -> 16'),
    (
      'data.task_feature_lengths',
      {'inputs': 64, 'targets': 33},
      'data.task_feature_lengths.targets: 32 -> 33',
    ),
    ('model.num_heads', 4, 'model.num_heads: 2 -> 4'),
    ('model.dtype', 'float32', "model.dtype: 'bfloat16' -> 'float32'"),
    ('loss.alpha', 0.5, 'loss.alpha: None -> 0.5'),
    ('optimizer.learning_rate', 1.0, 'optimizer.learning_rate: 5e-05 -> 1.0'),
    ('optimizer.decay_steps', 20, 'optimizer.decay_steps: 10 -> 20'),
    ('seed', 5, 'seed: 0 -> 5'),
    ('eval.period', 7, 'eval.period: 1000 -> 7'),
    ('eval.patience', 2, 'eval.patience: None -> 2'),
  ],
)
def test_a_folder_is_not_continued_with_what_would_learn_otherwise(run, folder, name, value, line):
  with pytest.raises(
    ValueError, match=f'other settings; choose another MODEL_DIR.*\n  {line}'
  ) as e:
    folder.check_same_run(_changed(run, name, value))
  assert len(str(e.value).splitlines()) == 2, 'other settings are told too'


def test_all_differences_are_told(run, folder):
  other = _changed(_changed(run, 'seed', 5), 'loss.z_loss', 1e-4)
  with pytest.raises(ValueError, match=r'loss\.z_loss: 0\.0 -> 0\.0001\n  seed: 0 -> 5$'):
    folder.check_same_run(other)


@pytest.mark.parametrize(
  'name, value',
  [
    ('checkpoints_to_keep', 3),
    ('data_dir', 'elsewhere'),
    ('eval.batch_size', 5),
    ('initial_checkpoint_path', 'elsewhere'),
    ('log_period', 7),
    ('mesh', partitioning.MeshConfig(1, 2, 4)),
    ('model.remat_policy', 'full'),
    ('model.scan_layers', False),
    ('num_microbatches', 2),
    ('save_period', 3),
    ('train_steps', 20),
  ],
)
def test_what_learns_the_same_may_change(run, folder, name, value):
  folder.check_same_run(_changed(run, name, value))


def test_a_run_without_linear_decay_can_be_made_longer(run, folder):
  """Its learning rate does not depend on TRAIN_STEPS, to which gin binds decay_steps."""
  constant = optimizers.OptimizerConfig(schedule='constant', decay_steps=10)
  folder.save_settings(dataclasses.replace(run, optimizer=constant))
  longer = optimizers.OptimizerConfig(schedule='constant', decay_steps=20)
  folder.check_same_run(dataclasses.replace(run, optimizer=longer, train_steps=20))


def test_the_vocabulary_is_kept_and_compared_by_content(run, folder, tmp_path):
  model = tmp_path / 'moved.model'
  with vocabulary.temporary_vocabulary('embedded_arithmetic'):
    folder.save_vocabulary(run_config.sentencepiece_model())
    assert folder.load_settings().vocabulary == str(folder.vocabulary_file)
    model.write_bytes(folder.vocabulary_file.read_bytes())
  with vocabulary.temporary_vocabulary(str(model)) as moved:
    folder.check_same_run(run)
    assert moved.vocab_size == vocabulary.load_vocabulary('embedded_arithmetic').vocab_size
  with pytest.raises(ValueError, match=r'VOCABULARY is another one.*spiece\.model'):
    folder.check_same_run(run)


def test_a_run_of_bytes_is_not_continued_with_pieces(run, folder):
  with (
    vocabulary.temporary_vocabulary('embedded_arithmetic'),
    pytest.raises(ValueError, match=r'VOCABULARY is another one.*set VOCABULARY to bytes'),
  ):
    folder.check_same_run(run)


def test_the_gin_text_is_read_back(folder):
  assert folder.load_gin() is None
  folder.save_gin('TRAIN_STEPS = 2\n')
  assert folder.load_gin() == 'TRAIN_STEPS = 2\n'


# Metrics, checkpoints and evaluations


def test_metric_rows_are_appended_and_dropped_after_a_step(folder):
  assert folder.metric_rows() == []
  rows = [{'step': step, 'kind': 'train', 'loss': 1.0 / step} for step in (1, 2, 3)]
  for row in rows:
    folder.append_metric_row(row)
  with folder.metrics_file.open('a') as file:
    file.write('{"step": 4, "ki')  # a killed process
  assert folder.metric_rows() == rows
  folder.drop_metric_rows_after(2)
  assert folder.metrics_file.read_text().count('\n') == len(folder.metric_rows()) == 2


def test_a_folder_without_checkpoints_is_looked_at_and_not_changed(folder):
  assert folder.saved_steps() == []
  with pytest.raises(ValueError, match='run holds no checkpoints; MODEL_DIR is the folder'):
    folder.read_checkpoints()
  assert not folder.checkpoints_folder.exists()


def test_the_decoding_stands_in_a_name_where_it_is_not_greedy(folder):
  names = [path.name for path in folder.evaluation_files('cqa_label', 'test', 20)]
  assert names == ['cqa_label_test_20.jsonl', 'cqa_label_test_20.json']
  assert folder.evaluation_files('cqa_label', 'test', 20, 'beam').records.name == (
    'cqa_label_test_20_beam.jsonl'
  )


def test_evaluations_of_a_step_are_found_by_what_they_say(folder):
  """A step 2 is also part of the name of step 20; other JSON files are no evaluations."""
  for step, decoding in ((2, 'greedy'), (2, 'beam'), (20, 'greedy')):
    files = folder.evaluation_files('cqa_label', 'test', step, decoding)
    summary = {'task': 'cqa_label', 'step': step, 'metrics': {'accuracy': step / 100}}
    files.summary.write_text(json.dumps(summary))
  (folder.path / 'mine_2.json').write_text('[1]')
  (folder.path / 'more_2.json').write_text('{"step": 2}')
  found = list(folder.evaluations(2))
  assert [evaluation.records.name for evaluation in found] == [
    'cqa_label_test_2.jsonl',
    'cqa_label_test_2_beam.jsonl',
  ]
  assert [evaluation.summary['metrics'] for evaluation in found] == [{'accuracy': 0.02}] * 2
  assert sorted(e.summary['step'] for e in folder.evaluations()) == [2, 2, 20]


def test_only_this_module_names_the_files_of_a_run(repository):
  names = ("'config.gin'", "'metrics.jsonl'", "'checkpoints'")
  code = [path for path in (repository / 'dss_jax').rglob('*.py') if path.name != 'file_names.py']
  code = [path for path in code if path.parts[-3:-1] != ('checkpoints', 't5x')]  # T5X's config.gin
  code = [path for path in code if not path.name.startswith('t5x_')]  # its module checkpoints
  assert not [path for path in code if any(name in path.read_text() for name in names)]


def test_a_run_from_before_methods_were_noted_is_continued(run, folder):
  old = _changed(run, 'loss.rationale_weight', 1.0)
  assert old.method is None
  folder.save_settings(old)
  now = dataclasses.replace(run, method=methods.get('dss'))
  with vocabulary.temporary_vocabulary('bytes'):
    folder.check_same_run(now)
    with pytest.raises(ValueError, match=r'loss\.rationale_weight: 1\.0 -> 0\.5'):
      folder.check_same_run(_changed(now, 'loss.rationale_weight', 0.5))


# Damage


@pytest.mark.parametrize(
  'content, message',
  [
    ('{"model": {', r'config\.json is not JSON: Expecting .*Put a copy of it back, or remove it'),
    ('', r'config\.json is not JSON'),
    ('[1]', r'config\.json is a list; expected a JSON object'),
    ('[' * 100_000, r'config\.json is not JSON that can be read'),
    ('{"train_steps": 3}', r"config\.json: the field '\w+' of RunConfig is missing\. Put a copy"),
    ('{"train_steps": 3, "x": 3}', r"config\.json: RunConfig has no field 'x'"),
    (
      '{"model": 3, "train_steps": 1}',
      r'RunConfig\.model: expected the fields of T5Config, not 3',
    ),
    (
      '{"model": {"vocab_size": "x"}, "train_steps": 1}',
      r"vocab_size is of type int .*, not 'x'",
    ),
  ],
)
def test_settings_that_are_damaged_or_of_another_version_are_told(folder, content, message):
  folder.settings_file.write_text(content)
  with pytest.raises(ValueError, match=message):
    folder.load_settings()


def test_settings_that_are_no_text_are_told(folder):
  folder.settings_file.write_bytes(b'\xff\xfe{}')
  with pytest.raises(ValueError, match=r'config\.json is not UTF-8 text: .*Put a copy of it back'):
    folder.load_settings()


@pytest.mark.parametrize(
  'line',
  ['{"step": 2, "ki', '[1]', '3', '', '\x00\x00', '{"step": "2", "kind": "train"}', '{"step": 2}'],
)
def test_a_line_of_metrics_that_is_no_row_is_named(folder, line):
  """A half line at the end is what a kill leaves; one before others is not."""
  row = {'step': 1, 'kind': 'train', 'loss': 1.0}
  folder.metrics_file.write_text(f'{json.dumps(row)}\n{line}\n{json.dumps(row)}\n')
  text = r'metrics\.jsonl, line 2: expected {"step": NUMBER, .* not .*; remove the'
  for read in (folder.metric_rows, lambda: folder.drop_metric_rows_after(1)):
    with pytest.raises(ValueError, match=text):
      read()
  assert len(folder.metrics_file.read_text().split('\n')) == 4


def test_a_summary_that_is_not_json_is_named(folder):
  folder.evaluation_files('cqa_label', 'test', 2).summary.write_text('{"step": 2, "metr')
  with pytest.raises(ValueError, match=r'cqa_label_test_2\.json is not JSON: .*Remove it'):
    list(folder.evaluations(2))


# The vocabulary


LOSSES = {
  'is missing': lambda file: file.unlink(),
  'is empty': lambda file: file.write_bytes(b''),
  'is a link to nowhere, which': lambda file: (file.unlink(), file.symlink_to('nowhere')),
  'is not a SentencePiece model': lambda file: file.write_bytes(b'garbled'),
  'is a folder': lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize('words', LOSSES)
def test_a_vocabulary_that_is_lost_is_told(run, folder, words):
  """Bytes are never the way out, and what config.json names elsewhere is not read."""
  run = dataclasses.replace(run, vocabulary='/home/me/my.model')
  folder.save_settings(run)
  with vocabulary.temporary_vocabulary('embedded_arithmetic'):
    folder.save_vocabulary(run_config.sentencepiece_model())
    LOSSES[words](pathlib.Path(folder.vocabulary_file))
    for read in (folder.load_settings, lambda: folder.check_same_run(run)):
      with pytest.raises(ValueError) as caught:
        read()
      text = str(caught.value)
      assert text.startswith(f'the vocabulary that the weights in {folder} were trained with is lo')
      assert words in text and 'bytes' not in text
      assert 'copied there from /home/me/my.model: put a copy of that one there again' in text


# Links


def test_rows_are_not_written_through_a_link(folder, tmp_path):
  row = {'step': 1, 'kind': 'train', 'loss': 1.0}
  (tmp_path / 'outside').write_text(json.dumps(row) + '\n')
  pathlib.Path(folder.metrics_file).symlink_to(tmp_path / 'outside')
  metric_writer.MetricWriter(folder, 1).write(2, 'train', {'loss': 0.5})
  assert (tmp_path / 'outside').read_text() == json.dumps(row) + '\n'
  assert [row['step'] for row in folder.metric_rows()] == [1, 2]


def test_evaluations_are_found_in_a_folder_with_a_pattern_for_a_name(tmp_path):
  folder = RunFolder(tmp_path / 'run[1]*')
  folder.path.mkdir()
  folder.evaluation_files('a', 'test', 2).summary.write_text('{"step": 2, "metrics": {}}')
  assert [found.summary['step'] for found in folder.evaluations(2)] == [2]


def test_a_validation_without_its_accuracy_is_named(folder):
  folder.metrics_file.write_text('{"step": 1, "kind": "validation", "accuracy": null}\n')
  with pytest.raises(ValueError, match=r'line 1: a validation has a number "accuracy"'):
    folder.metric_rows()
