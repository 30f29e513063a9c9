"""`dss sweep`: its cells, its resumption, its failures, and two at once."""

import json
import pathlib

import pytest
from small_runs import compiled_once, config_of, small_data  # noqa: F401  fixtures

from dss_jax import methods
from dss_jax.commands import sweep
from dss_jax.datasets import embedded, embedded_arithmetic
from dss_jax.experiments import cells, comparison
from dss_jax.runs.run_folder import RunFolder

ARGUMENTS = (
  '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin',
  "--task_feature_lengths={'inputs': 96, 'targets': 64}", '--batch_size=8', '--train_steps=2',
  '--eval_period=0', '--eval_batch_size=8', '--max_decode_length=24', '--log_period=1',
  '--gin.t5.T5Config.emb_dim=16', '--gin.t5.T5Config.head_dim=4', '--gin.t5.T5Config.mlp_dim=16',
  '--equal_compute=False',
)  # fmt: skip
GRID = "{'TRAIN_FRACTION': (0.25,), 'RANDOM_SEED': (3, 4)}"


def run(folder, *arguments, grid=GRID):
  return sweep.main([*ARGUMENTS, f'--model_dir={folder}', f'--grid={grid}', *arguments])


def results(folder):
  return [json.loads(line) for line in (folder / sweep.RESULTS).read_text().splitlines()]


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  folder = tmp_path_factory.mktemp('swept')
  assert run(folder, '--workers=2') == 0
  return folder


def listed(folder, grid, **settings):
  def run_of(name, macros):
    return config_of(folder, method=methods.get(name), train_steps=macros.get('TRAIN_STEPS', 100))

  return comparison.cells(
    comparison.SweepConfig(str(folder), grid=grid, **settings),
    run_of,
    lambda run: 1 / len(run.method.rows),
  )


def test_every_method_at_every_combination():
  found = listed('there', {'TRAIN_STEPS': (10, 30), 'GIN_FILE': ('a/b.gin',)})
  assert [(cell.name, cell.axes['TRAIN_STEPS']) for cell in found] == [
    (name, steps) for steps in (10, 30) for name in ('standard', 'dss', 'standard, equal compute')
  ]
  assert found[2].macros['TRAIN_STEPS_RELATIVE'] == 20
  assert found[5].macros['TRAIN_STEPS_RELATIVE'] == 60
  names = [cell.folder.name for cell in found]
  assert names[0].startswith('standard,train_steps=10,gin_file=a_b.gin_')
  assert len(set(names)) == len(names)


@pytest.mark.parametrize(
  ('grid', 'expected'),
  [
    ({'METHOD': ('dss',)}, 'Methods are in METHODS'),
    ({'method': ('dss',)}, 'in capitals; not method'),
    ({'COMPARE_SPLIT': ('test',)}, 'macros of a run'),
    ({'RANDOM_SEED': ()}, 'GRID needs values of RANDOM_SEED'),
    ({'RANDOM_SEED': (1, 1)}, 'each once'),
  ],
)
def test_a_grid_that_cannot_be_is_refused(grid, expected):
  with pytest.raises(ValueError, match=expected):
    comparison.SweepConfig('there', grid=grid)


def test_the_whole_of_a_sweep(swept):
  rows = results(swept)
  axes = [(row['method'], *row['axes'].values()) for row in rows]
  assert axes == [
    (method, fraction, seed)
    for fraction in (0.25,) for seed in (3, 4) for method in ('standard', 'dss')
  ]  # fmt: skip
  for row in rows:
    settings = RunFolder(swept / row['folder']).load_settings()
    assert (settings.data.fraction, settings.seed) == tuple(row['axes'].values())
    assert row['correct'].count('1') / len(row['correct']) == pytest.approx(row['accuracy'])
  logs = [(swept / f'worker_{number}.log').read_text() for number in range(2)]
  assert sum(log.count('training on') for log in logs) == 4, 'each cell is trained by one worker'
  table = (swept / sweep.TABLE).read_text()
  assert '### train_fraction=0.25' in table
  assert table.count('| standard |') == table.count('| dss |') == 1


def test_what_is_done_is_not_trained_again(swept, monkeypatch):
  before = results(swept)
  monkeypatch.setattr(cells, 'train', None)  # which would fail
  assert run(swept) == 0
  assert results(swept) == before


def test_a_cell_whose_settings_changed_is_trained_again_and_the_old_one_kept(tmp_path, capsys):
  def trained(*arguments):
    assert run(tmp_path, '--methods=standard', *arguments, grid="{'RANDOM_SEED': (4,)}") == 0
    return RunFolder(folder).load_settings().optimizer.learning_rate

  folder = tmp_path / 'standard,random_seed=4'
  old = tmp_path / f'{folder.name}.before_1'
  rate = trained()
  assert trained('--learning_rate=0.5') == 0.5
  assert 'optimizer.learning_rate' in capsys.readouterr().err
  assert RunFolder(old).load_settings().optimizer.learning_rate == rate
  assert trained() == rate and not old.exists()
  assert f'{old} has the settings of {folder.name}' in capsys.readouterr().err


def test_a_cell_whose_vocabulary_has_another_content_is_not_done(tmp_path, small_data):  # noqa: F811
  model = tmp_path / 'a.model'
  model.write_bytes(pathlib.Path(embedded_arithmetic.VOCABULARY_PATH).read_bytes())
  run = config_of(tmp_path / 'a', vocabulary=str(model))
  before = cells._read_by(run)
  assert cells._read_by(run) == before
  model.write_bytes(pathlib.Path(embedded.VOCABULARY_PATH).read_bytes())
  cells._identities.clear()  # another process
  assert cells._read_by(run) != before


def test_a_cell_that_fails_is_named_and_the_others_are_done(tmp_path, capsys):
  grid = "{'TRAIN_SPLIT': ('nope', 'validation')}"
  assert run(tmp_path, '--methods=standard', grid=grid) == sweep.UNFINISHED
  printed = capsys.readouterr().out
  assert 'FAILED standard,train_split=nope: split (TRAIN_SPLIT' in printed
  assert '1 of 2 cells are not done: standard,train_split=nope.' in printed
  assert [row['axes'] for row in results(tmp_path)] == [{'TRAIN_SPLIT': 'validation'}]


def test_a_cell_that_another_sweep_trains_is_left_to_it(tmp_path, capsys):
  grid = "{'RANDOM_SEED': (3, 4)}"
  taken = listed(tmp_path, {'RANDOM_SEED': (3, 4)}, methods=('standard',))[0]
  with cells.claim(taken) as is_ours:
    assert is_ours
    assert run(tmp_path, '--methods=standard', grid=grid) == sweep.UNFINISHED
  assert [row['axes'] for row in results(tmp_path)] == [{'RANDOM_SEED': 4}]
