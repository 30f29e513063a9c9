"""Updates and learning rates against formulas in numpy, optax on one layer, and transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dss_jax.models import t5
from dss_jax.training import optimizers
from dss_jax.training.factors import Factors


def _schedule(**settings):
  schedule = optimizers.make_schedule(optimizers.OptimizerConfig(**settings))
  return lambda steps: np.array([float(schedule(step)) for step in steps])


# Learning rates


def test_linear_falls_to_zero_at_the_last_step():
  rate = _schedule(learning_rate=0.8, schedule='linear', decay_steps=4)
  np.testing.assert_allclose(rate(range(6)), [0.8, 0.6, 0.4, 0.2, 0.0, 0.0], atol=1e-7)


def test_linear_after_warmup():
  rate = _schedule(learning_rate=0.8, schedule='linear', warmup_steps=2, decay_steps=6)
  np.testing.assert_allclose(rate(range(7)), [0.0, 0.4, 0.8, 0.6, 0.4, 0.2, 0.0], atol=1e-7)


def test_constant_after_warmup():
  rate = _schedule(learning_rate=0.3, schedule='constant', warmup_steps=3)
  np.testing.assert_allclose(rate([0, 1, 2, 3, 4, 1000]), [0, 0.1, 0.2, 0.3, 0.3, 0.3], atol=1e-7)
  assert (_schedule(learning_rate=0.25, schedule='constant')([0, 1, 999]) == 0.25).all()


def test_rsqrt_is_flat_during_warmup_as_in_t5x():
  rate = _schedule(learning_rate=2.0, schedule='rsqrt', warmup_steps=100)
  np.testing.assert_allclose(rate([0, 50, 100, 400, 10_000]), [0.2, 0.2, 0.2, 0.1, 0.02], rtol=1e-6)
  assert np.isfinite(_schedule(schedule='rsqrt', warmup_steps=0)([0])).all()


@pytest.mark.parametrize(
  'product, formula',
  [
    ('constant', lambda t: 0.5 + 0 * t),
    ('constant * linear_warmup', lambda t: 0.5 * np.minimum(1, t / 4)),
    ('constant*rsqrt_decay', lambda t: 0.5 / np.sqrt(np.maximum(t, 4))),
    ('constant * rsqrt_normalized_decay', lambda t: 0.5 * np.sqrt(4 / np.maximum(t, 4))),
    ('linear_decay', lambda t: 0.5 * np.minimum(t / 4, 1 + 0.25 * (4 - t))),
    ('constant * decay_every', lambda t: 0.5 * 0.25 ** (t // 3)),
    (
      'constant * cosine_decay',
      lambda t: 0.25 * (1 + np.cos(np.pi * (np.maximum(0, t - 4) / 6 % 1))),
    ),
  ],
)
@pytest.mark.parametrize('first', [0, 2])
def test_t5xs_factors_are_t5xs_formula(product, formula, first):
  factors = Factors(product, 0.25, steps_per_decay=3, steps_per_cycle=6, first_step=first)
  rate = _schedule(learning_rate=0.5, schedule='factors', warmup_steps=4, factors=factors)
  steps = np.arange(9)
  expected = np.maximum(formula(steps + first), 1e-8)
  np.testing.assert_allclose(rate(steps), expected, rtol=1e-5, atol=1e-8)


def test_unknown_factors_and_a_warm_up_of_nothing_are_refused():
  with pytest.raises(ValueError, match=r"Factors\.product is a product of constant, .*'rsqrt'"):
    Factors('constant * rsqrt')
  with pytest.raises(ValueError, match='WARMUP_STEPS'):
    optimizers.OptimizerConfig(schedule='factors')
  assert optimizers.OptimizerConfig(decay_steps=9, factors=Factors()).factors is None


@pytest.mark.torch
@pytest.mark.parametrize('warmup', [0, 7])
def test_linear_is_what_transformers_gives_at_every_step(warmup):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
  theirs = transformers.get_linear_schedule_with_warmup(sgd, warmup, 30)
  expected = []
  for _ in range(31):
    expected.append(theirs.get_last_lr()[0])
    sgd.step()
    theirs.step()
  rate = _schedule(learning_rate=5e-5, schedule='linear', warmup_steps=warmup, decay_steps=30)
  np.testing.assert_allclose(rate(range(31)), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize('schedule', optimizers.SCHEDULES)
def test_schedules_are_traced(schedule):
  settings = optimizers.OptimizerConfig(schedule=schedule, warmup_steps=2, decay_steps=9)
  rate = optimizers.make_schedule(settings)
  np.testing.assert_allclose(jax.jit(rate)(jnp.int32(5)), rate(5), rtol=1e-6)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'name': 'sgd'}, r"OPTIMIZER.*\('adamw', 'adafactor'\).*'sgd'"),
    ({'schedule': 'cosine'}, r"SCHEDULE.*'linear'.*'cosine'"),
    ({'name': 'adafactor', 'weight_decay': 0.1}, r"WEIGHT_DECAY.*'adamw' only.*not 0\.1"),
    ({}, r'TRAIN_STEPS.*not None'),
    ({'warmup_steps': 5, 'decay_steps': 5}, r'TRAIN_STEPS.*WARMUP_STEPS\) 5, not 5'),
  ],
)
def test_refusals_name_the_setting(settings, message):
  with pytest.raises(ValueError, match=message):
    optimizers.OptimizerConfig(**settings)


# Updates

AXES = {
  'encoder_layers': {
    'mlp': {'wi_0': ('layers', 'embed', 'mlp')},
    'mlp_norm': {'scale': ('layers', 'embed')},
  },
  'decoder_layers': {
    'mlp': {'wi_0': ('layers', 'embed', 'mlp')},
    'mlp_norm': {'scale': ('layers', 'embed')},
  },
  'embedding': ('vocab', 'embed'),
  'encoder_norm': {'scale': ('embed',)},
}


def _tree(seed, scale=1.0):
  """Something in the form of `t5.init`: two stacks of different depth, and single weights."""
  rng = np.random.default_rng(seed)
  shapes = {
    'encoder_layers': {'mlp': {'wi_0': (3, 130, 140)}, 'mlp_norm': {'scale': (3, 130)}},
    'decoder_layers': {'mlp': {'wi_0': (2, 8, 12)}, 'mlp_norm': {'scale': (2, 8)}},
    'embedding': (150, 129),
    'encoder_norm': {'scale': (8,)},
  }
  draw = lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)  # noqa: E731
  return jax.tree.map(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def _trained(optimizer, params, gradients):
  """Parameters after one update a gradient, in Python so that each can be read."""
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def _adafactor_in_numpy(param, gradients, rate, decay_rate=0.8):
  """Shazeer & Stern 2018, Algorithms 4 to 6 with T5X's constants, for one weight in float64."""
  param = np.asarray(param, np.float64)
  factored = param.ndim == 2 and min(param.shape) >= 128
  row, column, whole = 0.0, 0.0, 0.0
  for t, gradient in enumerate(gradients, start=1):
    gradient = np.asarray(gradient, np.float64)
    decay = 1.0 - t**-decay_rate
    square = gradient**2 + 1e-30
    if factored:
      row = decay * row + (1 - decay) * square.mean(1)
      column = decay * column + (1 - decay) * square.mean(0)
      second_moment = np.outer(row, column) / row.mean()
    else:
      second_moment = whole = decay * whole + (1 - decay) * square
    update = gradient / np.sqrt(second_moment)
    update /= max(1.0, np.sqrt(np.mean(update**2)))
    param = param - rate(t - 1) * max(1e-3, np.sqrt(np.mean(param**2))) * update
  return param


def _slices(params):
  """(path, weight of one layer) of everything, as a list that a comparison can walk."""
  for path, leaf in jax.tree.leaves_with_path(params):
    name = jax.tree_util.keystr(path)
    if '_layers' in name:
      yield from ((f'{name}[{i}]', leaf[i]) for i in range(len(leaf)))
    else:
      yield name, leaf


def _adafactor(**settings):
  settings = {'learning_rate': 0.05, 'schedule': 'constant', 'clip_norm': None, **settings}
  return optimizers.OptimizerConfig(name='adafactor', **settings)


@pytest.mark.parametrize('schedule', ['constant', 'rsqrt'])
def test_adafactor_is_the_papers_algorithm_on_every_layer(schedule):
  config = _adafactor(schedule=schedule, warmup_steps=2)
  # Layers of very different size and gradient: together they would have another scale and clip.
  uneven = jnp.array([1e-3, 1.0, 40.0])
  gradients = [_tree(seed) for seed in (1, 2, 3, 4)]
  params = _tree(0)
  for tree in (params, *gradients):
    wi = tree['encoder_layers']['mlp']
    wi['wi_0'] = wi['wi_0'] * uneven[:, None, None]
  found = dict(_slices(_trained(optimizers.make_optimizer(config, AXES), params, gradients)))
  pieces = [dict(_slices(gradient)) for gradient in gradients]
  rate = _schedule(learning_rate=0.05, schedule=schedule, warmup_steps=2)
  for name, start in _slices(params):
    expected = _adafactor_in_numpy(start, [p[name] for p in pieces], lambda t: rate([t])[0])
    moved = np.abs(expected - start).max()
    assert moved > 0
    np.testing.assert_allclose(
      found[name], expected, rtol=0, atol=2e-5 * moved + 1e-7, err_msg=name
    )


def test_adafactor_of_stacked_layers_equals_optax_on_each_layer_alone():
  config = _adafactor(decay_rate=0.7)
  alone = optax.adafactor(0.05, decay_rate=0.7)
  params, gradients = _tree(0), [_tree(seed, 0.1) for seed in (1, 2, 3)]
  found = dict(_slices(_trained(optimizers.make_optimizer(config, AXES), params, gradients)))
  pieces = [dict(_slices(gradient)) for gradient in gradients]
  for name, start in _slices(params):
    expected = _trained(alone, start, [p[name] for p in pieces])
    np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_adafactor_over_whole_stacks_would_be_another_optimizer():
  """The reason for `per_layer`: without it the layers' sizes are mixed."""
  params, gradient = _tree(0)['encoder_layers'], _tree(1)['encoder_layers']
  params['mlp']['wi_0'] = params['mlp']['wi_0'] * jnp.array([1e-2, 1.0, 10.0])[:, None, None]
  together = _trained(optax.adafactor(0.05), params, [gradient])
  apart = _trained(optimizers.per_layer(optax.adafactor(0.05)), params, [gradient])
  assert np.abs(together['mlp']['wi_0'] - apart['mlp']['wi_0']).max() > 0.1


def test_factored_moments_take_the_memory_of_rows_and_columns_only():
  state = jax.eval_shape(optimizers.make_optimizer(_adafactor(), AXES).init, _tree(0))
  sizes = [leaf.size for leaf in jax.tree.leaves(state)]
  assert max(sizes) < 3 * 140 + 1  # of a stack [3, 130, 140] and an embedding [150, 129]


def _adamw_in_numpy(param, gradients, rates, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
  """Loshchilov & Hutter 2019, Algorithm 2, in float64."""
  param, m, v = np.asarray(param, np.float64), 0.0, 0.0
  for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
    gradient = np.asarray(gradient, np.float64)
    m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
    step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    param = param - rate * (step + weight_decay * param)
  return param


@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_adamw_is_the_papers_algorithm(weight_decay):
  config = optimizers.OptimizerConfig(
    learning_rate=0.1, decay_steps=4, clip_norm=None, weight_decay=weight_decay
  )
  params, gradients = _tree(0), [_tree(seed) for seed in (1, 2, 3)]
  found = dict(_slices(_trained(optimizers.make_optimizer(config, AXES), params, gradients)))
  pieces = [dict(_slices(gradient)) for gradient in gradients]
  for name, start in _slices(params):
    expected = _adamw_in_numpy(
      start, [p[name] for p in pieces], [0.1, 0.075, 0.05], weight_decay=weight_decay
    )
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize('name', optimizers.OPTIMIZERS)
def test_clipping_is_by_the_norm_of_all_gradients_together(name):
  """A batch whose gradient is ten times too long updates as the gradient cut to length does."""
  params, gradient = _tree(0), _tree(1)
  norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))))
  settings = {'name': name, 'learning_rate': 0.1, 'schedule': 'constant'}
  clipped, free = (
    optimizers.make_optimizer(optimizers.OptimizerConfig(**settings, clip_norm=clip_norm), AXES)
    for clip_norm in (norm / 10, None)
  )
  # The second gradient is short: the first one's length shows in the moments.
  cut = jax.tree.map(lambda leaf: leaf / 10, gradient)
  short = _tree(2, 1e-3)
  found = _trained(clipped, params, [gradient, short])
  expected = _trained(free, params, [cut, short])
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_adafactor_moves_every_weight_of_the_network(tiny_config, tiny_params):
  axes = t5.logical_axes(tiny_config)
  gradient = jax.tree.map(jnp.ones_like, tiny_params)
  moved = _trained(optimizers.make_optimizer(_adafactor(), axes), tiny_params, [gradient])
  for path, leaf in jax.tree.leaves_with_path(jax.tree.map(jnp.subtract, moved, tiny_params)):
    assert np.abs(leaf).min() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize('own_biases', [False, True])
def test_weights_with_a_layer_axis_are_in_the_part_of_their_stack(tiny_config, own_biases):
  """The names of the parts are in checkpoints."""
  config = dataclasses.replace(tiny_config, relative_bias_per_layer=own_biases)
  optimizer = optimizers.make_optimizer(_adafactor(), t5.logical_axes(config))
  parts = jax.eval_shape(optimizer.init, t5.abstract(config)[0])[1].inner_states
  of = {part: {path[0] for path in _paths(state)} for part, state in parts.items()}
  encoder, decoder = {'encoder_layers'}, {'decoder_layers'}
  single = {'embedding', 'encoder_norm', 'decoder_norm', 'logits_kernel'}
  biases = {'encoder_bias', 'decoder_bias'}
  if own_biases:
    encoder, decoder = encoder | {'encoder_bias'}, decoder | {'decoder_bias'}
  else:
    single |= biases
  assert of == {'encoder_layers': encoder, 'decoder_layers': decoder, 'single': single}


def _paths(state):
  """The paths of the parameters that an Adafactor's state has something of."""
  is_factored = lambda leaf: isinstance(leaf, optax.FactoredState)  # noqa: E731
  found = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_factored) if is_factored(leaf)]
  return [
    [key.key for key in path] for one in found for path, _ in jax.tree.leaves_with_path(one.v)
  ]


def test_adafactor_of_a_bias_of_every_layer_is_that_of_each_layer_alone(tiny_config):
  config = dataclasses.replace(tiny_config, num_decoder_layers=3, relative_bias_per_layer=True)
  draw = lambda seed: t5.init(config, jax.random.key(seed))  # noqa: E731
  params, gradients = draw(0), [draw(1), draw(2)]
  uneven = jnp.array([1e-2, 1.0, 30.0])[:, None, None]
  params['decoder_bias']['embedding'] *= uneven  # together, layers would be of another size
  optimizer = optimizers.make_optimizer(_adafactor(), t5.logical_axes(config))
  found = _trained(optimizer, params, gradients)
  for stack in ('encoder_bias', 'decoder_bias'):
    start, after = params[stack]['embedding'], found[stack]['embedding']
    for layer in range(len(start)):
      expected = _adafactor_in_numpy(
        start[layer], [g[stack]['embedding'][layer] for g in gradients], lambda t: 0.05
      )
      moved = np.abs(expected - start[layer]).max()
      assert moved > 0
      np.testing.assert_allclose(after[layer], expected, rtol=0, atol=2e-5 * moved + 1e-7)
