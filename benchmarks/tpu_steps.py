"""Our update compiled for TPUs beside T5X's, by the compiler for TPUs on this machine's CPU.

Owns the rows that are compared. Both sides: 512 inputs and 128 targets packed, dropout 0.1, bf16
activations, Adafactor, T5's own vocabulary. T5X's figures were compiled once with the same libtpu,
read by the same rules and stand here; ours are compiled anew. Step times are estimates: the
compiler's cycles, and what has none (kernels, gathers) by the larger of its FLOPs at 60 % of peak
and its bytes at 80 % of memory bandwidth; collectives that computation waits for by the link.

  python benchmarks/tpu_steps.py                all rows, one after the other: a quarter of an hour
  python benchmarks/tpu_steps.py base@v5e-8     one
  python benchmarks/tpu_steps.py --unrolled --remat=none {base,large}@v3-8 base@v5e-8 large@v5e-16
  python benchmarks/tpu_steps.py --unrolled --remat=minimal xl@v4-32 xxl@v4-128 {xl,xxl}@v5e-64

The last two are the faster programs: half an hour, and for XXL 18 GB of memory.
"""

import argparse
import dataclasses
import json
import sys
from typing import Any, NamedTuple

from dss_jax.models import flops, t5
from dss_jax.parallel.partitioning import MeshConfig
from dss_jax.planning import checks, estimate, programs
from dss_jax.settings import gin_files, topologies
from dss_jax.training import losses, optimizers

INPUTS, TARGETS = 512, 128
VOCAB_SIZE = 32128


class T5X(NamedTuple):
  """What the compiler said of T5X's update; compile times on two cores that others used too."""

  seconds: float
  bytes: float
  compile_seconds: float


class Row(NamedTuple):
  """A model on a slice: what we compile, and T5X's fastest figures at the same batch.

  `t5x_scanned` is T5X's variant that scans its layers and recomputes them.
  """

  model: str
  topology: str
  mesh: tuple[int, int, int]
  batch: int
  t5x: T5X | None
  t5x_scanned: T5X | None = None
  remat: str = 'full'
  scan_layers: bool = True


ROWS = {
  'base@v5e-8': Row('base', 'v5e-8', (1, 8, 1), 128, T5X(0.128, 5.8e9, 94), T5X(0.177, 4.2e9, 28)),
  'base@v3-8': Row('base', 'v3-8', (1, 8, 1), 128, T5X(0.274, 5.4e9, 79)),
  'large@v5e-16': Row('large', 'v5e-16', (4, 4, 1), 128, T5X(0.233, 9.4e9, 236)),
  'large@v3-8': Row('large', 'v3-8', (1, 8, 1), 128, T5X(0.836, 13.6e9, 172)),
  'xl@v4-32': Row('xl', 'v4-32', (4, 4, 1), 128, T5X(0.541, 27.7e9, 385), T5X(0.737, 7.6e9, 36)),
  'xl@v5e-64': Row('xl', 'v5e-64', (16, 4, 1), 128, T5X(0.270, 7.3e9, 106)),
  'xxl@v4-128': Row(
    'xxl', 'v4-128', (4, 16, 1), 512, T5X(1.956, 28.3e9, 228), T5X(1.955, 14.8e9, 58)
  ),
  'xxl@v5e-64': Row('xxl', 'v5e-64', (4, 16, 1), 128, T5X(1.012, 14.7e9, 187)),
  'xxl@v5e-64/512': Row('xxl', 'v5e-64', (4, 16, 1), 512, None, T5X(3.423, 14.8e9, 44)),
}


def main() -> int:
  """Compiles the rows that are asked for; prints a table, or JSON lines."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('rows', nargs='*', metavar='MODEL@TOPOLOGY', help=', '.join(ROWS))
  add_changes(parser)
  parser.add_argument('--json', action='store_true', help='one object a row')
  options = parser.parse_args()
  for name in options.rows or ROWS:
    found = compare(ROWS[name]._replace(**changes(options)))
    print(json.dumps(found) if options.json else line(found), flush=True)
  return 0


def add_changes(parser: argparse.ArgumentParser) -> None:
  """What may be changed of a row."""
  parser.add_argument('--mesh', help='another one, e.g. 1x8x1 (data x fsdp x tensor)')
  parser.add_argument('--remat', help='another REMAT_POLICY')
  parser.add_argument('--unrolled', action='store_true', help='SCAN_LAYERS False')


def changes(options: argparse.Namespace) -> dict[str, Any]:
  """The fields of a Row that were given."""
  found: dict[str, Any] = {'scan_layers': not options.unrolled}
  if options.mesh:
    found['mesh'] = tuple(int(size) for size in options.mesh.split('x'))
  if options.remat:
    found['remat'] = options.remat
  return found


def compare(row: Row) -> dict[str, Any]:
  """Compiles our update; its figures and, by 'of_t5x' and 'of_t5x_scanned', their ratios."""
  found = row._asdict() | figures(program_of(row))
  for name in ('t5x', 't5x_scanned'):
    theirs = getattr(row, name)
    found[name] = theirs and theirs._asdict()
    if theirs is not None and 'seconds' in found:
      found[f'of_{name}'] = {key: found[key] / value for key, value in theirs._asdict().items()}
  return found


def figures(program: programs.Program) -> dict[str, Any]:
  """Compiles an update; its figures, with a problem in place of times where it does not fit."""
  machine = topologies.topology(program.topology)
  compiled = programs.compile_program(program)
  found: dict[str, Any] = {
    'fits': compiled.fits,
    'bytes': compiled.memory.total,
    'temporary_bytes': compiled.memory.temporaries,
    'compile_seconds': compiled.seconds,
    'compile_cpu_seconds': compiled.cpu_seconds,
  }
  if compiled.costs is None or machine.clock is None or machine.peak_flops is None:
    return found | {'problem': compiled.problem}
  times = estimate.seconds(compiled.costs, machine)
  needed = flops.train_step(program.model, program.rows, program.inputs, program.targets)
  return found | {
    'seconds': times.step,
    'exposed_seconds': times.exposed,
    'without_estimate_seconds': times.compute - compiled.costs.cycles / machine.clock,
    'model_flops': needed,
    'mfu': needed / (times.step * machine.devices * machine.peak_flops),
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
    objective=losses.Objective(),
    rows=row.batch,
    inputs=INPUTS,
    targets=TARGETS,
  )


def model_of(name: str, topology: str) -> t5.T5Config:
  """A network of gin/models/t5_1_1, with T5's own vocabulary."""
  files = [f'--gin_file=models/t5_1_1/{name}.gin', f'--topology={topology}']
  gin_files.parse(files, 'runs/plan.gin')
  return checks.with_vocab_size(gin_files.configured('plan.PlanConfig').run, VOCAB_SIZE).model


def line(found: dict[str, Any]) -> str:
  """A row of a Markdown table; a ratio to T5X's scanned variant is in brackets."""
  mesh = ' x '.join(map(str, found['mesh']))
  start = f'| {found["model"]} | {found["topology"]} | {mesh} | {found["batch"]} |'
  if 'seconds' not in found:
    return f'{start} does not fit: {found["problem"]} |'

  def ratios(what: str) -> str:
    plain = f'{found["of_t5x"][what]:.2f}' if 'of_t5x' in found else ''
    scanned = f'({found["of_t5x_scanned"][what]:.2f})' if 'of_t5x_scanned' in found else ''
    return f'{plain} {scanned}'.strip()

  return (
    f'{start} {found["seconds"]:.3f} | {ratios("seconds")} | {found["mfu"]:.0%} '
    f'| {found["bytes"] / 1e9:.2f} | {ratios("bytes")} '
    f'| {found["compile_seconds"]:.0f} | {ratios("compile_seconds")} |'
  )


if __name__ == '__main__':
  sys.exit(main())
