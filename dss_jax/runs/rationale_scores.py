"""How likely each rationale makes the right label: a student's scores, and training on the best.

Owns the file of scores, its writing and its use. Every line is one rationale, numbered among those
of its example that are not blank:

    {"example_id": 0, "sample": 0, "score": -0.35}     log p(label | input, rationale) in nats

Source: MoRSD, arXiv 2509.23574, of which this is the selection alone: a student learns more from
rationales under which it finds the answer itself.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from dss_jax.data import pipeline
from dss_jax.data.examples import Examples
from dss_jax.datasets import rows
from dss_jax.inference import scoring
from dss_jax.methods import Method, derived
from dss_jax.parallel import distributed
from dss_jax.runs import evaluation, run_config, student
from dss_jax.runs.run_config import RunConfig
from dss_jax.runs.run_folder import RunFolder

Key = tuple[int, int]
"""Which rationale: example_id and sample."""


def write(settings: evaluation.EvaluateConfig, path: str) -> dict[str, Any]:
  """Scores every rationale of a split by a student that reads it with the input; writes the file.

  Args:
    settings: the student and the split.
    path: of the file.

  Returns:
    JSON values: task, split, rationales (how many), mean_score, and the file.

  Raises:
    ValueError: the student does not read rationales, or writes more than the gold label.
  """
  ignored = {
    'TASK': settings.task, 'NUM_EXAMPLES': settings.num_examples, 'OUTPUT': settings.output
  }  # fmt: skip
  if given := [name for name, value in ignored.items() if value is not None]:
    raise ValueError(f'RATIONALE_SCORES scores all rationales of SPLIT: leave {given[0]} out.')
  RunFolder(settings.model_dir).check_module(settings.module is not None)
  loaded = student.load(settings)
  row, method = loaded.method.answer, loaded.method
  reads_rationales = method.needs == {'rationale'} and method.rows == (row,)
  if (
    not reads_rationales
    or not row.is_label_alone
    or row.each_choice
    or method.label_source != 'gold'
  ):
    raise ValueError(
      f'RATIONALE_SCORES: {settings.model_dir} is of METHOD {method.name}; rationales are scored '
      'by a student that reads them and writes the gold label: train one with METHOD '
      'rationale_input.'
    )
  run = run_config.set_up_tasks(loaded.run)
  task = run.data.mixture_or_task_name
  examples = pipeline.load_examples(task, settings.split)
  decoder = loaded.decoder(row)
  if cut := decoder.truncated(examples):
    distributed.log(
      f'warning: {task}: {cut} of {len(examples)} inputs are cut at {decoder.max_input_length} '
      "tokens, the run's TASK_FEATURE_LENGTHS['inputs'], and with them the ends of rationales"
    )
  with student.progress_bar(task) as progress:
    scores = scoring.score(decoder, loaded.params, examples, _targets(examples), progress)[:, 0]
  lines = [
    {'example_id': example, 'sample': sample, 'score': float(score)}
    for (example, sample), score in zip(_keys(examples), scores, strict=True)
  ]
  if distributed.is_main():
    evaluation.write_records(epath.Path(path), lines)
  return {
    'task': task,
    'split': settings.split,
    'rationales': len(lines),
    'mean_score': float(scores.mean()),
    'file': path,
  }


def training_mixture(run: RunConfig) -> list[pipeline.TaskExamples]:
  """The examples that a run trains on, with the best of its rationales alone if it has scores.

  Raises:
    ValueError: see `pipeline.load_mixture` and `read`; or the scores are of other rationales.
  """
  mixture = pipeline.load_mixture(
    run.data.mixture_or_task_name, run.data.split, run.objective.tasks
  )
  path = run.data.rationale_scores
  if path is None:
    return mixture
  assert run.method is not None
  learned = _learned_from_rationales(run.method)
  scores = read(str(path))
  count = math.ceil(run.data.rationales_kept * len(scores))
  kept = set(sorted(scores, key=lambda key: -scores[key])[:count])
  return [
    part._replace(examples=_selected(part.examples, learned, scores, kept, str(path)))
    for part in mixture
  ]


def read(path: str) -> dict[Key, float]:
  """The scores in a file, by rationale, in its order.

  Raises:
    ValueError: a line is not of the form above, or a rationale has two scores.
  """
  scores: dict[Key, float] = {}
  for number, row in rows.read(path, form='.jsonl'):
    with rows.at(f'RATIONALE_SCORES {path}, line {number}'):
      key, score = (row['example_id'], row['sample']), row['score']
      if not all(type(part) is int and part >= 0 for part in key):
        raise ValueError(f'expected numbers from 0 as example_id and sample, not {rows.shown(key)}')
      if type(score) not in (int, float) or not math.isfinite(score):
        raise ValueError(f'expected a finite number as score, not {rows.shown(score)}')
      if key in scores:
        raise ValueError(f'example {key[0]} has two scores for its rationale {key[1]}')
      scores[key] = float(score)
  return scores


def _learned_from_rationales(method: Method) -> list[int]:
  """The numbers of the tasks whose rows have the rationale.

  Raises:
    ValueError: there is none, or a row cannot be left out alone.
  """
  tasks = [row.task for row in method.rows if 'rationale' in derived.sources_of(row.fields)]
  if method.is_grouped or not tasks:
    why = 'needs all rows of an example' if method.is_grouped else 'learns from no rationale'
    raise ValueError(
      f'RATIONALE_SCORES leaves out rows of rationales, but METHOD {method.name} {why}; remove the '
      'setting, or choose another METHOD, such as dss.'
    )
  return [method.tasks.index(task) for task in tasks]


def _selected(
  examples: Examples, learned: Sequence[int], scores: dict[Key, float], kept: set[Key], path: str
) -> Examples:
  """The examples without the rows of rationales that are not kept."""
  stays = np.ones(len(examples), bool)
  for task in learned:
    of_task = np.flatnonzero(examples.task_ids == task)
    keys = _keys(examples.take(of_task)) if len(of_task) else []
    if keys and set(keys) != set(scores):
      lacking = sorted(set(keys) ^ set(scores))[0]
      raise ValueError(
        f'RATIONALE_SCORES {path} holds {len(scores)} scores for {len(keys)} rationales of the '
        f'training split, and only one of the two has rationale {lacking[1]} of example '
        f'{lacking[0]}: it is of other data. `dss evaluate --split=... --rationale_scores=...` '
        'writes it.'
      )
    stays[of_task] = [key in kept for key in keys]
  return examples.take(np.flatnonzero(stays))


def _keys(examples: Examples) -> list[Key]:
  """Which rationale each row has: rows of one task, those of an example neighbours."""
  starts = examples.group_offsets()[:-1]
  sample = np.arange(len(examples)) - np.repeat(starts, np.diff(examples.group_offsets()))
  return list(zip(examples.example_ids.tolist(), sample.tolist(), strict=True))


def _targets(examples: Examples) -> np.ndarray:
  """int32 [n, 1, t]: each row's own target tokens as its only candidate."""
  at = examples.target_offsets
  tokens = [examples.targets[start:end].tolist() for start, end in itertools.pairwise(at)]
  return scoring.padded(tokens)[:, np.newaxis]
