"""What is kept of a run, what a killed process leaves, and restoring on another mesh."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dss_jax.checkpoints.finished import saved_steps
from dss_jax.checkpoints.manager import Checkpoints, best_step
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.training import optimizers, train_state

DATA = {'window': 3, 'row': 40}


@pytest.fixture(scope='module')
def optimizer(tiny_config):
  config = optimizers.OptimizerConfig(schedule='constant')
  return optimizers.make_optimizer(config, t5.logical_axes(tiny_config))


@pytest.fixture(scope='module')
def state(tiny_config, optimizer):
  """A state on a mesh of 2 x 2 x 2, in which every array has values of its own."""
  mesh = partitioning.make_mesh(partitioning.MeshConfig(2, 2, 2))
  like = train_state.abstract(tiny_config, optimizer, mesh)
  random = np.random.default_rng(0)

  def draw(leaf):
    return jax.device_put(random.integers(0, 1000, leaf.shape).astype(leaf.dtype), leaf.sharding)

  return jax.tree.map(draw, like)


def _at(state, step):
  return state._replace(step=jax.device_put(jnp.int32(step), state.step.sharding))


def _like(tiny_config, optimizer, *shape):
  mesh = partitioning.make_mesh(partitioning.MeshConfig(*shape))
  return train_state.abstract(tiny_config, optimizer, mesh)


def _saved(folder, state, accuracies, **settings):
  """Checkpoints 1, 2, .. with these accuracies on validation, None where it was not evaluated."""
  checkpoints = Checkpoints(folder, **settings)
  for step, accuracy in enumerate(accuracies, start=1):
    metrics = None if accuracy is None else {'accuracy': accuracy, 'loss': 1.0}
    checkpoints.save(_at(state, step), DATA, metrics)
  checkpoints.wait()
  return checkpoints


def _steps(folder):
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.mark.parametrize(
  'accuracies, keep, kept, best',
  [
    ([0.1, 0.5, 0.3, 0.2], 1, [2, 4], 2),
    ([0.1, 0.5, 0.3, 0.2], 2, [2, 3, 4], 2),
    ([0.1, 0.2, 0.3, 0.4], 1, [4], 4),
    ([0.5, None, None, None], 1, [1, 4], 1),
    ([None, 0.0, None, None], 1, [2, 4], 2),
    ([None, None, None], 2, [2, 3], None),
    ([0.5, None, 0.7, None], 1, [3, 4], 3),
    ([0.1, 0.5, 0.5, 0.5], 1, [2, 4], 2),
    ([0.5, 0.5], 1, [1, 2], 1),
  ],
)
def test_the_latest_and_the_best_on_validation_stay(tmp_path, state, accuracies, keep, kept, best):
  checkpoints = _saved(tmp_path, state, accuracies, keep=keep)
  assert (checkpoints.latest(), checkpoints.best()) == (len(accuracies), best)
  checkpoints.close()
  assert _steps(tmp_path) == kept
  again = Checkpoints(tmp_path, keep=keep)
  assert (again.latest(), again.best()) == (len(accuracies), best)
  assert again.resolve('latest') == len(accuracies)
  assert again.resolve('best') == (best or len(accuracies))
  again.close()


@pytest.mark.parametrize('shape', [(2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 2, 4)])
def test_all_is_restored_bit_for_bit_on_any_mesh(tmp_path, state, tiny_config, optimizer, shape):
  checkpoints = _saved(tmp_path, state, [0.5])
  like = _like(tiny_config, optimizer, *shape)
  restored, data_state = checkpoints.restore(1, like)
  checkpoints.close()
  assert data_state == DATA and int(restored.step) == 1
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  expected = jax.tree.leaves(_at(state, 1))
  for leaf, want, place in zip(
    jax.tree.leaves(restored), expected, jax.tree.leaves(like), strict=True
  ):
    assert leaf.dtype == want.dtype and leaf.sharding.is_equivalent_to(place.sharding, leaf.ndim)
    np.testing.assert_array_equal(leaf, want)


def test_parameters_are_restored_without_the_rest(tmp_path, state, tiny_config, optimizer):
  _saved(tmp_path, state, [0.5]).close()
  shutil.rmtree(tmp_path / '1' / 'rest')
  reader = Checkpoints(tmp_path, read_only=True)
  params = reader.restore_params('best', _like(tiny_config, optimizer, 8, 1, 1).params)
  reader.close()
  for leaf, want in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True):
    np.testing.assert_array_equal(leaf, want)


def test_an_update_that_reuses_the_arrays_does_not_change_what_is_being_saved(tmp_path, state):
  """The driver donates its state to the next step while the files are still being written."""
  checkpoints = Checkpoints(tmp_path, keep=20)
  update = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  moving = _at(jax.tree.map(jnp.zeros_like, state), 0)
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), moving
  )
  for _ in range(6):
    moving = update(moving)
    checkpoints.save(moving, DATA, None)
  moving = update(moving)
  checkpoints.wait()
  for step in range(1, 7):
    restored, _ = checkpoints.restore(step, like)
    for leaf in jax.tree.leaves(restored):
      np.testing.assert_array_equal(leaf, step)
  checkpoints.close()


def test_a_step_that_is_there_is_not_saved_again(tmp_path, state):
  checkpoints = _saved(tmp_path, state, [0.5])
  checkpoints.save(_at(state, 1), {'window': 9}, None)
  checkpoints.close()
  assert Checkpoints(tmp_path, read_only=True).best() == 1


def test_what_a_killed_process_has_half_written_is_not_seen(tmp_path, state):
  """Orbax writes under a temporary name and renames: the name is what a kill leaves."""
  _saved(tmp_path, state, [0.5, 0.6], keep=2).close()
  half = tmp_path / '3.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / '2', half)
  shutil.rmtree(half / 'rest')
  reader = Checkpoints(tmp_path, read_only=True)
  assert reader.latest() == 2
  reader.close()
  assert half.exists(), 'a reader cleans nothing up: a run may be writing it'
  writer = Checkpoints(tmp_path, keep=2)
  assert writer.latest() == 2
  writer.save(_at(state, 3), DATA, None)
  writer.close()
  assert _steps(tmp_path) == [2, 3] and not half.exists()


def test_a_reader_says_where_checkpoints_come_from_and_makes_nothing(tmp_path):
  with pytest.raises(ValueError, match=r'nowhere holds no checkpoints; MODEL_DIR is the folder'):
    Checkpoints(tmp_path / 'nowhere' / 'checkpoints', read_only=True)
  assert not (tmp_path / 'nowhere').exists()


def test_a_folder_without_a_finished_checkpoint_is_told(tmp_path, state):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() is None and checkpoints.best() is None
  for step in ('latest', 'best', 3):
    with pytest.raises(ValueError, match='holds no finished checkpoint; train first'):
      checkpoints.restore_params(step, state.params)
  checkpoints.close()


def test_an_unknown_step_is_refused_with_the_ones_there_are(tmp_path, state):
  checkpoints = _saved(tmp_path, state, [0.5, 0.4])
  with pytest.raises(ValueError, match=r"'best', 'latest' or one of \[1, 2\], not 7"):
    checkpoints.resolve(7)
  assert checkpoints.resolve(1) == 1
  checkpoints.close()


def test_a_look_for_checkpoints_sees_the_finished_ones_and_changes_nothing(tmp_path, state):
  assert saved_steps(tmp_path / 'none') == []
  _saved(tmp_path, state, [0.5, 0.6], keep=2).close()
  half_written = tmp_path / '5.orbax-checkpoint-tmp'
  half_written.mkdir()
  before = sorted(tmp_path.rglob('*'))
  assert saved_steps(tmp_path) == [1, 2]
  assert sorted(tmp_path.rglob('*')) == before


def test_the_first_of_equals_is_the_best():
  assert best_step({}) is None
  assert best_step({4: 0.5, 2: 0.5, 6: 0.4}) == 2
  assert best_step({2: 0.1, 4: 0.5, 6: 0.5}) == 4
