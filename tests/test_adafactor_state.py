"""Adafactor goes on from T5X's state as T5X does, and its state goes in and out of optax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from golden import make_t5x
from jax.sharding import NamedSharding, PartitionSpec

from dss_jax.checkpoints import adafactor, transfer
from dss_jax.checkpoints.t5x import t5x, t5x_files
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.training import optimizers, train_state

KINDS = ('rows', 'columns', 'full')


def _optimizer(model, **changes):
  settings = {'learning_rate': make_t5x.LEARNING_RATE, 'schedule': 'constant', 'clip_norm': None}
  config = optimizers.OptimizerConfig(**{'name': 'adafactor', **settings, **changes})
  return optimizers.make_optimizer(config, t5.logical_axes(model))


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """The folder of T5X's checkpoints, and what it computed."""
  folder = tmp_path_factory.mktemp('t5x')
  return folder, make_t5x.unpack(folder)


@pytest.fixture(scope='module', params=['legacy', 'legacy_scanned'])
def golden(results, request):
  """T5X's checkpoint with Adafactor's state, and its entries after one update."""
  folder, computed = results
  return t5x.open_pretrained(str(folder / request.param)), computed[f'{request.param}/updated']


def _moments(opened) -> dict:
  parts = {k: transfer.read_all(getattr(opened.moments, k), opened.tensors) for k in KINDS}
  return {'step': opened.moments.step, **parts}


def _written(folder, opened, params, moments) -> dict[str, np.ndarray]:
  """Our parameters and second moments as T5X has them."""
  t5x.write(str(folder), opened.config, transfer.flatten(params), 0, moments)
  tensors = t5x_files.open_checkpoint(epath.Path(folder))
  return {n: np.asarray(t.read((slice(None),) * len(t.shape))) for n, t in tensors.items()}


def test_an_update_from_t5xs_state_is_t5xs_update(golden, tmp_path):
  """At step 1,000,000, parameters that are factored and such that are not."""
  opened, expected = golden
  params, optimizer = transfer.read_all(opened.recipe, opened.tensors), _optimizer(opened.config)
  before = _written(tmp_path / 'before', opened, params, _moments(opened))
  gradients = {
    name: make_t5x.value(f'gradient/{name}', array.shape)
    for name, array in before.items()
    if name.startswith('target/')
  }
  t5x_files.write(epath.Path(tmp_path / 'gradients'), gradients.items(), {})
  of_gradients = t5x.open_pretrained(str(tmp_path / 'gradients'))
  gradients = transfer.read_all(of_gradients.recipe, of_gradients.tensors)

  @jax.jit
  def update(params, gradients, moments):
    state = adafactor.with_moments(optimizer.init(params), moments)
    changes, state = optimizer.update(gradients, state, params)
    return changes, adafactor.moments_of(state)

  changes, moments = update(params, gradients, _moments(opened))
  after = optax.apply_updates(params, changes)
  ours = _written(tmp_path / 'after', opened, after, moments)
  before, computed = make_t5x.samples(before), make_t5x.samples(ours)
  assert ours['state/step'] == make_t5x.STEP + 1
  assert computed.shape == expected.shape
  # What changed, to the precision that float32 leaves a parameter's change.
  assert np.abs(expected - before).max() > 1e-4
  np.testing.assert_allclose(computed, expected, rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize('clip_norm', [None, 1.0])
def test_moments_go_in_and_out(golden, clip_norm):
  opened, _ = golden
  moments = _moments(opened)
  state = _optimizer(opened.config, clip_norm=clip_norm).init(
    transfer.read_all(opened.recipe, opened.tensors)
  )
  fresh = adafactor.moments_of(state)
  assert fresh['step'] == 0
  taken = adafactor.moments_of(adafactor.with_moments(state, moments))
  jax.tree.map(np.testing.assert_array_equal, taken, moments)
  assert {kind for kind in KINDS if jax.tree.leaves(moments[kind])} == set(KINDS)


def test_only_the_decay_goes_on_and_not_the_schedule(golden):
  opened, _ = golden
  params = transfer.read_all(opened.recipe, opened.tensors)
  optimizer = _optimizer(opened.config, schedule='linear', decay_steps=10)
  state = adafactor.with_moments(optimizer.init(params), _moments(opened))
  counts = {
    jax.tree_util.keystr(path): np.unique(leaf).tolist()
    for path, leaf in jax.tree.leaves_with_path(state)
    if jnp.issubdtype(leaf.dtype, jnp.integer)
  }
  decays, schedules = list(counts.values())[0::2], list(counts.values())[1::2]
  assert decays == [[make_t5x.STEP]] * 3, counts
  assert schedules == [[0]] * 3, counts


def test_another_optimizer_has_no_such_moments(golden):
  opened, _ = golden
  params = transfer.read_all(opened.recipe, opened.tensors)
  state = _optimizer(opened.config, name='adamw').init(params)
  assert adafactor.moments_of(state) is None
  assert adafactor.with_moments(state, _moments(opened)) is None


@pytest.mark.parametrize('kind', KINDS)
def test_moments_of_other_parameters_are_refused(golden, kind):
  opened, _ = golden
  state = _optimizer(opened.config).init(transfer.read_all(opened.recipe, opened.tensors))
  moments = _moments(opened)
  path, leaf = next(iter(transfer.flatten(moments[kind]).items()))
  flat = transfer.flatten(moments[kind])
  for changed in (
    {p: v for p, v in flat.items() if p != path},
    flat | {path: leaf[..., :-1]},
    flat | {('other',): leaf},
  ):
    with pytest.raises(ValueError, match=f'state has {kind} of {"/".join(path)}|{kind} of other'):
      adafactor.with_moments(state, moments | {kind: transfer.unflatten(changed)})


def test_moments_are_placed_as_the_state_is(golden):
  """Also where it is sharded, and where the moments come from another placement."""
  opened, _ = golden
  optimizer = _optimizer(opened.config)
  mesh = partitioning.make_mesh(partitioning.MeshConfig(fsdp=4, tensor=2))
  like = train_state.abstract(opened.config, optimizer, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
  make = functools.partial(train_state.create, opened.config, optimizer, mesh, 0)
  state = make().opt_state
  spread = NamedSharding(mesh, PartitionSpec())
  for moments in (_moments(opened), jax.device_put(_moments(opened), spread)):
    placed = adafactor.with_moments(state, moments)
    assert jax.tree.map(lambda leaf: leaf.sharding, placed) == shardings.opt_state
    jax.tree.map(np.testing.assert_array_equal, adafactor.moments_of(placed), _moments(opened))
  assert any(not s.is_fully_replicated for s in jax.tree.leaves(shardings.opt_state))


def test_the_form_of_moments_is_known_without_making_any(tiny_config):
  optimizer = _optimizer(tiny_config)
  like = jax.eval_shape(lambda: optimizer.init(t5.init(tiny_config, jax.random.key(0))))
  moments = adafactor.moments_of(like)
  assert moments['rows'] == moments['columns'] == {}  # too small to be factored
  assert (
    transfer.flatten(moments['full']).keys() == transfer.flatten(t5.abstract(tiny_config)[0]).keys()
  )
