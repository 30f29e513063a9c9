"""A folder appears complete or not at all: after SIGTERM, a full disk, and beside other writers."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import hf_checkpoints
import numpy as np
import orbax.checkpoint as ocp
import pytest
import run_folders
from etils import epath

from dss_jax import cli
from dss_jax.checkpoints import checksums, manager
from dss_jax.checkpoints.hf import hf_files
from dss_jax.settings import whole_folders


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sources')
  hf_checkpoints.make(folder / 'hf', 'ByT5')
  run_folders.make_run(folder / 'run', steps=(1,))
  return folder


@pytest.fixture(params=['import', 'export'])
def verb(request, sources, tmp_path, monkeypatch):
  """Calls a verb whose writing is replaced; both write into `tmp_path / 'out'`."""
  place, name = {'import': (manager, 'save_weights'), 'export': (hf_files, 'write_weights')}[
    request.param
  ]
  arguments = {
    'import': ['import', '--from=hf', f'--path={sources / "hf"}'],
    'export': ['export', '--to=hf', f'--checkpoint={sources / "run"}'],
  }[request.param]

  def call(write) -> int:
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args: (real(*args), write()))
    return cli.main([*arguments, f'--output={tmp_path / "out"}'])

  return call


def test_sigterm_removes_what_is_not_complete(verb, tmp_path):
  before = signal.getsignal(signal.SIGTERM)

  def write():
    assert [path.name[:9] for path in tmp_path.iterdir()] == ['.out.tmp-']
    assert any(path.is_file() for path in tmp_path.rglob('*'))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

  with pytest.raises(SystemExit) as ended:
    verb(write)
  assert ended.value.code == 143 and not list(tmp_path.iterdir())
  assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_waits_for_orbaxs_threads(sources, tmp_path, monkeypatch):
  """They would write into a folder that is being removed."""
  save = ocp.CheckpointManager.save

  def slowly(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    return save(*args, **kwargs)

  monkeypatch.setattr(ocp.CheckpointManager, 'save', slowly)
  saved = []
  write = checksums.write
  monkeypatch.setattr(checksums, 'write', lambda *args: (write(*args), saved.append(args)))
  with pytest.raises(SystemExit) as ended:
    cli.main(['import', '--from=hf', f'--path={sources / "hf"}', f'--output={tmp_path / "out"}'])
  assert ended.value.code == 143 and saved and not list(tmp_path.iterdir())


@pytest.mark.parametrize('code', [errno.ENOTEMPTY, errno.ENOENT])
def test_a_folder_that_is_written_into_for_a_moment_is_removed(tmp_path, monkeypatch, code):
  rmtree, failures = shutil.rmtree, [OSError(code, os.strerror(code))]
  monkeypatch.setattr(
    shutil, 'rmtree', lambda *args: rmtree(*args) if not failures else _raise(failures.pop())
  )
  with (
    pytest.raises(ValueError, match=r'^mine$'),
    whole_folders.new_folder(epath.Path(tmp_path / 'out')),
  ):
    raise ValueError('mine')
  assert not failures and not list(tmp_path.iterdir())


def _raise(error):
  raise error


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ValueError('RESOURCE_EXHAUSTED: Failed writing: [OS error 28: ENOSPC No space left on device]'),
  ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(verb, tmp_path, capsys, error):
  def write():
    raise error

  assert verb(write) in (2, 74)
  said = capsys.readouterr().err
  assert 'the disk is full: nothing of this output is left; free some space' in said
  assert f"'{tmp_path}/out'" in said
  assert 'Traceback' not in said and not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
  with (
    pytest.raises(ValueError, match=r'^mine$'),
    whole_folders.new_folder(epath.Path(tmp_path / 'out')),
  ):
    raise ValueError('mine')
  assert not list(tmp_path.iterdir())


OTHER = """
import sys
from etils import epath
from dss_jax.settings import whole_folders
with whole_folders.new_folder(epath.Path(sys.argv[1])) as folder:
  (folder / 'file').write_text('of the other')
  print(folder.name, flush=True)
  sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  other = subprocess.Popen([sys.executable, '-c', OTHER, str(tmp_path / 'out')], text=True, **pipes)
  living = tmp_path / other.stdout.readline().strip()
  abandoned = tmp_path / '.out.tmp-abandoned'
  abandoned.mkdir()
  (abandoned / 'large').write_bytes(np.zeros(10).tobytes())
  with whole_folders.new_folder(epath.Path(tmp_path / 'out')) as folder:
    assert set(tmp_path.iterdir()) == {living, tmp_path / folder.name}
    (folder / 'file').write_text('of this one')
  _, said = other.communicate('', timeout=60)
  assert (
    other.returncode == 1 and 'has been made by somebody else meanwhile' in said
  )  # the first to end has the name
  assert [path.name for path in tmp_path.iterdir()] == ['out']
  assert (tmp_path / 'out' / 'file').read_text() == 'of this one'


def test_a_name_with_a_pattern_in_it_is_no_pattern(tmp_path):
  for name in ('.other.tmp-1', '.o*.tmp-1'):
    (tmp_path / name).mkdir()
  with whole_folders.new_folder(epath.Path(tmp_path / 'o*')):
    pass
  assert sorted(path.name for path in tmp_path.iterdir()) == ['.other.tmp-1', 'o*']


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
  """Another process takes it for abandoned in the moment between."""
  held, removed = whole_folders._held, []

  def removing(folder):
    if len(removed) < 2:
      removed.append(folder)
      folder.rmdir()
    return held(folder)

  monkeypatch.setattr(whole_folders, '_held', removing)
  with whole_folders.new_folder(epath.Path(tmp_path / 'out')) as folder:
    (folder / 'file').write_text('x')
  assert len(set(removed)) == 2
  assert [path.name for path in tmp_path.iterdir()] == ['out']
