"""From a dataset's strings to the token rows of the two tasks.

Owns: the prefixes that tell the student which task it does, the choice of target, the separator
between the parts of an input, tokenisation. Does not own: which tasks exist (registration.py),
the vocabulary (vocabulary.py), packing and batching (dss_jax/data.py).
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

LABEL = 0
RATIONALE = 1
TASK_NAMES = ('label', 'rationale')
PREFIXES = tuple(f'[{name}] ' for name in TASK_NAMES)
SEPARATOR = '</s>'

Features = Mapping[str, tf.Tensor]
Row = tuple[int, str]
"""The task of a row (LABEL or RATIONALE) and the source field that holds its target."""


def make_rows(rows: Sequence[Row], prefixed: bool) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """Makes the preprocessor that turns every source example into one row per task, in order.

  A row whose target is blank is left out: it would train the student to say nothing.

  Args:
    rows: what each source example becomes, e.g. `[(LABEL, 'label'), (RATIONALE, 'rationale')]`.
    prefixed: whether inputs begin with the task's prefix.

  Returns:
    A function from a dataset of strings `input`, `label`, `rationale`, `teacher_label` and the
    integer `example_id` to one of strings `inputs`, `targets`, `label` (always the gold one) and
    int32 scalars `task_id`, `example_id`. Rows of one example stay adjacent.
  """
  prefixes = [PREFIXES[task_id] if prefixed else '' for task_id, _ in rows]
  task_ids = [task_id for task_id, _ in rows]

  def rows_of(example: Features) -> Features:
    targets = tf.stack([example[field] for _, field in rows])
    columns = {
      'inputs': tf.strings.join([tf.constant(prefixes), example['input']]),
      'targets': targets,
      'label': tf.repeat(example['label'], len(rows)),
      'task_id': tf.constant(task_ids, tf.int32),
      'example_id': tf.repeat(tf.cast(example['example_id'], tf.int32), len(rows)),
    }
    has_target = tf.strings.length(tf.strings.strip(targets)) > 0
    return {name: tf.boolean_mask(column, has_target) for name, column in columns.items()}

  return lambda dataset: dataset.map(rows_of, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def tokenize(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Encodes `inputs` and `targets`, keeping their texts as `inputs_pretokenized` and so on.

  Unlike seqio.preprocessors.tokenize it puts the end-of-sequence id wherever the input's text
  says `</s>` (NLI: `premise</s>hypothesis`), which plain SentencePiece would spell out in pieces.
  The final end of sequence is added later, by seqio.preprocessors.append_eos_after_trim.
  """

  def tokenize_row(row: Features) -> Features:
    return {
      **row,
      'inputs_pretokenized': row['inputs'],
      'targets_pretokenized': row['targets'],
      'inputs': encode_parts(row['inputs'], output_features['inputs'].vocabulary),
      'targets': output_features['targets'].vocabulary.encode_tf(row['targets']),
    }

  return dataset.map(tokenize_row, num_parallel_calls=tf.data.AUTOTUNE)


def encode_parts(text: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.Tensor:
  """Encodes the parts of a scalar text around each `</s>`, with the true EOS id between them.

  Returns:
    int32 [length]; no EOS at the end.
  """

  def encode_part(part: tf.Tensor) -> tf.Tensor:
    ids = tf.cast(vocabulary.encode_tf(tf.strings.strip(part)), tf.int32)
    return tf.concat([ids, [vocabulary.eos_id]], axis=0)

  def encode_all() -> tf.Tensor:
    parts = tf.strings.split(text, SEPARATOR)
    spec = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
    return tf.map_fn(encode_part, parts, fn_output_signature=spec).values[:-1]

  has_separator = tf.strings.regex_full_match(text, f'(?s).*{SEPARATOR}.*')
  return tf.cond(has_separator, encode_all, lambda: encode_part(text)[:-1])


def gold_label(
  output: str, example: Mapping[str, bytes] | None = None, is_target: bool = False
) -> str:
  """SeqIO postprocessor of label tasks: predictions are always compared with the gold label.

  Without it, the tasks whose targets are the teacher's labels would measure agreement with the
  teacher.
  """
  if not is_target or example is None:
    return output
  return tf.compat.as_text(example['label'])
