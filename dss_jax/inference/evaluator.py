"""How well a student does a task: decodes its examples and scores the texts.

Owns the way from examples and parameters to predictions, records and metrics. Does not own reading
the examples (data/examples.py), decoding (decoder.py), the likeliest of choices (scoring.py), the
metrics themselves (tasks/metrics.py), nor files and printing (runs/evaluation.py).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from dss_jax.data import examples as loading
from dss_jax.data.examples import Examples
from dss_jax.inference import decoding, scoring
from dss_jax.inference.decoder import Decoded as Decoded
from dss_jax.inference.decoder import Decoder as Decoder
from dss_jax.inference.decoder import Progress as Progress
from dss_jax.models import t5
from dss_jax.tasks import metrics, plain_tasks, registration
from dss_jax.tasks.vocabulary import get_vocabulary

ROWS = 'rows'  # among the texts of examples: rows of a task of somebody else's


class Evaluation(NamedTuple):
  """The result of an evaluation.

  Attributes:
    metrics: fractions in [0, 1]. Of labels: accuracy, the ends accuracy_low and accuracy_high of
      its 95 % interval, for equations parse_rate. Of rationales: rouge_l. Always: unfinished, the
      fraction of outputs that reached the maximal length without an EOS.
      Of tasks of somebody else's see plain_tasks.py.
    records: a dict per example, in order: id, input, target, prediction, score (the decoder's; of a
      choice, the mean log probability of its tokens) and the example's own correct (a bool) or
      rouge_l; and output, the whole text, where the prediction is only a part of it.
    truncated: how many inputs were cut to the maximal length.
  """

  metrics: dict[str, float]
  records: list[dict[str, Any]]
  truncated: int


def load_examples(task: str, split: str, num_examples: int | None = None) -> Examples:
  """The examples of a task's split with their texts, or the first `num_examples` of them.

  An example whose teacher was asked K times is asked once, with its first row.

  Raises:
    ValueError: unknown task or split (with near names), a task of several kinds of rows, or
      `num_examples` below 1.
  """
  if num_examples is not None and num_examples < 1:
    raise ValueError(f'num_examples is at least 1, or None for all, not {num_examples}.')
  if registration.is_known(task):
    registration.row_of(task)  # rows of several kinds are scored differently
  examples = loading.load_examples(task, split, keep_text=True)
  if plain_tasks.is_plain(task):
    rows = plain_tasks.read(task, split, num_examples)
    examples = dataclasses.replace(examples, texts={**examples.texts, ROWS: rows})
    return examples.take(np.arange(len(rows)))
  return examples.take(examples.group_offsets()[:-1][:num_examples])


def evaluate(
  task: str,
  examples: Examples,
  decoder: Decoder,
  params: t5.Params,
  progress: Progress | None = None,
) -> Evaluation:
  """Decodes the examples of a task and scores them by the task's metrics.

  Where examples have choices (`load_examples`), the likeliest choice takes the place of an output.
  Where the task's row has a label, the label is read out of the output and compared with the gold
  one; other texts are compared with their targets by ROUGE-L. A task of somebody else's is scored
  by its own metric functions.

  Args:
    task: its name; `register_dataset` defines how the labels of its own tasks are compared.
    examples: from `load_examples`.
    decoder: how to decode.
    params: of the network; replicated or sharded.
    progress: called after each batch.
  """
  if ROWS in examples.texts:
    return _evaluate_plain(task, examples, decoder, params, progress)
  row = registration.row_of(task)
  if 'choices' in examples.texts:
    options = [text.split('\n') for text in examples.texts['choices']]
    chosen = scoring.choose(decoder, params, examples, options, get_vocabulary(), progress)
    outputs, scores, unfinished = chosen.texts, chosen.scores, 0.0
  else:
    tokens, scores = decoder(params, examples, progress)
    outputs = [to_text(of_one, get_vocabulary()) for of_one in tokens]
    unfinished = float(np.mean(~(tokens == decoding.EOS_ID).any(axis=1)))
  predictions = outputs
  targets = examples.texts['label' if row.has_label else 'targets_pretokenized']
  if row.has_label and not row.is_label_alone:  # a label alone is not parsed
    predictions = [row.parse(output)['label'] for output in outputs]
  if row.has_label:
    task_metrics, per_example = _score_labels(
      registration.dataset_of(task).metric, targets, predictions
    )
  else:
    task_metrics, per_example = _score_texts(targets, predictions)
  task_metrics['unfinished'] = unfinished
  columns = {
    'id': examples.example_ids.tolist(),
    'input': examples.texts['inputs_pretokenized'],
    'target': targets,
    'prediction': predictions,
    'score': [float(score) for score in scores],
    **per_example,
    **({} if predictions is outputs else {'output': outputs}),
  }
  records = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
  return Evaluation(task_metrics, records, decoder.truncated(examples))


def _evaluate_plain(
  task: str,
  examples: Examples,
  decoder: Decoder,
  params: t5.Params,
  progress: Progress | None,
) -> Evaluation:
  """As `evaluate`, for a task that `register_dataset` did not make."""
  tokens, scores = decoder(params, examples, progress)
  outputs = [to_text(of_one, get_vocabulary()) for of_one in tokens]
  scored = plain_tasks.score(task, examples.texts[ROWS], outputs)
  unfinished = float(np.mean(~(tokens == decoding.EOS_ID).any(axis=1)))
  inputs = examples.texts.get('inputs_pretokenized') or [''] * len(examples)
  lines = zip(
    examples.example_ids.tolist(), inputs, scored.targets, scored.predictions, scores,
    scored.correct, outputs, strict=True,
  )  # fmt: skip
  names = ('id', 'input', 'target', 'prediction', 'score', 'correct', 'output')
  records = [
    {name: _plain(value) for name, value in zip(names, line, strict=True)} for line in lines
  ]
  metrics_of_task = {**scored.metrics, 'unfinished': unfinished}
  return Evaluation(metrics_of_task, records, decoder.truncated(examples))


def _plain(value: Any) -> Any:
  """A value of a user's postprocessor as JSON has it; its text where JSON has no such value."""
  value = value.item() if isinstance(value, np.generic) else value
  return value if isinstance(value, str | int | float | bool | None) else str(value)


def to_text(tokens: np.ndarray, vocabulary: seqio.Vocabulary) -> str:
  """The text of one output, [l], up to its EOS."""
  ends = np.flatnonzero(tokens == decoding.EOS_ID)
  return vocabulary.decode(tokens[: ends[0] if len(ends) else None].tolist())


def _score_labels(
  metric: str, targets: Sequence[str], predictions: Sequence[str]
) -> tuple[dict[str, float], dict[str, list]]:
  """Accuracy with its 95 % interval, and whether each prediction is correct."""
  correct = list(map(metrics.LABEL_CORRECT[metric], targets, predictions))
  low, high = metrics.wilson_interval(sum(correct), len(correct))
  task_metrics = metrics.LABEL_METRICS[metric](targets, predictions)
  return {**task_metrics, 'accuracy_low': low, 'accuracy_high': high}, {'correct': correct}


def _score_texts(
  targets: Sequence[str], predictions: Sequence[str]
) -> tuple[dict[str, float], dict[str, list]]:
  """Mean ROUGE-L, and each prediction's."""
  pairs = zip(targets, predictions, strict=True)
  per_example = [metrics.rouge_l([target], [prediction])['rouge_l'] for target, prediction in pairs]
  return {'rouge_l': float(np.mean(per_example))}, {'rouge_l': per_example}
