"""What is free of a machine and of the containers around a process, of both versions of cgroups."""

import pytest

from dss_jax.settings import free_memory

MEMINFO = 'MemTotal:  9216 kB\nMemFree: 1 kB\nMemAvailable:    3072 kB\n'
K = 1 << 10


def machine(root, files):
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
  return free_memory.read(root)


def limits(folder, limit, used, given_up=0, version=2):
  """The files of a cgroup."""
  if version == 2:
    names = ('memory.max', 'memory.current', 'inactive_file')
  else:
    names = ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')
  return {
    f'{folder}/{names[0]}': f'{limit}\n', f'{folder}/{names[1]}': f'{used}\n',
    f'{folder}/memory.stat': f'anon 5\n{names[2]} {given_up}\n',
  }  # fmt: skip


def test_a_machine_without_cgroups_has_what_the_kernel_says(tmp_path):
  assert machine(tmp_path, {}) is None
  assert machine(tmp_path, {'proc/meminfo': MEMINFO}) == (3072 * K, 9216 * K)


@pytest.mark.parametrize(
  ('limit', 'expected'),
  [
    (2048 * K, (648 * K, 2048 * K)),
    (1000 * K, (0, 1000 * K)),
    (8192 * K, (3072 * K, 8192 * K)),
    ('max', (3072 * K, 9216 * K)),
  ],
)
def test_what_a_container_uses_is_not_free(tmp_path, limit, expected):
  """1,500 KiB of it are used, of which 100 are pages of files that the kernel gives up."""
  files = {'proc/meminfo': MEMINFO, 'proc/self/cgroup': '0::/\n'}
  assert (
    machine(tmp_path, {**files, **limits('sys/fs/cgroup', limit, 1500 * K, 100 * K)}) == expected
  )


def test_a_job_has_the_limit_of_any_group_around_it(tmp_path):
  files = {
    'proc/meminfo': MEMINFO, 'proc/self/cgroup': '0::/slurm/job_7/step_0\n',
    **limits('sys/fs/cgroup/slurm/job_7', 2000 * K, 500 * K),
    **limits('sys/fs/cgroup/slurm/job_7/step_0', 'max', 500 * K),
  }  # fmt: skip
  assert machine(tmp_path, files) == (1500 * K, 2000 * K)


@pytest.mark.parametrize('path', ['/docker/of-the-host', '/'])
def test_the_first_version_is_read_too(tmp_path, path):
  files = {
    'proc/meminfo': MEMINFO, 'proc/self/cgroup': f'9:cpuset:/\n4:memory:{path}\n0::/\n',
    **limits('sys/fs/cgroup/memory', 2000 * K, 600 * K, 100 * K, version=1),
  }  # fmt: skip
  assert machine(tmp_path, files) == (1500 * K, 2000 * K)
  unlimited = limits('sys/fs/cgroup/memory', 9223372036854771712, 600 * K, version=1)
  assert machine(tmp_path, {**files, **unlimited}) == (3072 * K, 9216 * K)


def test_this_machine_has_memory():
  found = free_memory.read()
  assert found and 0 < found.available <= found.total
