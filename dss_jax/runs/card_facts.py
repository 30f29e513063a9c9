"""What is known about a student: how it was trained, on what data, how good it is.

Owns the choice of facts for the model card (model_card.py), and where each is read from. A fact
that cannot be read is absent, never guessed.
"""

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import seqio
from etils import epath

from dss_jax import methods
from dss_jax.data import pipeline
from dss_jax.datasets import completions
from dss_jax.methods.base import Row
from dss_jax.models.t5 import T5Config
from dss_jax.runs import rationale_scores, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import fields, json_form
from dss_jax.tasks import prepared, registration

WITHOUT_A_RUN = 64
"""Most tokens of an output of weights that were not trained here."""
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
  """What a student was trained on; checked to be the same data that is found now.

  Attributes:
    rows: number of rows of each task in the training mixture.
    prepared: builder.py's notes on each prepared data set behind them: filter, counts, hashes.
    teacher: who wrote the rationales and teacher labels; '' where that is not recorded.
    unlabeled: prepared data sets whose labels are the teacher's, whatever the method.
    question: an example of the validation split, or None where there is none.
  """

  rows: Mapping[str, int]
  prepared: Mapping[str, Mapping[str, Any]]
  teacher: str
  unlabeled: Sequence[str]
  question: Mapping[str, str] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
  """All facts of a model card.

  Attributes:
    name: of the exported model.
    model: the network.
    vocabulary: its vocabulary.
    step: of the checkpoint.
    source: where its weights come from if they were trained elsewhere before.
    run: how it was trained here; None: only imported.
    gin: the operative configuration of `run`.
    fingerprint: of the data of `run`.
    data: of `run`, or a sentence that says why it is not known.
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


def teacher_facts(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
  """How the teacher of a prepared data set was asked, as (name, value); what is known of it.

  Args:
    notes: of builder.py on the data set.
  """
  try:
    found = completions.provenance_of(notes.get('provenance') or None, 'provenance')
  except ValueError:  # there is none, or somebody wrote another one
    return []
  listed = {
    name: ', '.join(f'{key} {value}' for key, value in values.items() if value is not None)
    for name, values in (('parameters', found.parameters), ('tokens', found.tokens))
  }
  facts = {
    'model': found.teacher,
    'prompt': ', version '.join(found.prompt.get(key, '?') for key in ('name', 'version'))
    if found.prompt
    else '',
    'parameters': listed['parameters'],
    'asked on': found.date,
    'requests': str(found.requests or ''),
    'tokens': listed['tokens'],
    'cost': '' if found.usd is None else f'{found.usd:.2f} US dollars',
    'licence of its outputs': found.licence_note,
  }
  return [(name, value) for name, value in facts.items() if value]


def output_lengths(facts: Facts) -> dict[Row, int]:
  """The rows that a student answers, its method's answer first, and most tokens of each output.

  For weights that were not trained here, the rows are those of step by step.
  """
  method = (facts.run and facts.run.method) or methods.get(methods.DEFAULT)
  rows = (method.answer, *method.other_rows)
  return {row: facts.run.output_length(row) if facts.run else WITHOUT_A_RUN for row in rows}


def of_run(
  name: str,
  run: run_config.RunConfig,
  vocabulary: seqio.Vocabulary,
  step: int,
  fingerprint: int | None,
) -> Facts:
  """Reads the facts of a run whose tasks are registered and whose vocabulary the process uses."""
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
  """Where weights come from, for strangers: of a local folder its name alone.

  Nothing there is read: a run folder may be anybody's, and name any path.
  """
  if '://' in path:
    return path
  folder = epath.Path(path)
  return folder.name if folder.exists() or folder.is_absolute() else path


def _data_of(run: run_config.RunConfig, fingerprint: int | None) -> Data | str:
  name = run.data.mixture_or_task_name
  try:
    mixture = rationale_scores.training_mixture(run)
    infos = registration.datasets_of(name)
  except (ValueError, OSError):
    return 'The data was not there when this card was written.'
  if pipeline.fingerprint(mixture) != fingerprint:
    return 'The data that was there when this card was written is not the data of training.'
  names = dict.fromkeys(part for info in infos for part in info.parts)
  unlabeled = dict.fromkeys(part for info in infos for part in info.unlabeled)
  parts = {part: prepared.read_metadata(prepared.newest(part, run.data_dir)) for part in names}
  teachers = {notes.get('teacher', '') for notes in parts.values()}
  teachers |= {info.teacher for info in infos if not info.parts}
  return Data(
    rows={part.name: len(part.examples) for part in mixture},
    prepared=parts,
    teacher='' if '' in teachers else ' and '.join(sorted(teachers)),  # all, or not recorded
    unlabeled=list(unlabeled),
    question=_question(name, run.eval.split),
  )


def _question(name: str, split: str) -> Mapping[str, str] | None:
  try:
    return next(iter(registration.first_examples(name, split, 1)), None)
  except ValueError:
    return None


def _validation(run: run_config.RunConfig, step: int) -> Iterator[Score]:
  """The validation of a step while training."""
  rows = RunFolder(run.model_dir).metric_rows()
  for row in rows:
    if row['step'] == step and row['kind'] == 'validation':
      shown = {
        name: row[name]
        for name in ('accuracy', 'parse_rate', 'unfinished', 'loss')
        if fields.fits(row.get(name), float)
      }
      if 'accuracy' in shown:
        intervals = _accuracy_interval(row)
        yield Score(_task(run), run.eval.split, run.eval.num_examples, 'greedy', shown, intervals)


def _task(run: run_config.RunConfig) -> str:
  """The task that a run was validated on, or its mixture where the tasks are not known."""
  try:
    return run_config.evaluation_task(run)
  except ValueError:
    return run.data.mixture_or_task_name


def _accuracy_interval(metrics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
  names = ('accuracy', 'accuracy_low', 'accuracy_high')
  if not all(fields.fits(metrics.get(name), float) for name in names):
    return {}
  return {'accuracy': (metrics['accuracy_low'], metrics['accuracy_high'])}


def _evaluations(folder: RunFolder, step: int) -> Iterator[Score]:
  """What `dss evaluate` wrote about a step."""
  for summary, records in folder.evaluations(step):
    if not {'task', 'split', 'examples', 'decoding'} <= set(summary):
      continue
    metrics, decoding = dict(summary['metrics']), summary['decoding']
    intervals = _accuracy_interval(metrics)
    for name in ('accuracy_low', 'accuracy_high'):
      metrics.pop(name, None)
    if 'rouge_l' in metrics and records.exists():  # it may be another file than ours
      with contextlib.suppress(ValueError, KeyError, TypeError, ArithmeticError):
        lines = json_form.read_text(records).splitlines()
        scores = [json_form.parse(line, str(records))['rouge_l'] for line in lines]
        if all(fields.fits(score, float) for score in scores):
          intervals['rouge_l'] = _interval(scores)
    how = decoding.get('method', 'greedy')
    how = f'beam {decoding.get("beams")}' if how == 'beam' else how
    yield Score(summary['task'], summary['split'], summary['examples'], how, metrics, intervals)


def _interval(values: Sequence[float]) -> tuple[float, float]:
  """The 95 % interval of a mean, by its standard error."""
  mean, error = statistics.fmean(values), 0.0
  if len(values) > 1:
    error = _Z95 * statistics.stdev(values) / math.sqrt(len(values))
  return mean - error, mean + error
