"""Files of somebody else's checkpoint: what each is, in words, and its JSON; nothing is trusted.

Owns the checks that every reader of such a file makes first. What the files mean is the readers'
of each format. Hostile content costs no more time and memory than `MOST_JSON` allows.
"""

import pathlib
from typing import Any

from dss_jax.settings import json_form, plain_files
from dss_jax.settings.printable import one_line

MOST_JSON = 4 << 20  # bytes; a T5's largest header or index has 0.2 MiB
SHOWN = 100  # characters of a name or a reason in a message


def shown(value: Any, most: int = SHOWN) -> str:
  """A name or a reason from a file, for a message: printable, on one line, and short."""
  return one_line(str(value), most)


def check(path: pathlib.Path, expected: str) -> int:
  """The size of a file that is there and holds something.

  Args:
    path: of the file.
    expected: what it should be, for messages: 'the weights'.

  Raises:
    ValueError: it is something else; the message says what.
    OSError: it cannot be looked at.
  """
  size = plain_files.size(path, expected)
  if not size:
    raise ValueError(f'{path} is empty; expected {expected}.')
  return size


def is_there(path: pathlib.Path) -> bool:
  """Whether a folder has an entry of this name, were it a link to nothing."""
  return path.exists() or path.is_symlink()


def read_json(path: pathlib.Path, expected: str, most: int = MOST_JSON) -> dict[str, Any]:
  """The object in a JSON file.

  Args:
    path: of the file.
    expected: what it should be, for messages.
    most: bytes.

  Raises:
    ValueError: the file is none, is too large or is not a JSON object.
    OSError: it cannot be read.
  """
  check(path, expected)
  return json_form.parse_object(plain_files.read(path, expected, most), str(path))
