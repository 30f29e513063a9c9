"""What a program compiled for TPUs costs, read off its optimized HLO text.

Owns the parsing: the compiler's estimate of cycles of each instruction, how often it runs, and what
is sent between devices. Knows nothing of models and topologies; seconds are estimate.py's.

Three things that the text does not show by itself:
- The body of a loop appears once; it is counted as often as the loop runs it.
- Some instructions have no estimate (gathers, scatters, sorts, random bits, kernels): they are
  listed with their FLOPs and bytes.
- A collective that runs beside computation is a `-start` operation, or a fusion that holds it.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
)
# Without an estimate because they cost nothing, or because others hide them.
_FREE = frozenset(
  (
    'parameter', 'constant', 'get-tuple-element', 'tuple', 'bitcast', 'while', 'call',
    'conditional', 'after-all', 'partition-id', 'replica-id', 'opt-barrier', 'copy-start',
    'copy-done', 'slice-start', 'slice-done', 'async-start', 'async-update', 'async-done',
    'dynamic-update-slice',
  )
)  # fmt: skip
_FREE_CALLS = frozenset(
  (
    'AllocateBuffer', 'ConcatBitcast', 'AssumeGatherIndicesInBound', 'Sharding',
    'GatherScatterIndicesBitpacked', 'AsyncCollectiveStart', 'AsyncCollectiveDone',
  )
)  # fmt: skip
_NO_ESTIMATE = 2**62  # the compiler writes 2^63 - 1 for an unknown
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'bf16': 16, 'f16': 16,
         's32': 32, 'u32': 32, 'f32': 32, 's64': 64, 'u64': 64, 'f64': 64}  # fmt: skip
_SHAPE = re.compile(rf'\b({"|".join(_BITS)})\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.\-]+)')
_HEAD = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = ')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(
  r'\b(calls|body|condition|called_computations|branch_computations|true_computation|'
  r'false_computation)=(?:\{([^}]*)\}|(%?[\w.\-]+))'
)


class Instruction(NamedTuple):
  """One line: `%name = shape op(operands), rest`."""

  name: str
  shape: str
  op: str
  operands: str
  rest: str


Computations = Mapping[str, list[Instruction]]


class Work(NamedTuple):
  """An instruction that costs something each time it runs: the compiler's cycles or, where it has
  none, FLOPs and bytes."""

  instruction: Instruction
  runs: int
  cycles: int | None
  flops: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind of traffic between devices, of all the times it runs.

  Attributes:
    kind: of COLLECTIVES.
    group: devices that take part together.
    overlapped: runs beside computation.
    count: how often it runs.
    bytes: of the whole arrays that it makes or takes apart, on one device, of all runs.
  """

  kind: str
  group: int
  overlapped: bool
  count: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Costs:
  """What one run of a program costs one device.

  Attributes:
    cycles: the compiler's estimates, added up.
    without_estimate: (FLOPs, bytes, count) of each instruction that has none.
    collectives: traffic between devices, by kind, group and whether it is overlapped.
  """

  cycles: int
  without_estimate: tuple[tuple[int, int, int], ...]
  collectives: tuple[Collective, ...]


def costs(text: str, unknown_trips: int = 1) -> Costs:
  """The costs of an optimized HLO module.

  Args:
    text: `compiled.as_text()`.
    unknown_trips: iterations of a loop whose end depends on data; in decoding, the most tokens.
  """
  computations, entry = parse(text)
  counts = _counts(computations, entry, unknown_trips)
  work_items = list(_work(computations, counts))
  cycles = sum(one.runs * one.cycles for one in work_items if one.cycles is not None)
  others = tuple((one.flops, one.bytes, one.runs) for one in work_items if one.cycles is None)
  return Costs(cycles, others, tuple(_collectives(computations, counts)))


def work(text: str) -> Iterator[Work]:
  """Every instruction of an optimized HLO module that costs something and is not a collective."""
  computations, entry = parse(text)
  return _work(computations, _counts(computations, entry, 1))


def _work(computations: Computations, counts: Mapping[str, int]) -> Iterator[Work]:
  fused = _fused(computations)
  for name, instructions in computations.items():
    if name in fused or not counts[name]:
      continue
    shapes = {one.name: one.shape for one in instructions}
    for one in instructions:
      estimate = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
      if estimate and int(estimate[1]) < _NO_ESTIMATE:
        yield Work(one, counts[name], int(estimate[1]), 0, 0)
      elif _works(one, computations):
        size = _bytes_moved(one, shapes, computations)
        yield Work(one, counts[name], None, _declared_flops(one), size)


def _fused(computations: Computations) -> set[str]:
  """The computations whose instructions run as parts of a single one."""
  return {
    name
    for instructions in computations.values()
    for one in instructions
    if one.op in ('fusion', 'async-start')
    for _, name in _called(one)
  }


def parse(text: str) -> tuple[Computations, str]:
  """The computations of a module by name, and the name of the entry."""
  computations: dict[str, list[Instruction]] = {}
  current, entry = '', ''
  for line in text.splitlines():
    if line and not line[0].isspace():
      start = _COMPUTATION.match(line)
      if start:
        current = start[2]
        computations[current] = []
        entry = current if start[1] else entry
      continue
    head = _HEAD.match(line)
    if head and current:
      computations[current].append(_instruction(head[1], line[head.end() :]))
  return computations, entry


def _instruction(name: str, text: str) -> Instruction:
  shape_end = _closing(text, 0) if text[0] == '(' else text.index(' ')
  start = text.index('(', shape_end)
  end = _closing(text, start)
  return Instruction(
    name, text[:shape_end], text[shape_end:start].strip(), text[start + 1 : end - 1], text[end:]
  )


def _closing(text: str, start: int) -> int:
  """The index behind the bracket that closes the one at `start`."""
  depth = 0
  for bracket in re.finditer(r'[()\[\]{}]', text[start:]):
    depth += 1 if bracket[0] in '([{' else -1
    if not depth:
      return start + bracket.end()
  return len(text)


def _called(one: Instruction) -> Iterator[tuple[str, str]]:
  """(role, computation) of all that an instruction runs, scalar reducers excepted."""
  for role, many, single in _CALLED.findall(one.rest):
    for name in (many or single).split(','):
      if name.strip():
        yield role, name.strip().lstrip('%')


def _counts(computations: Computations, entry: str, unknown_trips: int) -> collections.Counter[str]:
  """How often each computation runs."""
  counts: collections.Counter[str] = collections.Counter()

  def visit(name: str, times: int) -> None:
    counts[name] += times
    for one in computations.get(name, ()):
      trips = 1
      if one.op == 'while':
        trips = _trips(one, computations[name], computations) or unknown_trips
      for _, called in _called(one):
        visit(called, times * trips)

  visit(entry, 1)
  return counts


def _trips(loop: Instruction, around: list[Instruction], computations: Computations) -> int | None:
  """Iterations of a loop that counts up to a constant; None where data decides."""
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
  if known:
    return int(known[1])
  called = dict(_called(loop))
  condition = {one.name: one for one in computations.get(called['condition'], ())}
  body = {one.name: one for one in computations.get(called['body'], ())}
  root = computations[called['condition']][-1]
  if root.op != 'compare' or 'direction=LT' not in root.rest:
    return None
  counter, bound = (condition.get(name) for name in _NAME.findall(root.operands)[:2])
  limit = _constant(bound, condition)
  if limit is None or counter is None or counter.op != 'get-tuple-element':
    return None
  place = _place(counter)
  outside = {one.name: one for one in around}
  start = _constant(_element(_operand(loop, outside), place, outside), outside) or 0
  increment = _element(computations[called['body']][-1], place, body)
  steps = [
    _constant(body.get(name), body)
    for name in _NAME.findall(increment.operands if increment else '')
  ]
  step = next((step for step in steps if step), 1)
  return max(1, -(-(limit - start) // step))


def _place(one: Instruction) -> int:
  index = re.search(r'index=(\d+)', one.rest)
  return int(index[1]) if index else 0


def _operand(one: Instruction, named: Mapping[str, Instruction]) -> Instruction | None:
  names = _NAME.findall(one.operands)
  return named.get(names[0]) if names else None


def _element(pack: Instruction | None, place: int, named: Mapping[str, Instruction]):
  """The instruction that made one element of a tuple."""
  if pack is None or pack.op != 'tuple':
    return None
  return named.get(_NAME.findall(pack.operands)[place])


def _constant(one: Instruction | None, named: Mapping[str, Instruction]) -> int | None:
  """The integer behind an instruction, through copies."""
  for _ in range(8):
    if one is None:
      return None
    if one.op == 'constant':
      return int(one.operands) if re.fullmatch(r'-?\d+', one.operands.strip()) else None
    if one.op not in ('copy', 'bitcast', 'convert', 'copy-start', 'copy-done'):
      return None
    one = _operand(one, named)
  return None


def _works(one: Instruction, computations: Computations) -> bool:
  """Whether an instruction without an estimate does something on arrays that has to be counted."""
  if one.op in _FREE or _is_collective(one) or _nbytes(one.shape) < 1024:
    return False
  if one.op == 'custom-call':
    target = re.search(r'custom_call_target="([^"]*)"', one.rest)
    return not (target and target[1] in _FREE_CALLS)
  inside = [part for _, name in _called(one) for part in computations.get(name, ())]
  return not any(_is_collective(part) or 'AsyncCollective' in part.rest for part in inside)


def _is_collective(one: Instruction) -> bool:
  return one.op.removesuffix('-start').removesuffix('-done') in COLLECTIVES


def _declared_flops(one: Instruction) -> int:
  """The FLOPs that a kernel declares; gathers and the like have hardly any."""
  declared = re.search(r'"cost_estimate":\{"flops":"(\d+)"', one.rest)
  return int(declared[1]) if declared else 0


def _bytes_moved(one: Instruction, shapes: Mapping[str, str], computations: Computations) -> int:
  result = _nbytes(one.shape)
  inside = [part.op for _, name in _called(one) for part in computations.get(name, ())]
  if one.op == 'gather' or 'gather' in inside:
    return 2 * result  # the rows that are looked up, not the table
  return result + sum(_nbytes(shapes.get(name, '')) for name in _NAME.findall(one.operands))


def _nbytes(shape: str) -> int:
  """Bytes of all arrays in the text of a shape."""
  sizes = (
    _BITS[kind] * math.prod(int(size) for size in sizes.split(',') if size)
    for kind, sizes in _SHAPE.findall(shape)
  )
  return sum(sizes) // 8


def _collectives(computations: Computations, counts: Mapping[str, int]) -> Iterator[Collective]:
  """Every collective, those of one kind, group and overlap added up."""
  fused = _fused(computations)
  totals: dict[tuple[str, int, bool], list[int]] = {}
  channels: set[str] = set()
  for name, instructions in computations.items():
    shapes = {one.name: one.shape for one in instructions}
    for one in instructions:
      if not counts.get(name) or not _is_collective(one) or one.op.endswith('-done'):
        continue
      # An overlapped collective appears in the fusion that starts it, in those that it runs
      # beside and in the one that ends it.
      channel = re.search(r'channel_id=(\d+)', one.rest)
      if channel and name in fused and channel[1] in channels:
        continue
      channels |= {channel[1]} if channel else set()
      kind = one.op.removesuffix('-start')
      overlapped = one.op.endswith('-start') or name in fused
      if name.startswith('all-reduce-scatter'):
        kind, overlapped = 'reduce-scatter', False
      total = totals.setdefault((kind, _group(one), overlapped), [0, 0])
      total[0] += counts[name]
      total[1] += counts[name] * _payload(one, shapes)
  for (kind, group, overlapped), (count, size) in sorted(totals.items()):
    yield Collective(kind, group, overlapped, count, size)


def _payload(one: Instruction, shapes: Mapping[str, str]) -> int:
  """Bytes of the larger side of a collective."""
  operands = sum(_nbytes(shapes.get(name, '')) for name in _NAME.findall(one.operands))
  result = _nbytes(one.shape)
  return max(operands, result - operands if one.op.endswith('-start') else result)


def _group(one: Instruction) -> int:
  """Devices that exchange with each other, in the forms that XLA writes; 2 for a permutation."""
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? ?\{([^}]*)\}', one.rest
  )
  if mesh:
    sizes = dict(re.findall(r"'([\w.]+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'([\w.]+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  iota = re.search(r'replica_groups=\[\d+,(\d+)\]<=', one.rest)
  if iota:
    return int(iota[1])
  listed = re.search(r'replica_groups=\{\{([\d,]*)\}', one.rest)
  return len(listed[1].split(',')) if listed else 2
