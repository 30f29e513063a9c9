"""Jobs on this machine: processes that know each other, end together, and get each signal once."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from dss_jax import launch

PATIENCE_S = 60.0


@pytest.fixture
def start(tmp_path, repository, monkeypatch):
  """Starts `local.run` of a program in dss's place; returns the process."""
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  (tmp_path / 'dss_jax').mkdir()
  (tmp_path / 'dss_jax/__init__.py').touch()
  runner = tmp_path / 'elsewhere/run.py'
  runner.parent.mkdir()
  runner.write_text(
    'import signal, sys\nfrom dss_jax.launch import local\n'
    'signal.signal(signal.SIGHUP, signal.SIG_DFL)\n'  # whatever the tests were started with
    'local.GRACE_S = 1.0\n'
    'sys.exit(local.run(sys.argv[2:], int(sys.argv[1]), 2))\n'
  )

  def run(program, processes, *arguments):
    (tmp_path / 'dss_jax/__main__.py').write_text(program)
    line = [sys.executable, str(runner), str(processes), *arguments]
    return subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

  return run


def test_processes_know_each_other_and_their_lines_are_told_apart(start):
  process = start(
    'import os, sys\n'
    'e = os.environ\n'
    'print(e["DSS_PROCESS_ID"], e["DSS_NUM_PROCESSES"], e["DSS_COORDINATOR"], e["XLA_FLAGS"])\n'
    'print(sys.argv[1:], file=sys.stderr)\n',
    3,
    'train',
    'a b',
  )
  out, _ = process.communicate(timeout=PATIENCE_S)
  assert process.returncode == 0
  lines = sorted(out.splitlines())
  port = lines[0].split()[3]
  expected = []
  for n in range(3):
    first = f'[{n}] {n} 3 {port} --xla_force_host_platform_device_count=2'
    expected += [first, f"[{n}] ['train', 'a b']"]
  assert lines == sorted(expected)
  assert re.fullmatch(r'127\.0\.0\.1:\d+', port)


def test_one_process_is_alone(start):
  process = start('import os; print("DSS_COORDINATOR" in os.environ); raise SystemExit(7)', 1, 'x')
  out, _ = process.communicate(timeout=PATIENCE_S)
  assert (process.returncode, out) == (7, 'False\n')


@pytest.mark.parametrize('stubborn', [False, True])
def test_when_one_process_dies_the_others_are_ended(start, stubborn):
  ignore = 'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)' if stubborn else ''
  began = time.monotonic()
  process = start(
    f'import os, sys, time\n{ignore}\n'
    'if os.environ["DSS_PROCESS_ID"] == "1": sys.exit(5)\n'
    'time.sleep(600)',
    3,
    'train',
  )
  process.communicate(timeout=PATIENCE_S)
  assert process.returncode == 5
  assert time.monotonic() - began < 30


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_all_processes_once(number, start):
  """A closed terminal's is a SIGTERM to them, at which a training saves."""
  process = start(
    'import signal, sys, time\n'
    'count = 0\n'
    'def stop(number, frame):\n'
    '  global count\n'
    '  count += 1\n'
    'signal.signal(signal.SIGTERM, stop)\n'
    'print("ready"); sys.stdout.flush()\n'
    'while not count: time.sleep(0.01)\n'
    'time.sleep(0.5); print(f"saved {count}")\n',
    2,
    'train',
  )
  ready = sorted(process.stdout.readline() for _ in range(2))
  assert ready == ['[0] ready\n', '[1] ready\n']
  process.send_signal(number)
  out, _ = process.communicate(timeout=PATIENCE_S)
  assert sorted(out.splitlines()) == ['[0] saved 1', '[1] saved 1']
  assert process.returncode == 0


def test_the_processes_of_a_closed_terminal_end_in_order(start, tmp_path):
  process = start(
    'import os, pathlib, signal, time\n'
    'ended = []\n'
    'signal.signal(signal.SIGTERM, lambda *_: ended.append(1))\n'
    'print("ready", flush=True)\n'
    'while not ended: time.sleep(0.01)\n'
    'print("x" * 200_000, flush=True)\n'  # more than a pipe holds
    'pathlib.Path("saved" + os.environ["DSS_PROCESS_ID"]).touch()\n',
    2,
    'train',
  )
  ready = sorted(process.stdout.readline() for _ in range(2))
  assert ready == ['[0] ready\n', '[1] ready\n']
  process.stdout.close()
  process.send_signal(signal.SIGHUP)
  assert process.wait(PATIENCE_S) == 0
  assert {path.name for path in tmp_path.glob('saved*')} == {'saved0', 'saved1'}


@pytest.mark.parametrize('flag', ['--devices=0', '--processes=-1'])
def test_counts_are_positive(flag):
  with pytest.raises(ValueError, match='is a positive number'):
    launch.main(['local', flag, '--', 'train'])


def test_local_sh_is_dss_launch_local(tmp_path, repository):
  (tmp_path / 'dss_jax').mkdir()
  (tmp_path / 'dss_jax/__init__.py').touch()
  (tmp_path / 'dss_jax/__main__.py').write_text('import sys; print(sys.argv[1:])')
  environment = {
    **os.environ,
    'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
  }
  script = [str(repository / 'launch/local.sh'), '--devices=8', '--processes=2', 'train', "it's $x"]
  run = {'cwd': tmp_path, 'env': environment, 'text': True}
  out = subprocess.check_output(script, **run)
  where = "['launch', 'local', '--submit', '--devices=8', '--processes=2', '--', 'train'"
  assert out == f'{where}, "it\'s $x"]\n'
  assert subprocess.check_output([*script[:1], 'train'], **run).count("'--', 'train']") == 1
  assert 'launch/local.sh [--devices=N]' in subprocess.check_output([*script[:1], '--help'], **run)
