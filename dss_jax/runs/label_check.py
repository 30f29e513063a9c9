"""Labels that no answer of the student can be right for, found before the first step.

Owns the question whether a student that learned its labels perfectly would be scored as right: a
label is encoded, cut as its target and its output would be, decoded, and compared with itself by
the metric of its data set. Each different label is looked at once. Does not own the metrics
(tasks/metrics.py) or scoring (inference/evaluator.py).
"""

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from dss_jax.inference import decoding, evaluator
from dss_jax.methods import Row, base
from dss_jax.runs.run_config import RunConfig
from dss_jax.tasks import metrics, registration
from dss_jax.tasks.registration import DatasetInfo
from dss_jax.tasks.vocabulary import get_vocabulary

TEST_SPLIT = 'test'
REFUSED_SHARE = 0.9
"""From this share of its labels on, a split is refused: its accuracy would say nothing."""
READ_BATCH = 1024
_NO_VALUE = (
  'its metric compares values and finds none in it; write it as arithmetic (digits, + - * / and '
  "brackets), or register the data set with metric='text'"
)
_OTHER_VOCABULARY = (
  ", in training too; write it in that way, or choose another VOCABULARY ('bytes' keeps all text)"
)
LONGEST_SHOWN = 60  # characters of a label in a message


class Limits(NamedTuple):
  """The lengths at which a label is cut, in tokens, EOS included.

  Attributes:
    targets: in training; a target that is cut keeps its EOS.
    outputs: in decoding; an output that is cut may lack it.
  """

  targets: int
  outputs: int

  def cut(self, ids: np.ndarray) -> np.ndarray:
    """What is written by a student that learned these tokens perfectly, int32 [l]."""
    if len(ids) > self.targets:
      ids = np.append(ids[: self.targets - 1], decoding.EOS_ID)
    return ids[: self.outputs]

  def exceeded(self, length: int, row: Row) -> str:
    """The settings to raise for a row's text of so many tokens."""
    settings = []
    if length > self.targets or not row.is_label_alone:
      settings.append("TASK_FEATURE_LENGTHS['targets']")
    if length > self.outputs and row.is_label_alone:
      settings.append('MAX_DECODE_LENGTH')
    return ' and '.join(settings)


class Report(NamedTuple):
  """What is wrong with the labels of a split.

  Attributes:
    text: a sentence with a count, a share, and for each reason an example.
    is_refused: whether hardly any of them can be right.
  """

  text: str
  is_refused: bool = False


def reports(run: RunConfig) -> list[Report]:
  """What is wrong with the labels of all splits of a run; call `set_up_tasks` first.

  The splits are those of training and validation, and the test split where there is one. Where the
  method takes the teacher's labels in training, these are looked at: whether they can be written.
  SeqIO tasks that `register_dataset` did not make are left out, since their labels are unknown.
  """
  name, method = run.data.mixture_or_task_name, run.method
  assert method is not None
  try:
    trained = registration.datasets_of(name)
  except ValueError:
    return []
  evaluated, row = trained[0], method.answer
  limits = Limits(run.data.task_feature_lengths['targets'], run.output_length(row))
  found: list[Report] = []
  for dataset in trained:
    source = 'teacher' if method.label_source == 'teacher' else 'gold'
    found += _of_split(dataset, run.data.split, row, limits, source)
  others = [run.eval.split] if run.eval.period else []
  if TEST_SPLIT in evaluated.source.splits:
    others.append(TEST_SPLIT)
  for split in dict.fromkeys(others):
    if split == run.data.split and method.label_source == 'gold':
      continue
    try:
      found += _of_split(evaluated, split, row, limits, 'gold')
    except Exception as error:  # a source of a user's may raise anything
      if split == run.eval.split:
        raise
      found.append(Report(f'the labels of {evaluated.name} {split} cannot be read: {error}'))
  return found


def report(
  labels: Mapping[str, int], what: str, metric: str, row: Row, limits: Limits
) -> Report | None:
  """What is wrong with labels; None where every one can be right.

  Args:
    labels: how often each occurs.
    what: whose labels they are, for the message: 'gold labels of svamp test'.
    metric: a key of `metrics.LABEL_CORRECT`.
    row: what is asked for them.
    limits: in tokens.
  """
  examples: dict[str, tuple[str, str]] = {}
  counts: collections.Counter[str] = collections.Counter()
  for label, kind, reason in _failures(list(labels), metrics.LABEL_CORRECT[metric], row, limits):
    counts[kind] += labels[label]
    examples.setdefault(kind, (label, reason))
  if not counts:
    return None
  failing, total = counts.total(), sum(labels.values())
  parts = [
    f'{f"{count:,} " if len(counts) > 1 else ""}such as {_shown(label)}: {reason}'
    for kind, count in counts.most_common()
    for label, reason in [examples[kind]]
  ]
  return Report(
    f'{failing:,} of {total:,} {what} ({failing / total:.1%}) can never be scored as right, '
    f'whatever the student learns, {"; ".join(parts)}.',
    failing / total >= REFUSED_SHARE,
  )


def _of_split(
  dataset: DatasetInfo, split: str, row: Row, limits: Limits, source: str
) -> Iterator[Report]:
  labels = _labels(dataset, split, 'label' if source == 'gold' else 'teacher_label')
  blank = sum(labels.pop(label) for label in list(labels) if not label.strip())
  what = f'{source} labels of {dataset.name} {split}'
  if blank and source == 'gold':  # of the teacher's, `dss prepare` counts them
    yield Report(
      f'{blank:,} of {blank + labels.total():,} {what} are blank: these examples are neither '
      'learned as labels nor scored'
    )
  # Right or wrong, a teacher's label is only to be written as it is.
  found = report(labels, what, dataset.metric if source == 'gold' else 'text', row, limits)
  if found is not None:
    yield found


def _labels(dataset: DatasetInfo, split: str, field: str) -> collections.Counter[str]:
  """How often each label occurs in a split of a data set."""
  rows = dataset.source.get_dataset(split, shuffle=False).map(lambda row: row[field])
  counts: collections.Counter[bytes] = collections.Counter()
  for batch in rows.padded_batch(READ_BATCH).as_numpy_iterator():  # K labels each, or one
    counts.update(batch.ravel().tolist())
  try:
    return collections.Counter({label.decode(): count for label, count in counts.items()})
  except UnicodeDecodeError as error:
    raise ValueError(
      f'the {field} {error.object!r} of {dataset.name} {split} is not UTF-8, which all texts are.'
    ) from error


def _failures(
  labels: list[str], is_correct: Callable[[str, str], bool], row: Row, limits: Limits
) -> Iterator[tuple[str, str, str]]:
  """The labels that cannot be right, each with the kind of its reason and the reason."""
  blank = dict.fromkeys(base.fields_of(row.target), '')
  texts = [base.fill(row.target, {**blank, 'label': label}) for label in labels]
  vocabulary = get_vocabulary()
  for label, text, ids in zip(labels, texts, _encoded(texts, vocabulary), strict=True):
    written = evaluator.to_text(limits.cut(ids), vocabulary)
    if is_correct(label, row.parse(written)['label']):
      continue
    outputs = {'method': text, 'vocabulary': evaluator.to_text(ids, vocabulary)}
    answers = {kind: row.parse(output)['label'] for kind, output in outputs.items()}
    # The first thing on the way to an answer that makes it wrong.
    kind = next((kind for kind in answers if not is_correct(label, answers[kind])), 'length')
    if not is_correct(label, label):
      yield label, 'metric', _NO_VALUE
    elif kind == 'method':
      yield label, kind, f'METHOD reads {_shown(answers[kind])} out of {_shown(text)}'
    elif kind == 'vocabulary':
      yield label, kind, f'VOCABULARY gives it back as {_shown(answers[kind])}{_OTHER_VOCABULARY}'
    else:
      count = f'{len(ids)} tokens with its EOS and is cut at {min(limits)}'
      yield label, kind, f'it has {count}; raise {limits.exceeded(len(ids), row)}'


def _encoded(texts: list[str], vocabulary: seqio.Vocabulary) -> Iterator[np.ndarray]:
  """The tokens of each text with the EOS, int32 [l]."""
  for start in range(0, len(texts), READ_BATCH):
    for ids in vocabulary.encode_tf(tf.constant(texts[start : start + READ_BATCH])).to_list():
      yield np.array([*ids, decoding.EOS_ID], np.int32)


def _shown(text: str) -> str:
  """A label for a message: in quotes, on one line, not too long."""
  return repr(text if len(text) <= LONGEST_SHOWN else f'{text[:LONGEST_SHOWN]}...')
