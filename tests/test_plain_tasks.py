"""SeqIO tasks of a user's own, made without `register_dataset`: trained on, and scored by their own
metric functions."""

import dataclasses
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
from small_runs import config_of

from dss_jax.data import pipeline
from dss_jax.inference import evaluator
from dss_jax.runs import evaluation, run_config, training_loop
from dss_jax.tasks import plain_tasks, vocabulary
from dss_jax.training.optimizers import OptimizerConfig

TASK, OTHER, MIXTURE = 'plain_sums', 'plain_unscored', 'plain_mixture'


def _read(split, shuffle_files=False, seed=None):
  del split, shuffle_files, seed
  texts = ['1', '2', '3', '4']
  return tf.data.Dataset.from_tensor_slices(
    {'inputs': texts, 'targets': texts, 'label': [1, 2, 3, 4], 'weight': [1, 1, 1, 5]}
  )


def _number(text, example, is_target):
  assert isinstance(is_target, bool)
  return (int(text) if text.isdigit() else -1, int(example['weight']))


def _weighted(targets, predictions):
  right = [weight for (number, weight), (said, _) in zip(targets, predictions, strict=True)
           if number == said]  # fmt: skip
  return {
    'weighted': 100 * sum(right) / sum(weight for _, weight in targets),
    'scalar': seqio.metrics.Scalar(7),
    'text': seqio.metrics.Text('not a number'),
  }


@pytest.fixture(scope='module', autouse=True)
def tasks():
  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  settings = {
    'source': seqio.FunctionDataSource(_read, splits=['train', 'validation', 'test']),
    'preprocessors': [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    'output_features': {'inputs': feature, 'targets': feature},
  }
  seqio.TaskRegistry.add(TASK, postprocess_fn=_number, metric_fns=[_weighted], **settings)
  seqio.TaskRegistry.add(OTHER, metric_fns=[], **settings)
  seqio.MixtureRegistry.add(MIXTURE, [(OTHER, 1.0), (TASK, 1.0)])
  yield
  seqio.MixtureRegistry.remove(MIXTURE)
  for name in (TASK, OTHER):
    seqio.TaskRegistry.remove(name)


def test_a_mixture_is_judged_by_its_first_member_with_metrics():
  assert plain_tasks.judge_of(MIXTURE) == plain_tasks.judge_of(TASK) == TASK
  assert plain_tasks.is_plain(OTHER) and not plain_tasks.is_plain(MIXTURE)
  assert plain_tasks.judge_of('embedded_arithmetic_dss') is None
  assert plain_tasks.judge_of('no_such_task') is None


def test_outputs_are_scored_by_the_tasks_own_functions_with_its_own_rows():
  with vocabulary.temporary_vocabulary('bytes'):
    rows = plain_tasks.read(TASK, 'test', None)
    scored = plain_tasks.score(TASK, rows, ['1', '2', 'x', '4'])
    assert len(plain_tasks.read(TASK, 'test', 3)) == 3
  assert scored.correct == [True, True, False, True]
  assert scored.metrics['accuracy'] == 0.75
  assert scored.metrics['task/weighted'] == 100 * 7 / 8
  assert scored.metrics['task/scalar'] == 7.0 and 'task/text' not in scored.metrics
  assert scored.predictions[2] == (-1, 1)


@pytest.mark.parametrize(
  'target, prediction, equal',
  [
    (np.array([1, 2]), np.array([1, 2]), True),
    (np.array([1, 2]), np.array([1, 3]), False),
    (np.array([1, 2]), 'x', False),
    ((np.zeros(2), 'a'), (np.zeros(2), 'a'), True),
    ({'x': np.zeros(2)}, {'x': np.ones(2)}, False),
    ({'x': 1}, {'y': 1}, False),
    ([1, 2], [1], False),
    (1, 1.0, True),
  ],
)
def test_postprocessed_arrays_are_compared_number_by_number(target, prediction, equal):
  assert plain_tasks.is_equal(target, prediction) is equal


@pytest.mark.parametrize(
  'targets, predictions, said',
  [
    ([['a', 'b'], ['c']], ['a', 'c'], True),
    (['a', 'b'], ['x', 'y'], False),
    ([1, 2], [None, 2.0], False),
    ([1, 2], ['x', 2], False),
  ],
)
def test_an_accuracy_that_is_not_defined_is_said(capsys, targets, predictions, said):
  plain_tasks._say_once.cache_clear()
  plain_tasks._check_types('squad', targets, predictions)
  told = capsys.readouterr().err
  assert ('makes a list of a target and a str of a prediction' in told) == said
  assert ('accuracy is not defined' in told) == said


@pytest.mark.parametrize('made, correct', [(np.array, [1, 1, 0, 1]), (list, [0, 0, 0, 0])])
def test_arrays_are_scored_and_other_types_of_targets_said(monkeypatch, capsys, made, correct):
  plain_tasks._say_once.cache_clear()

  def postprocess(self, output, example, is_target):
    return made([output]) if is_target or made is np.array else output

  monkeypatch.setattr(seqio.Task, 'postprocess_fn', postprocess)
  with vocabulary.temporary_vocabulary('bytes'):
    rows = plain_tasks.read(OTHER, 'test', None)
    scored = plain_tasks.score(OTHER, rows, ['1', '2', 'x', '4'])
  assert scored.correct == correct
  assert ('not defined' in capsys.readouterr().err) == (made is list)


def test_examples_keep_their_rows_and_other_columns_are_no_texts():
  with vocabulary.temporary_vocabulary('bytes'):
    examples = evaluator.load_examples(TASK, 'test', 2)
  assert [row['weight'] for row in examples.texts[evaluator.ROWS]] == [1, 1]
  assert 'label' not in examples.texts  # a number
  assert len(examples) == 2 and examples.target_lengths.tolist() == [2, 2]


def test_another_vocabulary_is_refused(tmp_path):
  run = _run(tmp_path, vocabulary='embedded_arithmetic')
  with pytest.raises(ValueError, match=r'has another vocabulary .* ByteVocabulary: set VOCABULARY'):
    run_config.set_up_tasks(run)


def _run(folder, **changes):
  run = config_of(folder / 'run', train_steps=2)
  data = pipeline.DataConfig(MIXTURE, {'inputs': 8, 'targets': 8}, batch_size=8)
  return dataclasses.replace(
    run,
    **{
      'data': data,
      'vocabulary': 'bytes',
      'optimizer': OptimizerConfig(decay_steps=2),
      'eval': run_config.EvalConfig(period=2, batch_size=8),
      **changes,
    },
  )


def test_a_run_trains_validates_and_is_evaluated_by_the_tasks_metrics(tmp_path):
  assert training_loop.train(_run(tmp_path)).best_step == 2
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
  validated = [row for row in rows if row['kind'] == 'validation']
  assert [row['step'] for row in validated] == [2]
  assert validated[0]['task/scalar'] == 7.0 and 0 <= validated[0]['task/weighted'] <= 100
  assert np.isfinite(validated[0]['loss'])
  settings = evaluation.EvaluateConfig(model_dir=str(tmp_path / 'run'), batch_size=8)
  summary, records = evaluation.evaluate(settings)
  assert summary['task'] == TASK and summary['metrics']['task/scalar'] == 7.0
  assert [record['input'] for record in records] == ['1', '2', '3', '4']
  assert records[0]['target'] == str((1, 1))
