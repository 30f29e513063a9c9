"""How an update's cost grows with length, depth, vocabulary and devices, by the compiler for TPUs.

Length, depth and vocabulary: T5 1.1 base on v5e-8, 128 rows, as tpu_steps.py compiles it, one of
them changed at a time. Devices (weak scaling: as many rows a device): from the table of plans,
which plan_table.py compiled. All times are estimates.

  python benchmarks/tpu_growth.py               a quarter of an hour on two cores
  python benchmarks/tpu_growth.py --devices     the last table alone, at once
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import pairs
import tpu_steps

from dss_jax.planning import plans
from dss_jax.planning.programs import Program

ROW = tpu_steps.ROWS['base@v5e-8']
LENGTHS = ((256, 64), (512, 128), (1024, 256), (2048, 512))
DEPTHS = (6, 12, 24, 48)
VOCABULARIES = (32_128, 64_256, 128_512, 256_000)
ROWS_A_DEVICE = 16
SLICES = ('v5e-8', 'v5e-16', 'v5e-64', 'v4-8', 'v4-32', 'v4-64', 'v4-128')


def main() -> int:
  """Compiles and prints; the tables are Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--devices', action='store_true', help='only from the table of plans')
  if not parser.parse_args().devices:
    known: dict[Program, dict[str, Any]] = {}  # the same program is in each of the three tables
    for changed, programs in variants(tpu_steps.program_of(ROW)).items():
      rows = []
      for value, program in programs:
        if program not in known:
          known[program] = figures(program)
        rows.append({changed: value, **known[program]})
      print(f'{pairs.table(rows)}\n', flush=True)
  print(pairs.table(list(weak_scaling())))
  return 0


def variants(program: Program) -> dict[str, list[tuple[str, Program]]]:
  """What changes -> its values with their programs."""
  model = program.model

  def with_model(**changes: int) -> Program:
    return dataclasses.replace(program, model=dataclasses.replace(model, **changes))

  return {
    'inputs / targets': [
      (f'{inputs} / {targets}', dataclasses.replace(program, inputs=inputs, targets=targets))
      for inputs, targets in LENGTHS
    ],
    'layers of encoder and of decoder': [
      (str(depth), with_model(num_encoder_layers=depth, num_decoder_layers=depth))
      for depth in DEPTHS
    ],
    'vocabulary': [(f'{size:,}', with_model(vocab_size=size)) for size in VOCABULARIES],
  }


def figures(program: Program) -> dict[str, Any]:
  """What the compiler says of an update, as a row of a table."""
  found = tpu_steps.figures(program)
  if 'seconds' not in found:
    return {'step, s': f'does not fit: {found["problem"]}'}
  return {
    'step, s': found['seconds'],
    'model TFLOP': found['model_flops'] / 1e12,
    'MFU': found['mfu'],
    'memory, GB': found['bytes'] / 1e9,
    'temporary, GB': found['temporary_bytes'] / 1e9,
    'sent, GB': sum(one['bytes'] for one in found['collectives']) / 1e9,
    'compiled in, processor s': found['compile_cpu_seconds'],
  }


def weak_scaling() -> Iterator[dict[str, Any]]:
  """Rows of the table of plans with 16 rows a device and REMAT_POLICY full, by kind of chip."""
  alike = (
    row
    for row in plans.table()
    if row['batch'] == ROWS_A_DEVICE * row['devices'] and row['remat_policy'] == 'full'
  )
  table = {(row['model'], row['topology']): row for row in alike if row['fits']}
  for model in dict.fromkeys(model for model, _ in table):
    for name in SLICES:
      row = table.get((model, name))
      if row is not None:
        times = row['estimated_seconds']
        yield {
          'model': model.removeprefix('t5_1_1/'),
          'slice': name,
          'devices': row['devices'],
          'mesh': ' x '.join(str(row['mesh'][axis]) for axis in ('data', 'fsdp')),
          'step, s': row['estimated_step_seconds'],
          'waits, s': times['exposed'],
          'sent beside, s': times['overlapped'],
          'collectives': sum(one['count'] for one in row['collectives']),
          'GB in them': sum(one['bytes'] for one in row['collectives']) / 1e9,
          'memory, GB': row['hbm_bytes_per_device']['total'] / 1e9,
        }


if __name__ == '__main__':
  sys.exit(main())
