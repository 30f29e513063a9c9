"""FLOPs against hand counts and XLA's own; seconds against sums worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from dss_jax.models import flops, t5
from dss_jax.planning import estimate
from dss_jax.planning.hlo import Collective, Costs
from dss_jax.settings import topologies

ROWS, INPUTS, TARGETS = 3, 5, 4


# ---------------------------------------------------------------- operations


def test_operations_of_a_small_network_by_hand(tiny_config):
  """embed 16, 2 heads of 8, mlp 32, 64 words, two layers each; multiply-adds of one row."""
  projections, mlp = 4 * 16 * 16, 3 * 16 * 32  # weights of four kernels, of three
  encoder = 2 * (5 * projections + 2 * 16 * 5 * 5 + 5 * mlp)
  self_attention = 4 * projections + 2 * 16 * 4 * 4
  # query and out see the 4 targets, key and value the 5 inputs
  cross_attention = 4 * 2 * 16 * 16 + 5 * 2 * 16 * 16 + 2 * 16 * 4 * 5
  decoder = 2 * (self_attention + cross_attention + 4 * mlp) + 4 * 16 * 64
  assert (encoder, decoder) == (27200, 36096)
  assert flops.encode(tiny_config, ROWS, INPUTS) == 2 * 3 * 27200
  assert flops.forward(tiny_config, ROWS, INPUTS, TARGETS) == 2 * 3 * (27200 + 36096)
  assert flops.train_step(tiny_config, ROWS, INPUTS, TARGETS) == 3 * 2 * 3 * (27200 + 36096)


def test_decoding_attends_to_the_whole_cache_for_every_token(tiny_config):
  forward = flops.forward(tiny_config, ROWS, INPUTS, TARGETS)
  decode = flops.decode(tiny_config, ROWS, INPUTS, TARGETS)
  assert decode - forward == 2 * ROWS * 2 * (2 * 16 * 4 * 1)  # one key more, in both layers


def test_a_feed_forward_without_a_gate_has_two_kernels(tiny_config):
  relu = dataclasses.replace(tiny_config, mlp_activations=('relu',))
  difference = flops.encode(tiny_config, 1, 1) - flops.encode(relu, 1, 1)
  assert difference == 2 * 2 * 16 * 32


@pytest.mark.parametrize('shape', [(2, 64, 32), (4, 32, 64)])
def test_xla_counts_as_many_for_an_unrolled_network(shape):
  """XLA also counts norms, softmax and the loss: a few per cent more."""
  rows, inputs, targets = shape
  model = t5.T5Config(512, 128, 4, 32, 384, 2, 2, dropout_rate=0.0, scan_layers=False)
  tokens = [jax.ShapeDtypeStruct((rows, n), jnp.int32) for n in (inputs, inputs, targets, targets)]

  def loss(params, *batch):
    return jnp.sum(jax.nn.logsumexp(t5.bind(model, params)(*batch), axis=-1))

  def count(function) -> float:
    return jax.jit(function).lower(t5.abstract(model)[0], *tokens).cost_analysis()['flops']

  for function, counted in ((loss, flops.forward), (jax.grad(loss), flops.train_step)):
    ours = counted(model, rows, inputs, targets)
    assert 1.0 < count(function) / ours < 1.06


def test_parameters_are_those_of_the_network(tiny_config):
  """By hand: tables and logits, six norms and kernels of each pair of layers, biases, two norms."""
  layer = 4 * 256 + 3 * 512
  expected = 2 * 64 * 16 + 2 * (layer + 32) + 2 * (layer + 4 * 256 + 48) + 2 * 2 * 32 + 2 * 16
  assert flops.parameters(tiny_config) == expected


# ---------------------------------------------------------------- seconds

V5E = topologies.topology('v5e-8')  # 1.5 GHz, 819 GB/s, 197 TFLOP/s, 50 GB/s a link


def test_cycles_are_seconds_of_the_clock():
  found = estimate.seconds(Costs(3_000_000_000, (), ()), V5E)
  assert found == estimate.Seconds(compute=2.0, overlapped=0.0, exposed=0.0)
  assert found.step == 2.0


def test_what_has_no_estimate_takes_the_longer_of_its_bytes_and_operations():
  bytes_alone = Costs(0, ((0, 819 * 10**9, 3),), ())
  assert estimate.seconds(bytes_alone, V5E).compute == pytest.approx(3 / 0.8)
  operations = Costs(0, ((197 * 10**12, 819, 1), (0, 819 * 10**9, 1)), ())
  assert estimate.seconds(operations, V5E).compute == pytest.approx(1 / 0.6 + 1 / 0.8)


@pytest.mark.parametrize(
  'kind, seconds',
  [
    # of 100 GB, 7/8 leave each device, half of them each way round at 50 GB/s
    ('all-gather', 7 / 8),
    ('reduce-scatter', 7 / 8),
    ('all-reduce', 2 * 7 / 8),
    ('collective-permute', 1.0),
  ],
)
def test_a_collective_goes_both_ways_round_one_ring(kind, seconds):
  costs = Costs(0, (), (Collective(kind, 8, False, 4, 100 * 10**9),))
  assert estimate.seconds(costs, V5E).exposed == pytest.approx(seconds)


def test_a_step_takes_the_longer_of_what_runs_side_by_side():
  gather = Collective('all-gather', 8, True, 1, 8 * 10**11)
  exposed = Collective('all-gather', 8, False, 1, 8 * 10**10)
  hidden = estimate.seconds(Costs(15 * 10**9, (), (gather, exposed)), V5E)
  assert hidden.step == pytest.approx(10 + 0.7)
  waiting = estimate.seconds(Costs(15 * 10**8, (), (gather, exposed)), V5E)
  assert (waiting.compute, waiting.overlapped) == (1.0, pytest.approx(7.0))
  assert waiting.step == pytest.approx(7 + 0.7)
