"""What else could stop a job after an hour: data, labels, lengths, vocabulary, checkpoint, folder.

Owns the checks of what a run's settings name. Only what is named is checked: a plan needs no more
than a model and a topology. The file written to try a folder is removed again.
"""

import dataclasses
import uuid
from collections.abc import Callable
from typing import NamedTuple

from etils import epath

from dss_jax.data import pipeline
from dss_jax.runs import label_check, pretrained, rationale_scores, run_config
from dss_jax.runs.run_config import RunConfig

T5_VOCAB_SIZE = 32128  # of T5's own vocabulary, where none is named


class Check(NamedTuple):
  """The result of one check.

  Attributes:
    name: 'data', 'folder', ...
    passed: None where the check could not be made.
    text: 'ok', or what is wrong, or why the check could not be made.
  """

  name: str
  passed: bool | None = True
  text: str = 'ok'


def check(run: RunConfig) -> tuple[RunConfig, list[Check]]:
  """Checks everything that a run names.

  Args:
    run: its `vocabulary`, `data.mixture_or_task_name` and `model_dir` may be ''.

  Returns:
    The run, with its vocab_size where vocabulary or checkpoint give it, and all the checks.
  """
  results: list[Check] = []

  def attempt(name: str, checker: Callable[[RunConfig], RunConfig | None]) -> None:
    nonlocal run
    try:
      run = checker(run) or run
      results.append(Check(name))
    except Exception as error:  # TensorFlow, SeqIO and buckets have errors of their own
      text = ' '.join(str(error).split()) or type(error).__name__
      results.append(Check(name, False, f'PROBLEM: {text}'))

  if run.vocabulary:
    attempt('vocabulary', run_config.set_up_tasks)
  readable = bool(results) and bool(results[-1].passed)
  if run.data.mixture_or_task_name and readable:
    attempt('data', lambda run: _data(run, run.data.split))
    if run.eval.period:
      attempt('validation data', lambda run: _data(run, run.eval.split))
    attempt('labels', _labels)
  elif run.data.mixture_or_task_name:
    results.append(Check('data', None, 'not checked: it takes a VOCABULARY that can be read'))
  if run.initial_checkpoint_path is not None:
    attempt('checkpoint', lambda run: _checkpoint(run, readable))
  if run.model_dir:
    attempt('folder', lambda run: _writable(run.model_dir))
  return run, results


def examples_per_row(run: RunConfig) -> float:
  """Examples in a row of the first training batch, on average; `check` has set up the tasks."""
  mixture = rationale_scores.training_mixture(run)
  return next(pipeline.TrainBatches(mixture, run.data)).sequences / run.data.batch_size


def with_vocab_size(run: RunConfig, size: int = T5_VOCAB_SIZE) -> RunConfig:
  """The run with this vocab_size where it has none."""
  if run.model.vocab_size is not None:
    return run
  return dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=size))


def _data(run: RunConfig, split: str) -> None:
  name = run.data.mixture_or_task_name
  mixture = pipeline.load_mixture(
    name, split, run.objective.tasks, skip_empty=split == run.eval.split
  )
  cut = pipeline.truncations(mixture, run.data.task_feature_lengths)
  if cut:
    raise ValueError('; '.join(map(str, cut)))


def _labels(run: RunConfig) -> None:
  found = label_check.reports(run)
  if found:
    raise ValueError(' '.join(one.text for one in found))


def _checkpoint(run: RunConfig, vocabulary_is_set: bool) -> RunConfig:
  """Compares a run with its INITIAL_CHECKPOINT_PATH, whose vocab_size is the default."""
  assert run.initial_checkpoint_path is not None
  weights = pretrained.open_weights(run.initial_checkpoint_path)
  assert weights.config.vocab_size is not None
  run = with_vocab_size(run, weights.config.vocab_size)
  pretrained.check_network(weights, run.model)
  if vocabulary_is_set and weights.vocabulary is not None:
    run_config.check_vocabulary(weights.vocabulary, weights.origin)
  return run


def _writable(path: str) -> None:
  """Writes and removes a file in a folder, or in the nearest one above it that exists.

  Raises:
    ValueError: it cannot be written.
  """
  folder = epath.Path(path)
  while '://' not in path and not folder.exists():  # a bucket has no folders to be made
    folder = folder.absolute().parent
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
