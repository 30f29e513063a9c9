"""What else could stop a job after an hour: data, lengths, vocabulary, checkpoint, folder.

Owns the looks at what a run's settings name. Only what is named is looked at: a plan needs no more
than a model and a topology. Nothing is kept of what is written to try a folder.
"""

import dataclasses
import uuid
from collections.abc import Callable
from typing import NamedTuple

from etils import epath

from dss_jax import data, pretrained, run_config
from dss_jax.run_config import RunConfig


class Check(NamedTuple):
  """What was looked at, and what is wrong with it: a sentence, or '' for nothing."""

  name: str
  problem: str = ''


def check(run: RunConfig) -> tuple[RunConfig, list[Check]]:
  """Looks at everything that a run names.

  Args:
    run: its `vocabulary`, `data.mixture_or_task_name` and `model_dir` may be ''.

  Returns:
    The run, with its vocab_size where the vocabulary could be read, and a Check of each thing.
  """
  results = []

  def attempt(name: str, look: Callable[[], None]) -> None:
    try:
      look()
      results.append(Check(name))
    except (ValueError, OSError, ImportError) as error:
      results.append(Check(name, ' '.join(str(error).split()) or type(error).__name__))

  found = run
  if run.vocabulary:

    def set_up():
      nonlocal found
      found = run_config.set_up_tasks(run)

    attempt('vocabulary', set_up)
  readable = bool(run.vocabulary) and not results[-1].problem
  if run.data.mixture_or_task_name and readable:
    attempt('data', lambda: _data(found, found.data.split))
    if found.eval.period:
      attempt('validation data', lambda: _data(found, found.eval.split))
  if run.initial_checkpoint_path is not None:
    attempt('checkpoint', lambda: _checkpoint(found, readable))
  if run.model_dir:
    attempt('folder', lambda: _writable(run.model_dir))
  return found, results


def rows_hold(run: RunConfig) -> float:
  """Examples in a row of a training batch, on average over one batch; tasks are set up."""
  mixture = data.load_mixture(run.data.mixture_or_task_name, run.data.split)
  return next(data.TrainBatches(mixture, run.data)).sequences / run.data.batch_size


def with_vocab_size(run: RunConfig, size: int) -> RunConfig:
  """The run with this vocab_size where it has none."""
  if run.model.vocab_size is not None:
    return run
  return dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=size))


def _data(run: RunConfig, split: str) -> None:
  name = run.data.mixture_or_task_name
  mixture = data.load_mixture(name, split, skip_empty=split == run.eval.split)
  cut = data.truncations(mixture, run.data.task_feature_lengths)
  if cut:
    raise ValueError('; '.join(map(str, cut)))


def _checkpoint(run: RunConfig, vocabulary_is_set: bool) -> None:
  assert run.initial_checkpoint_path is not None
  weights = pretrained.open_weights(run.initial_checkpoint_path)
  pretrained.check_network(weights, run.model)
  if vocabulary_is_set and weights.vocabulary is not None:
    run_config.check_vocabulary(weights.vocabulary, weights.origin)


def _writable(path: str) -> None:
  """Writes and removes a file in a folder, or in the nearest one above it that exists.

  Raises:
    ValueError: it cannot be written.
  """
  folder = epath.Path(path).expanduser()
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  trial = folder / f'.dss_plan_{uuid.uuid4().hex}'
  try:
    trial.mkdir()
    try:
      (trial / 'file').write_text('')
    finally:
      trial.rmtree()
  except OSError as error:
    raise ValueError(
      f'MODEL_DIR {path} cannot be written: {error.strerror or error}; choose another.'
    ) from error
