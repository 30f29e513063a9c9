"""The training state is made where it will live; the optimizer's arrays follow their weights."""

import jax
import numpy as np
import pytest

from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.training import optimizers, train_state
from dss_jax.training.optimizers import OptimizerConfig

MESH = partitioning.MeshConfig(2, 2, 2)
# Wide enough for Adafactor to factor the moments of some weights (128 and more).
WIDE = t5.T5Config(
  vocab_size=128, emb_dim=128, num_heads=2, head_dim=8, mlp_dim=136, num_encoder_layers=2,
  num_decoder_layers=3, dtype='float32',
)  # fmt: skip


def _optimizer(name, model):
  config = OptimizerConfig(name=name, schedule='constant')
  return optimizers.make_optimizer(config, t5.logical_axes(model))


def _by_name(tree):
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_optimizer_state_is_divided_as_its_parameter_is(name):
  state = train_state.abstract(WIDE, _optimizer(name, WIDE), partitioning.make_mesh(MESH))
  params = _by_name(state.params)
  whole_moments = dict.fromkeys(params, 0)
  for state_name, leaf in _by_name(state.opt_state).items():
    owner = max((p for p in params if state_name.endswith(p)), key=len, default=None)
    if owner and params[owner].shape == leaf.shape:
      whole_moments[owner] += 1
      assert leaf.sharding == params[owner].sharding, state_name
    else:  # counters, and Adafactor's rows, columns and placeholders: vectors for each layer
      assert leaf.size <= 3 * 136, state_name
  if name == 'adamw':  # two moments for each weight
    assert set(whole_moments.values()) == {2}
  else:  # one for each weight that is not factored
    factored = {name for name, number in whole_moments.items() if not number}
    assert "['embedding']" in factored and "['encoder_layers']['mlp']['wo']" in factored
    assert not any('norm' in name or 'bias' in name for name in factored)


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_no_device_holds_a_large_array_whole(name):
  state = train_state.create(WIDE, _optimizer(name, WIDE), partitioning.make_mesh(MESH), seed=0)
  for leaf_name, leaf in _by_name(state).items():
    held = {shard.data.size for shard in leaf.addressable_shards}
    if leaf.size > 3 * 136:  # matrices, which each of the mesh's axes divides by 2
      assert held == {leaf.size // 8}, leaf_name


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_created_state_is_the_abstract_one_and_does_not_depend_on_the_mesh(name, tiny_config):
  optimizer = _optimizer(name, tiny_config)
  states = []
  for mesh_config in (MESH, partitioning.MeshConfig(8, 1, 1)):
    mesh = partitioning.make_mesh(mesh_config)
    state = train_state.create(tiny_config, optimizer, mesh, seed=3)
    like = train_state.abstract(tiny_config, optimizer, mesh)
    for (path, leaf), expected in zip(
      jax.tree.leaves_with_path(state), jax.tree.leaves(like), strict=True
    ):
      assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype), path
      assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim), path
    states.append(state)
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_the_seed_decides_the_parameters_alone(tiny_config, tiny_params):
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  state = train_state.create(tiny_config, _optimizer('adamw', tiny_config), mesh, seed=0)
  other = train_state.create(tiny_config, _optimizer('adamw', tiny_config), mesh, seed=1)
  for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(tiny_params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  assert np.abs(state.params['embedding'] - other.params['embedding']).max() > 0.1
  assert int(state.step) == 0 and not any(map(np.any, jax.tree.leaves(state.opt_state)))
