"""SCAN_LAYERS and REMAT_POLICY 'auto': what is chosen for which run, and what a search finds.

That no number depends on them is in test_t5.py.
"""

import dataclasses
import pathlib
import re

import jax
import plan_runs
import pytest
from plan_runs import run_config_of

from dss_jax.models import t5
from dss_jax.parallel.partitioning import MeshConfig
from dss_jax.planning import plans, search
from dss_jax.planning.hlo import Costs
from dss_jax.runs import layer_choice, memory
from dss_jax.settings import topologies
from dss_jax.training import optimizers

WIDTHS = {'base': (768, 12, 64, 2048, 12), 'large': (1024, 16, 64, 2816, 24),
          'xl': (2048, 32, 64, 5120, 24), 'xxl': (4096, 64, 64, 10240, 24)}  # fmt: skip


def _run(size='base', rows=128, mesh=(1, 8, 1), optimizer='adafactor', steps=10_000, **model):
  emb, heads, head, mlp, layers = WIDTHS[size]
  auto = {'scan_layers': 'auto', 'remat_policy': 'auto'}
  network = t5.T5Config(32128, emb, heads, head, mlp, layers, layers, **auto)
  network = plan_runs.changed(network, **model)
  return run_config_of(
    size if size in plan_runs.SIZES else 'base',
    model=network,
    data=plan_runs.rows_of(rows, 512, 128),
    mesh=MeshConfig(*mesh),
    train_steps=steps,
    optimizer=optimizers.OptimizerConfig(optimizer, schedule='constant'),
  )


def _chosen(run, topology='v5e-8'):
  mesh = dict(data=run.mesh.data, fsdp=run.mesh.fsdp, tensor=run.mesh.tensor)
  model, said = layer_choice.chosen(run, topologies.topology(topology), mesh)
  return (model.scan_layers, model.remat_policy), said


def test_the_figures_are_those_of_the_measured_tables():
  text = (pathlib.Path(__file__).parents[1] / 'benchmarks' / 'RESULTS.md').read_text()

  def rows_of(heading: str) -> dict[tuple[str, str], dict[str, str]]:
    lines = text.partition(f'### {heading}\n')[2].partition('\n### ')[0].splitlines()
    table = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines if '|' in line]
    rows = [dict(zip(table[0], row, strict=True)) for row in table[2:]]
    return {(row['model'], row['slice']): row for row in reversed(rows)}

  number = lambda cell: float(cell.split()[0])  # noqa: E731
  scanned, unrolled = rows_of('Layers scanned, full remat'), rows_of('Layers unrolled')
  names = {layer_choice.BASE: 'Base', layer_choice.LARGE: 'Large', layer_choice.XL: 'XL',
           layer_choice.XXL: 'XXL'}  # fmt: skip
  for figures in layer_choice.FIGURES:
    (found,) = (
      name for name in unrolled
      if name[0] == names[figures.network] and name[1].startswith(figures.chip + '-')
    )  # fmt: skip
    slow, fast = scanned[found], unrolled.pop(found)
    mesh = 'mesh (data x fsdp)'
    assert (slow[mesh], slow['batch']) == (fast[mesh], fast['batch'])
    data, fsdp = map(int, fast[mesh].split(' x '))
    assert (figures.shards, figures.rows) == (fsdp, int(fast['batch']) // (data * fsdp))
    assert figures.mfu == number(slow['MFU']) / 100
    assert figures.saved == 1 - number(fast['step']) / number(slow['step'])
    assert figures.compilation == number(fast['compiled in']) - number(slow['compiled in'])
    assert figures.memory == number(fast['memory, GB'])
  assert not unrolled


# What RESULTS.md says of both programs: the number of updates after which unrolling pays.
@pytest.mark.parametrize(
  ('size', 'topology', 'mesh', 'rows', 'pays_after', 'policy'),
  [
    ('base', 'v5e-8', (1, 8, 1), 128, 4000, 'none'),
    ('base', 'v3-8', (1, 8, 1), 128, 1100, 'none'),
    ('large', 'v5e-16', (4, 4, 1), 128, 2700, 'none'),
    ('large', 'v3-8', (1, 8, 1), 128, 880, 'none'),
    ('xl', 'v4-32', (4, 4, 1), 128, 2900, 'minimal'),
    ('xl', 'v5e-64', (16, 4, 1), 128, 4200, 'minimal'),
    ('xxl', 'v5e-64', (4, 16, 1), 128, 1000, 'minimal'),
    ('xxl', 'v4-128', (4, 16, 1), 512, 770, 'minimal'),
  ],
)
def test_layers_are_unrolled_from_the_number_of_updates_on_at_which_it_pays(
  size, topology, mesh, rows, pays_after, policy
):
  few, said = _chosen(_run(size, rows, mesh, steps=pays_after // 2), topology)
  assert few == (True, 'full')
  told = int(re.search(r'after some ([\d,]+) updates', said)[1].replace(',', ''))
  assert told == pytest.approx(pays_after, rel=0.1)
  many, said = _chosen(_run(size, rows, mesh, steps=2 * pays_after), topology)
  assert many == (False, policy)
  assert re.search(r'this saves [\d.]+ (s|min|h) of [\d.]+ (s|min|h) ', said)


def test_more_rows_of_a_device_never_make_the_estimate_of_a_step_too_long():
  """With two rows of a device the figures have an MFU of 27 %, which larger batches exceed."""
  _, few = _chosen(_run('xxl', 128, (4, 16, 1), steps=1), 'v5e-64')
  _, many = _chosen(_run('xxl', 192, (4, 16, 1), steps=1), 'v5e-64')
  updates = [int(re.search(r'some ([\d,]+)', said)[1].replace(',', '')) for said in (few, many)]
  assert updates[1] > updates[0]  # a step of 1.5 times the rows counts as a shorter one


@pytest.mark.parametrize(
  ('size', 'changes', 'topology', 'mesh'),
  [
    ('large', {'num_heads': 32, 'head_dim': 128, 'mlp_dim': 16384}, 'v5e-16', (4, 4, 1)),  # 3b
    ('large', {'num_heads': 128, 'head_dim': 128, 'mlp_dim': 65536}, 'v4-128', (4, 16, 1)),  # 11b
    ('base', {'vocab_size': 250112}, 'v5e-8', (1, 8, 1)),  # mT5
    ('base', {'dtype': 'float32'}, 'v5e-8', (1, 8, 1)),
    ('xl', {'emb_dim': 1024}, 'v4-32', (4, 4, 1)),
    ('xl', {}, 'v3-8', (1, 8, 1)),
    ('xxl', {}, 'v3-8', (1, 8, 1)),
  ],
  ids=str,
)
def test_a_network_that_no_figures_are_of_has_scanned_layers(size, changes, topology, mesh):
  run = _run(size, 8 * 16, mesh, steps=10**6, **changes)
  assert _chosen(run, topology) == ((True, 'full'), '')


@pytest.mark.parametrize(
  ('size', 'changes'), [('base', {'mlp_dim': 3072}), ('large', {'mlp_dim': 4096})]
)
def test_a_network_much_like_one_of_the_figures_has_its_figures(size, changes):
  """T5 1.0 Base and Large, which are wider than those of T5 1.1 within a layer."""
  run = _run(size, 64, (1, 8, 1), steps=10**6, **changes)
  assert _chosen(run, 'v5e-8')[0] == (False, 'none')


def test_a_wider_layer_needs_more_memory():
  fits = {
    mlp_dim: _chosen(_run('base', 8 * 58, steps=10**6, mlp_dim=mlp_dim))[0][0] is False
    for mlp_dim in (2048, 3072)
  }
  assert fits == {2048: True, 3072: False}


def test_what_may_not_fit_is_not_chosen():
  chosen, said = _chosen(_run('xxl', 1024, (4, 16, 1), 'adamw'), 'v5e-64')
  assert chosen == (True, 'full') and 'need more memory' in said
  assert _chosen(_run('base', 128 * 8), 'v5e-8')[0] == (True, 'full')


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ({'scan_layers': True, 'remat_policy': 'minimal'}, (True, 'minimal')),
    ({'scan_layers': False, 'remat_policy': 'full'}, (False, 'full')),
    ({'scan_layers': True}, (True, 'full')),
    ({'scan_layers': False}, (False, 'none')),
    ({'remat_policy': 'minimal'}, (True, 'minimal')),
    ({}, (False, 'none')),
  ],
  ids=str,
)
def test_a_value_that_is_set_wins(given, expected):
  assert _chosen(_run(**given))[0] == expected
  on_a_cpu = _chosen(_run(**given), 'cpu')
  assert on_a_cpu == ((given.get('scan_layers', True), given.get('remat_policy', 'full')), '')


def test_small_networks_recompute_only_what_costs_them_no_time():
  small = plan_runs.changed(_run().model, emb_dim=512)
  tiny = plan_runs.changed(_run().model, emb_dim=96)
  for topology in ('cpu', 'gpu', 'v5e-8'):
    for model, policy in ((small, 'minimal'), (tiny, 'none')):
      run = dataclasses.replace(_run(), model=model)
      assert _chosen(run, topology) == ((True, policy), '')


def test_a_device_says_which_chip_it_is():
  assert topologies.of_device_kind('TPU v5 lite').peak_flops == 197e12
  assert topologies.of_device_kind('TPU v3').hbm_bytes == 16 * 2**30
  assert topologies.of_device_kind('cpu') is None


def test_every_choice_has_the_same_parameters():
  """So a checkpoint of one is a checkpoint of all."""
  shapes = [
    t5.abstract(plan_runs.changed(plan_runs.SIZES['base'], scan_layers=scan, remat_policy=policy))
    for scan in (True, False, 'auto')
    for policy in ('full', 'minimal', 'none', 'auto')
  ]
  assert all(jax.tree.structure(one[0]) == jax.tree.structure(shapes[0][0]) for one in shapes)
  assert all(one == shapes[0] for one in shapes)


# ---------------------------------------------------------------- plans


class _Compiler:
  """Unrolled, a row takes 1/128 s instead of 2, and compiles 1,000 s longer.

  A row of a device takes `row_gib` GiB beside `state_gib`: scanned, with unrolled layers that
  recompute little, and with those that recompute nothing.
  """

  def __init__(self, row_gib=(0.1, 0.1, 0.1), state_gib=1.0):
    self.row_gib, self.state_gib, self.asked = row_gib, state_gib, []

  def __call__(self, program):
    self.asked.append(program)
    unrolled = program.model.scan_layers is False
    kind = 0 if not unrolled else 1 if program.model.remat_policy == 'minimal' else 2
    total = self.state_gib + self.row_gib[kind] * program.rows / 8
    seconds = program.rows / 128 * (1 if unrolled else 2)
    answer = plan_runs.answer(int(total * plan_runs.GIB))
    cycles = int(topologies.topology('v5e-8').clock * seconds)
    return dataclasses.replace(
      answer, costs=Costs(cycles, (), ()), seconds=1100.0 if unrolled else 100.0
    )


NEVER = 100.0  # GiB a row


@pytest.fixture(autouse=True)
def memory_to_compile(monkeypatch):
  monkeypatch.setattr(memory, 'available_bytes', lambda: 10**11)


@pytest.mark.parametrize(
  ('steps', 'given', 'row_gib', 'expected', 'rows'),
  [
    (900, {}, (0.1, 0.1, 0.1), (True, 'full'), 128),
    (1100, {}, (0.1, 0.1, 0.1), (False, 'none'), 128),
    (1100, {}, (0.1, 0.1, NEVER), (False, 'minimal'), 128),
    (1100, {}, (0.1, 1.2, 3.0), (False, 'none'), 32),  # 1 + 8 x 3 GiB of 16 are too much
    (1100, {}, (0.1, 1.2, 4.0), (False, 'minimal'), 64),
    (1100, {}, (0.1, NEVER, NEVER), (True, 'full'), 128),
    (1100, {}, (NEVER, NEVER, NEVER), (True, 'full'), 128),
    (1100, {'scan_layers': True}, (0.1, 0.1, 0.1), (True, 'full'), 128),
    (900, {'scan_layers': False}, (0.1, 0.1, 0.1), (False, 'full'), 128),
    (1100, {'remat_policy': 'minimal'}, (0.1, 0.1, 0.1), (False, 'minimal'), 128),
  ],
)
def test_a_search_compiles_them_and_takes_the_one_that_ends_first(
  steps, given, row_gib, expected, rows
):
  said = []
  run = _run(steps=steps, **given)
  found = search.fastest_layers(run, 'v5e-8', _Compiler(row_gib), said.append)
  assert (found.model.scan_layers, found.model.remat_policy) == expected
  assert found.data.batch_size == rows
  assert said and all(line.startswith('--scan_layers=') for line in said)


def test_a_search_tries_unrolled_layers_from_the_largest_batch_that_the_estimate_allows():
  compiler = _Compiler()
  run = _run(rows=8 * 128)  # of which the estimate allows a half
  search.fastest_layers(run, 'v5e-8', compiler)
  tried = {one.model.scan_layers: one.rows for one in compiler.asked}
  assert tried == {True: 8 * 128, False: 8 * 32}


def test_a_search_leaves_out_what_this_machine_cannot_compile(monkeypatch):
  monkeypatch.setattr(memory, 'available_bytes', lambda: 10**9)
  compiler, said = _Compiler(), []
  found = search.fastest_layers(_run(steps=10**6), 'v5e-8', compiler, said.append)
  assert found.model.scan_layers is True and len(compiler.asked) == 1
  assert 'unrolled layers are not tried: the compiler takes some' in said[0]


def _planned(compiler, **given):
  said = []
  plan = plans.make('Base', _run(**given), 'v5e-8', compiler, said.append)
  told = plans.to_json(plan)
  return (told['scan_layers'], told['remat_policy'], told['fits']), ' '.join(said), plan


def test_a_plan_is_of_the_program_that_would_run():
  assert _planned(_Compiler())[:2] == ((False, 'none', True), '')


def test_a_plan_of_layers_that_do_not_fit_unrolled_is_of_scanned_ones():
  compiler = _Compiler((0.1, NEVER, NEVER))
  found, said, _ = _planned(compiler)
  assert found == (True, 'full', True)
  assert '--scan_layers=True --remat_policy=full, which `dss train` needs to be told' in said
  assert 'a device needs' in said
  steps = [(one.step, one.model.scan_layers) for one in compiler.asked]
  assert steps == [('train', False), ('train', True), ('decode', True)]


def test_a_plan_on_a_machine_that_cannot_compile_unrolled_layers_is_of_scanned_ones(monkeypatch):
  monkeypatch.setattr(memory, 'available_bytes', lambda: 3 * 10**9)
  compiler = _Compiler()
  found, said, _ = _planned(compiler)
  assert found == (True, 'full', True) and {one.model.scan_layers for one in compiler.asked} == {
    True
  }
  assert 'GB of this machine, where 3 GB are free' in said
  assert _planned(compiler, scan_layers=False)[0] == (False, 'none', True)  # who asks is obeyed


def test_a_plan_of_a_compiler_that_crashes_on_unrolled_layers_is_of_scanned_ones():
  def crashing(program):
    if program.model.scan_layers is False:
      raise ChildProcessError('the compiler crashed on train.')
    return plan_runs.answer()

  found, said, _ = _planned(crashing)
  assert found == (True, 'full', True) and said.endswith('the compiler crashed on train.')
