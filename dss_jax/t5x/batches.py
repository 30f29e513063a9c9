"""Our training batches as T5X's dataset: the same batches as `dss train` makes, and resumable.

Owns T5X's form of them, and the place that its checkpoints store. What is in a batch is
dss_jax/data's. T5X's alternative, SeqIO's stream, is `utils.get_dataset`, whose rows converter.py
completes.
"""

import dataclasses
import json
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from clu.data import dataset_iterator
from etils import epath

from dss_jax.checkpoints.t5x import t5x_files
from dss_jax.data import pipeline
from dss_jax.runs import training_setup
from dss_jax.settings import arguments, fields, json_form

_streams: weakref.WeakSet = weakref.WeakSet()
# What `window` and `row` depend on besides the data, with the macros. On BATCH_SIZE they do not.
_ORDER = {'seed': 'RANDOM_SEED', 'pack': 'PACK', 'task_feature_lengths': 'TASK_FEATURE_LENGTHS'}


def training_begins() -> None:
  """Says that every batch that was handed out before the next one is trained on."""
  for stream in _streams:
    stream.is_training = True


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a job is in its data.

  Attributes:
    window: of the next row, see `pipeline.TrainBatches`.
    row: of the next one in that window.
    fingerprint: of the data.
    seed: of their order.
    pack: whether rows hold several sequences.
    task_feature_lengths: of rows.
  """

  window: int
  row: int
  fingerprint: int
  seed: int
  pack: bool
  task_feature_lengths: Mapping[str, int]

  def __post_init__(self):
    fields.check(self)
    if self.window < 0 or self.row < 0:
      raise ValueError(f'window and row are at least 0, not {self.window} and {self.row}.')


class Batches(dataset_iterator.DatasetIterator):
  """The endless stream of this process's part of the batches, as T5X iterates over it.

  T5X looks at the first batch before it trains, and then saves a checkpoint: that checkpoint's
  place is before the batch.
  """

  def __init__(self, batches: pipeline.TrainBatches, fingerprint: int):
    self._batches, self._fingerprint = batches, fingerprint
    self._start = dict(batches.state)
    self.is_training = False
    self._spec = {
      name: dataset_iterator.ArraySpec(array.dtype, array.shape)
      for name, array in next(batches).arrays.items()
    }
    batches.restore(self._start)
    _streams.add(self)

  def __next__(self) -> dict[str, np.ndarray]:
    return next(self._batches).arrays

  @property
  def element_spec(self) -> dict[str, dataset_iterator.ArraySpec]:
    """Shapes and types of the arrays of one batch."""
    return self._spec

  def reset(self) -> None:
    """Starts again where the stream started."""
    self._batches.restore(self._start)

  def save(self, filename: Any) -> None:
    """Writes the place of the next batch to train on."""
    place = self._place(self._batches.state if self.is_training else self._start)
    epath.Path(filename).write_text(json.dumps(json_form.to_dict(place)))

  def restore(self, filename: Any) -> None:
    """Continues from a place that `save` wrote.

    Raises:
      ValueError: it is none, or one in other data, or in other batches of them.
    """
    try:
      text = json_form.read_text(epath.Path(filename))
      place = json_form.from_dict(Place, json_form.parse(text, str(filename)), str(filename))
    except (OSError, ValueError) as error:
      raise ValueError(
        f'{filename} is no place in our batches: continue with the get_dataset_fn that MODEL_DIR '
        f'was started with, or choose another one. {error}'
      ) from error
    if place.fingerprint != self._fingerprint:
      raise ValueError(
        'the data of MIXTURE_OR_TASK_NAME is not what MODEL_DIR was trained on: prepare it as '
        'before (raw files, filter), or choose another MODEL_DIR.'
      )
    here = self._place(self._start)
    for name, macro in _ORDER.items():
      if (there := getattr(place, name)) != (asked := getattr(here, name)):
        raise ValueError(
          f'{macro} is {asked}, but MODEL_DIR was trained with {there}, and its next batch is '
          'another one here: set it as before, or choose another MODEL_DIR.'
        )
    self._start = {'window': place.window, 'row': place.row}
    self._batches.restore(self._start)
    self.is_training = False

  def _place(self, state: Mapping[str, int]) -> Place:
    config = self._batches.config
    return Place(
      window=state['window'],
      row=state['row'],
      fingerprint=self._fingerprint,
      seed=config.seed,
      pack=config.pack,
      task_feature_lengths=config.task_feature_lengths,
    )


def get_dataset(
  cfg: Any,
  shard_id: int,
  num_shards: int,
  feature_converter_cls: Callable[..., Any],
  num_epochs: int | None = None,
  continue_from_last_checkpoint: bool = False,
  fraction: float = 1.0,
  model_dir: str | None = None,
) -> Batches:
  """Our batches for T5X's `train.get_dataset_fn`.

  Args:
    cfg: T5X's DatasetConfig; its `use_cached` and `shuffle` change nothing here.
    shard_id: which part of every batch's rows this process makes.
    num_shards: how many parts there are.
    feature_converter_cls: of the decorated model, which knows its tasks.
    num_epochs: None; the stream is endless.
    continue_from_last_checkpoint: False, as T5X calls it.
    fraction: TRAIN_FRACTION, see `pipeline.DataConfig`.
    model_dir: MODEL_DIR. A job that continues starts at the place that is stored there. T5X itself
      restores it in the first host of each group of hosts that share their rows only.

  Raises:
    ValueError: the settings do not fit, or the job in MODEL_DIR did not store its place; the
      message says which.
  """
  tasks = getattr(feature_converter_cls, 'tasks', None)
  if not tasks:
    raise ValueError('our batches need a model with our loss: `@model.distilling()`.')
  if num_epochs is not None or continue_from_last_checkpoint:
    raise ValueError('our batches are endless, and continue with save_dataset = True.')
  if cfg.seed is None:
    raise ValueError(
      'train/utils.DatasetConfig.seed is None, but the order of our batches follows from a number: '
      'set it, or take the stream of SeqIO (--gin_file=t5x/seqio_batches.gin).'
    )
  if cfg.module:
    arguments.import_modules([cfg.module])
  config = pipeline.DataConfig(
    mixture_or_task_name=cfg.mixture_or_task_name,
    task_feature_lengths=cfg.task_feature_lengths,
    batch_size=cfg.batch_size,
    split=cfg.split,
    fraction=fraction,
    pack=cfg.pack,
    seed=cfg.seed,
  )
  mixture = pipeline.load_mixture(config.mixture_or_task_name, config.split, tasks)
  mixture = training_setup.sample(mixture, config)
  batches = pipeline.TrainBatches(mixture, config, (shard_id,), num_shards)
  stream = Batches(batches, pipeline.fingerprint(mixture))
  if model_dir is not None and (place := _latest_place(model_dir)):
    stream.restore(place)
  return stream


def _latest_place(model_dir: str) -> epath.Path | None:
  """A place in the latest checkpoint of a job, if there is one; all its hosts' are the same.

  Raises:
    ValueError: the job has trained, and did not store it.
  """
  folder = t5x_files.find(model_dir)
  if folder is None:
    return None
  patterns = ('dataset/train_ds-*', 'dataset/*/train_ds-*', 'train_ds-*')
  found = sorted(path for pattern in patterns for path in folder.glob(pattern))
  if not found and (step := t5x_files.step_of(folder)):
    raise ValueError(
      f'{folder} has no place in our batches, so that they would start again at step {step}: '
      'choose another MODEL_DIR, with utils.SaveCheckpointConfig.save_dataset = True, or continue '
      'with the get_dataset_fn that it was started with.'
    )
  return next(iter(found), None)
