"""The table of plans that ships: whole, of the models and machines that are here, and its page."""

import importlib.util

import gin
import pytest

from dss_jax.planning import plans
from dss_jax.settings.topologies import TOPOLOGIES

KEYS = {
  'model', 'topology', 'devices', 'mesh', 'batch', 'remat_policy', 'fits', 'hbm_bytes_per_device',
  'model_flops', 'estimated_step_seconds', 'compile_seconds', 'compile_cpu_seconds',
}  # fmt: skip


@pytest.fixture(scope='module')
def plan_table(repository):
  """The program that writes it."""
  path = repository / 'benchmarks' / 'plan_table.py'
  spec = importlib.util.spec_from_file_location('plan_table', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_row_is_whole_and_of_a_machine_that_is_here():
  rows = plans.table()
  assert rows
  for row in rows:
    assert set(row) >= KEYS
    machine = TOPOLOGIES[row['topology']]
    mesh = row['mesh']
    assert row['devices'] == machine.devices == mesh['data'] * mesh['fsdp'] * mesh['tensor']
    memory = row['hbm_bytes_per_device']
    assert row['fits'] == (memory['total'] <= memory['limit'])
    # Documentation has whole GiB: 95 of a v5p, of which the compiler may use 95.74.
    assert memory['limit'] < machine.hbm_bytes + 2**30
  cells = [(row['model'], row['topology']) for row in rows]
  assert len(cells) == len(set(cells))


def test_what_fits_is_recommended():
  fitting = next(row for row in plans.table() if row['fits'])
  found = plans.recommended(fitting['model'], fitting['topology'])
  assert found == {name: fitting[name] for name in ('mesh', 'batch', 'remat_policy')}
  assert plans.recommended('t5_1_1/none', 'v5e-8') is None


def test_all_rows_have_the_same_program(plan_table):
  """Layers are scanned, whatever `dss train` would choose for its number of updates."""
  try:
    runs = list(plan_table.settings('t5_1_1/base', 'v5e-8'))
  finally:
    gin.clear_config()
    gin.config._LOCATION_PREFIXES[:] = ['']
  assert len(runs) >= 3
  found = {(one.model.scan_layers, one.model.remat_policy) for one in runs}
  assert found == {(True, 'full')}
  assert plans.with_layers(runs[0], 'v5e-8').model == runs[0].model


def test_the_page_is_of_this_table(plan_table):
  assert plan_table.PAGE.read_text() == plan_table.page(plans.table())
