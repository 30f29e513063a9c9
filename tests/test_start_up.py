"""The second start of a run compiles nothing, computes the same and says nothing of its cache."""

from train_processes import Processes, rows_of, share, train_arguments


def _trained(folder, shared, **variables):
  """One run of two steps and a validation; its log without the times in it."""
  arguments = train_arguments(folder, train_steps=2, eval_period=2)
  # The user's own cache folder, as without any variable of JAX's.
  environment = {
    'XDG_CACHE_HOME': str(shared / 'cache'),
    'JAX_COMPILATION_CACHE_DIR': '',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  variables = environment | variables
  process = Processes(
    folder, shared, ['train', *arguments], environment=variables, program=('-m', 'dss_jax')
  )
  assert process.finish() == [0], process.log
  return process.log


def _compiled(shared):
  files = (shared / 'cache' / 'dss_jax' / 'compiled').rglob('*-cache')
  return {file.name: file.stat().st_mtime_ns for file in files}


def test_a_second_start_compiles_nothing_and_learns_the_same(tmp_path):
  shared = tmp_path / 'shared'
  shared.mkdir()
  share(shared)
  _trained(tmp_path / 'off', shared, JAX_ENABLE_COMPILATION_CACHE='false')
  assert not _compiled(shared)
  first = _trained(tmp_path / 'first', shared)
  kept = _compiled(shared)
  assert any(name.startswith('jit_step-') for name in kept), kept
  second = _trained(tmp_path / 'second', shared)
  assert _compiled(shared) == kept
  assert rows_of(tmp_path / 'first') == rows_of(tmp_path / 'second') == rows_of(tmp_path / 'off')
  for log in (first, second):
    assert 'cache' not in log and 'arning' not in log and 'E0000' not in log, log
