"""A small data set of text labels, and run folders of untrained students, to test drivers on."""

from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf

from dss_jax import methods
from dss_jax.checkpoints import moments
from dss_jax.data import pipeline
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.runs import run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.tasks.registration import register_dataset
from dss_jax.training import optimizers, train_state

NAME = 'run_folders'
INPUTS = [
  'Is rain wet?',
  'A dog runs.</s>An animal moves.',
  'x',
  'Are twenty stones heavy in all?',
  'No',
]
ROWS = {
  'input': INPUTS,
  'label': ['yes', 'entailment', 'no', 'yes', 'no'],
  'rationale': ['Rain is water.', 'Dogs are animals.', 'x is short.', 'Stones weigh.', 'No is no.'],
  'teacher_label': ['yes', 'neutral', 'no', 'no', 'no'],
}
CHOICES = methods.Choices(('no', 'entailment', 'yes'))
LENGTHS = {'inputs': 48, 'targets': 12}
MODEL = t5.T5Config(
  vocab_size=384,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=32,
  num_encoder_layers=1,
  num_decoder_layers=1,
  dtype='float32',
)


def register() -> None:
  """Registers the data set, once a process."""
  if f'{NAME}_label' not in seqio.TaskRegistry.names():
    read = lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(ROWS)  # noqa: E731
    source = seqio.FunctionDataSource(read, ['train', 'validation', 'test'])
    register_dataset(NAME, source, choices=CHOICES)


def run_config_of(
  folder, method: str, optimizer: str = 'adamw', model: t5.T5Config = MODEL
) -> run_config.RunConfig:
  """The settings of a small run of a method."""
  is_grouped = methods.get(method).is_grouped  # 24: whole examples, of 3 choices or 2 rows
  data = pipeline.DataConfig(
    f'{NAME}_{method}', LENGTHS, 24 if is_grouped else 8, pack=not is_grouped
  )
  return run_config.RunConfig(
    model_dir=str(folder),
    model=model,
    data=data,
    vocabulary='bytes',
    train_steps=2,
    method=methods.get(method),
    choices=CHOICES if methods.get(method).answer.each_choice else None,
    optimizer=optimizers.OptimizerConfig(optimizer, schedule='constant'),
    eval=run_config.EvalConfig(max_decode_length=8),
  )


def make_run(
  folder,
  method: str = 'dss',
  steps: tuple[int, ...] = (1, 2),
  best: int = 1,
  optimizer: str = 'adamw',
  model: t5.T5Config = MODEL,
) -> str:
  """A run folder as `dss train` leaves it, with other parameters and means at every step."""
  register()
  run = run_config_of(folder, method, optimizer, model)
  run_folder = RunFolder(folder)
  run_folder.save_settings(run)
  model = run_config.set_up_tasks(run).model
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  mixture = pipeline.load_mixture(
    run.data.mixture_or_task_name, run.data.split, run.objective.tasks
  )
  data_state = {'window': 0, 'row': 0, 'fingerprint': pipeline.fingerprint(mixture)}
  transformation = optimizers.make_optimizer(run.optimizer, t5.logical_axes(model))
  with run_folder.open_checkpoints(keep=len(steps)) as checkpoints:
    for step in steps:
      state = train_state.create(model, transformation, mesh, seed=step)
      opt_state = moments.with_moments(state.opt_state, _means(state.opt_state, step))
      state = state._replace(step=state.step + step, opt_state=opt_state)
      checkpoints.save(state, data_state, {'accuracy': 1.0 if step == best else 0.0})
  return run.model_dir


def _means(opt_state: Any, step: int) -> Any:
  """Means of an optimizer after so many updates, of which no two entries are alike."""

  def of(leaf: Any) -> np.ndarray:
    entries = np.arange(leaf.size, dtype=np.float32).reshape(leaf.shape)
    return (step + entries / 2**14).astype(leaf.dtype)

  return jax.tree.map(of, moments.moments_of(opt_state))
