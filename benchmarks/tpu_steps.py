"""Our update compiled for TPUs beside T5X's, by the compiler for TPUs on this machine's CPU.

Owns the rows that are compared. Both sides: 512 inputs and 128 targets packed, dropout 0.1, bf16
activations, Adafactor, T5's own vocabulary. T5X's figures were compiled once with the same libtpu,
read by the same rules and stand here; ours are compiled anew. Step times are estimates: the
compiler's cycles, and what has none (kernels, gathers) by the larger of its FLOPs at 60 % of peak
and its bytes at 80 % of memory bandwidth; collectives that computation waits for by the link.

  python benchmarks/tpu_steps.py                all rows, one after the other: an hour on two cores
  python benchmarks/tpu_steps.py base@v5e-8     one
  python benchmarks/tpu_steps.py --unrolled --remat=none    the faster program, and the longer wait
"""

import argparse
import dataclasses
import json
import sys
from typing import Any, NamedTuple

from dss_jax import config, losses, optimizers, topologies
from dss_jax.models import t5
from dss_jax.partitioning import MeshConfig
from dss_jax.planning import checks, estimate, flops, programs

INPUTS, TARGETS = 512, 128
VOCAB_SIZE = 32128


class Row(NamedTuple):
  """A model on a slice: what we compile, and T5X's fastest figures at the same batch."""

  model: str
  topology: str
  mesh: tuple[int, int, int]
  batch: int
  remat: str
  t5x_seconds: float
  t5x_bytes: float
  t5x_compile_seconds: float
  scan_layers: bool = True


ROWS = {
  f'{row.model}@{row.topology}': row
  for row in (
    Row('base', 'v5e-8', (1, 8, 1), 128, 'full', 0.128, 5.8e9, 94),
    Row('base', 'v3-8', (1, 8, 1), 128, 'full', 0.274, 5.4e9, 79),
    Row('large', 'v5e-16', (4, 4, 1), 128, 'full', 0.233, 9.4e9, 236),
    Row('large', 'v3-8', (1, 8, 1), 128, 'full', 0.836, 13.6e9, 172),
    Row('xl', 'v4-32', (4, 4, 1), 128, 'full', 0.541, 27.7e9, 385),
    Row('xl', 'v5e-64', (16, 4, 1), 128, 'full', 0.270, 7.3e9, 106),
    Row('xxl', 'v4-128', (4, 16, 1), 512, 'full', 1.955, 14.8e9, 58),
    Row('xxl', 'v5e-64', (4, 16, 1), 128, 'full', 1.012, 14.7e9, 187),
  )
}


def main() -> int:
  """Compiles the rows that are asked for; prints a table, or JSON lines."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('rows', nargs='*', metavar='MODEL@TOPOLOGY', help=', '.join(ROWS))
  parser.add_argument('--mesh', help='another one, e.g. 1x8x1 (data x fsdp x tensor)')
  parser.add_argument('--remat', help='another REMAT_POLICY')
  parser.add_argument('--unrolled', action='store_true', help='SCAN_LAYERS False')
  parser.add_argument('--json', action='store_true', help='one object a row')
  options = parser.parse_args()
  changes: dict[str, Any] = {'scan_layers': not options.unrolled}
  if options.mesh:
    changes['mesh'] = tuple(int(size) for size in options.mesh.split('x'))
  if options.remat:
    changes['remat'] = options.remat
  for name in options.rows or ROWS:
    found = compare(ROWS[name]._replace(**changes))
    print(json.dumps(found) if options.json else line(found), flush=True)
  return 0


def compare(row: Row) -> dict[str, Any]:
  """Compiles our update; its figures and their ratios to T5X's."""
  machine = topologies.topology(row.topology)
  program = program_of(row)
  compiled = programs.compile_program(program)
  found = {**row._asdict(), 'fits': compiled.fits, 'bytes': compiled.memory.total}
  found |= {'compile_seconds': compiled.seconds, 'compile_cpu_seconds': compiled.cpu_seconds}
  if compiled.costs is None or machine.clock is None or machine.peak_flops is None:
    return found | {'problem': compiled.problem}
  times = estimate.seconds(compiled.costs, machine)
  needed = flops.train_step(program.model, row.batch, INPUTS, TARGETS)
  return found | {
    'seconds': times.step,
    'exposed_seconds': times.exposed,
    'without_estimate_seconds': times.compute - compiled.costs.cycles / machine.clock,
    'mfu': needed / (times.step * machine.devices * machine.peak_flops),
    'of_t5x': times.step / row.t5x_seconds,
    'bytes_of_t5x': compiled.memory.total / row.t5x_bytes,
    'compile_of_t5x': compiled.seconds / row.t5x_compile_seconds,
    'collectives': [dataclasses.asdict(one) for one in compiled.costs.collectives],
  }


def program_of(row: Row) -> programs.Program:
  """The update of a row."""
  return programs.Program(
    step='train',
    topology=row.topology,
    mesh=MeshConfig(*row.mesh),
    model=dataclasses.replace(
      model_of(row.model, row.topology), remat_policy=row.remat, scan_layers=row.scan_layers
    ),
    optimizer=optimizers.OptimizerConfig(name='adafactor', schedule='constant'),
    loss=losses.LossConfig(),
    rows=row.batch,
    inputs=INPUTS,
    targets=TARGETS,
  )


def model_of(name: str, topology: str) -> t5.T5Config:
  """A network of gin/models/t5_1_1, with T5's own vocabulary."""
  files = [f'--gin_file=models/t5_1_1/{name}.gin', f'--topology={topology}']
  config.parse(files, 'runs/plan.gin')
  return checks.with_vocab_size(config.configured('plan.PlanConfig').run, VOCAB_SIZE).model


def line(found: dict[str, Any]) -> str:
  """A row of a Markdown table."""
  mesh = ' x '.join(map(str, found['mesh']))
  start = f'| {found["model"]} | {found["topology"]} | {mesh} | {found["batch"]} |'
  if 'seconds' not in found:
    return f'{start} does not fit: {found["problem"]} |'
  return (
    f'{start} {found["seconds"]:.3f} | {found["of_t5x"]:.2f} | {found["mfu"]:.0%} '
    f'| {found["bytes"] / 1e9:.2f} | {found["bytes_of_t5x"]:.2f} '
    f'| {found["compile_seconds"]:.0f} | {found["compile_of_t5x"]:.2f} |'
  )


if __name__ == '__main__':
  sys.exit(main())
