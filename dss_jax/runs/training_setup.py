"""What precedes the first step of a run: checked settings, data, devices and first state.

Owns the checks before anything is computed, what a run writes when it starts, and where its first
state comes from. The steps are training_loop.py's.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh

from dss_jax.checkpoints import finished, manager
from dss_jax.data import pipeline, subsets
from dss_jax.parallel import distributed, partitioning
from dss_jax.runs import label_check, layer_choice, memory, pretrained, rationale_scores
from dss_jax.runs.run_config import RunConfig, sentencepiece_model, set_up_tasks
from dss_jax.runs.run_folder import RunFolder
from dss_jax.runs.validation import Validation
from dss_jax.settings import gin_files, json_form, topologies
from dss_jax.tasks import registration
from dss_jax.training import train_state
from dss_jax.training.train_state import TrainState

_PLACE = ('window', 'row', 'fingerprint')  # what a checkpoint notes of the data


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSetup:
  """What a run trains with, checked in all its processes.

  Attributes:
    run: the settings, with the vocab_size known.
    folder: where the run is kept.
    mesh: the devices.
    validation: None where the run does not validate.
    batches: of training, from the first one on.
    fingerprint: of the training data.
  """

  run: RunConfig
  folder: RunFolder
  mesh: Mesh
  validation: Validation | None
  batches: pipeline.TrainBatches
  fingerprint: int


def set_up(run: RunConfig, stack: contextlib.ExitStack) -> TrainingSetup:
  """Loads the data, refuses what cannot be trained, and writes the settings to the run folder.

  Args:
    run: the settings.
    stack: gets the lock of the run folder.

  Raises:
    ValueError: settings, data or vocabulary do not fit together, or do not fit the run that the
      folder holds, or another training writes there; the message says which.
  """
  run = set_up_tasks(run)
  mesh = partitioning.make_mesh(run.mesh)
  group = run.objective.group
  partitioning.check_batch(
    mesh,
    run.data.batch_size // run.num_microbatches // group,
    'BATCH_SIZE / NUM_MICROBATCHES' + (f' / {group} rows of an example' if group > 1 else ''),
  )
  memory.check(run, mesh)
  mixture = sample(rationale_scores.training_mixture(run), run.data)
  validation = Validation.of(run, mesh)
  folder = RunFolder(run.model_dir)
  stack.enter_context(folder.lock())
  folder.refuse_foreign()
  is_continued = bool(folder.saved_steps())
  _check_leftovers(folder)
  fingerprint = pipeline.fingerprint(mixture)
  distributed.check_same(
    settings=json_form.to_dict(dataclasses.replace(run, data_dir=None)),
    data=(fingerprint, validation and pipeline.fingerprint(validation.mixture)),
    MODEL_DIR=is_continued,
  )
  if is_continued:
    folder.check_same_run(run)
  _check_labels(run, is_continued)
  _write_settings(folder, run)
  _warn_of_truncation(run, mixture, '')
  if validation is not None:
    _warn_of_truncation(run, validation.mixture, f' of {run.eval.split}')
  batches = pipeline.TrainBatches(mixture, run.data, *partitioning.local_parts(mesh))
  machine = topologies.of_device_kind(mesh.devices.flat[0].device_kind)
  model, said = layer_choice.chosen(run, machine, dict(mesh.shape))
  if said:
    distributed.log(said)
  run = dataclasses.replace(run, model=model)
  return TrainingSetup(run, folder, mesh, validation, batches, fingerprint)


def initial_state(
  setup: TrainingSetup, optimizer: optax.GradientTransformation, checkpoints: manager.Checkpoints
) -> tuple[TrainState, dict[str, Any]]:
  """The state that training starts from; moves the batches to where that state left them.

  1. The latest checkpoint of the run folder: an interrupted run continues.
  2. The parameters of INITIAL_CHECKPOINT_PATH.
  3. Random parameters from the seed.

  Returns:
    The state, and the notes saved with its checkpoint: {} where there is none yet.

  Raises:
    ValueError: the data changed since the checkpoint, or the weights are of another network.
  """
  run = setup.run
  abstract_state = train_state.abstract(run.model, optimizer, setup.mesh)
  step = checkpoints.latest()
  if step is not None:
    distributed.log(f'continuing {run.model_dir} from step {step}')
    state, data_state = checkpoints.restore(step, abstract_state)
    if not all(isinstance(data_state.get(name), int) for name in _PLACE):
      raise ValueError(
        f'the checkpoint of step {step} in {run.model_dir} does not say where in which data it '
        f'was saved ({", ".join(_PLACE)}), as those of older versions do not: start a new '
        f'MODEL_DIR from its weights with INITIAL_CHECKPOINT_PATH={run.model_dir}.'
      )
    if data_state['fingerprint'] != setup.fingerprint:
      raise ValueError(
        f'the data of {run.data.mixture_or_task_name} is not what {run.model_dir} was trained '
        'on so far: prepare it as before (raw files, filter), or choose another MODEL_DIR.'
      )
    setup.batches.restore(data_state)
    return state, data_state
  if run.initial_checkpoint_path is None:
    return train_state.create(run.model, optimizer, setup.mesh, run.seed), {}
  return pretrained.start(run.initial_checkpoint_path, run.model, optimizer, abstract_state), {}


def sample(
  mixture: Sequence[pipeline.TaskExamples], data: pipeline.DataConfig
) -> list[pipeline.TaskExamples]:
  """The tasks with the rows of TRAIN_FRACTION of the source examples, the same for every method."""
  if data.fraction == 1.0:
    return list(mixture)
  sampled: dict[str, np.ndarray] = {}
  for task in mixture:
    dataset = registration.dataset_of(task.name).name
    if dataset not in sampled:
      labels = registration.labels_of(task.name, data.split)
      kept = sampled[dataset] = subsets.chosen(labels, data.fraction, data.seed)
      distributed.log(
        f'TRAIN_FRACTION {data.fraction:g}: {kept.sum():,} of {len(kept):,} examples of {dataset} '
        f'{data.split}'
      )
  return [subsets.take(task, sampled[registration.dataset_of(task.name).name]) for task in mixture]


def _check_leftovers(folder: RunFolder) -> None:
  """Looks for a training that was here and cannot be continued; logs that it starts again.

  Raises:
    ValueError: what is left of it would be lost, or be in the way.
  """
  steps = folder.saved_steps()
  if names := finished.other_names(folder.checkpoints_folder, steps):
    raise ValueError(
      f'{folder.checkpoints_folder} holds {names[0]}, which is no finished checkpoint: put the '
      'whole checkpoint back, or move this out of there to train without it.'
    )
  last = max((row['step'] for row in folder.metric_rows()), default=0)
  if steps or not last:
    return
  period = folder.load_values().get('save_period') if folder.settings_file.exists() else None
  if isinstance(period, int) and last > 2 * period:  # the first checkpoint was complete by then
    raise ValueError(
      f'{folder.metrics_file} goes to step {last}, but {folder} has no checkpoint to continue '
      'from: put its checkpoints back, or choose another MODEL_DIR.'
    )
  distributed.log(
    f'{folder} has no checkpoint; the training that logged its step {last} starts again from step 1'
  )


def _write_settings(folder: RunFolder, run: RunConfig) -> None:
  """Writes settings, vocabulary and gin configuration to the run folder, in the main process."""
  if not distributed.is_main():
    return
  folder.save_settings(run)
  model = sentencepiece_model()
  if model:
    folder.save_vocabulary(model)
  folder.save_gin(gin_files.operative())


def _check_labels(run: RunConfig, is_continued: bool) -> None:
  """Logs which labels can never be scored as right; refuses a new run where hardly any can."""
  found = label_check.reports(run)
  refused = [one.text for one in found if one.is_refused]
  if refused and not is_continued:
    raise ValueError(' '.join(refused))
  for one in found:
    distributed.log(f'warning: {one.text}')


def _warn_of_truncation(
  run: RunConfig, mixture: Sequence[pipeline.TaskExamples], where: str
) -> None:
  """Logs which tasks of a mixture have examples that are cut."""
  for truncation in pipeline.truncations(mixture, run.data.task_feature_lengths):
    distributed.log(f'warning{where}: {truncation}')
