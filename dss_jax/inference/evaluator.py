"""How well a student does a task: decodes its examples and scores the texts.

Owns the way from examples and parameters to predictions, records and metrics. Does not own reading
the examples (data/examples.py), batches (data/pipeline.py), decoding (decoding.py), the metrics
themselves (tasks/metrics.py), nor files and printing (runs/evaluation.py).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import seqio
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dss_jax.data import examples as loading
from dss_jax.data import pipeline
from dss_jax.data.examples import Examples
from dss_jax.inference import decoding
from dss_jax.models import t5
from dss_jax.parallel import partitioning
from dss_jax.tasks import metrics, registration
from dss_jax.tasks.vocabulary import get_vocabulary

Progress = Callable[[int, int], None]
"""Called after every batch with the numbers of examples done and in all."""


class Evaluation(NamedTuple):
  """The result of an evaluation.

  Attributes:
    metrics: fractions in [0, 1]. Of labels: accuracy, the ends accuracy_low and accuracy_high of
      its 95 % interval, for equations parse_rate. Of rationales: rouge_l. Always: unfinished, the
      fraction of outputs that reached the maximal length without an EOS.
    records: a dict per example, in order: id, input, target, prediction, score (the decoder's) and
      the example's own correct (a bool) or rouge_l; and output, the whole text, where the
      prediction is only a part of it.
    truncated: how many inputs were cut to the maximal length.
  """

  metrics: dict[str, float]
  records: list[dict[str, Any]]
  truncated: int


class Decoded(NamedTuple):
  """The outputs of n examples: tokens int32 [n, l] with 0 after the EOS, scores float32 [n]."""

  tokens: np.ndarray
  scores: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
  """Decodes examples in batches bucketed by length; compiled once per batch width.

  Attributes:
    config: the network.
    decoding: method and settings.
    batch_size: rows decoded at once, over all devices; with a mesh, a multiple of data x fsdp.
    max_input_length: in tokens; longer inputs are cut and keep their EOS.
    mesh: divides the rows over its batch axes; None leaves them on one device.
    seed: of temperature sampling; an example's sample depends on seed and position alone.
  """

  config: t5.T5Config
  decoding: decoding.Decoding
  batch_size: int
  max_input_length: int
  mesh: Mesh | None = None
  seed: int = 0

  def __post_init__(self):
    for name in ('batch_size', 'max_input_length'):
      if getattr(self, name) < 1:
        raise ValueError(f'Decoder.{name} is at least 1, not {getattr(self, name)}.')
    if self.mesh is not None:
      partitioning.check_batch(self.mesh, self.batch_size, 'the batch size of decoding')

  def __call__(
    self, params: t5.Params, examples: Examples, progress: Progress | None = None
  ) -> Decoded:
    """The output of every example, in their order."""
    total = len(examples)
    tokens = np.zeros((total, self.decoding.max_length), np.int32)
    scores = np.zeros(total, np.float32)
    done = 0

    def step(inputs, segments, rows):
      keys = self._row_keys(rows)
      return decoding.decode(self.config, params, inputs, segments, self.decoding, keys)

    for rows, (batch_tokens, batch_scores) in self.map_batches(examples, step):
      real = rows >= 0
      tokens[rows[real]] = batch_tokens[real]
      scores[rows[real]] = batch_scores[real]
      done += int(real.sum())
      if progress is not None:
        progress(done, total)
    return Decoded(tokens, scores)

  def truncated(self, examples: Examples) -> int:
    """How many of the inputs are cut."""
    return int((examples.input_lengths > self.max_input_length).sum())

  def map_batches(self, examples: Examples, step: Callable[..., Any]) -> Iterator[tuple]:
    """Runs a function on every batch of the examples' inputs; gathers its results everywhere.

    Args:
      examples: whose inputs are taken, longest first.
      step: (tokens [rows, width], segment ids [rows, width], example [rows]) -> arrays [rows, ...].

    Yields:
      int32 [rows]: the index of each row's example, -1 for a filler row; and the result of `step`.
    """
    parts, count = ((0,), 1) if self.mesh is None else partitioning.local_parts(self.mesh)
    batches = pipeline.inference_batches(
      examples,
      min(self.batch_size, self.fewest_rows(len(examples))),
      self.max_input_length,
      parts=parts,
      count=count,
    )
    for batch in batches:
      arrays: Any = {**batch.arrays, 'rows': batch.rows.astype(np.int32)}
      if self.mesh is not None:
        arrays = partitioning.put_batch(self.mesh, arrays)
      with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
        outputs = step(
          arrays['encoder_input_tokens'], arrays['encoder_segment_ids'], arrays['rows']
        )
      yield multihost_utils.process_allgather((arrays['rows'], outputs), tiled=True)

  def fewest_rows(self, total: int) -> int:
    """Rows that hold all examples: what the mesh divides evenly, times a power of two.

    So programs are compiled for few numbers of rows, however many questions come at once.
    """
    parts = 1 if self.mesh is None else self.mesh.shape['data'] * self.mesh.shape['fsdp']
    return parts * 2 ** (-(-total // parts) - 1).bit_length()

  def _row_keys(self, rows):
    if self.decoding.method != 'temperature':
      return None
    return _fold_in(jax.random.key(self.seed), rows)


@jax.jit
def _fold_in(key, rows):
  return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


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
  return examples.take(examples.group_offsets()[:-1][:num_examples])


def evaluate(
  task: str,
  examples: Examples,
  decoder: Decoder,
  params: t5.Params,
  progress: Progress | None = None,
) -> Evaluation:
  """Decodes the examples of a task and scores them by the task's metrics.

  Where the task's row has a label, the label is read out of the output and compared with the gold
  one; other texts are compared with their targets by ROUGE-L.

  Args:
    task: registered by `register_dataset`, which defines how its labels are compared.
    examples: from `load_examples`.
    decoder: how to decode.
    params: of the network; replicated or sharded.
    progress: called after each batch.
  """
  row = registration.row_of(task)
  decoded = decoder(params, examples, progress)
  outputs = predictions = [to_text(tokens, get_vocabulary()) for tokens in decoded.tokens]
  targets = examples.texts['label' if row.has_label else 'targets_pretokenized']
  if row.has_label and not row.is_label_alone:  # a label alone is not parsed
    predictions = [row.parse(output)['label'] for output in outputs]
  if row.has_label:
    task_metrics, per_example = _score_labels(
      registration.dataset_of(task).metric, targets, predictions
    )
  else:
    task_metrics, per_example = _score_texts(targets, predictions)
  task_metrics['unfinished'] = float(np.mean(~(decoded.tokens == decoding.EOS_ID).any(axis=1)))
  columns = {
    'id': examples.example_ids.tolist(),
    'input': examples.texts['inputs_pretokenized'],
    'target': targets,
    'prediction': predictions,
    'score': [float(score) for score in decoded.scores],
    **per_example,
    **({} if predictions is outputs else {'output': outputs}),
  }
  records = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
  return Evaluation(task_metrics, records, decoder.truncated(examples))


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
