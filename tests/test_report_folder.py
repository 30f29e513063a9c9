"""Reading a sweep's folder for a report: what counts as done, what is refused, what it starts."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sweep_folders
from sweep_folders import Cell

from dss_jax.experiments import few_shot_cot, results
from dss_jax.experiments.report import folder, records, series, student_size
from dss_jax.models import flops
from dss_jax.models.config import T5Config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings.errors import ConfigError


@pytest.fixture
def swept(tmp_path):
  sweep_folders.write(tmp_path, sweep_folders.grid((0.5, 1.0), (1, 2)), items=12)
  return tmp_path


def cell_of(path):
  return json.loads((path / results.CELL_FILE).read_text())


def test_the_report_imports_neither_tensorflow_nor_jax():
  code = (
    'import sys; from dss_jax.commands import report; from dss_jax.experiments.report import make; '
    'print({"jax", "tensorflow", "seqio", "orbax"} & set(sys.modules))'
  )
  assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == 'set()'


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'logits_via_embedding': True, 'mlp_activations': ('relu',)},
    {'relative_bias_per_layer': True},
  ],
)
def test_parameters_are_those_of_the_network(settings):
  config = T5Config(100, 16, 2, 8, 32, 3, 4, **settings)
  values = json.loads(json.dumps(dataclasses.asdict(config)))
  assert student_size.parameters(values) == flops.parameters(config)


@pytest.mark.parametrize('values', [None, 'T5', {}, {'vocab_size': 3}, {'emb_dim': 'x'}])
def test_a_student_of_unknown_settings_has_no_size(values):
  assert student_size.parameters(values) is None


def test_what_is_done_is_read_in_the_order_of_the_table(swept):
  found = folder.read(swept)
  assert [run.name for run in found.runs[:3]] == ['standard', 'dss', 'standard, equal compute']
  assert len(found.runs) == 16 and len(found.students) == 12 and not found.unfinished
  run = found.runs[1]
  assert (run.fraction, run.seed, found.baseline) == (0.5, 1, 'standard')
  assert run.correct.mean() == run.score.accuracy
  assert run.learns_rationales and not found.runs[0].learns_rationales
  assert not run.asks_the_teacher and not run.learns_teacher_labels


def test_the_teacher_is_asked_for_answers_where_they_start_from_its_rationale(tmp_path):
  sweep_folders.write(tmp_path, [Cell('rationale_input', 'rationale_input', {}, 0.5)], items=4)
  assert folder.read(tmp_path).runs[0].asks_the_teacher


def test_cells_are_those_that_the_sweep_asks_for_now(swept):
  names = sorted(path.name for path in swept.iterdir() if path.is_dir())
  stale, gathered, *rest = names
  for name in (stale, *rest):
    content = cell_of(swept / name)
    content['identity'] = 'old' if name == stale else 'now'
    (swept / name / results.CELL_FILE).write_text(json.dumps(content))
  shutil.rmtree(swept / gathered)
  left_out, *asked = rest
  noted = {'devices': 1, 'cells': dict.fromkeys([stale, gathered, *asked, 'not begun'], 'now')}
  (swept / results.SWEEP_FILE).write_text(json.dumps(noted))
  found = folder.read(swept)
  assert found.unfinished == tuple(sorted([stale, left_out, 'not begun']))
  assert {run.score.folder for run in found.runs} == {gathered, *asked}
  assert [run.path for run in found.runs if run.score.folder == gathered] == [None]


def test_a_cell_that_is_not_done_is_named_and_one_set_aside_is_not(swept):
  names = sorted(path.name for path in swept.iterdir() if path.is_dir())
  first = swept / names[0]
  content = cell_of(first)
  del content['score']
  (first / results.CELL_FILE).write_text(json.dumps(content))
  (swept / names[1]).rename(swept / f'{names[1]}.before_1')
  found = folder.read(swept)
  assert found.unfinished == (names[0],)
  assert len(found.runs) == 14
  assert (
    folder.unfinished_note(found)
    == f'1 cells are not done, or not as the sweep asks now: {names[0]}.'
  )


def test_a_sweep_that_is_not_done_starts_with_what_others_are_compared_to(swept):
  (swept / results.RESULTS).unlink()
  found = folder.read(swept)
  assert found.baseline == 'standard'
  assert [run.method for run in found.runs[:8]] == ['standard'] * 8


def test_results_that_were_kept_alone_are_read(swept, tmp_path_factory):
  alone = tmp_path_factory.mktemp('kept') / 'results.jsonl'
  alone.write_text((swept / results.RESULTS).read_text())
  for path in (alone, alone.parent):
    found = folder.read(path)
    assert [run.score for run in found.runs] == [run.score for run in folder.read(swept).runs]
    assert found.runs[0].path is None and records.answers(found.runs[0]) is None


def test_what_is_no_sweep_is_refused_in_a_sentence(tmp_path):
  with pytest.raises(ConfigError, match='no finished student'):
    folder.read(tmp_path)
  with pytest.raises(ConfigError, match='does not exist'):
    folder.read(tmp_path / 'nowhere')


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    ({'correct': '012'}, 'text of 0 and 1'),
    ({'correct': None}, 'text of 0 and 1'),
    ({'method': 3}, 'name of a method'),
    ({'score': []}, 'fields of Score'),
    ({'score': {'name': 'x'}}, "'accuracy' of Score is missing"),
  ],
)
def test_a_damaged_cell_is_refused_with_its_file(swept, change, expected):
  path = next(path for path in sorted(swept.iterdir()) if path.is_dir())
  (path / results.CELL_FILE).write_text(json.dumps(cell_of(path) | change))
  with pytest.raises(ConfigError, match=expected) as error:
    folder.read(swept)
  assert str(path) in str(error.value)


def test_a_baseline_that_is_not_there_is_refused(swept):
  assert folder.read(swept, 'dss').baseline == 'dss'
  with pytest.raises(ConfigError, match='has students of standard, dss only'):
    folder.read(swept, 'dss2')


def test_answers_are_those_behind_the_score(swept):
  run = folder.read(swept).runs[1]
  found = records.answers(run)
  assert found.correct.tolist() == run.correct.tolist() and len(found.confidences) == 12
  rationales = records.rationales(run)
  assert rationales.own[3].endswith('of 3') and rationales.teacher[3] == 'teacher of 3'
  lines = found.file.read_text().splitlines()
  record = json.loads(lines[0])
  lines[0] = json.dumps({**record, 'correct': not record['correct']})
  found.file.write_text('\n'.join(lines))
  assert records.answers(run) is None, 'records of another score'


def test_a_student_may_write_what_is_no_character(swept):
  run = folder.read(swept).runs[0]
  file = records.answers(run).file
  lines = file.read_text().splitlines()
  lines[0] = json.dumps({**json.loads(lines[0]), 'prediction': 'a\0\ud800b'})
  file.write_text('\n'.join(lines) + '\n')
  assert records.answers(run).predictions[0] == 'a\ufffd\ufffdb'


def test_runs_become_points_by_method_fraction_and_size(tmp_path):
  sweep_folders.write(tmp_path, sweep_folders.grid((0.5, 1.0), (1, 2), (16, 32)), items=12)
  (panel,) = series.panels(folder.read(tmp_path).runs)
  assert panel.names == ['standard', 'dss', 'standard, equal compute']
  assert panel.fractions == [0.5, 1.0] and len(panel.sizes) == 2 and panel.title == ''
  assert len(panel.points) == 12 and panel.teacher.method == results.TEACHER
  assert [point.fraction for point in panel.along_fractions('dss', panel.sizes[0])] == [0.5, 1.0]
  assert [p.parameters for p in panel.along_sizes('dss', 1.0)] == panel.sizes


def test_other_axes_become_panels(tmp_path):
  axes = [{'DATASET': name, 'RANDOM_SEED': 1} for name in ('cqa', 'esnli')]
  sweep_folders.write(tmp_path, [Cell('standard', 'standard', one, 0.5) for one in axes], items=9)
  found = series.panels(folder.read(tmp_path).runs)
  assert [panel.title for panel in found] == ['dataset=cqa', 'dataset=esnli']


def test_the_teachers_answers_are_written_as_an_evaluation(tmp_path):
  record = {
    'id': 0,
    'input': 'x',
    'target': 'a',
    'prediction': 'a',
    'rationale': 'so',
    'correct': True,
  }
  right = np.array([True])
  answers = few_shot_cot.TeacherAnswers('svamp', 'test', 'own', np.array([0]), right, (record,))
  answers.write(RunFolder(tmp_path))
  (found,) = RunFolder(tmp_path).evaluations()
  assert found.summary['metrics'] == {'accuracy': 1.0}
  assert json.loads(found.records.read_text()) == record
