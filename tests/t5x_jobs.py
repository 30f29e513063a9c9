"""T5X's own jobs on the embedded data, made by gin as T5X's command makes them, to compare with.

Owns the gin text, how its parts are built, and what of ours corresponds to them. Needs T5X.
"""

import contextlib
import functools
import math
import os
import socket
import subprocess
import sys
from typing import Any
from unittest import mock

import gin
import jax
import jax.numpy as jnp
import numpy as np

from dss_jax.checkpoints import transfer
from dss_jax.checkpoints.t5x import t5x
from dss_jax.data import pipeline
from dss_jax.models.t5 import T5Config
from dss_jax.tasks import set_vocabulary

TASK = 'embedded_dss'
LENGTHS = {'inputs': 96, 'targets': 64}
ROWS = 8
SIZES: dict[str, Any] = {
  'vocab_size': 384,
  'emb_dim': 16,
  'num_heads': 2,
  'head_dim': 8,
  'mlp_dim': 32,
  'num_encoder_layers': 2,
  'num_decoder_layers': 2,
  'mlp_activations': ('gelu', 'linear'),
  'logits_via_embedding': False,
}
GIN = """
from __gin__ import dynamic_registration
import seqio
from dss_jax.t5x import batches
from dss_jax.t5x import model
from dss_jax.t5x import optimizer
from dss_jax.t5x import trainer
from t5x import adafactor
from t5x import decoding
from t5x import gin_utils
from t5x import models
from t5x import partitioning
from t5x import train as train_script
from t5x import trainer as t5x_trainer
from t5x import utils
from t5x.examples.t5 import network

MODEL = @models.EncoderDecoderModel()
models.EncoderDecoderModel:
  module = @network.Transformer()
  input_vocabulary = @seqio.ByteVocabulary()
  output_vocabulary = @seqio.ByteVocabulary()
  optimizer_def = %OPTIMIZER
  decode_fn = @decoding.temperature_sample
  z_loss = 0.0
decoding.temperature_sample:  # greedy
  temperature = 0.0
  topk = 1
network.Transformer.config = @network.T5Config()
{network}
OPTIMIZER = @adafactor.Adafactor()
adafactor.Adafactor.decay_rate = 0.8
adafactor.Adafactor.step_offset = 0
adafactor.Adafactor.logical_factor_rules = @adafactor.standard_logical_factor_rules()
optimizer.adamw.schedule = 'constant'
optimizer.adamw.learning_rate = 0.001

DISTILLING_MODEL = @model.distilling()
model.distilling:
  model = %MODEL
  mixture_or_task_name = '{task}'
DISTILLING_TRAINER = @trainer.distilling
trainer.distilling.trainer_cls = @t5x_trainer.Trainer
STOCK_TRAINER = @t5x_trainer.Trainer
t5x_trainer.Trainer.num_microbatches = None
t5x_trainer.Trainer.learning_rate_fn = @utils.create_learning_rate_scheduler()
utils.create_learning_rate_scheduler:
  factors = 'constant'
  base_learning_rate = 0.001
  warmup_steps = 1
PARTITIONER = @partitioning.PjitPartitioner()
partitioning.PjitPartitioner:
  num_partitions = 1
  logical_axis_rules = @partitioning.standard_logical_axis_rules()

train_script.train:
  model = %DISTILLING_MODEL
  trainer_cls = %DISTILLING_TRAINER
  get_dataset_fn = @batches.get_dataset
  train_dataset_cfg = @train/utils.DatasetConfig()
  train_eval_dataset_cfg = None
  infer_eval_dataset_cfg = None
  checkpoint_cfg = @utils.CheckpointConfig()
  partitioner = %PARTITIONER
  eval_steps = 1
  eval_period = 1000
  random_seed = 0
  summarize_config_fn = @gin_utils.summarize_gin_config
  verify_matching_vocabs_fn = None
train/utils.DatasetConfig:
  mixture_or_task_name = '{task}'
  task_feature_lengths = {lengths}
  split = 'train'
  batch_size = {rows}
  shuffle = True
  seed = 0
  pack = True
utils.CheckpointConfig.restore = None
utils.CheckpointConfig.save = @utils.SaveCheckpointConfig()
utils.SaveCheckpointConfig:
  period = 10
  save_dataset = True
"""


@contextlib.contextmanager
def lenient():
  """T5X's own arithmetic, in all its threads."""
  strict = {'jax_numpy_dtype_promotion': 'standard', 'jax_numpy_rank_promotion': 'allow'}
  before = {name: getattr(jax.config, name) for name in strict}
  for name, value in strict.items():
    jax.config.update(name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


@contextlib.contextmanager
def configured(*bindings: str, task: str = TASK, mesh: tuple[int, int] = (1, 1)):
  """T5X's configuration of a job of ours, with more bindings; gin is clear before and after.

  Args:
    *bindings: more lines.
    task: what is trained on.
    mesh: devices along T5X's axes 'data' and 'model'; on CPUs it has no setting for them.
  """
  from t5x import partitioning

  devices = np.reshape(jax.devices()[: math.prod(mesh)], mesh)
  settings = {**SIZES, 'dtype': 'float32', 'dropout_rate': 0.0}
  network = '\n'.join(f'network.T5Config.{name} = {value!r}' for name, value in settings.items())
  text = GIN.format(network=network, task=task, rows=ROWS, lengths=LENGTHS)
  set_vocabulary('bytes')
  with gin.unlock_config(), mock.patch.object(partitioning, 'get_cpu_mesh') as made_mesh:
    made_mesh.return_value = jax.sharding.Mesh(devices, ('data', 'model'))
    gin.clear_config()
    try:
      gin.parse_config(text + '\n'.join(bindings))
      yield
    finally:
      gin.clear_config()


def run(folder: Any, until: int, *bindings: str, mesh: tuple[int, int]) -> Any:
  """A whole job of T5X's `train` in a folder, which it continues; returns the last state."""
  from t5x import train as t5x_train

  place = f'batches.get_dataset.model_dir = {str(folder)!r}'
  lines = ['utils.SaveCheckpointConfig.period = 3', place, *bindings]
  with configured(*lines, mesh=mesh):
    train = gin.get_configurable(t5x_train.train)
    return train(model_dir=str(folder), total_steps=until, stats_period=1)[1]


def run_in_two_processes(folder: Any, until: int, axis: str) -> None:
  """As `run`, by two processes of one device each, along T5X's axis 'data' or 'model'."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  command = [sys.executable, __file__, str(folder), str(until), axis, str(port)]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  processes = [
    subprocess.Popen([*command, str(number)], env=environment, stderr=subprocess.PIPE, text=True)
    for number in range(2)
  ]
  for process in processes:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


def made(macro: str) -> Any:
  """What a macro of the configuration stands for: an object, or a function to call."""
  reference = gin.query_parameter(f'%{macro}')
  function = reference.scoped_configurable_fn
  return function() if reference.evaluate else function


def state_of(model: Any, partitioner: Any, seed: int = 0) -> tuple[Any, Any]:
  """A fresh train state on the devices, and its axes."""
  from t5x import utils

  shape = (ROWS, LENGTHS['inputs']), (ROWS, LENGTHS['targets'])
  names = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  shapes = dict(zip(names, (shape[0], shape[1], shape[1]), strict=True))
  initializer = utils.TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes=shapes,
    input_types=dict.fromkeys(names, jnp.int32),
    partitioner=partitioner,
  )
  return initializer.from_scratch(jax.random.key(seed)), initializer.train_state_axes


def trainer_of(kind: str, model: Any, partitioner: Any, state: Any, axes: Any) -> Any:
  """A trainer of the configuration: 'DISTILLING_TRAINER' or 'STOCK_TRAINER'."""
  return made(kind)(
    model=model,
    train_state=state,
    partitioner=partitioner,
    eval_names=[],
    summary_dir=None,
    train_state_axes=axes,
    rng=jax.random.key(0),
  )


def our_params(params: Any) -> tuple[T5Config, Any]:
  """Our network and parameters from T5X's."""
  from flax import traverse_util

  config = T5Config(**SIZES, dtype='float32', dropout_rate=0.0)
  theirs = traverse_util.flatten_dict({'target': params}, sep='/')
  tensors = {
    name: transfer.Tensor(array.shape, np.dtype(np.float32), np.asarray(array).__getitem__)
    for name, array in theirs.items()
  }
  return config, transfer.read_all(t5x.recipe(config), tensors)


def their_params(config: T5Config, params: Any) -> dict[str, np.ndarray]:
  """T5X's arrays, by path, from our parameters."""
  return dict(transfer.written(t5x.recipe(config), transfer.flatten(params)))


@functools.cache
def our_batches(count: int, pack: bool = True, task: str = TASK) -> list[dict[str, jax.Array]]:
  """The arrays of the first batches of our own stream."""
  from dss_jax.tasks import registration

  set_vocabulary('bytes')
  config = pipeline.DataConfig(task, LENGTHS, ROWS, pack=pack)
  tasks = registration.method_of(task).tasks
  stream = pipeline.TrainBatches(pipeline.load_mixture(task, 'train', tasks), config)
  return [jax.tree.map(jnp.asarray, next(stream).arrays) for _ in range(count)]


def main() -> None:
  """One of two processes of a job."""
  folder, until, axis, port, number = sys.argv[1:]
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=int(number))
  run(folder, int(until), mesh=(2, 1) if axis == 'data' else (1, 2))


if __name__ == '__main__':
  main()
