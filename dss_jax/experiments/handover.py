"""A sweep's cells as commands for other machines: one that launches each cell, or submits it.

Owns these texts. The commands are `dss sweep` with CELL, so a cell is trained and scored as here;
`dss sweep --gather` then makes the tables. Those of T5X's trainer are t5x_commands.py's.
"""

import re
import shlex
import sys
import zlib
from collections.abc import Sequence

from dss_jax.experiments.comparison import Cell
from dss_jax.experiments.results import TEACHER

LAUNCHED = ('tpu-vm', 'skypilot', 'gke')
TARGETS = ('local', 'slurm', *LAUNCHED, 't5x')

_SLURM = '''\
"""Submits {count} cells of a sweep to Slurm.

  python THIS_FILE --timeout_min=240 --slurm_partition=gpu

--cluster=local runs them on this machine instead. Needs `pip install submitit`. Each flag is a
parameter of submitit.AutoExecutor; a job that ends early is submitted again by running this again
after `dss sweep --commands=slurm`, which leaves out what is done.
"""

import ast
import sys

import submitit

COMMANDS = [
{commands}
]

flags = dict(flag.removeprefix('--').split('=', 1) for flag in sys.argv[1:])
executor = submitit.AutoExecutor(folder={folder!r}, cluster=flags.pop('cluster', None))


def value(text):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


executor.update_parameters(**{{name: value(text) for name, text in flags.items()}})
with executor.batch():
  jobs = [executor.submit(submitit.helpers.CommandFunction(command)) for command in COMMANDS]
for job, command in zip(jobs, COMMANDS):
  print(job.job_id, command[-1])
'''


def commands(
  cells: Sequence[Cell],
  argv: Sequence[str],
  target: str,
  flags: Sequence[str],
  topology: str | None,
  logs: str,
) -> str:
  """A line of a shell for each cell, or for Slurm a Python program that submits them all.

  Args:
    cells: to train.
    argv: arguments of `dss sweep`, of which each cell gets its own CELL.
    target: of TARGETS.
    flags: of `dss launch`, such as --bucket.
    topology: the machine of each cell.
    logs: folder of Slurm's logs.

  Raises:
    ValueError: no such target, or a slice that has no name.
  """
  if target not in TARGETS:
    raise ValueError(f'--commands is one of {", ".join(TARGETS)}, not {target!r}.')
  if flags and target not in LAUNCHED:
    raise ValueError(f'--commands={target} takes no flags after --, not {flags[0]!r}.')
  own = [['sweep', *argv, f'--cell={cell.folder.name}'] for cell in cells]
  if target == 'slurm':
    lines = [f'  {[sys.executable, "-m", "dss_jax", *line]!r},' for line in own]
    return _SLURM.format(count=len(own), commands='\n'.join(lines), folder=logs)
  if target == 'local':
    return ''.join(shlex.join(['dss', *line]) + '\n' for line in own)
  if topology is None:
    raise ValueError(f'--commands={target} needs the slice of each cell, such as --topology=v5e-8.')
  launch = [
    ['dss', 'launch', target, f'--name={_job_name(cell)}', f'--topology={topology}', *flags, '--']
    if cell.method != TEACHER  # which trains nothing
    else ['dss']
    for cell in cells
  ]
  return ''.join(
    shlex.join([*start, *line]) + '\n' for start, line in zip(launch, own, strict=True)
  )


def _job_name(cell: Cell) -> str:
  """A name that `dss launch` takes, different for different cells and sweeps."""
  method = re.sub(r'[^a-z0-9]+', '-', cell.method.lower()).strip('-')
  return f'cell-{method[:13].strip("-")}-{zlib.crc32(str(cell.folder).encode()):08x}'
