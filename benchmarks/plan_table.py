"""Plans every model on every TPU slice; writes the table that ships, and docs/plan_table.md of it.

Owns which mesh and batch stand in the table. Each row is what `dss plan --json` says. Rows are
written one by one and what is there already is not planned again, so that the work of hours can be
stopped and continued; delete a row, or the file, to plan it anew.

  python benchmarks/plan_table.py                       all that is missing
  python benchmarks/plan_table.py t5_1_1/xxl@v4-64 ...  these alone, in this order
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from dss_jax.planning import checks, plans, search
from dss_jax.planning.report import GIB, mesh_text
from dss_jax.runs import layer_choice
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import gin_files, whole_files
from dss_jax.settings.topologies import TOPOLOGIES, topology

ROOT = pathlib.Path(plans.__file__).resolve().parents[2]
TABLE = pathlib.Path(plans.__file__).with_name(plans.TABLE)
PAGE = ROOT / 'docs' / 'plan_table.md'
MODELS = tuple(f't5_1_1/{size}' for size in ('small', 'base', 'large', 'xl', 'xxl'))
SLICES = tuple(name for name, one in TOPOLOGIES.items() if one.platform == 'tpu')
ROWS_PER_PART = (16, 4, 1)
LEFT_OUT = ('checks', 'cost', 'recommended')


def main() -> int:
  """Plans what is asked for, or all that is missing."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('cells', nargs='*', help='MODEL@TOPOLOGY')
  asked = [tuple(cell.split('@')) for cell in parser.parse_args().cells]
  rows = {(row['model'], row['topology']): row for row in plans.table()}
  for model, name in asked or [(model, name) for model in MODELS for name in SLICES]:
    if (model, name) not in rows:
      print(f'{model} on {name}', file=sys.stderr, flush=True)
      row = row_of(model, name)
      if row is not None:
        rows[model, name] = row
        write(list(rows.values()))
  write(list(rows.values()))
  return 0


def row_of(model: str, name: str) -> dict[str, Any] | None:
  """The first of the settings worth trying that fits, or the last one that does not.

  None where the compiler crashes on all.
  """
  row = None
  for run in settings(model, name):
    try:
      row = plans.to_json(plans.make(model, run, name))
    except ChildProcessError as error:
      print(f'  {error}', file=sys.stderr, flush=True)
      continue
    print(
      f'  {mesh_text(row["mesh"])}, batch {row["batch"]}: '
      f'{row["hbm_bytes_per_device"]["total"] / GIB:.2f} GiB, fits: {row["fits"]}, '
      f'{row["compile_cpu_seconds"]:.0f} s of {row["compile_seconds"]:.0f}',
      file=sys.stderr,
      flush=True,
    )
    if row['fits']:
      break
  return row and {key: value for key, value in row.items() if key not in LEFT_OUT}


def settings(model: str, name: str) -> Iterator[RunConfig]:
  """The topology's own mesh, and one that is sharded more, with batches from large to small."""
  gin_files.parse([f'--gin_file=models/{model}.gin', f'--topology={name}'], 'runs/plan.gin')
  run = checks.with_vocab_size(gin_files.configured('plan.PlanConfig').run)
  run = dataclasses.replace(run, model=layer_choice.with_scanned(run.model))  # all rows alike
  others = search.meshes(run.model, topology(name), run.optimizer.name)
  more = [mesh for mesh in others if mesh.fsdp > run.mesh.fsdp and mesh.tensor == 1]
  for rows, mesh in itertools.product(ROWS_PER_PART, (run.mesh, *more)):
    yield search.with_settings(run, mesh, rows * mesh.data * mesh.fsdp)


def write(rows: list[dict[str, Any]]) -> None:
  """The table as JSON in the package, and as a page."""
  order = {(model, name): i for i, (model, name) in enumerate(
    (model, name) for model in MODELS for name in SLICES
  )}  # fmt: skip
  rows = sorted(rows, key=lambda row: order.get((row['model'], row['topology']), len(order)))
  lines = ',\n'.join(json.dumps(row) for row in rows)
  whole_files.write_text(TABLE, f'[\n{lines}\n]\n')
  whole_files.write_text(PAGE, page(rows))


def page(rows: list[dict[str, Any]]) -> str:
  """docs/plan_table.md."""
  head = (
    '# Models on TPU slices\n\n'
    'Written by `python benchmarks/plan_table.py`; not by hand. Rows of 512 inputs and 128\n'
    "targets, AdamW, dropout, each model's own REMAT_POLICY. Memory is the compiler's; step time\n"
    'and MFU are estimates (docs/plan.md says how). "Compiled in" is the CPU time of the update\n'
    'and the decoding together.\n\n'
    '| Model | Slice | Mesh | Batch | Remat | GiB a device | of | Step, est. | MFU, est. '
    '| Compiled in |\n'
    '|---|---|---|---|---|---|---|---|---|---|\n'
  )  # fmt: skip
  return head + ''.join(map(_line, rows))


def _line(row: dict[str, Any]) -> str:
  memory = row['hbm_bytes_per_device']
  total = f'{memory["total"] / GIB:.2f}'
  if not row['fits']:
    total = f'**does not fit: {total} or more**'
  step, mfu = row['estimated_step_seconds'], row['estimated_mfu']
  cells = (
    row['model'].removeprefix('t5_1_1/'),
    row['topology'],
    mesh_text(row['mesh']),
    str(row['batch']),
    row['remat_policy'],
    total,
    f'{memory["limit"] / GIB:.2f}',
    f'{step:.3f} s' if step else '',
    f'{mfu:.0%}' if mfu else '',
    f'{row["compile_cpu_seconds"]:.0f} s',
  )
  return f'| {" | ".join(cells)} |\n'


if __name__ == '__main__':
  sys.exit(main())
