"""`dss evaluate`: reads a run folder, writes every example's record, ends with one line of JSON."""

import json
import pathlib

import pytest
import run_folders
from run_folders import NAME

from dss_jax import methods
from dss_jax.commands import evaluate
from dss_jax.inference.decoding import Decoding
from dss_jax.runs import evaluation, student


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return run_folders.make_run(tmp_path_factory.mktemp('evaluate') / 'run')


def run_main(capsys, *arguments):
  assert evaluate.main(list(arguments)) == 0
  lines = capsys.readouterr().out.splitlines()
  return json.loads(lines[-1]), lines[:-1]


def read(path):
  return [json.loads(line) for line in pathlib.Path(path).read_text('utf-8').splitlines()]


def test_the_last_line_is_json_and_the_records_are_beside_the_run(run, capsys):
  summary, text = run_main(capsys, f'--model_dir={run}')
  assert set(summary) == {'task', 'split', 'examples', 'metrics'}
  assert (summary['task'], summary['split'], summary['examples']) == (f'{NAME}_label', 'test', 5)
  assert set(summary['metrics']) == {'accuracy', 'accuracy_low', 'accuracy_high', 'unfinished'}
  records = read(f'{run}/{NAME}_label_test_1.jsonl')  # step 1 is the best
  assert [record['id'] for record in records] == [0, 1, 2, 3, 4]
  assert [record['target'] for record in records] == run_folders.ROWS['label']
  correct = sum(record['correct'] for record in records)
  assert summary['metrics']['accuracy'] == correct / 5
  assert text[0] == f'{NAME}_label test: step 1, 5 examples'
  assert '95 % interval' in text[1]


def test_task_split_step_and_output_are_chosen_on_the_command_line(run, tmp_path, capsys):
  output = tmp_path / 'records.jsonl'
  summary, text = run_main(
    capsys, '--model_dir', run, f'--task={NAME}_rationale', '--split=validation', '--step=latest',
    f'--output={output}', '--num_examples=2', '--decoding=beam', '--beams=2', '--batch_size=8',
  )  # fmt: skip
  assert summary['task'] == f'{NAME}_rationale'
  assert summary['split'] == 'validation'
  assert set(summary['metrics']) == {'rouge_l', 'unfinished'}
  assert 'step 2' in text[0]
  assert len(read(output)) == 2
  assert [path.name for path in tmp_path.iterdir()] == ['records.jsonl']


def test_the_settings_reach_the_decoder(run):
  settings = evaluation.EvaluateConfig(
    run, step=2, decoding=Decoding('beam', beams=3), batch_size=16, seed=7
  )
  loaded = student.load(settings)
  decoder = loaded.decoder(methods.dss.LABEL_ROW)
  assert loaded.step == 2
  assert decoder.decoding == Decoding('beam', max_length=8, beams=3)  # the run's validation length
  assert (decoder.batch_size, decoder.max_input_length, decoder.seed) == (16, 48, 7)
  assert loaded.decoder(methods.dss.RATIONALE_ROW).decoding.max_length == 12  # the run's targets


def test_the_length_of_outputs_can_be_set(run):
  loaded = student.load(evaluation.EvaluateConfig(run, max_decode_length=3))
  lengths = {loaded.decoder(row).decoding.max_length for row in methods.dss.DSS.rows}
  assert lengths == {3}


def test_each_step_has_its_own_parameters(run):
  steps = {step: student.load(evaluation.EvaluateConfig(run, step=step)) for step in (1, 2, 'best')}
  embedding = {step: loaded.params['embedding'] for step, loaded in steps.items()}
  assert (embedding[1] != embedding[2]).any()
  assert (embedding[1] == embedding['best']).all()


def test_a_student_without_prefixes_is_asked_without(tmp_path, capsys):
  run = run_folders.make_run(tmp_path / 'run', 'teacher_standard')
  summary, _ = run_main(capsys, f'--model_dir={run}')
  assert summary['task'] == f'{NAME}_standard'
  records = read(f'{run}/{NAME}_standard_test_1.jsonl')
  assert [record['input'] for record in records] == run_folders.INPUTS


def test_cut_inputs_are_reported(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(run_folders, 'LENGTHS', {'inputs': 30, 'targets': 12})
  run = run_folders.make_run(tmp_path / 'run')
  evaluate.main([f'--model_dir={run}'])
  assert '2 of 5 inputs are cut at 30 tokens' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--task=run_folders_lable'], "'run_folders_lable' does not exist.*run_folders_label"),
    (['--task=run_folders_dss'], 'run_folders_label'),
    (['--split=tset'], "'tset'.*test"),
    (['--step=9'], r"'best', 'latest' or one of \[1, 2\], not 9"),
    (['--step=bset'], r"'best', 'latest' or the number of a step, not 'bset'"),
    (['--decoding=gredy'], "not 'gredy'"),
    (['--spilt=test'], 'SPLIT'),
    (['--batch_size=12'], '12 is not a multiple of data x fsdp = 8'),
    (['--output=/nowhere/at/all.jsonl'], 'OUTPUT /nowhere/at/all.jsonl cannot be written'),
    (['--vocabulary=a.model'], 'does not read the macro VOCABULARY, which other verbs read'),
  ],
)
def test_what_is_wrong_is_said(run, arguments, message):
  with pytest.raises((ValueError, OSError), match=message):
    evaluate.main([f'--model_dir={run}', *arguments])


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match='holds no run'):
    evaluate.main([f'--model_dir={tmp_path}'])


def test_a_run_without_checkpoints_is_refused(tmp_path):
  run = run_folders.make_run(tmp_path / 'run', steps=())
  with pytest.raises(ValueError, match='no finished checkpoint'):
    evaluate.main([f'--model_dir={run}'])


def test_the_model_dir_is_asked_for():
  with pytest.raises(ValueError, match='MODEL_DIR'):
    evaluate.main([])
