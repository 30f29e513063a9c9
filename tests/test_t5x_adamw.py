"""AdamW's state in T5X's checkpoints: read, continued as T5X does, written back; needs no T5X."""

import re

import jax
import numpy as np
import optax
import pytest
from etils import epath
from golden import make_t5x, make_t5x_adamw

from dss_jax import cli
from dss_jax.checkpoints import adam, moments, transfer
from dss_jax.checkpoints.t5x import t5x, t5x_adamw, t5x_files
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import pretrained
from dss_jax.training import optimizers, train_state


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
  """The folder of T5X's checkpoints, and what it computed."""
  folder = tmp_path_factory.mktemp('adamw')
  return folder, make_t5x_adamw.unpack(folder)


def whole(folder) -> dict[str, np.ndarray]:
  """All arrays of a checkpoint as T5X has them."""
  tensors = t5x_files.open_checkpoint(t5x_files.find(str(folder)))
  return {n: np.asarray(t.read((slice(None),) * len(t.shape))) for n, t in tensors.items()}


def read(opened) -> dict:
  """The state in our form."""
  parts = {k: transfer.read_all(getattr(opened.moments, k), opened.tensors) for k in adam.KINDS}
  return {'step': opened.moments.step, **parts}


def optimizer_of(case: str, model):
  """Ours that is T5X's of a case."""
  config = optimizers.OptimizerConfig(
    learning_rate=make_t5x.LEARNING_RATE,
    schedule='constant',
    clip_norm=None if case == 'plain' else 1.0,
  )
  return optimizers.make_optimizer(config, t5.logical_axes(model))


@pytest.mark.parametrize('case', make_t5x_adamw.CASES)
def test_the_state_comes_back_as_t5x_wrote_it(golden, tmp_path, case):
  opened = t5x.open_pretrained(str(golden[0] / case))
  assert opened.notes == (t5x_adamw.READ,) and opened.moments.step == make_t5x_adamw.STEP
  params = transfer.flatten(transfer.read_all(opened.recipe, opened.tensors))
  folder = tmp_path / f'checkpoint_{make_t5x_adamw.STEP}'
  t5x.write(str(folder), opened.config, params, 0, read(opened))
  theirs, ours = whole(golden[0] / case), whole(folder)
  if case == 'plain':  # we write the state of a chain with a schedule
    theirs = {re.sub('^state/param_states/0/', t5x_adamw.WRITTEN, n): a for n, a in theirs.items()}
    theirs[t5x_adamw.SCHEDULE] = theirs['state/step']
  assert theirs.keys() == ours.keys()
  for name, array in theirs.items():
    np.testing.assert_array_equal(array, ours[name], name)
    assert array.dtype == ours[name].dtype


@pytest.mark.parametrize('case', make_t5x_adamw.CASES)
def test_an_update_from_t5xs_state_is_t5xs_update(golden, tmp_path, case):
  opened = t5x.open_pretrained(str(golden[0] / case))
  weights = {n: t for n, t in opened.tensors.items() if n.startswith('target/')}
  tree = {
    name: make_t5x_adamw.value(f'gradient/{name}', array.shape)
    for name, array in whole(golden[0] / case).items()
    if name in weights
  }
  t5x_files.write(epath.Path(tmp_path / 'gradients'), tree.items(), {})
  of_gradients = t5x.open_pretrained(str(tmp_path / 'gradients'))
  gradients = transfer.read_all(of_gradients.recipe, of_gradients.tensors)
  params = transfer.read_all(opened.recipe, opened.tensors)
  optimizer = optimizer_of(case, opened.config)

  @jax.jit
  def update(params, gradients, state):
    opt_state = moments.with_moments(optimizer.init(params), state)
    changes, _ = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, changes)

  after = update(params, gradients, read(opened))
  t5x.write(str(tmp_path / 'after'), opened.config, transfer.flatten(after), 0)
  found = {n: array for n, array in whole(tmp_path / 'after').items() if n in weights}
  np.testing.assert_allclose(make_t5x.samples(found), golden[1][case], rtol=2e-6, atol=1e-7)


def test_means_go_into_the_optimizers_state_and_out_of_it(golden):
  opened = t5x.open_pretrained(str(golden[0] / 'plain'))
  params, state = transfer.read_all(opened.recipe, opened.tensors), read(opened)
  fresh = jax.jit(optimizer_of('plain', opened.config).init)(params)
  assert moments.moments_of(fresh)['step'] == 0
  taken = moments.with_moments(fresh, state)
  jax.tree.map(np.testing.assert_array_equal, moments.moments_of(taken), state)
  assert moments.optimizer_of(state) == 'AdamW'


def test_a_run_starts_with_the_state(golden, capsys):
  opened = t5x.open_pretrained(str(golden[0] / 'plain'))
  optimizer = optimizer_of('plain', opened.config)
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  abstract_state = train_state.abstract(opened.config, optimizer, mesh)
  state = pretrained.start(str(golden[0] / 'plain'), opened.config, optimizer, abstract_state)
  assert state.step == 0 and 'its AdamW state is continued' in capsys.readouterr().err
  jax.tree.map(np.testing.assert_array_equal, moments.moments_of(state.opt_state), read(opened))


def read_names(golden, config, monkeypatch) -> list[str]:
  """The arrays of the optimizer's that a run's start reads."""
  names, read_part = [], transfer.read

  def noted(leaf, *more):
    names.extend(name for name in leaf.names if name.startswith('state/'))
    return read_part(leaf, *more)

  monkeypatch.setattr(transfer, 'read', noted)
  monkeypatch.setattr(transfer, 'read_all', None)  # would read whole arrays on every host
  opened = t5x.open_pretrained(str(golden[0] / 'plain'))
  optimizer = optimizers.make_optimizer(config, t5.logical_axes(opened.config))
  mesh = partitioning.make_mesh(partitioning.MeshConfig(fsdp=2))
  abstract_state = train_state.abstract(opened.config, optimizer, mesh)
  pretrained.start(str(golden[0] / 'plain'), opened.config, optimizer, abstract_state)
  return names


def test_each_host_reads_its_part_of_a_state(golden, monkeypatch, capsys):
  config = optimizers.OptimizerConfig(schedule='constant')
  assert any('/nu/' in name for name in read_names(golden, config, monkeypatch))
  assert 'its AdamW state is continued' in capsys.readouterr().err


def test_a_state_of_another_optimizers_is_not_read(golden, monkeypatch, capsys):
  config = optimizers.OptimizerConfig(name='adafactor', schedule='constant')
  assert read_names(golden, config, monkeypatch) == []
  assert 'AdamW state is left out: OPTIMIZER is another one' in capsys.readouterr().err


def test_an_export_is_named_after_the_updates_of_its_state(golden, tmp_path):
  """What is imported is of step 0, and its state of more."""
  arguments = ['import', '--from=t5x', f'--path={golden[0] / "plain"}']
  assert cli.main([*arguments, f'--output={tmp_path / "ours"}', '--vocabulary=bytes']) == 0
  arguments = ['export', '--to=t5x', f'--checkpoint={tmp_path / "ours"}']
  assert cli.main([*arguments, f'--output={tmp_path / "out"}']) == 0
  folder = tmp_path / 'out' / f'checkpoint_{make_t5x_adamw.STEP}'
  opened = t5x.open_pretrained(str(folder))
  assert opened.moments.step == make_t5x_adamw.STEP == t5x.step_of(str(tmp_path / 'out'))
  assert str(folder) in (tmp_path / 'out' / 'README.md').read_text()


def test_another_optimizers_state_is_not_taken(golden):
  opened = t5x.open_pretrained(str(golden[0] / 'plain'))
  params = transfer.read_all(opened.recipe, opened.tensors)
  config = optimizers.OptimizerConfig(name='adafactor', schedule='constant')
  optimizer = optimizers.make_optimizer(config, t5.logical_axes(opened.config))
  assert moments.with_moments(jax.jit(optimizer.init)(params), read(opened)) is None


def test_means_of_other_parameters_are_refused(golden):
  opened = t5x.open_pretrained(str(golden[0] / 'plain'))
  params, state = transfer.read_all(opened.recipe, opened.tensors), read(opened)
  fresh = jax.jit(optimizer_of('plain', opened.config).init)(params)
  state['nu']['embedding'] = state['nu']['embedding'][:-1]
  with pytest.raises(ValueError, match=r"AdamW's state has nu of embedding with shape \(15, 8\)"):
    moments.with_moments(fresh, state)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda a, p: a.pop(f'{p}count'), 'count is missing, which AdamW needs'),
    (lambda a, p: a.pop(f'{p}mu/token_embedder/embedding'), r'\(16, 8\) for AdamW, not missing'),
    (lambda a, p: a.update({f'{p}nu_max/x': np.zeros(3, np.float32)}), 'nu_max/x too, so it is'),
    (lambda a, p: a.update({'state/param_states/1/ema/x': np.zeros(3)}), '1/ema/x too, so it is'),
    (lambda a, p: a.update({f'{p}1/nu/x': np.zeros(3, np.float32)}), 'expected one AdamW'),
  ],
)  # fmt: skip
def test_a_state_that_is_not_whole_is_left_out_and_said_so(golden, tmp_path, change, message):
  arrays = whole(golden[0] / 'plain')
  change(arrays, 'state/param_states/0/')
  large = {name: array for name, array in arrays.items() if array.ndim}
  small = {name: array for name, array in arrays.items() if not array.ndim}
  t5x_files.write(epath.Path(tmp_path / 'checkpoint_5'), large.items(), small)
  opened = t5x.open_pretrained(str(tmp_path))
  assert opened.moments is None and re.search(message, opened.notes[0])
