"""How tests learn what became of a fork that runs `dss` (forks.py)."""

import os
import signal
import socket
import subprocess

import forks
import pytest


@pytest.fixture
def connected():
  """A Fork and the end of its connection at which the process that is forked speaks."""
  fork, (ours, theirs) = forks.Fork.__new__(forks.Fork), socket.socketpair()
  fork._connection, fork._lines = ours, ours.makefile('rb', buffering=0)
  fork.returncode, fork.log = None, 'log.txt'
  yield fork, theirs
  theirs.close()
  ours.close()


def test_an_exit_code_that_comes_with_the_process_id_is_not_lost(connected):
  fork, theirs = connected
  theirs.sendall(b'17\n256\n')
  assert fork._number('its process id') == 17
  assert fork.wait(timeout=0) == fork.poll() == 1


def test_a_fork_that_runs_has_no_exit_code_yet(connected):
  fork, theirs = connected
  assert fork.poll() is None
  with pytest.raises(subprocess.TimeoutExpired):
    fork.wait(timeout=0.01)
  theirs.sendall(f'{signal.SIGKILL.value}\n'.encode())
  assert fork.wait() == -signal.SIGKILL


def test_an_end_without_an_exit_code_is_an_error_of_its_own(connected):
  fork, theirs = connected
  theirs.close()
  with pytest.raises(ChildProcessError, match=r'before it said its exit code: its log is log\.txt'):
    fork.wait(timeout=1)


def test_the_process_that_is_forked_has_none_of_a_tests_variables(monkeypatch):
  monkeypatch.setenv('DSS_TRACEBACK', '1')
  monkeypatch.setenv('JAX_PLATFORMS', 'tpu')
  found = forks._environment()
  assert found['PATH'] == os.environ['PATH'] and found['JAX_PLATFORMS'] == 'cpu'
  assert 'DSS_TRACEBACK' not in found
