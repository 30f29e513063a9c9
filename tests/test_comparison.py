"""Comparisons: equal labels a step, equal compute, and the whole of `dss compare` on few steps."""

import dataclasses
import json

import pytest
from small_runs import config_of, small_data  # noqa: F401  a fixture

from dss_jax import methods
from dss_jax.commands import compare
from dss_jax.data import pipeline
from dss_jax.experiments import comparison, configuration, labels, results
from dss_jax.runs import run_config
from dss_jax.runs.run_folder import RunFolder


def in_row(run):
  return 1 / run_config.rows_per_example(run)


def entries(folder, names, **settings):
  def run_of(name, macros):
    assert macros == {}
    return config_of('unused', method=methods.get(name), train_steps=100)

  compared = comparison.SweepConfig(str(folder), names, **settings)
  return comparison.cells(compared, run_of, in_row)


def test_every_method_gets_as_many_label_rows_a_step():
  listed = entries('there', ('standard', 'single_task', 'dss'), equal_compute=False)
  assert [entry.macros for entry in listed] == [
    {'MODEL_DIR': 'there/standard', 'BATCH_SIZE': 8},
    {'MODEL_DIR': 'there/single_task', 'BATCH_SIZE': 8},
    {'MODEL_DIR': 'there/dss', 'BATCH_SIZE': 16},
  ]
  assert [entry.compute for entry in listed] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize('names', [('dss', 'standard'), ('dss', 'paired'), ('paired', 'dss')])
def test_rows_do_not_depend_on_the_other_methods_or_their_order(names):
  rows = {cell.name: cell.macros['BATCH_SIZE'] for cell in entries('there', names)}
  assert rows == {name: 8 if name == 'standard' else 16 for name in names}


def test_the_first_method_also_gets_the_compute_of_the_costliest():
  *_, last = entries('there', ('standard', 'dss'))
  assert (last.name, last.method, last.compute) == ('standard, equal compute', 'standard', 2.0)
  assert last.macros == {
    'MODEL_DIR': 'there/standard_equal_compute', 'BATCH_SIZE': 8, 'TRAIN_STEPS_RELATIVE': 200
  }  # fmt: skip


def test_methods_of_equal_compute_need_no_such_line():
  assert [entry.name for entry in entries('there', ('dss', 'paired'))] == ['dss', 'paired']


def test_a_method_of_choices_gets_a_row_for_each_and_computes_its_second_pass():
  def run_of(name, macros):
    data = pipeline.DataConfig(
      f'embedded_{name}', {'inputs': 96, 'targets': 64}, batch_size=8, pack=name != 'pinto'
    )
    return config_of('unused', method=methods.get(name), data=data)

  compared = comparison.SweepConfig('there', ('standard', 'pinto'))
  listed = comparison.cells(compared, run_of, in_row)
  assert [entry.macros['BATCH_SIZE'] for entry in listed] == [8, 24, 8]
  assert [entry.macros['PACK'] for entry in listed] == [False] * 3  # as many labels a step
  assert [entry.compute for entry in listed] == [1.0, 6.0, 6.0]


def test_where_a_row_holds_fewer_labels_there_are_more_rows():
  held = {'standard': 6.9, 'dss': 3.2, 'single_task': 3.45}

  def run_of(name, macros):
    return config_of('unused', method=methods.get(name))

  compared = comparison.SweepConfig('there', tuple(held), equal_compute=False)
  listed = comparison.cells(compared, run_of, lambda run: held[run.method.name])
  assert [cell.macros['BATCH_SIZE'] for cell in listed] == [8, 16, 16]
  assert [cell.compute for cell in listed] == [1.0, 2.0, 2.0]


def test_rationales_behind_labels_halve_the_labels_in_a_row(small_data):  # noqa: F811
  found = {}
  for name in ('standard', 'dss', 'single_task'):
    run = config_of('unused', method=methods.get(name))
    data = dataclasses.replace(run.data, mixture_or_task_name=f'embedded_arithmetic_{name}')
    found[name] = labels.per_row(dataclasses.replace(run, data=data))
  assert found['dss'] == pytest.approx(found['standard'] / 2, rel=0.3)
  assert found['single_task'] < 0.8 * found['standard']


def test_settings_that_replace_those_of_a_methods_file_are_refused():
  argv = ['--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded.gin', '--model_dir=a']
  run_of = configuration.reader([*argv, '--train_steps=300'], 'runs/compare.gin')
  with pytest.raises(ValueError, match=r'untrained\.gin sets TRAIN_STEPS = 1, .* replaced by 300'):
    run_of('untrained', {})
  assert configuration.reader(argv, 'runs/compare.gin')('untrained', {}).train_steps == 1


def test_no_method_or_one_twice_is_refused():
  with pytest.raises(ValueError, match='names at least one method'):
    comparison.SweepConfig('there', ())
  with pytest.raises(ValueError, match='names each method once'):
    comparison.SweepConfig('there', ('dss', 'standard', 'dss'))


def test_the_teacher_itself_is_a_line_without_training():
  found = entries('there', ('standard', 'few_shot_cot', 'dss'), equal_compute=False)
  assert [(cell.name, cell.compute) for cell in found] == [
    ('standard', 1.0), ('few_shot_cot', 0.0), ('dss', 2.0)
  ]  # fmt: skip
  with pytest.raises(ValueError, match='METHODS starts with a student'):
    comparison.SweepConfig('there', ('few_shot_cot', 'dss'))


def test_the_whole_of_a_comparison(tmp_path, capsys):
  arguments = [
    '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin',
    "--task_feature_lengths={'inputs': 96, 'targets': 64}", f'--model_dir={tmp_path}',
    '--methods=standard,few_shot_cot,dss',
    '--batch_size=8', '--train_steps=2', '--eval_period=2', '--evaluator_num_examples=8',
    '--eval_batch_size=8', '--max_decode_length=24', '--log_period=1',
    '--gin.t5.T5Config.emb_dim=16', '--gin.t5.T5Config.head_dim=4', '--gin.t5.T5Config.mlp_dim=16',
  ]  # fmt: skip
  assert compare.main(arguments) == 0
  found = json.loads((tmp_path / compare.FILE).read_text())
  scores = [results.Score(**line) for line in found]
  assert [line.name for line in scores] == [
    'standard',
    'few_shot_cot',
    'dss',
    'standard, equal compute',
  ]
  teacher = scores.pop(1)
  assert teacher.accuracy == 0.9 and teacher.examples == 40  # it errs in a tenth
  assert [line.steps for line in scores] == [2, 2, 4]
  assert [line.examples for line in scores] == [40, 40, 40]
  labels = {line.name: line.labels_per_step for line in scores}
  assert labels['dss'] == pytest.approx(labels['standard'], rel=0.3)
  text = capsys.readouterr().out
  assert all(line.name in text for line in scores)
  assert text.count('\nrationale  ') == text.count('(gold: ') == compare.QUESTIONS
  assert text.rstrip().endswith(f'are in {tmp_path}.')
  for line, name, size in zip(scores, ('standard', 'dss', 'standard'), (8, 16, 8), strict=True):
    run = RunFolder(tmp_path / line.folder).load_settings()
    assert (run.method.name, run.data.batch_size, run.train_steps) == (name, size, line.steps)
    assert run.optimizer.decay_steps == line.steps
    gin = (tmp_path / line.folder / 'config.gin').read_text()
    assert f"METHOD = '{name}'" in gin and f'BATCH_SIZE = {size}' in gin
  assert compare.main(arguments) == 0  # finds everything done
  assert [line['accuracy'] for line in json.loads((tmp_path / compare.FILE).read_text())] == [
    line.accuracy for line in (scores[0], teacher, *scores[1:])
  ]
