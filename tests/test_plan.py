"""`dss plan` as a user calls it: the real compiler for this CPU, and answers of a made-up one."""

import json

import gin
import jax
import plan_runs
import pytest
from plan_runs import GIB

from dss_jax import cli
from dss_jax.commands import plan
from dss_jax.planning import plans, programs, worker
from dss_jax.runs import memory

TINY = (
  '--gin_file=models/t5_1_1/tiny.gin', '--vocabulary=bytes', '--batch_size=4', '--eval_period=0',
  '--dropout_rate=0.0', '--gin.t5.T5Config.num_encoder_layers=1',
  "--task_feature_lengths={'inputs': 16, 'targets': 8}", '--topology=cpu',
)  # fmt: skip
BASE = ('--gin_file=models/t5_1_1/base.gin',)
KEYS = {
  'model', 'topology', 'devices', 'mesh', 'batch', 'fits', 'hbm_bytes_per_device', 'model_flops',
  'estimated_step_seconds', 'compile_seconds',
}  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_gin(monkeypatch):
  monkeypatch.setattr(memory, 'available_bytes', lambda: 10**11)  # enough to compile anything
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


@pytest.fixture
def answers(monkeypatch):
  """Gives the compiler's answer instead of compiling; returns the programs that were asked for."""
  asked = []

  def install(answer=plan_runs.answer()):  # noqa: B008
    def compile_program(program):
      asked.append(program)
      if isinstance(answer, Exception):
        raise answer
      return answer

    monkeypatch.setattr(programs, 'compile_program', compile_program)
    return asked

  return install


def _json(capsys, *argv) -> tuple[int, dict]:
  code = cli.main(['plan', *argv, '--json'])
  return code, json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- the real compiler


def test_a_plan_for_this_machine(capsys, tmp_path, monkeypatch):
  """Compiled in a process of its own, as a user's is."""
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # that process too, as conftest here
  code, found = _json(capsys, *TINY, f'--model_dir={tmp_path}/run')
  assert code == 0 and set(found) >= KEYS
  assert (found['model'], found['topology'], found['devices']) == ('t5_1_1/tiny', 'cpu', 1)
  assert found['mesh'] == {'data': 1, 'fsdp': 1, 'tensor': 1} and found['batch'] == 4
  assert found['fits'] is True and found['compile_seconds'] > 0
  assert found['checks'] == {'vocabulary': 'ok', 'folder': 'ok'}
  assert found['estimated_step_seconds'] is None  # a CPU's compiler estimates nothing


def _compiled(step: str):
  """The answer on a network of one layer each, compiled in this process."""
  small = {
    'emb_dim': 32, 'num_heads': 2, 'head_dim': 8, 'mlp_dim': 64, 'vocab_size': 128,
    'num_encoder_layers': 1, 'num_decoder_layers': 1, 'dropout_rate': 0.0,
  }  # fmt: skip
  model = plan_runs.changed(plan_runs.SIZES['base'], **small)
  run = plan_runs.run_config_of('base', model=model, data=plan_runs.rows_of(4, 16, 8))
  return worker.compile_here(plans.program_of(run, 'cpu', step))


def test_memory_is_parameters_optimizer_gradients_and_the_rest():
  compiled = _compiled('train')
  memory = compiled.memory
  # kernels and norms of the encoder, of the decoder; tables, biases, last norms
  layer = 4 * 32 * 16 + 3 * 32 * 64 + 2 * 32
  numbers = layer + (layer + 4 * 32 * 16 + 32) + 2 * 128 * 32 + 2 * 2 * 32 + 2 * 32
  assert memory.parameters == memory.gradients == 4 * numbers
  assert memory.optimizer == pytest.approx(8 * numbers, abs=64)  # and Adam's counters
  assert memory.batch == 4 * 4 * (2 * 16 + 5 * 8)
  parts = memory.parameters + memory.optimizer + memory.gradients + memory.batch
  parts += memory.temporaries + memory.code
  assert memory.total == pytest.approx(parts, abs=64)
  assert memory.temporaries > 4 * 4 * 8 * 128  # the logits at least
  assert compiled.fits and compiled.costs is None and compiled.host_bytes > 2**26


def test_decoding_that_leaves_no_room_for_the_optimizer_does_not_fit(monkeypatch):
  fitting = _compiled('decode').memory
  assert fitting.gradients == 0 and fitting.total > fitting.parameters + fitting.optimizer
  monkeypatch.setattr(worker, '_limit', lambda *_: fitting.total - 1)
  assert _compiled('decode').fits is False


def test_a_device_holds_its_part_of_what_is_sharded():
  program = plans.program_of(plan_runs.run_config_of('xxl'), 'v4-64')
  whole = 11_135_332_352 * 4
  mesh = jax.sharding.AbstractMesh((1, 32, 1), ('data', 'fsdp', 'tensor'))
  shapes = worker.abstract_state(program, mesh)
  # all but the position biases, 2 x 64 x 32 numbers
  assert worker.bytes_on_device(shapes.params) == pytest.approx(whole / 32, abs=4 * 4096)
  assert worker.bytes_on_device(shapes.opt_state) == pytest.approx(
    2 * whole / 32, abs=8 * 4096 + 64
  )


TPU_MESSAGES = [
  (
    'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
    'Used 43.51G of 15.75G hbm. Exceeded hbm capacity by 27.76G.',
    (int(43.51 * GIB), int(15.75 * GIB)),
  ),
  ('RESOURCE_EXHAUSTED: something else', (None, None)),
]


@pytest.mark.parametrize('message, expected', TPU_MESSAGES)
def test_the_compilers_words_for_too_much_are_understood(message, expected):
  assert programs.needed_bytes(message) == expected


@pytest.mark.parametrize('step', programs.STEPS)
def test_the_compiler_for_tpus(step):
  """Skipped where libtpu is not installed: `pip install 'dss_jax[plan]'`."""
  pytest.importorskip('libtpu')
  small = {'emb_dim': 256, 'num_encoder_layers': 2, 'num_decoder_layers': 2}
  model = plan_runs.changed(plan_runs.SIZES['base'], **small)
  run = plan_runs.run_config_of('base', model=model)
  found = programs.compile_program(plans.program_of(run, 'v5e-8', step))
  assert found.fits and found.memory.limit == pytest.approx(15.75 * GIB, rel=0.01)
  assert found.costs.cycles > 10_000 and found.costs.collectives
  huge = plan_runs.run_config_of('base', model=model, data=plan_runs.rows_of(2**15, 512, 128))
  if step == 'train':
    refused = programs.compile_program(plans.program_of(huge, 'v5e-8', step))
    assert refused.fits is False and 'RESOURCE_EXHAUSTED' in refused.problem
    assert refused.memory.total > refused.memory.limit > 0


# ---------------------------------------------------------------- what is made of the answer


def test_the_object_that_is_printed(answers, capsys):
  asked = answers()
  code, found = _json(capsys, *BASE, '--topology=v5e-8', '--batch_size=64')
  assert code == 0 and set(found) >= KEYS
  assert [one.step for one in asked] == ['train', 'decode']
  assert (found['model'], found['devices'], found['batch']) == ('t5_1_1/base', 8, 64)
  assert found['mesh'] == {'data': 1, 'fsdp': 8, 'tensor': 1}
  assert found['hbm_bytes_per_device']['total'] == 12 * GIB
  assert found['hbm_bytes_per_device']['limit'] == 16 * GIB
  # 0.2 s of cycles, 2 x 1 ms at 80 % of memory's rate; 3 GB beside it; twice 7/8 GB besides
  step = 0.2 + 2 / 800 + 2 * 7 / 8 * 1e9 / 100e9
  assert found['estimated_step_seconds'] == pytest.approx(step)
  assert found['estimated_mfu'] == pytest.approx(found['model_flops'] / (step * 8 * 197e12))
  assert (found['compile_seconds'], found['compile_cpu_seconds']) == (60.0, 80.0) and found[
    'problem'
  ] == ''
  assert found['parameters'] == 247_577_856


def test_the_table_for_people(answers, capsys):
  answers()
  assert cli.main(['plan', *BASE, '--topology=v5e-8']) == 0
  text = capsys.readouterr().out
  for part in (
    't5_1_1/base, 247.6M parameters', 'fsdp 8', 'all-gather', 'beside computation',
    'MFU (estimate)', 'It fits: 12.00 GiB of 16.00 GiB a device, 4.00 GiB free.',
  ):  # fmt: skip
    assert part in text


def test_too_much_memory_is_an_answer(answers, capsys):
  """Exit code 1, and decoding is not compiled."""
  asked = answers(plan_runs.answer(total=20 * GIB))
  assert cli.main(['plan', *BASE, '--topology=v5e-8']) == 1
  expected = 'It does not fit: at least 20.00 GiB of 16.00 GiB a device, 4.00 GiB too much.'
  assert expected in capsys.readouterr().out
  assert [(one.step, one.model.scan_layers) for one in asked] == [('train', False), ('train', True)]
  code, found = _json(capsys, *BASE, '--topology=v5e-8')
  assert code == 1 and found['fits'] is False and 'RESOURCE_EXHAUSTED' in found['problem']


def test_a_machine_of_unknown_memory_is_told_what_is_needed(answers, capsys):
  answers(plan_runs.answer(limit=None))
  assert cli.main(['plan', *BASE, '--topology=gpu']) == 0
  assert 'It needs 12.00 GiB a device; the memory of the machine is not known' in (
    capsys.readouterr().out
  )


def test_a_compiler_that_crashes_is_one_line(answers, capsys):
  answers(ChildProcessError('the compiler crashed.'))
  assert cli.main(['plan', *BASE, '--topology=v5e-8']) == 2
  assert capsys.readouterr().err.endswith('dss plan: the compiler crashed.\n')


def test_a_worker_that_dies_is_told_with_its_signal(monkeypatch):
  dying = "import os, sys; print('*** SIGSEGV received by PID 1', file=sys.stderr); os._exit(139)"
  monkeypatch.setattr(programs, 'WORKER', ['-c', dying])
  program = plans.program_of(plan_runs.run_config_of('base'), 'v5e-8')
  with pytest.raises(ChildProcessError, match=r'crashed on train for v5e-8 after 0 s \(SIGSEGV\)'):
    programs.compile_program(program)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--topology=v5e-8', '--batch=4'], 'does not read the macro BATCH: did you mean BATCH_SIZE'),
    (
      ['--topology=v5e-8', '--batch_size=100'],
      'a multiple of data x fsdp = 8 mesh devices, not 100',
    ),
    (['--topology=v5e-8', '--eval_batch_size=4'], 'EVAL_BATCH_SIZE is a multiple of data x fsdp'),
    (['--topology=v5e-8', '--mesh_fsdp=3'], r'multiply to the 8 devices of v5e-8, not 1 x 3 x 1'),
    (['--topology=v5e-9'], "no topology 'v5e-9'"),
    (['--gin.TOPOLOGY=v5e-9'], "no topology 'v5e-9'"),
    ([], 'TOPOLOGY has no value; give --topology=NAME'),
    (['--topology=cpu', '--search'], 'there are none for cpu'),
    (['--topology=v5e-8', '--price_file=nowhere.json'], 'nowhere.json cannot be read'),
  ],
)
def test_what_cannot_be_is_told_before_anything_is_compiled(answers, capsys, arguments, message):
  asked = answers()
  assert cli.main(['plan', *BASE, *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1 and not asked


def test_a_check_that_fails_is_exit_code_1(answers, capsys, tmp_path):
  answers()
  (tmp_path / 'file').write_text('')
  code, found = _json(capsys, *BASE, '--topology=v5e-8', f'--model_dir={tmp_path}/file/run')
  assert code == 1 and found['fits'] and 'MODEL_DIR' in found['checks']['folder']


# ---------------------------------------------------------------- prices and search


def test_the_price_of_the_run(answers, capsys, tmp_path):
  answers()
  (tmp_path / 'prices.json').write_text('{"v5e-8": 9.6}')
  arguments = ['--topology=v5e-8', '--batch_size=64', '--train_steps=1000']
  _, found = _json(capsys, *BASE, *arguments, f'--price_file={tmp_path}/prices.json')
  hours = 1000 * (0.2 + 0.0025 + 0.0175) / 3600
  assert found['cost']['dollars'] == pytest.approx(9.6 * hours)
  assert found['cost']['examples_per_dollar'] == pytest.approx(64_000 / (9.6 * hours))


@pytest.mark.parametrize('text', ['{', '[]', '{"v4-8": 3}', '{"v5e-8": "3"}', '{"v5e-8": true}'])
def test_a_price_file_that_does_not_say_it_is_refused(tmp_path, text):
  (tmp_path / 'prices.json').write_text(text)
  settings = plan.PlanConfig(
    plan_runs.run_config_of('base'), 'v5e-8', str(tmp_path / 'prices.json')
  )
  with pytest.raises(ValueError, match=r'PRICE_FILE is JSON with dollars an hour, e\.g\. {"v5e-8"'):
    plan.make_plan(settings, 'base')


def test_a_search_compiles_no_program_twice(answers, capsys):
  asked = answers()
  code, found = _json(capsys, *BASE, '--topology=v5e-8', '--search')
  assert code == 0 and len(asked) == len(set(asked))
  assert found['batch'] == max(one.rows for one in asked if one.step == 'train')


def test_a_search_in_which_nothing_fits_says_what_to_change(answers, capsys):
  answers(plan_runs.answer(total=20 * GIB))
  assert cli.main(['plan', *BASE, '--topology=v5e-8', '--search']) == 2
  assert 'nothing fits on v5e-8, not even one row a device; try a larger' in capsys.readouterr().err
