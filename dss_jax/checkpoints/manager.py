"""The checkpoints of a run: saved in the background, the latest N and the best one kept.

Owns what a checkpoint holds, which checkpoints are kept and which is the best. RunFolder
(runs/run_folder.py) owns the folder they are in. Orbax writes a checkpoint under a temporary name
and then renames it, so a killed process leaves only complete checkpoints.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from dss_jax.parallel import distributed
from dss_jax.settings import whole_files
from dss_jax.training.train_state import TrainState

BEST_METRIC = 'accuracy'
"""The validation metric whose largest value marks the best checkpoint."""
MOMENTS = 'moments'


def saved_steps(folder: epath.PathLike) -> list[int]:
  """Steps of the finished checkpoints in a folder, in order; opens and changes nothing."""
  finished = ocp.path.step.standard_name_format().find_all(epath.Path(folder))
  return sorted(metadata.step for metadata in finished)


def best_step(scores: Mapping[int, float]) -> int | None:
  """The step with the highest score, the earliest of equals; None where there are no scores."""
  return min(scores, key=lambda step: (-scores[step], step), default=None)


def save_weights(folder: epath.PathLike, params: Any, moments: Any | None) -> None:
  """Writes weights that were trained elsewhere as the checkpoint of step 0; returns when done.

  Args:
    folder: of the checkpoints; it is created.
    params: nested dict of arrays.
    moments: Adafactor's state in the form of checkpoints/adafactor.py, or None.
  """
  items = {'params': params} | ({MOMENTS: moments} if moments else {})
  # Copies one array at a time; by default, orbax copies everything at once. Its limit must be more
  # than the largest array.
  largest = max(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9 + 1e-3
  limits = {'save_concurrent_gb': largest, 'save_device_host_concurrent_gb': largest}
  with ocp.CheckpointManager(
    whole_files.absolute(folder),
    item_handlers={name: ocp.PyTreeCheckpointHandler(**limits) for name in items},
    options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
  ) as checkpoints:
    args = {name: ocp.args.PyTreeSave(item) for name, item in items.items()}
    checkpoints.save(0, args=ocp.args.Composite(**args))


def load_weights(folder: epath.PathLike, like: Any) -> Any:
  """Some of the parameters that `save_weights` wrote.

  Args:
    folder: the one that `save_weights` got.
    like: a part of the nested dict, of ShapeDtypeStructs with shardings.
  """
  path = whole_files.absolute(folder) / '0' / 'params'
  with ocp.PyTreeCheckpointer() as checkpointer:
    arguments = ocp.args.PyTreeRestore(
      like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
    )
    return checkpointer.restore(path, arguments)


def has_moments(folder: epath.PathLike) -> bool:
  """Whether `save_weights` wrote Adafactor's state too."""
  return (epath.Path(folder) / '0' / MOMENTS).exists()


def load_moments(folder: epath.PathLike) -> Any:
  """Adafactor's state that `save_weights` wrote, as numpy arrays."""
  path = whole_files.absolute(folder) / '0' / MOMENTS
  with ocp.PyTreeCheckpointer() as checkpointer:
    shapes = checkpointer.metadata(path).item_metadata.tree
    kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    return checkpointer.restore(path, restore_args=kind)


class _KeepBest(checkpoint_managers.PreservationPolicy):
  """Keeps the checkpoint of `best_step`; orbax's own BestN would keep the latest of equals."""

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: checkpoint_managers.PreservationContext
  ) -> Sequence[bool]:
    """Whether each of the checkpoints is the best."""
    best = best_step(
      {info.step: info.metrics[BEST_METRIC] for info in checkpoints if info.metrics is not None}
    )
    return [info.step == best for info in checkpoints]


class Checkpoints:
  """The checkpoints of a run; a context manager that closes itself.

  Args:
    folder: of the checkpoints, local or gs://.
    keep: how many of the latest stay, besides the best.
    read_only: for evaluation and prediction: nothing is created or cleaned up.
  """

  def __init__(self, folder: epath.PathLike, keep: int = 1, read_only: bool = False):
    self.folder = whole_files.absolute(folder)
    if read_only and not self.folder.exists():
      raise ValueError(
        f'{epath.Path(folder).parent} holds no checkpoints; MODEL_DIR is the folder that '
        '`dss train` wrote.'
      )
    latest = checkpoint_managers.LatestN(n=keep)
    self._manager = ocp.CheckpointManager(
      self.folder,
      item_names=('params', 'rest', 'data'),
      options=ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics[BEST_METRIC],  # without it, orbax saves no metrics
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, _KeepBest()]),
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def latest(self) -> int | None:
    """The last saved step, or None."""
    return self._manager.latest_step()

  def best(self) -> int | None:
    """The kept step that is best on validation, the earliest of equals; None if there is none."""
    scores = {}
    for step in self._manager.all_steps():
      metrics = self._manager.metrics(step)
      if metrics is not None:
        scores[step] = metrics[BEST_METRIC]
    return best_step(scores)

  def save(
    self,
    state: TrainState,
    data_state: Mapping[str, Any],
    metrics: Mapping[str, float] | None,
  ) -> None:
    """Saves in the background; arrays are copied before this returns.

    Args:
      state: of training.
      data_state: JSON values from which the data continues.
      metrics: of validation at this step, or None if there was no validation.
    """
    rest = {'step': state.step, 'opt_state': state.opt_state}
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      rest=ocp.args.StandardSave(rest),
      data=ocp.args.JsonSave(dict(data_state)),
    )
    step = int(state.step)
    if step not in self._manager.all_steps():
      self._manager.save(step, args=items, metrics=metrics and dict(metrics), force=True)

  def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds the metrics of a validation to the checkpoint of its step, which was saved before it."""
    # As orbax writes them: a file `metrics` in the item `metrics`.
    path = self.folder / str(step) / 'metrics' / 'metrics'
    if distributed.is_main():
      path.parent.mkdir(exist_ok=True)
      whole_files.write_text(path, json.dumps(dict(metrics)))
    distributed.barrier()
    self._manager.reload()

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state of a step, placed on devices as in `like`, and its `data_state`.

    Args:
      step: of a saved checkpoint.
      like: the state as ShapeDtypeStructs with shardings.
    """
    rest = {'step': like.step, 'opt_state': like.opt_state}
    items = self._restore(
      step,
      params=ocp.args.StandardRestore(like.params),
      rest=ocp.args.StandardRestore(rest),
      data=ocp.args.JsonRestore(),
    )
    return TrainState(items.rest['step'], items.params, items.rest['opt_state']), items.data

  def data_state(self, step: int) -> dict[str, Any]:
    """The `data_state` that `save` was given at a step."""
    return self._restore(step, data=ocp.args.JsonRestore()).data

  def restore_params(self, step: int | str, like: Any) -> Any:
    """The parameters alone of a step, of 'latest', or of 'best' (the latest if none is marked).

    Raises:
      ValueError: there is no such checkpoint.
    """
    return self._restore(self.resolve(step), params=ocp.args.StandardRestore(like)).params

  def resolve(self, step: int | str) -> int:
    """The number of a step that is given as a number, 'latest' or 'best'.

    Raises:
      ValueError: there is no such checkpoint.
    """
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise ValueError(f'{self.folder} holds no finished checkpoint; train first.')
    if step == 'latest':
      return steps[-1]
    if step == 'best':
      best = self.best()
      return steps[-1] if best is None else best
    if step not in steps:
      raise ValueError(f"STEP is 'best', 'latest' or one of {steps}, not {step!r}.")
    return int(step)

  def wait(self) -> None:
    """Waits until everything saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes saving and ends the threads."""
    self._manager.close()

  def _restore(self, step: int, **items: Any) -> Any:
    return self._manager.restore(step, args=ocp.args.Composite(**items))
