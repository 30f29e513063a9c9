"""The checkpoints of a run: saved in the background, the latest N and the best one kept.

Owns what a checkpoint holds, which checkpoints are kept and which is the best, and the words for
one that cannot be saved or read. RunFolder (runs/run_folder.py) owns the folder they are in. Orbax
writes a checkpoint under a temporary name and then renames it, so a killed process leaves only
complete checkpoints.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from dss_jax.checkpoints import checksums, finished, stored_shapes
from dss_jax.parallel import distributed
from dss_jax.settings import json_form, whole_files, whole_folders
from dss_jax.training.train_state import TrainState

BEST_METRIC = 'accuracy'
"""The validation metric whose largest value marks the best checkpoint."""
MOMENTS = 'moments'
_NOTES = 'data'  # small, and looked at whatever is read: a checkpoint is whole, or it is damaged
_METRICS = 'metrics'  # orbax keeps them in a file of this name in an item of this name
# How the message of an array library starts where a later try may succeed.
_PASSING = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'RESOURCE_EXHAUSTED')


def best_step(scores: Mapping[int, float]) -> int | None:
  """The step with the highest score, the earliest of equals; None where there are no scores."""
  return min(scores, key=lambda step: (-scores[step], step), default=None)


@whole_folders.to_its_end
def save_weights(folder: epath.PathLike, params: Any, moments: Any | None) -> None:
  """Writes weights that were trained elsewhere as the checkpoint of step 0; returns when done.

  Args:
    folder: of the checkpoints; it is created.
    params: nested dict of arrays.
    moments: the optimizer's state in the form of checkpoints/moments.py, or None.
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
  checksums.write(whole_files.absolute(folder) / '0', 0)


@whole_folders.to_its_end
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
  """Whether `save_weights` wrote an optimizer's state too."""
  return (epath.Path(folder) / '0' / MOMENTS).exists()


def load_moments(folder: epath.PathLike) -> Any:
  """The optimizer's state that `save_weights` wrote, as numpy arrays.

  Raises:
    ValueError: its files are not those that were written.
  """
  path = whole_files.absolute(folder) / '0' / MOMENTS
  if damage := checksums.damage(path.parent, 0, [MOMENTS]):
    raise ValueError(f'{path.parent} is damaged: {damage}. Import the weights again.')
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
    _check_metrics(self.folder)
    self._read_only = read_only
    self._step: int | None = None  # the one that is being saved
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
        # With folders made in the background, a save that cannot begin ends after minutes.
        async_options=ocp.options.AsyncOptions(
          create_directories_asynchronously=False, post_finalization_callback=self._add_checksums
        ),
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: type | None, *error: object) -> None:
    # Of two errors, the first is told.
    with contextlib.suppress(*([] if kind is None else [Exception])):
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

    Raises:
      OSError: this save cannot begin, or the one before it failed.
    """
    rest = {'step': state.step, 'opt_state': state.opt_state}
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      rest=ocp.args.StandardSave(rest),
      data=ocp.args.JsonSave(dict(data_state)),
    )
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self.wait()
    self._step = step
    with self._saving():
      self._manager.save(step, args=items, metrics=metrics and dict(metrics), force=True)

  def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds the metrics of a validation to the checkpoint of its step, which was saved before it."""
    path = self.folder / str(step) / _METRICS / _METRICS
    if distributed.is_main():
      path.parent.mkdir(exist_ok=True)
      whole_files.write_text(path, json.dumps(dict(metrics)))
      checksums.add(self.folder / str(step), f'{_METRICS}/{_METRICS}')
    distributed.barrier()
    self._manager.reload()

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state of a step, placed on devices as in `like`, and its `data_state`.

    Args:
      step: of a saved checkpoint.
      like: the state as ShapeDtypeStructs with shardings.

    Raises:
      ValueError: the checkpoint is damaged; the message says how, and which others are good.
    """
    rest = {'step': like.step, 'opt_state': like.opt_state}
    items = self._restore(
      step,
      params=ocp.args.StandardRestore(like.params),
      rest=ocp.args.StandardRestore(rest),
      data=ocp.args.JsonRestore(),
    )
    if int(items.rest['step']) != step:
      raise self._unreadable(step, f'it is a copy of the checkpoint of step {items.rest["step"]}')
    return TrainState(items.rest['step'], items.params, items.rest['opt_state']), items.data

  def data_state(self, step: int) -> dict[str, Any]:
    """The `data_state` that `save` was given at a step."""
    return self._restore(step, data=ocp.args.JsonRestore()).data

  def restore_params(self, step: int | str, like: Any) -> Any:
    """The parameters alone of a step, of 'latest', or of 'best' (the latest if none is marked).

    Raises:
      ValueError: there is no such checkpoint, or it is damaged.
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
    """Waits until everything saved is on disk.

    Raises:
      OSError: it could not be written; the message says what was saved last.
    """
    with self._saving():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes saving and ends the threads.

    Raises:
      OSError: as in `wait`.
    """
    with self._saving():
      self._manager.close()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as error:  # array libraries raise ValueError for a full disk
      steps = finished.saved_steps(self.folder) if self.folder.is_dir() else []
      last = f'Step {steps[-1]} was saved last' if steps else 'No step was saved before'
      go_on = f'continues from step {steps[-1]}' if steps else 'starts again'
      raise OSError(
        f'the checkpoint of step {self._step} could not be saved in {self.folder}: '
        f'{_reason(error)}. {last}; once this is mended, the same command {go_on}.'
      ) from error

  def _add_checksums(self) -> None:
    """Notes the checksums of a checkpoint, in the main process, before it gets its name."""
    assert self._step is not None
    temporary = self.folder / f'{self._step}.orbax-checkpoint-tmp'
    in_bucket = self.folder / str(self._step)
    checksums.write(temporary if temporary.exists() else in_bucket, self._step)

  def _restore(self, step: int, **items: Any) -> Any:
    folder = self.folder / str(step)
    damage = checksums.damage(folder, step, {*items, _NOTES}) if distributed.is_main() else None
    if damage:
      raise self._unreadable(step, damage, **items)
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
      if 'data' in items and not isinstance(restored.data, dict):
        raise ValueError(f'data/metadata holds {restored.data!r:.80} instead of a JSON object')
      return restored
    except (RuntimeError, MemoryError):  # of the devices
      raise
    except Exception as error:
      reason = _reason(error)
      if reason.startswith(_PASSING):
        raise OSError(f'{folder} could not be read: {reason}.') from error
      wanted = {name: arg.item for name, arg in items.items() if name != 'data'}
      for name, like in wanted.items():
        if other := stored_shapes.difference(folder / name, like):
          raise ValueError(
            f'the checkpoint {folder} holds another network than the settings describe: {other}. '
            'Set the settings back to those that it was trained with.'
          ) from error
      raise self._unreadable(step, reason, **items) from error

  def _unreadable(self, step: int, reason: str, **items: Any) -> Exception:
    """The error for a checkpoint that cannot be read, with the others that can be."""
    folder = self.folder / str(step)
    if not folder.exists():
      return OSError(
        f'{folder} was removed while it was read: a training keeps only the latest and the best. '
        'The same command reads a newer one.'
      )
    good = [
      other for other in finished.saved_steps(self.folder) if self._is_good(other, step, items)
    ]
    move = f'move {folder} out of {self.folder}'
    if step == 0:
      way = 'Import the weights again.'
    elif not good:
      way = 'No other checkpoint here is good: choose another MODEL_DIR.'
    elif self._read_only:
      way = f'Good are {good}: give --step={good[-1]}, or {move}.'
    else:
      way = f'Good are {good}: {move} to continue from step {good[-1]}.'
    return ValueError(f'the checkpoint {folder} is damaged: {reason}. {way}')

  def _is_good(self, step: int, damaged: int, items: Mapping[str, Any]) -> bool:
    """Whether the same items of a checkpoint can be read; one process alone tries without sums."""
    folder = self.folder / str(step)
    if step == damaged or checksums.damage(folder, step, {*items, _NOTES}):
      return False
    if checksums.are_in(folder):
      return all((folder / item).exists() for item in items)
    if distributed.is_multiprocess():
      return False
    with contextlib.suppress(Exception):
      self._manager.restore(step, args=ocp.args.Composite(**items))
      return True
    return False


def _check_metrics(folder: epath.Path) -> None:
  """Refuses checkpoints whose metrics cannot be read: which one is the best would not be known.

  Raises:
    ValueError: they are damaged; the message says how to go on.
  """
  steps = finished.saved_steps(folder)
  for step in steps:
    path = folder / str(step)
    damage = checksums.damage(path, step, [_METRICS])
    if damage is None and (path / _METRICS / _METRICS).exists():
      try:
        value = json_form.read_object(path / _METRICS / _METRICS)[BEST_METRIC]
        damage = None if math.isfinite(value) else f'its {BEST_METRIC} is {value}'
      except (ValueError, TypeError, KeyError, OverflowError):
        damage = f'its file {_METRICS}/{_METRICS} is not JSON with a number {BEST_METRIC!r}'
    if damage:
      others = sorted({*steps} - {step})
      way = f'Move it out of {folder} to go on with the others: {others}.'
      if not others:
        way = 'There is no other: put a copy of that file back, or choose another MODEL_DIR.'
      raise ValueError(f'the checkpoint {path} is damaged: {damage}. {way}')


def _reason(error: BaseException) -> str:
  """What lies behind an error, shortly: the system's words, or the start of a library's."""
  while error.__cause__ is not None:
    error = error.__cause__
  if isinstance(error, json.JSONDecodeError):
    return f'a file in it is not JSON ({error})'
  text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  if code := re.search(r"\[os_error_code='(\d+)'\]", text):
    return os.strerror(int(code[1]))
  text = ' '.join(text.split(' [tensorstore_spec')[0].split())
  return (text[:200] or type(error).__name__).rstrip('.')
