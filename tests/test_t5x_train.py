"""Training under T5X's own trainer against training by ours: losses, gradients, updates.

Needs T5X, which is on no package index: `make t5x`. All else is skipped there with that reason.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_folders
from flax import traverse_util

pytest.importorskip('t5x', reason='needs T5X beside us: make t5x')

import t5x_jobs
from t5x import partitioning
from t5x import trainer as t5x_trainer

from dss_jax import cli, methods
from dss_jax.checkpoints import moments, transfer
from dss_jax.checkpoints.t5x import t5x, t5x_adafactor, t5x_adamw
from dss_jax.inference import decoding
from dss_jax.models import t5
from dss_jax.parallel import partitioning as our_partitioning
from dss_jax.runs.run_folder import RunFolder
from dss_jax.t5x import model as distilled
from dss_jax.training import losses, optimizers, steps, train_state

OBJECTIVE = losses.objective(methods.get('dss').loss, losses.LossConfig())
OPTIMIZERS = {'adafactor': '@adafactor.Adafactor()', 'adamw': '@optimizer.adamw()'}
MESH = (2, 2)


@pytest.fixture(scope='module', autouse=True)
def _lenient():
  with t5x_jobs.lenient():
    yield


def job(*bindings: str, **settings):
  """A decorated model with its trainer and a fresh state, in a configuration."""
  return t5x_jobs.configured(*bindings, mesh=MESH, **settings)


def built(trainer: str = 'DISTILLING_TRAINER'):
  """The model, its trainer, and a copy of the parameters on the host."""
  model, partitioner = t5x_jobs.made('DISTILLING_MODEL'), t5x_jobs.made('PARTITIONER')
  state, axes = t5x_jobs.state_of(model, partitioner)
  params = jax.device_get(state.params)
  return model, t5x_jobs.trainer_of(trainer, model, partitioner, state, axes), params


def our_optimizer(name: str, config: t5.T5Config):
  """The optimizer of ours that is T5X's of the configuration."""
  settings = optimizers.OptimizerConfig(
    name=name, learning_rate=1e-3, schedule='constant', clip_norm=1.0 if name == 'adamw' else None
  )
  return optimizers.make_optimizer(settings, t5.logical_axes(config))


def our_updates(name: str, config: t5.T5Config, state, count: int, first: int = 0):
  """The losses of our own engine over some batches, and the state after them."""
  update = jax.jit(steps.make_train_step(config, OBJECTIVE, our_optimizer(name, config), seed=0))
  found = []
  for batch in t5x_jobs.our_batches(first + count)[first:]:
    state, metrics = update(state, batch)
    found.append(float(metrics['loss']))
  return np.array(found), state


def their_updates(trainer, count: int, first: int = 0) -> np.ndarray:
  """The losses of T5X's trainer over the same batches."""
  found = []
  for batch in t5x_jobs.our_batches(first + count)[first:]:
    metrics = trainer.train(iter([batch]), 1).result()
    found.append(float(metrics['loss'].value))
  return np.array(found)


# ---------------------------------------------------------------- one batch


@pytest.mark.parametrize('pack, count', [(True, 1), (True, 2), (True, 4), (False, 2)])
def test_loss_and_gradients_of_a_batch_are_ours(pack, count):
  batch = t5x_jobs.our_batches(1, pack)[0]
  with job(f't5x_trainer.Trainer.num_microbatches = {count}'):
    model, trainer, params = built()
    assert trainer._num_microbatches == count, "gin's binding of T5X's trainer counts"

    def gradients(state, batch):
      whole = distilled.with_totals(batch, model.distilling, state.step)
      return t5x_trainer.accumulate_grads_microbatched(
        model, state, whole, jax.random.key(0), count
      )

    theirs, metrics, _ = jax.jit(gradients)(trainer.train_state, batch)
  config, ours = t5x_jobs.our_params(params)

  def loss_of(params):
    sums = steps._task_sums(config, OBJECTIVE, params, batch, None)
    return losses.combine(sums['loss'], sums['loss_weight'], OBJECTIVE), sums

  (loss, sums), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(ours)
  expected = t5x_jobs.their_params(config, gradient)
  found = traverse_util.flatten_dict({'target': jax.device_get(theirs)}, sep='/')
  assert found.keys() == expected.keys()
  norm = np.sqrt(sum(np.square(array).sum() for array in expected.values()))
  assert max(np.abs(found[name] - expected[name]).max() for name in expected) < 1e-5 * norm
  np.testing.assert_allclose(float(metrics['loss'].total), float(loss), rtol=1e-6)
  for number, task in enumerate(OBJECTIVE.tasks):
    mean = float(sums['loss'][number] / sums['loss_weight'][number])
    np.testing.assert_allclose(float(metrics[f'{task}/loss'].compute()), mean, rtol=1e-6)


def test_the_bindings_of_t5xs_model_count():
  batch = t5x_jobs.our_batches(1)[0]
  with job(
    'models.EncoderDecoderModel.z_loss = 0.1', 'models.EncoderDecoderModel.label_smoothing = 0.2'
  ):
    model, trainer, params = built()
    whole = distilled.with_totals(batch, model.distilling, 0)
    theirs = float(model.eval_fn(trainer.train_state.params, whole)[0])
  config, ours = t5x_jobs.our_params(params)
  objective = dataclasses.replace(OBJECTIVE, z_loss=0.1, label_smoothing=0.2)
  sums = jax.jit(steps.make_eval_step(config, objective))(ours, batch)
  np.testing.assert_allclose(
    theirs, float(steps.metrics_of_sums(sums, objective)['loss']), rtol=1e-6
  )


def test_t5xs_own_trainer_is_refused_with_our_model():
  with job():
    _, trainer, _ = built('STOCK_TRAINER')
    with pytest.raises(ValueError, match=r'train_script.train.trainer_cls = @trainer\.distilling'):
      trainer.train(iter(t5x_jobs.our_batches(1)), 1)


def test_our_trainer_is_refused_with_t5xs_own_model():
  with job():
    model, partitioner = t5x_jobs.made('MODEL'), t5x_jobs.made('PARTITIONER')
    with pytest.raises(ValueError, match=r'train_script.train.model = @model\.distilling'):
      t5x_jobs.trainer_of('DISTILLING_TRAINER', model, partitioner, None, None)


@pytest.mark.parametrize(
  'bindings, task, message',
  [
    (
      ['models.EncoderDecoderModel.loss_normalizing_factor = 1.0'],
      'embedded_dss',
      'LOSS_NORMALIZING_FACTOR is None here, not 1.0',
    ),
    ([], 'embedded_pinto', 'METHOD pinto has a loss .* `dss train`'),
    ([], 'embedded_mutual_information', 'METHOD mutual_information has a loss'),
    (["model.distilling.method = 'standard'"], 'embedded_dss', 'METHOD is standard, but'),
    ([], 'embedded_curriculum', 'set distilling.train_steps'),
    (['model.distilling.train_steps_relative = 7'], 'embedded_dss', 'TRAIN_STEPS_RELATIVE is None'),
  ],
)
def test_what_t5x_cannot_train_is_refused_in_one_sentence(bindings, task, message):
  with job(*bindings, task=task), pytest.raises(ValueError, match=message):
    t5x_jobs.made('DISTILLING_MODEL')


def test_every_other_method_has_its_objective():
  for method in methods.registered():
    if not method.is_grouped:
      bindings = 'model.distilling.train_steps = 9'
      with job(bindings, task=f'embedded_{method.name}'):
        model = t5x_jobs.made('DISTILLING_MODEL')
      assert model.distilling.objective == losses.objective(method.loss, losses.LossConfig(), 9)


def test_weights_that_change_over_training_follow_the_step():
  batch = t5x_jobs.our_batches(1, task='embedded_curriculum')[0]
  objective = losses.objective(methods.get('curriculum').loss, losses.LossConfig(), 9)
  with job(
    'model.distilling.train_steps = 1009',
    'model.distilling.first_step = 1000',
    task='embedded_curriculum',
  ):
    model, trainer, params = built()
    config, ours = t5x_jobs.our_params(params)
    sums = jax.jit(steps.make_eval_step(config, objective))(ours, batch)
    for step in (1000, 1004, 1008):
      whole = distilled.with_totals(batch, model.distilling, step)
      found = float(model.loss_fn(trainer.train_state.params, whole, None)[0])
      expected = float(steps.metrics_of_sums(sums, objective, step - 1000)['loss'])
      np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_validation_has_the_weights_of_its_step():
  batch = t5x_jobs.our_batches(1, task='embedded_curriculum')[0]
  objective = losses.objective(methods.get('curriculum').loss, losses.LossConfig(), 9)
  with job('model.distilling.train_steps = 9', task='embedded_curriculum'):
    _, trainer, params = built()
    config, ours = t5x_jobs.our_params(params)
    sums = jax.jit(steps.make_eval_step(config, objective))(ours, batch)
    found, expected = [], []
    for step in (0, 4, 8):
      at_step = trainer.train_state.replace_step(jnp.int32(step))
      found.append(float(trainer._partitioned_eval_step(at_step, batch)['loss'].total))
      expected.append(float(steps.metrics_of_sums(sums, objective, step)['loss']))
  assert len(set(expected)) == 3
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_only_tasks_that_are_there_have_metrics():
  batch = dict(t5x_jobs.our_batches(1, task='embedded_label')[0])
  with job('t5x_trainer.Trainer.num_microbatches = 2'):
    _, trainer, _ = built()
    written = trainer.train(iter([batch]), 1).result()
  assert 'label/loss' in written and 'loss' in written
  assert not [name for name in written if name.startswith('rationale/')]


# ---------------------------------------------------------------- updates


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_twenty_updates_with_microbatches_are_ours(name):
  bindings = [f'OPTIMIZER = {OPTIMIZERS[name]}', 't5x_trainer.Trainer.num_microbatches = 2']
  with job(*bindings):
    _, trainer, params = built()
    theirs = their_updates(trainer, 20)
  config, ours = t5x_jobs.our_params(params)
  state = train_state.from_params(ours, our_optimizer(name, config))
  expected, _ = our_updates(name, config, state, 20)
  assert expected[-1] < expected[0] - 0.5, 'it learns'
  np.testing.assert_allclose(theirs, expected, rtol=1e-5)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_each_continues_from_the_others_checkpoint(name, tmp_path):
  """Ten updates by one, written; five more by both from what was written."""
  from t5x import checkpoints

  with job(f'OPTIMIZER = {OPTIMIZERS[name]}'):
    _, trainer, _ = built()
    their_updates(trainer, 10)
    partitioner = trainer._partitioner
    manager = checkpoints.Checkpointer(trainer.train_state, partitioner, str(tmp_path / 'theirs'))
    manager.save(trainer.train_state)
    opened = t5x.open_pretrained(str(tmp_path / 'theirs'))
    config = dataclasses.replace(opened.config, dtype='float32', dropout_rate=0.0)
    optimizer = our_optimizer(name, config)
    state = train_state.from_params(transfer.read_all(opened.recipe, opened.tensors), optimizer)
    loaded = {
      'step': opened.moments.step,
      **{
        kind: transfer.read_all(getattr(opened.moments, kind), opened.tensors)
        for kind in opened.moments._fields[1:]
      },
    }
    assert loaded['step'] == 10
    state = state._replace(opt_state=moments.with_moments(state.opt_state, loaded))
    ours, state = our_updates(name, config, state, 5, first=10)
    theirs = their_updates(trainer, 5, first=10)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)

    # And back: what we wrote after fifteen updates.
    folder = tmp_path / 'ours' / 'checkpoint_15'
    written = moments.moments_of(jax.device_get(state.opt_state))
    t5x.write(str(folder), config, transfer.flatten(state.params), 15, written)
    reader = checkpoints.Checkpointer(trainer.train_state, partitioner, str(tmp_path / 'ours'))
    trainer.train_state = reader.restore(path=str(folder))
    assert int(trainer.train_state.step) == 15
    theirs = their_updates(trainer, 5, first=15)
  ours, _ = our_updates(name, config, state, 5, first=15)
  np.testing.assert_allclose(theirs, ours, rtol=1e-5)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_the_gin_file_of_an_export_restores_its_optimizer(name, tmp_path):
  import gin
  from t5x import checkpoints, models

  run = run_folders.make_run(tmp_path / 'run', optimizer=name, steps=(2,), best=2)
  command = ['export', '--to=t5x', f'--checkpoint={run}', f'--output={tmp_path / "out"}']
  assert cli.main(command) == 0
  with job():
    gin.clear_config()
    gin.add_config_file_search_path(pathlib.Path(models.__file__).parent.parent)
    gin.parse_config_file(str(tmp_path / 'out' / 'model.gin'))
    gin.bind_parameter('%DROPOUT_RATE', 0.0)
    model = t5x_jobs.made('MODEL')
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    state, _ = t5x_jobs.state_of(model, partitioner, seed=1)
    reader = checkpoints.Checkpointer(state, partitioner, str(tmp_path / 'out'))
    restored = reader.restore(path=str(tmp_path / 'out' / 'checkpoint_2'))
  theirs = traverse_util.flatten_dict(jax.device_get(restored.state_dict()), sep='/')
  tensors = {
    name: transfer.Tensor(np.shape(array), np.asarray(array).dtype, np.asarray(array).__getitem__)
    for name, array in theirs.items()
    if isinstance(array, np.ndarray | np.generic)
  }
  recipe = t5x.recipe(run_folders.MODEL)
  if name == 'adamw':
    where, _ = t5x_adamw.find(recipe, tensors)
  else:
    where, _ = t5x_adafactor.find(run_folders.MODEL, recipe, tensors)
  ours = state_of_run(run, name)
  expected = moments.moments_of(ours.opt_state)
  assert int(restored.step) == where.step == int(expected['step']) == 2
  equal = lambda found, array: jax.tree.map(np.testing.assert_array_equal, found, array)  # noqa: E731
  equal(transfer.read_all(recipe, tensors), ours.params)
  for kind in where._fields[1:]:
    equal(transfer.read_all(getattr(where, kind), tensors), expected[kind])


def state_of_run(folder: str, optimizer: str) -> train_state.TrainState:
  """The state at step 2 of what `run_folders.make_run` made."""
  config = optimizers.OptimizerConfig(optimizer, schedule='constant')
  made = optimizers.make_optimizer(config, t5.logical_axes(run_folders.MODEL))
  mesh = our_partitioning.make_mesh(our_partitioning.MeshConfig())
  with RunFolder(folder).read_checkpoints() as saved:
    return saved.restore(2, train_state.abstract(run_folders.MODEL, made, mesh))[0]


def test_greedy_outputs_are_ours():
  batch = t5x_jobs.our_batches(1, pack=False)[0]
  with job('OPTIMIZER = @optimizer.adamw()', 'optimizer.adamw.learning_rate = 0.01'):
    model, trainer, _ = built()
    their_updates(trainer, 20)
    params = jax.device_get(trainer.train_state.params)
    asked = {name: batch[name] for name in ('encoder_input_tokens', 'decoder_input_tokens')}
    theirs = np.asarray(jax.jit(model.predict_batch)(params, asked))
  config, ours = t5x_jobs.our_params(params)
  length = theirs.shape[1]
  outputs, _ = decoding.decode(
    config,
    jax.tree.map(jnp.asarray, ours),
    batch['encoder_input_tokens'],
    batch['encoder_segment_ids'],
    decoding.Decoding(max_length=length),
  )
  assert len({tuple(row) for row in theirs.tolist()}) > 1
  np.testing.assert_array_equal(theirs, outputs)
