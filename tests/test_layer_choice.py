"""SCAN_LAYERS and REMAT_POLICY 'auto': what is chosen for which run, and what a search finds.

That no number depends on them is in test_t5.py.
"""

import dataclasses
import re

import jax
import plan_runs
import pytest
from plan_runs import run_config_of

from dss_jax.models import t5
from dss_jax.parallel.partitioning import MeshConfig
from dss_jax.planning import plans, search
from dss_jax.planning.hlo import Costs
from dss_jax.runs import layer_choice
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


def _compiler(fits=lambda model: True):
  """Unrolled, a step takes 1 s instead of 2, and compiles 1,000 s longer."""

  def compile_program(program):
    unrolled = program.model.scan_layers is False
    cycles = int(topologies.topology('v5e-8').clock * (1 if unrolled else 2))
    costs = Costs(cycles, (), ())
    return dataclasses.replace(
      plan_runs.answer(), costs=costs, seconds=1100.0 if unrolled else 100.0,
      fits=fits(program.model),
    )  # fmt: skip

  return compile_program


@pytest.mark.parametrize(
  ('steps', 'given', 'fits', 'expected'),
  [
    (900, {}, lambda model: True, (True, 'full')),
    (1100, {}, lambda model: True, (False, 'none')),
    (1100, {}, lambda model: model.remat_policy != 'none', (False, 'minimal')),
    (1100, {}, lambda model: model.scan_layers, (True, 'full')),
    (1100, {}, lambda model: False, (True, 'full')),
    (1100, {'scan_layers': True}, lambda model: True, (True, 'full')),
    (900, {'scan_layers': False}, lambda model: True, (False, 'full')),
    (1100, {'remat_policy': 'minimal'}, lambda model: True, (False, 'minimal')),
  ],
)
def test_a_search_compiles_them_and_takes_the_one_that_ends_first(steps, given, fits, expected):
  said = []
  run = _run(steps=steps, **given)
  found = search.fastest_layers(run, 'v5e-8', _compiler(fits), said.append).model
  assert (found.scan_layers, found.remat_policy) == expected
  assert said and all(line.startswith('--scan_layers=') for line in said)


def test_a_plan_is_of_the_program_that_would_run():
  plan = plans.make('Base', _run(), 'v5e-8', lambda program: plan_runs.answer())
  told = plans.to_json(plan)
  assert (told['scan_layers'], told['remat_policy']) == (False, 'none')
