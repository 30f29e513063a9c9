"""What a run may lose: nothing that was saved, whatever fails, ends or interrupts it."""

import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest
import run_folders

from dss_jax import cli
from dss_jax.checkpoints.manager import Checkpoints
from dss_jax.commands import compare
from dss_jax.models import t5
from dss_jax.parallel import distributed, partitioning
from dss_jax.runs import evaluation, training_log, training_loop
from dss_jax.runs.metric_writer import MetricWriter
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import errors, whole_files
from dss_jax.training import optimizers, train_state

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
SOON_S = 60.0


@pytest.fixture(scope='module')
def state():
  optimizer = run_folders.run_config_of('', 'dss').optimizer
  transformation = optimizers.make_optimizer(optimizer, t5.logical_axes(run_folders.MODEL))
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  return train_state.create(run_folders.MODEL, transformation, mesh, seed=0)


def _at(state, step):
  return state._replace(step=state.step + jnp.int32(step))


def _run(folder, **settings):
  """A run of 6 steps that saves after each second one."""
  run_folders.register()
  run = run_folders.run_config_of(folder, 'dss')
  settings = {'train_steps': 6, 'save_period': 2, 'log_period': 1, **settings}
  return dataclasses.replace(run, eval=dataclasses.replace(run.eval, period=0), **settings)


@contextlib.contextmanager
def _files_of_at_most(size):
  """As on a full disk: no file grows beyond `size` bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Saves that fail


def test_a_save_that_cannot_begin_says_so_in_seconds(tmp_path, state):
  """Orbax, left alone, waits five minutes for the folders."""
  started = time.monotonic()
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    shutil.rmtree(tmp_path / 'checkpoints')
    (tmp_path / 'checkpoints').write_text('in the way')
    with pytest.raises(OSError) as caught:
      checkpoints.save(_at(state, 4), {'row': 0}, None)
  text = str(caught.value)
  assert text.startswith(f'the checkpoint of step 4 could not be saved in {tmp_path}/checkpoints: ')
  # Which of them depends on the thread that comes first.
  assert re.search('Not a directory|File exists|No such file', text), text
  assert 'No step was saved before' in text
  assert time.monotonic() - started < SOON_S


def test_a_full_disk_leaves_what_was_saved_and_says_what_that_is(tmp_path, state):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save(_at(state, 2), {'row': 0}, None)
    checkpoints.wait()
    with _files_of_at_most(2_000), pytest.raises(OSError) as caught:
      checkpoints.save(_at(state, 4), {'row': 0}, None)
      checkpoints.wait()
  assert 'the checkpoint of step 4 could not be saved' in str(caught.value)
  text = 'Step 2 was saved last; once this is mended, the same command continues from step 2.'
  assert str(caught.value).endswith(text) and len(str(caught.value)) < 600
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.resolve('latest') == 2 and checkpoints.data_state(2) == {'row': 0}


def test_a_run_on_a_full_disk_is_continued_when_there_is_room(tmp_path, monkeypatch):
  plain = training_log.TrainingLog.advance
  before = resource.getrlimit(resource.RLIMIT_FSIZE)

  def advance(self, step):
    plain(self, step)
    if step == 3:
      self._checkpoints.wait()
      resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, before[1]))

  monkeypatch.setattr(training_log.TrainingLog, 'advance', advance)
  try:
    with pytest.raises(OSError, match=r'step 4 could not be saved|metrics\.jsonl'):
      training_loop.train(_run(tmp_path))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  monkeypatch.undo()
  assert RunFolder(tmp_path).saved_steps() == [2]
  assert training_loop.train(_run(tmp_path)).step == 6
  assert [row['step'] for row in RunFolder(tmp_path).metric_rows()] == [1, 2, 3, 4, 5, 6]


def test_tensorboards_events_may_fail_and_the_rows_go_on(tmp_path, capsys):
  writer = MetricWriter(RunFolder(tmp_path))
  writer.write(1, 'train', {'loss': 2.5})
  with _files_of_at_most(1):
    writer._events.flush = lambda: (_ for _ in ()).throw(RuntimeError('no space'))
    writer.close()
  assert 'warning: no more events for TensorBoard are written: no space' in capsys.readouterr().err
  assert len(RunFolder(tmp_path).metric_rows()) == 1


def test_checkpoints_are_chosen_by_number_whatever_the_clock_says(tmp_path, state, monkeypatch):
  now = time.time()
  for step, clock in ((2, now), (4, now - 1e8), (6, now + 1e8)):
    monkeypatch.setattr(time, 'time', lambda clock=clock: clock)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
      checkpoints.save(_at(state, step), {'row': 0}, None)
  monkeypatch.undo()
  os.utime(tmp_path / '4', (now + 1e8, now + 1e8))
  os.utime(tmp_path / '6', (1.0, 1.0))
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.latest() == 6
    checkpoints.save(_at(state, 8), {'row': 0}, None)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['6', '8']


# Files


def test_a_write_that_fails_names_the_file_and_leaves_it_as_it_was(tmp_path):
  file = tmp_path / 'config.json'
  file.write_text('before')
  with _files_of_at_most(10), pytest.raises(OSError, match=r"too large: '.*/config\.json'"):
    whole_files.write_text(file, 'x' * 100)
  assert file.read_text() == 'before' and list(tmp_path.iterdir()) == [file]
  with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/none/a\.json'"):
    whole_files.write_text(tmp_path / 'none' / 'a.json', 'x')
  folder = RunFolder(tmp_path)
  with _files_of_at_most(10), pytest.raises(OSError, match=r"too large: '.*/metrics\.jsonl'"):
    folder.append_metric_row({'step': 1, 'kind': 'train'})


def test_of_two_writers_of_one_file_one_wins_whole(tmp_path):
  texts = ['a' * 300_000, 'b' * 300_000]

  def write(text):
    for _ in range(20):
      whole_files.write_text(tmp_path / 'records.jsonl', text)

  threads = [threading.Thread(target=write, args=(text,)) for text in texts]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (tmp_path / 'records.jsonl').read_text() in texts
  assert len(list(tmp_path.iterdir())) == 1


def test_records_that_cannot_be_written_keep_the_kind_of_the_error(tmp_path):
  records = [{'id': 0, 'text': 'x' * 100}]
  with _files_of_at_most(10), pytest.raises(OSError, match=r'OUTPUT .* cannot be written: File'):
    evaluation.write_records(tmp_path / 'a.jsonl', records)
  assert not list(tmp_path.iterdir())


# Two trainings in one folder


def _contents(folder):
  return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_a_second_training_is_refused_before_anything_is_touched(tmp_path):
  training_loop.train(_run(tmp_path))
  with RunFolder(tmp_path).lock():
    before = _contents(tmp_path)
    text = rf'another training writes to {tmp_path} \(process {os.getpid()} of .*, since '
    with pytest.raises(ValueError, match=text) as refused:
      training_loop.train(_run(tmp_path, train_steps=8))
    assert errors.exit_code(refused.value) == errors.USERS
    with pytest.raises(ValueError, match='holds a run; name a folder for the students alone'):
      compare.main(['--gin_file=runs/smoke.gin', f'--model_dir={tmp_path}'])
    assert _contents(tmp_path) == before
    settings = evaluation.EvaluateConfig(str(tmp_path), batch_size=8)
    assert evaluation.evaluate(settings)[0]['examples'] == 5, 'reading is allowed'
  assert training_loop.train(_run(tmp_path)).step == 6


@pytest.mark.parametrize('held', ['', 'dss'])
def test_a_comparison_is_refused_where_any_of_its_folders_is_in_use(tmp_path, held):
  with (
    RunFolder(tmp_path / held).lock(),
    pytest.raises(ValueError, match='another training writes to'),
  ):
    compare.main(['--gin_file=runs/smoke.gin', f'--model_dir={tmp_path}'])
  assert not list(tmp_path.rglob('checkpoints'))


def test_a_folder_of_another_program_is_left_as_it_is(tmp_path):
  for values, what in (('{"model_type": "t5"}', 'of another program'), ('{"model": 1}', 'import')):
    (tmp_path / 'config.json').write_text(values)
    with pytest.raises(ValueError, match=f'MODEL_DIR {tmp_path} holds .*{what}'):
      training_loop.train(_run(tmp_path))
    assert (tmp_path / 'config.json').read_text() == values


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
  (tmp_path / 'victim').write_text('mine')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / '.lock').symlink_to(tmp_path / 'victim')
  with pytest.raises(ValueError, match='cannot be written'), RunFolder(tmp_path / 'run').lock():
    pass
  assert (tmp_path / 'victim').read_text() == 'mine'


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path):
  program = (
    'import fcntl, sys, time; file = open(sys.argv[1], "a+");'
    'fcntl.flock(file, fcntl.LOCK_EX); print("locked", flush=True); time.sleep(600)'
  )
  command = [sys.executable, '-c', program, str(tmp_path / '.lock')]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b'locked\n'
    with pytest.raises(ValueError, match='another training writes to'), RunFolder(tmp_path).lock():
      pass
    process.kill()
    process.wait()
    with RunFolder(tmp_path).lock():
      assert f'process {os.getpid()} of ' in (tmp_path / '.lock').read_text()


@pytest.mark.parametrize(
  'name, reason',
  [
    ('file', '.*/file is a file'),
    ('file/run', 'Not a directory'),
    ('link', '.*/link is a link to nowhere, which does not exist'),
    ('link/run', 'No such file or directory'),
  ],
)
def test_a_model_dir_that_is_no_folder_is_refused(tmp_path, name, reason):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'link').symlink_to('nowhere')
  text = f'MODEL_DIR {tmp_path / name} cannot be written: {reason}; choose another'
  with pytest.raises(ValueError, match=text):
    training_loop.train(_run(tmp_path / name))


# Signals


def test_further_sigterms_wait_for_the_save(tmp_path, monkeypatch):
  plain_save, plain_wait = Checkpoints.save, Checkpoints.wait

  def save(self, *arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    plain_save(self, *arguments)

  def wait(self):
    os.kill(os.getpid(), signal.SIGTERM)
    plain_wait(self)

  monkeypatch.setattr(Checkpoints, 'save', save)
  monkeypatch.setattr(Checkpoints, 'wait', wait)
  before = signal.getsignal(signal.SIGTERM)
  result = training_loop.train(_run(tmp_path))
  assert not result.finished and RunFolder(tmp_path).saved_steps() == [result.step]
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_ends_at_once_and_the_first_says_so(capfd):
  stop = distributed.StopSignal()
  try:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
      os.kill(os.getpid(), number)
    assert stop.requested()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)
  finally:
    stop.restore()
  assert capfd.readouterr().err == 'SIGTERM: saving after this step\n'
  stop = distributed.StopSignal()
  os.kill(os.getpid(), signal.SIGINT)
  stop.restore()
  assert 'saving after this step; Ctrl-C again ends it without that' in capfd.readouterr().err


def test_sigterm_ends_a_verb_in_order(tmp_path, monkeypatch):
  removed = []

  def verb(argv):
    try:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(10)
    finally:
      os.kill(os.getpid(), signal.SIGTERM)  # once more, while it cleans up
      removed.append(True)

  monkeypatch.setattr(cli, '_run', verb)
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as caught:
    cli.main(['prepare'])
  assert caught.value.code == 143 and removed == [True]
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_real_process_ends_in_order_and_without_a_word(tmp_path):
  folder = run_folders.make_run(tmp_path / 'run')
  questions = tmp_path / 'q.jsonl'
  os.mkfifo(questions)
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-m', 'dss_jax', 'predict', f'--model_dir={folder}']
  before = _contents(pathlib.Path(folder))
  with (
    subprocess.Popen(
      [*command, f'--input_file={questions}'], stdout=-1, stderr=-1, env=environment
    ) as process,
    questions.open('w'),
  ):  # waits until the process reads, which then waits for us
    process.terminate()
    output, errors = process.communicate(timeout=SOON_S)
  assert process.returncode == 128 + signal.SIGTERM, errors
  assert not output and not errors
  assert _contents(pathlib.Path(folder)) == before


def test_a_signal_within_a_callback_is_not_lost(monkeypatch):
  class Last:
    def __del__(self):
      os.kill(os.getpid(), signal.SIGTERM)

  def verb(argv):
    del argv
    last = Last()
    del last  # Python prints what is raised in there
    time.sleep(10)

  monkeypatch.setattr(cli, '_run', verb)
  with pytest.raises(SystemExit) as caught:
    cli.main(['prepare'])
  assert caught.value.code == 143


@pytest.mark.parametrize('handler', [signal.SIG_DFL, signal.SIG_IGN])
def test_a_closed_terminal_lets_a_training_save_and_nohup_lets_it_go_on(handler):
  before = signal.signal(signal.SIGHUP, handler)
  stop = distributed.StopSignal()
  try:
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.requested() == (handler == signal.SIG_DFL)
  finally:
    stop.restore()
    signal.signal(signal.SIGHUP, before)


def test_what_nohup_ignores_stays_ignored(monkeypatch):
  seen = []
  monkeypatch.setattr(cli, '_run', lambda argv: seen.append(signal.getsignal(signal.SIGHUP)))
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    cli.main(['prepare'])
  finally:
    signal.signal(signal.SIGHUP, before)
  assert seen == [signal.SIG_IGN]


def test_in_a_thread_no_signal_is_caught(monkeypatch):
  seen, before = [], signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(cli, '_run', lambda argv: seen.append(signal.getsignal(signal.SIGTERM)))
  thread = threading.Thread(target=cli.main, args=(['prepare'],))
  thread.start()
  thread.join()
  assert seen == [before]
