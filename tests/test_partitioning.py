"""The mesh and the table of axes: what is divided, what stays whole, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.parallel.partitioning import MeshConfig


def _mesh(data=-1, fsdp=1, tensor=1):
  return partitioning.make_mesh(MeshConfig(data, fsdp, tensor))


@pytest.mark.parametrize(
  'given, expected',
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((-1, 2, 2), (2, 2, 2)),
    ((-1, 8, 1), (1, 8, 1)),
    ((1, 2, 4), (1, 2, 4)),
  ],
)
def test_data_takes_the_devices_that_are_left(given, expected):
  assert tuple(_mesh(*given).shape.values()) == expected
  assert tuple(_mesh(*given).shape) == ('data', 'fsdp', 'tensor')


@pytest.mark.parametrize('sizes', [(3, 1, 1), (-1, 3, 1), (8, 2, 1), (-1, 16, 1)])
def test_a_mesh_that_does_not_hold_all_devices_is_refused(sizes):
  with pytest.raises(ValueError, match=r'MESH_DATA.*8 devices.*not \d+ x \d+ x \d+'):
    _mesh(*sizes)


def test_two_axes_on_one_mesh_axis_are_refused():
  with pytest.raises(ValueError, match=r"two of.*'heads', 'mlp'.*'tensor'"):
    partitioning.spec(('heads', 'mlp'))


def test_an_axis_without_a_rule_is_refused():
  with pytest.raises(ValueError, match=r"'experts' has no rule.*'embed'"):
    partitioning.spec(('experts', 'embed'))


def test_axes_without_a_name_are_not_divided():
  divided = PartitionSpec(None, None, ('fsdp', 'data'))
  assert partitioning.spec((None, 'layers', 'embed')) == divided


def test_a_dimension_that_is_not_divisible_stays_whole():
  mesh = _mesh(2, 2, 2)
  shapes = {'a': jax.ShapeDtypeStruct((6, 5), jnp.float32), 'b': jax.ShapeDtypeStruct((5, 6), 'f4')}
  found = partitioning.shardings(mesh, shapes, {'a': ('embed', 'heads'), 'b': ('embed', 'heads')})
  assert found['a'].spec == PartitionSpec('fsdp', None)
  assert found['b'].spec == PartitionSpec(None, 'tensor')


def test_every_axis_of_the_network_has_a_rule_and_large_weights_are_divided(tiny_config):
  """All eight devices hold an eighth of each matrix, and the norms in two parts."""
  shapes, axes = t5.abstract(tiny_config)
  placed = partitioning.shardings(_mesh(1, 2, 4), shapes, axes)
  for (path, shape), sharding in zip(
    jax.tree.leaves_with_path(shapes), jax.tree.leaves(placed), strict=True
  ):
    name = jax.tree_util.keystr(path)
    parts = np.prod(shape.shape) / np.prod(sharding.shard_shape(shape.shape))
    if 'bias' in name:  # of 2 heads, which tensor = 4 does not divide
      assert parts == 1, name
    else:
      expected = 2 if 'norm' in name else 8
      # tiny_config has 2 heads of 8: the heads' axis is their product, 16
      assert parts == expected, name


def test_rows_of_a_batch_are_divided_over_data_and_fsdp():
  mesh = _mesh(2, 2, 2)
  rows = np.arange(8 * 3, dtype=np.int32).reshape(8, 3)
  (placed,) = partitioning.put_batch(mesh, {'rows': rows}).values()
  np.testing.assert_array_equal(placed, rows)
  assert placed.sharding.shard_shape(placed.shape) == (2, 3)
  assert partitioning.replicated(mesh).shard_shape((8, 3)) == (8, 3)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
  mesh = _mesh(2, 2, 2)
  partitioning.check_batch(mesh, 12, 'BATCH_SIZE')
  with pytest.raises(ValueError, match=r'BATCH_SIZE 10 is not a multiple of data x fsdp = 4'):
    partitioning.check_batch(mesh, 10, 'BATCH_SIZE')
