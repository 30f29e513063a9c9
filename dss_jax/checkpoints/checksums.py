"""The size and the checksum of every file of a checkpoint, so that damage is found and named.

Owns the file checksums.json in a checkpoint. Array libraries do not notice every change of a byte,
and their errors name neither the file nor the checkpoint. Objects of a bucket are whole or absent,
and the store checks their content: there the file has the step alone.
"""

import json
import os
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from etils import epath

from dss_jax.settings import json_form, plain_files, whole_files
from dss_jax.settings.errors import ConfigError

FILE = 'checksums.json'
_BLOCK = 1 << 20


def write(folder: epath.Path, step: int) -> None:
  """Adds checksums.json to a checkpoint that is complete but for its final name.

  Args:
    folder: of the checkpoint.
    step: of the checkpoint; a copy under another number is then found out.
  """
  files = {} if '://' in str(folder) else {name: _sum(folder / name) for name in _files(folder)}
  whole_files.write_text(folder / FILE, json.dumps({'step': step, 'files': files}))


def add(folder: epath.Path, name: str) -> None:
  """Notes a file that was added to a checkpoint or replaced, where the others are noted."""
  noted = _load(folder)
  if noted is not None and '://' not in str(folder):
    noted['files'][name] = _sum(folder / name)
    whole_files.write_text(folder / FILE, json.dumps(noted))


def are_in(folder: epath.Path) -> bool:
  """Whether the files of a checkpoint can be checked; one of an older version cannot."""
  return (folder / FILE).exists()


def damage(folder: epath.Path, step: int, items: Collection[str]) -> str | None:
  """What is wrong with a checkpoint, in words; None where nothing is, or nothing can be checked.

  Args:
    folder: of the checkpoint.
    step: that it should be of.
    items: the folders in it whose files are read and compared.
  """
  try:
    noted = _load(folder)
  except ValueError:
    return f'{FILE} in it cannot be read'
  for name in _files(folder):  # array libraries would wait for a pipe, in files of their own too
    if plain_files.problem(folder / name) == plain_files.SPECIAL:
      return f'its file {name} is {plain_files.SPECIAL}'
  if noted is None:
    return None
  if noted['step'] != step:
    return f'it is a copy of the checkpoint of step {noted["step"]}'
  wanted = {name: sums for name, sums in noted['files'].items() if name.split('/')[0] in items}
  return next(filter(None, (_difference(folder, *entry) for entry in wanted.items())), None)


def _difference(folder: epath.Path, name: str, noted: list[int]) -> str | None:
  file = folder / name
  if what := plain_files.problem(file):
    return f'its file {name} is {what}'
  size, checksum = _sum(file)
  if size != noted[0]:
    return f'its file {name} has {size} bytes instead of {noted[0]}'
  return None if checksum == noted[1] else f'its file {name} has other content than was saved'


def _load(folder: epath.Path) -> dict[str, Any] | None:
  """The content of checksums.json; None where there is none.

  Raises:
    ValueError: it is not what `write` writes.
  """
  if not are_in(folder):
    return None
  content = json_form.read_object(folder / FILE)
  try:
    files = {str(name): [int(size), int(crc)] for name, (size, crc) in content['files'].items()}
    return {'step': int(content['step']), 'files': files}
  except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
    raise ConfigError(
      f'{folder / FILE} does not list sizes and checksums as it was written; the checkpoint is '
      'damaged.'
    ) from error


def _files(folder: epath.Path) -> Iterator[str]:
  for parent, _, names in os.walk(folder):
    yield from ((epath.Path(parent) / name).relative_to(folder).as_posix() for name in names)


def _sum(path: epath.Path) -> list[int]:
  size = checksum = 0
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      size, checksum = size + len(block), zlib.crc32(block, checksum)
  return [size, checksum]
