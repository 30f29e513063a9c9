"""A plan as a table for people. Owns the words and units; the numbers are plans.py's."""

from collections.abc import Iterator, Mapping
from typing import Any

from dss_jax.planning import plans
from dss_jax.planning.search import Candidate

GIB = 2**30
WIDTH = 28


def report(plan: plans.Plan) -> str:
  """The whole plan as text, one line per fact."""
  values = plans.to_json(plan)
  lines = [f'{name:{WIDTH}}{text}'.rstrip() for name, text in _lines(values)]
  return '\n'.join([*lines, '', verdict(values)])


def verdict(values: Mapping[str, Any]) -> str:
  """One sentence: whether it fits, and by how much."""
  memory = values['hbm_bytes_per_device']
  total, limit = memory['total'], memory['limit']
  if values['fits'] is None:
    return f'It needs {size_text(total)} a device; the memory of the machine is not known.'
  sizes = f'{size_text(total)} of {size_text(limit)} a device'
  if values['fits']:
    return f'It fits: {sizes}, {size_text(limit - total)} free.'
  return f'It does not fit: at least {sizes}, {size_text(total - limit)} too much.'


def candidate_line(candidate: Candidate) -> str:
  """A line about a candidate that a search has tried."""
  mesh = candidate.mesh
  what = f'mesh {mesh.data} x {mesh.fsdp} x {mesh.tensor}, batch {candidate.batch}: '
  if candidate.compiled is None:
    return what + 'the compiler crashed'
  if not candidate.rows_per_second:
    return what + f'does not fit, {size_text(candidate.compiled.memory.total)} or more'
  return (
    what
    + f'{size_text(candidate.compiled.memory.total)}, {candidate.rows_per_second:.1f} rows/s (est.)'
  )


def size_text(size: float) -> str:
  """Bytes in GiB, or in MiB where that is below a tenth."""
  return f'{size / GIB:.2f} GiB' if abs(size) >= GIB / 10 else f'{size / 2**20:.2f} MiB'


def mesh_text(mesh: Mapping[str, int]) -> str:
  """'data 2, fsdp 4': the axes that divide something."""
  parts = [f'{axis} {size}' for axis, size in mesh.items() if size > 1]
  return ', '.join(parts) or 'one device'


def _lines(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  yield 'model', f'{values["model"]}, {values["parameters"] / 1e6:,.1f}M parameters'
  hosts = values['hosts']
  of_hosts = f'{hosts} host' + ('s' if hosts > 1 else '')
  yield 'topology', f'{values["topology"]}: {values["devices"]} devices, {of_hosts}'
  yield 'mesh', mesh_text(values['mesh'])
  lengths = values['task_feature_lengths']
  micro = values['num_microbatches']
  parts = f' in {micro} microbatches' if micro > 1 else ''
  yield (
    'batch',
    f'{values["batch"]} rows{parts} of {lengths["inputs"]} inputs and {lengths["targets"]} targets',
  )
  yield 'optimizer, remat', f'{values["optimizer"]}, {values["remat_policy"]}'
  yield 'layers', 'scanned' if values['scan_layers'] else 'unrolled'
  if values['recommended']:
    best = values['recommended']
    yield (
      'recommended',
      f'{mesh_text(best["mesh"])}; batch {best["batch"]}; remat {best["remat_policy"]}',
    )
  yield '', ''
  yield from _memory_lines(values)
  yield '', ''
  yield from _time_lines(values)
  if values['cost']:
    cost = values['cost']
    yield (
      'cost (estimate)',
      f'{cost["train_steps"]} steps, {cost["hours"]:.2f} h at ${cost["dollars_per_hour"]:g} an '
      f'hour: ${cost["dollars"]:.2f}; {cost["examples_per_dollar"]:,.0f} examples a dollar '
      f'({cost["examples_per_row"]:.2f} a row); validation and start left out',
    )
  for name, text in values['checks'].items():
    yield f'check: {name}', text


def _memory_lines(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  memory = values['hbm_bytes_per_device']
  yield 'memory a device', ''
  for name in ('parameters', 'optimizer', 'gradients', 'temporaries', 'batch', 'code'):
    label = 'activations, temporaries' if name == 'temporaries' else name
    yield f'  {label}', size_text(memory[name])
  yield '  training', size_text(memory['train_total'])
  if memory['decode_total'] is not None:
    yield (
      '  validation',
      f'{size_text(memory["decode_total"])} (decoding beside the optimizer state)',
    )
  ram = values['host_ram_bytes']
  limit = f' of {size_text(ram["limit"])}' if ram['limit'] else ''
  yield (
    'memory a host',
    f'{size_text(ram["total"])}{limit}: {size_text(ram["checkpoint"])} to save a checkpoint, '
    f'{size_text(ram["compiler"])} to compile; data not counted',
  )


def _time_lines(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  yield 'model FLOPs a step', f'{values["model_flops"]:.4g}'
  for one in values['collectives'] or ():
    beside = ', beside computation' if one['overlapped'] else ''
    yield (
      f'  {one["kind"]}',
      f'{size_text(one["bytes"])} in {one["count"]} among {one["group"]}{beside}',
    )
  seconds = values['estimated_seconds']
  if seconds:
    yield (
      'step (estimate)',
      f'{values["estimated_step_seconds"]:.4f} s: computation {seconds["compute"]:.4f}, '
      f'communication beside it {seconds["overlapped"]:.4f} and besides {seconds["exposed"]:.4f}',
    )
    yield 'MFU (estimate)', f'{values["estimated_mfu"]:.1%}'
  if values['estimated_decode_seconds']:
    yield 'decoding (estimate)', f'{values["estimated_decode_seconds"]:.3f} s a batch, all tokens'
  work = values['compile_cpu_seconds']
  yield 'compilation, here', f'{values["compile_seconds"]:.0f} s, {work:.0f} s of a CPU core'
