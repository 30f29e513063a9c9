"""Relative position biases that every layer has for itself, as in umT5 and scalable_t5."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dss_jax.models import t5


@pytest.fixture(scope='module')
def own_biases(tiny_config):
  """A network whose layers have biases of their own, and its parameters."""
  config = dataclasses.replace(tiny_config, num_decoder_layers=3, relative_bias_per_layer=True)
  return config, networks.params(config, 5)


def test_biases_of_every_layer_are_stacked_and_initialized_apart(own_biases):
  config, _ = own_biases
  params = jax.jit(t5.init, static_argnums=0)(config, jax.random.key(0))
  _, axes = t5.abstract(config)
  for stack, count in (('encoder', 2), ('decoder', 3)):
    bias = params[f'{stack}_bias']['embedding']
    assert bias.shape == (count, 2, 32)
    assert axes[f'{stack}_bias']['embedding'] == ('layers', 'heads', 'buckets')
    assert len(np.unique(bias)) == bias.size
    limit = np.sqrt(6 / (2 + 32))  # of fan_avg_uniform for one layer's [heads, buckets]
    assert 0.9 * limit < np.abs(bias).max() <= limit


def test_equal_biases_in_all_layers_are_one_shared_bias(own_biases):
  config, params = own_biases
  shared = {
    name: {'embedding': tree['embedding'][0]} if name.endswith('_bias') else tree
    for name, tree in params.items()
  }
  equal = {
    name: jax.tree.map(lambda b: jnp.broadcast_to(b[:1], b.shape), tree)
    if name.endswith('_bias')
    else tree
    for name, tree in params.items()
  }
  one_bias = dataclasses.replace(config, relative_bias_per_layer=False)
  expected = networks.logits(one_bias, shared, *networks.batch())
  networks.assert_trees_near(networks.logits(config, equal, *networks.batch()), expected, 1e-6)
  assert np.abs(networks.logits(config, params, *networks.batch()) - expected).max() > 0.1


@pytest.mark.parametrize(
  'changes',
  [{'scan_layers': False}, {'remat_policy': 'minimal'}, {'remat_policy': 'full'}],
  ids=str,
)
def test_biases_of_every_layer_are_those_of_the_unrolled_loop(own_biases, changes):
  config, params = own_biases
  scanned = networks.loss_and_gradients(config, params, networks.batch(), networks.row_keys(4))
  for stack in ('encoder_bias', 'decoder_bias'):
    assert (np.abs(scanned[1][stack]['embedding']).max((1, 2)) > 0).all()
  config = dataclasses.replace(config, **changes)
  networks.assert_trees_near(
    networks.loss_and_gradients(config, params, networks.batch(), networks.row_keys(4)),
    scanned,
    1e-5,
  )
