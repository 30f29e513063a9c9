"""The memory that this process may still take, of the machine and of its containers.

Owns reading /proc and cgroups, of both versions. Does not own: what a run needs (runs/memory.py).
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

_V2 = ('memory.max', 'memory.current', 'inactive_file')
_V1 = ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')
"""The files of the limit and the use, and of memory.stat what the kernel gives up when asked."""


class Memory(NamedTuple):
  """Bytes.

  Attributes:
    available: to this process.
    total: of the machine, or of the container that has least.
  """

  available: int
  total: int


def read(root: pathlib.Path = pathlib.Path('/')) -> Memory | None:
  """The memory of the machine, or of that cgroup around this process which leaves least.

  Args:
    root: holds proc/ and sys/.

  Returns:
    None where it is unknown, as on a system that is not Linux.
  """
  found = []
  with contextlib.suppress(OSError, KeyError):
    text = (root / 'proc/meminfo').read_text()
    known = dict(re.findall(r'^(\w+):\s+(\d+) kB', text, re.MULTILINE))
    found.append(Memory(*(int(known[name]) << 10 for name in ('MemAvailable', 'MemTotal'))))
  found += _of_cgroups(root)
  if not found:
    return None
  return Memory(min(one.available for one in found), min(one.total for one in found))


def _of_cgroups(root: pathlib.Path) -> Iterator[Memory]:
  """Of each cgroup around this process that has a limit."""
  mounted = root / 'sys/fs/cgroup'
  try:
    lines = (root / 'proc/self/cgroup').read_text().splitlines()
  except OSError:
    return
  for line in lines:
    _, controllers, path = line.split(':', 2)
    if controllers and 'memory' not in controllers.split(','):
      continue
    base, names = (mounted / 'memory', _V1) if controllers else (mounted, _V2)
    folder = base / path.strip('/')  # in a container, the path may be that of its host
    for one in [folder, *folder.parents]:
      if one.is_relative_to(base):
        yield from _of_cgroup(one, *names)


def _of_cgroup(folder: pathlib.Path, limit: str, used: str, given_up: str) -> Iterator[Memory]:
  with contextlib.suppress(OSError, ValueError):  # 'max' where there is no limit
    total = int((folder / limit).read_text())
    taken = int((folder / used).read_text())
    stat = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
    yield Memory(max(0, total - taken + int(stat.get(given_up, 0))), total)
