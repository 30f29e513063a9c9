"""The search for mesh and batch, with a compiler whose answers are a formula."""

import pytest
from plan_runs import GIB, SIZES, run_config_of

from dss_jax.parallel.partitioning import MeshConfig
from dss_jax.planning import search
from dss_jax.planning.hlo import Costs
from dss_jax.planning.programs import Compiled, Memory
from dss_jax.settings import topologies

FSDP = MeshConfig(1, 8, 1)


class Compiler:
  """Every row of a device needs a GiB beside `state`; `tight` doubles it from 8 rows on."""

  def __init__(self, limit, state=4, tight=False, crashes=False):
    self.limit, self.state, self.tight, self.crashes = limit, state, tight, crashes
    self.asked = []

  def __call__(self, program):
    rows = program.rows // (program.mesh.data * program.mesh.fsdp)
    self.asked.append(rows)
    if self.crashes:
      raise ChildProcessError('it crashed')
    total = self.state + rows * (2 if self.tight and rows >= 8 else 1)
    memory = Memory(self.limit * GIB, 1, 2, 1, 0, 0, 0, total * GIB)
    costs = Costs(1_000_000_000 + 100_000_000 * rows, (), ())
    return Compiled(total <= self.limit, memory, costs, 1.0, 1.0, 0)


def _largest(compiler, **settings):
  return search.largest_batch(run_config_of('base', **settings), 'v5e-8', FSDP, compiler)


def test_two_small_batches_tell_which_large_one_fits():
  compiler = Compiler(limit=16)
  assert _largest(compiler).batch == 8 * 8  # 4 + 8 GiB fit, 4 + 16 do not
  assert compiler.asked == [1, 2, 8]


def test_a_batch_that_was_hoped_for_is_halved_until_one_fits():
  compiler = Compiler(limit=16, tight=True)
  assert _largest(compiler).batch == 8 * 4
  assert compiler.asked == [1, 2, 8, 4]


def test_where_two_rows_are_all_no_more_are_tried():
  compiler = Compiler(limit=7)
  assert _largest(compiler).batch == 8 * 2
  assert compiler.asked == [1, 2]


def test_where_one_row_is_all_it_is_the_answer():
  compiler = Compiler(limit=5)
  assert _largest(compiler).batch == 8
  assert compiler.asked == [1, 2]


@pytest.mark.parametrize('compiler', [Compiler(limit=4), Compiler(limit=99, crashes=True)])
def test_where_nothing_fits_or_compiles_there_is_no_answer(compiler):
  assert _largest(compiler) is None and compiler.asked == [1]


def test_microbatches_make_a_row_of_a_device_several():
  assert _largest(Compiler(limit=16), num_microbatches=2).batch == 8 * 8


def test_meshes_worth_trying_hold_the_state_and_use_all_devices():
  machine = topologies.topology('v5e-8')
  shapes = lambda size: {  # noqa: E731
    (mesh.data, mesh.fsdp, mesh.tensor) for mesh in search.meshes(SIZES[size], machine, 'adamw')
  }
  # 12 heads are not divided by 8, nor 768 of embed into 8 parts of 128
  assert shapes('base') == {(8, 1, 1), (2, 4, 1), (1, 4, 2), (1, 2, 4)}
  assert shapes('xxl') == set()  # 16 bytes a parameter are 22 GB of each of 8 devices
  large = topologies.topology('v4-64')
  assert all(mesh.fsdp * mesh.tensor > 4 for mesh in search.meshes(SIZES['xxl'], large, 'adamw'))


def test_every_mesh_gives_a_candidate_and_the_fastest_is_seen():
  run = run_config_of('base')
  said = []
  found = list(search.candidates(run, 'v5e-8', Compiler(limit=16), said.append))
  meshes = search.meshes(run.model, topologies.topology('v5e-8'), 'adamw')
  assert [one.mesh for one in found] == meshes and len(said) == 3 * len(meshes)
  # 64 rows in (1e9 + 8e8 cycles) / 1.5 GHz
  assert found[0].mesh.data == 8 and found[0].rows_per_second == pytest.approx(64 / (1.8 / 1.5))


def test_settings_that_were_found_divide_validation_too():
  run = search.with_settings(run_config_of('base'), MeshConfig(4, 12, 1), 96)
  assert (run.data.batch_size, run.mesh.fsdp, run.eval.batch_size) == (96, 12, 96)
