"""What is known of a student: how it was trained, on what data, how good it is.

Owns which facts there are and where each is read from, for the model card (model_card.py). A fact
that cannot be read is absent, never guessed.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import seqio

from dss_jax.data import pipeline
from dss_jax.inference import evaluator
from dss_jax.models.t5 import T5Config
from dss_jax.runs import run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.tasks import builder, dataset_of, prepared, preprocessors

_Z95 = statistics.NormalDist().inv_cdf(0.975)


class Score(NamedTuple):
  """The metrics of one evaluation: its task, split, number of examples, and how it decoded."""

  task: str
  split: str
  examples: int | None
  decoding: str
  metrics: Mapping[str, float]
  intervals: Mapping[str, tuple[float, float]]


class Data(NamedTuple):
  """What a student was trained on, checked to be the data that is there now.

  Attributes:
    rows: of each task in the training mixture.
    prepared: what builder.py noted of each prepared data set behind them: filter, counts, hashes.
    question: an input of the validation split without its prefix.
  """

  rows: Mapping[str, int]
  prepared: Mapping[str, Mapping[str, Any]]
  question: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
  """What a card is made of.

  Attributes:
    name: of the exported model.
    model: the network.
    vocabulary: its vocabulary.
    step: of the checkpoint.
    source: where its weights come from if they were trained elsewhere before.
    run: how it was trained here; None: only imported.
    gin: the operative configuration of `run`.
    fingerprint: of the data of `run`.
    data: of `run`, or a sentence that says why nothing is known of it.
    scores: of this step.
  """

  name: str
  model: T5Config
  vocabulary: seqio.Vocabulary
  step: int
  source: str | None = None
  run: run_config.RunConfig | None = None
  gin: str | None = None
  fingerprint: int | None = None
  data: Data | str = 'It was not trained here.'
  scores: Sequence[Score] = ()


def of_run(
  name: str,
  run: run_config.RunConfig,
  vocabulary: seqio.Vocabulary,
  step: int,
  fingerprint: int | None,
) -> Facts:
  """Reads what is known of a run; its tasks are registered and its vocabulary is the process's."""
  folder = RunFolder(run.model_dir)
  return Facts(
    name=name,
    model=run.model,
    vocabulary=vocabulary,
    step=step,
    source=run.initial_checkpoint_path and _origin(run.initial_checkpoint_path),
    run=run,
    gin=folder.load_gin(),
    fingerprint=fingerprint,
    data=_data_of(run, fingerprint),
    scores=[*_validation(run, step), *_evaluations(folder, step)],
  )


def _origin(path: str) -> str:
  """What weights are at bottom: the source of a local imported folder, else the path itself."""
  if '://' in path:
    return path
  try:
    settings = RunFolder(path).load_values()
  except (OSError, ValueError):
    return path
  return settings.get('source') or path


def _data_of(run: run_config.RunConfig, fingerprint: int | None) -> Data | str:
  name = run.data.mixture_or_task_name
  try:
    mixture = pipeline.load_mixture(name, run.data.split)
    info = dataset_of(name)
  except (ValueError, OSError) as error:
    return f'The data was not there when this card was written ({error}).'
  if pipeline.fingerprint(mixture) != fingerprint:
    return 'The data that was there when this card was written is not the data of training.'
  return Data(
    rows={part.name: len(part.examples) for part in mixture},
    prepared=dict(_prepared(info.name, run.data_dir)),
    question=_question(info.evaluation_task, run.eval.split),
  )


def _prepared(name: str, data_dir: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Notes of the prepared data sets that a data set is made of: 'svamp_asdiv' is of two."""
  for part in builder.DATASETS:
    if part in name.split('_'):
      yield part, prepared.read_metadata(prepared.newest(part, data_dir))


def _question(task: str, split: str) -> str | None:
  try:
    text = evaluator.load_examples(task, split, 1).texts['inputs_pretokenized'][0]
  except ValueError:
    return None
  return text.removeprefix(preprocessors.PREFIXES[preprocessors.LABEL])


def _validation(run: run_config.RunConfig, step: int) -> Iterator[Score]:
  """The validation of a step while training."""
  rows = RunFolder(run.model_dir).metric_rows()
  for row in rows:
    if row['step'] == step and row['kind'] == 'validation' and 'accuracy' in row:
      names = ('accuracy', 'parse_rate', 'unfinished', 'loss')
      shown = {name: row[name] for name in names if name in row}
      interval = {'accuracy': (row['accuracy_low'], row['accuracy_high'])}
      task = evaluation_task(run)
      yield Score(task, run.eval.split, run.eval.num_examples, 'greedy', shown, interval)


def _evaluations(folder: RunFolder, step: int) -> Iterator[Score]:
  """What `dss evaluate` wrote of a step."""
  for found, records in folder.evaluations(step):
    metrics, decoding = dict(found['metrics']), found['decoding']
    intervals = {}
    if 'accuracy' in metrics:
      intervals['accuracy'] = metrics.pop('accuracy_low'), metrics.pop('accuracy_high')
    if 'rouge_l' in metrics and records.exists():
      lines = records.read_text().splitlines()
      intervals['rouge_l'] = _interval([json.loads(line)['rouge_l'] for line in lines])
    how = decoding['method']
    how = f'beam {decoding["beams"]}' if how == 'beam' else how
    yield Score(found['task'], found['split'], found['examples'], how, metrics, intervals)


def _interval(values: Sequence[float]) -> tuple[float, float]:
  """The 95 % interval of a mean, by its standard error."""
  mean, error = statistics.fmean(values), 0.0
  if len(values) > 1:
    error = _Z95 * statistics.stdev(values) / math.sqrt(len(values))
  return mean - error, mean + error


def evaluation_task(run: run_config.RunConfig) -> str:
  """The task with gold labels that a run is judged by."""
  try:
    return dataset_of(run.data.mixture_or_task_name).evaluation_task
  except ValueError:
    return run.data.mixture_or_task_name
