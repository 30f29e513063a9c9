"""Which checkpoints a folder holds that are finished, and what else has a checkpoint's name there.

Opens and changes nothing. What a checkpoint holds is manager.py's.
"""

from collections.abc import Sequence

import orbax.checkpoint as ocp
from etils import epath


def saved_steps(folder: epath.PathLike) -> list[int]:
  """Steps of the finished checkpoints in a folder, in order."""
  found = ocp.path.step.standard_name_format().find_all(epath.Path(folder))
  return sorted(metadata.step for metadata in found)


def other_names(folder: epath.PathLike, steps: Sequence[int]) -> list[str]:
  """Names in a folder of checkpoints that would be lost, or in the way, if training went on.

  Args:
    folder: of the checkpoints.
    steps: those of the finished ones. If there are some, only the name of another checkpoint
      counts, else whatever begins as one. What orbax left unfinished never does: it removes that.
  """
  folder = epath.Path(folder)
  names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
  return [
    name
    for name in names
    if name[0].isdigit()
    and '.orbax-checkpoint-tmp' not in name
    and (int(name) not in steps if name.isdecimal() else not steps)
  ]


def step_of(given: int | str) -> int | str:
  """STEP: 'best', 'latest' or the number of a step, perhaps as text; raises ValueError."""
  if given in ('best', 'latest'):
    return given
  if str(given).isascii() and str(given).isdecimal():
    return int(given)
  raise ValueError(f"STEP is 'best', 'latest' or the number of a step, not {given!r}.")
