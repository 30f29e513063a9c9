"""Where an update's time goes on a TPU slice, by the compiler for TPUs on this machine's CPU.

Owns how instructions are told apart: by the scope that the network's code gave them. What XLA has
fused counts where the last of it belongs. Milliseconds on a device, by tpu_steps.py's rules, for
one of its rows.

  python benchmarks/tpu_profile.py base@v5e-8
  python benchmarks/tpu_profile.py base@v5e-8 --unrolled --remat=none
"""

import argparse
import collections
import os
import re
import sys

import jax
import pairs
import tpu_steps

from dss_jax.parallel import partitioning
from dss_jax.planning import estimate, hlo, programs, worker
from dss_jax.settings import topologies

PHASES = ('forward', 'recomputation', 'gradients', 'optimizer and the rest')
PARTS = {  # the first whose pattern is in an instruction's name
  'attention kernels': r'(for|back)ward_kernel',
  'random bits of dropout': r'bernoulli|threefry|rng_bit',
  'feed-forward': r'feed_forward',
  'embedding': r'/embed/|/embed$',
  'logits': r'logits',
  'position bias': r'relative_bias',
  'norms': r'/norm/',
  'layers cut out and stacked': r'dynamic_(update_)?(slice|index)',
  'projections of attention': r'(en|de)coder_layer/.*dot_general|attend',
  'rest of the layers': r'(en|de)coder_layer|checkpoint|while/body|jvp\((en|de)code',
  'loss': r'jvp\(\)',
  'optimizer': r'.',
}


def main() -> int:
  """Compiles a row and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('row', help=', '.join(tpu_steps.ROWS))
  tpu_steps.add_changes(parser)
  options = parser.parse_args()
  row = tpu_steps.ROWS[options.row]._replace(**tpu_steps.changes(options))
  text = compiled_text(tpu_steps.program_of(row))
  machine = topologies.topology(row.topology)
  assert machine.clock
  times: collections.Counter[tuple[str, str]] = collections.Counter()
  for one in hlo.work(text):
    name = re.search(r'op_name="([^"]*)"', one.instruction.rest)
    seconds = (
      estimate.of_work(one.flops, one.bytes, machine)
      if one.cycles is None
      else one.cycles / machine.clock
    )
    times[place(f'{one.instruction.name} {name[1] if name else ""}')] += 1e3 * one.runs * seconds
  whole = estimate.seconds(hlo.costs(text), machine)
  print(pairs.table(table(times)))
  print(f'\nwaits for communication {1e3 * whole.exposed:.1f} ms; step {1e3 * whole.step:.1f} ms')
  return 0


def place(name: str) -> tuple[str, str]:
  """(part, phase) of an instruction by its name and its operation's."""
  part = next(part for part, pattern in PARTS.items() if re.search(pattern, name))
  if 'rematted' in name:
    return part, 'recomputation'
  if 'transpose(' in name:
    return part, 'gradients'
  return part, 'forward' if 'jvp(' in name else 'optimizer and the rest'


def table(times: collections.Counter[tuple[str, str]]) -> list[dict[str, str | float]]:
  """A row for each part, its phases beside each other, and their sums."""
  rows: list[dict[str, str | float]] = []
  for part in PARTS:
    of_part = {phase: times[part, phase] for phase in PHASES}
    if any(of_part.values()):
      rows.append({'ms': part, **of_part, 'all': sum(of_part.values())})
  names = (*PHASES, 'all')
  return [*rows, {'ms': 'all', **{name: sum(float(row[name]) for row in rows) for name in names}}]


def compiled_text(program: programs.Program) -> str:
  """The optimized HLO of an update, compiled in this process."""
  os.environ.update(programs.ENVIRONMENT | {'LIBTPU_INIT_ARGS': programs.LIBTPU_ARGUMENTS})
  jax.config.update('jax_platforms', 'cpu')
  mesh = partitioning.make_mesh(program.mesh, worker.devices_of(program.topology))
  with jax.set_mesh(mesh):
    return worker.lower(program, mesh, worker.abstract_state(program, mesh)).compile().as_text()


if __name__ == '__main__':
  sys.exit(main())
