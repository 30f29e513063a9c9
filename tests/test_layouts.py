"""Eight devices in every layout: what one device computes, each holding its part and no more."""

import functools
import math
import re
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from dss_jax.checkpoints.manager import Checkpoints
from dss_jax.inference import decoding
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.training import losses, optimizers, steps, train_state

LAYOUTS = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]  # each axis alone, and every pair of them
ALONE = (1, 1, 1)
# Every axis is a multiple of 8, and wide enough for Adafactor to factor moments (128 and more).
MODEL = t5.T5Config(
  vocab_size=128, emb_dim=128, num_heads=8, head_dim=16, mlp_dim=256, num_encoder_layers=2,
  num_decoder_layers=2, dropout_rate=0.1, dtype='float32',
)  # fmt: skip
VECTOR = 2 * 256  # the largest factored moment or norm: one of each layer
GREEDY = decoding.Decoding(max_length=8)


def _keep_gradients():
  """A transformation that does nothing; its state is the last gradients."""
  zeros = functools.partial(jax.tree.map, jax.numpy.zeros_like)
  return optax.GradientTransformation(zeros, lambda grads, state, params: (grads, grads))


OPTIMIZER = optax.chain(
  _keep_gradients(),
  optimizers.make_optimizer(
    optimizers.OptimizerConfig(name='adafactor', schedule='constant'), t5.logical_axes(MODEL)
  ),
)


def _mesh(layout):
  devices = jax.devices()[: math.prod(layout)]
  return partitioning.make_mesh(partitioning.MeshConfig(*layout), devices)


def _batch():
  """Eight rows of both tasks and several lengths."""
  random = np.random.default_rng(0)
  lengths = random.integers(4, 17, (8, 1))
  real = (np.arange(16) < lengths).astype(np.int32)
  tokens = random.integers(3, MODEL.vocab_size, (3, 8, 16)).astype(np.int32) * real
  return {
    'encoder_input_tokens': tokens[0],
    'encoder_segment_ids': real,
    'decoder_input_tokens': tokens[1],
    'decoder_target_tokens': tokens[2],
    'decoder_segment_ids': real,
    'decoder_loss_weights': real.astype(np.float32),
    'decoder_task_ids': np.arange(8, dtype=np.int32)[:, None] % 2 * real,
  }


class _Ran(NamedTuple):
  """An update and a decoding in one layout: the program that makes the state, and what came out."""

  program: str
  before: train_state.TrainState
  after: train_state.TrainState
  loss: float
  tokens: np.ndarray


@functools.cache
def _ran(layout):
  mesh, programs = _mesh(layout), []

  def compiled(function, **settings):
    made = jit(function, **settings)
    programs.append(made.lower(np.uint32(0)).compile().as_text())
    return made

  jit = jax.jit
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', compiled)
    before = train_state.create(MODEL, OPTIMIZER, mesh, seed=0)
  step = steps.make_train_step(MODEL, losses.Objective(), OPTIMIZER, seed=1)
  update = train_state.jit_update(step, before)
  batch = partitioning.put_batch(mesh, _batch())
  inputs = batch['encoder_input_tokens'], batch['encoder_segment_ids']
  with jax.set_mesh(mesh):
    after, metrics = update(jax.tree.map(jax.numpy.copy, before), batch)
    tokens, _ = decoding.decode(MODEL, before.params, *inputs, GREEDY)
  return _Ran(programs[-1], before, after, float(metrics['loss']), np.asarray(tokens))


@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
def test_loss_gradients_and_decoded_tokens_are_those_of_one_device(layout):
  found, wanted = _ran(layout), _ran(ALONE)
  np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-6)
  gradients, expected = found.after.opt_state[0], wanted.after.opt_state[0]
  for (path, a), b in zip(
    jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
  ):
    largest = float(np.abs(b).max())
    assert largest > 0, path
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest, err_msg=str(path))
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  assert len(np.unique(found.tokens, axis=0)) > 1


# What each device holds


def _assert_divided(state):
  """Each device holds an eighth of every matrix, moments included; whole are vectors at most."""
  large = [(path, x) for path, x in jax.tree.leaves_with_path(state) if x.size > VECTOR]
  assert len(large) == 2 * 20  # weights, and gradients that an optimizer's moments lie as
  for path, leaf in large:
    assert [shard.data.size for shard in leaf.addressable_shards] == [leaf.size // 8] * 8, path


@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
def test_state_is_never_whole_on_a_device(layout):
  """Neither as it is made or left by an update, nor within the program that makes it."""
  ran = _ran(layout)
  _assert_divided(ran.before)
  for (path, leaf), old in zip(
    jax.tree.leaves_with_path(ran.after), jax.tree.leaves(ran.before), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(old.sharding, leaf.ndim), path
  shapes = re.findall(r'\b[fu]32\[([\d,]+)\]', ran.program)
  largest = max(math.prod(map(int, shape.split(','))) for shape in shapes)
  whole = max(leaf.size for leaf in jax.tree.leaves(ran.before))
  assert 0 < largest <= whole // 8


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """The checkpoint of a state that lay in the layout 2 x 2 x 2."""
  state = _ran((2, 2, 2)).after
  checkpoints = Checkpoints(str(tmp_path_factory.mktemp('saved')))
  checkpoints.save(state, {}, None)
  checkpoints.wait()
  yield checkpoints, jax.device_get(state)
  checkpoints.close()


@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
def test_state_is_restored_in_parts(layout, saved):
  checkpoints, state = saved
  restored, _ = checkpoints.restore(1, train_state.abstract(MODEL, OPTIMIZER, _mesh(layout)))
  _assert_divided(restored)
  jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize('layout', [(1, 8, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_a_token_moves_activations_and_no_weights(layout):
  mesh = _mesh(layout)
  params = train_state.abstract(MODEL, OPTIMIZER, mesh).params
  batch = partitioning.put_batch(mesh, _batch())
  inputs = batch['encoder_input_tokens'], batch['encoder_segment_ids']
  with jax.set_mesh(mesh):
    program = decoding.decode.lower(MODEL, params, *inputs, GREEDY).compile()
  collective = re.compile(r' (?:all-gather|all-reduce|all-to-all|reduce-scatter)(?:-start)?\(')
  moved = [
    math.prod(map(int, shape.split(',')))
    for line in program.as_text().splitlines()
    if 'decode_step' in line and collective.search(line)
    for shape in re.findall(r'[fu]32\[([\d,]+)\]', collective.split(line)[0])
  ]
  assert moved and max(moved) <= len(inputs[0]) * MODEL.mlp_dim  # of all rows; a kernel has 16,384
