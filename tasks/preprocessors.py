"""From a dataset's strings to the token rows of the two tasks.

Owns: the prefixes that tell the student which task it does, the choice of target, the separator
between the parts of an input, tokenisation. Does not own: which tasks exist (registration.py),
the vocabulary (vocabulary.py), packing and batching (dss_jax/data.py).

Every step here takes a dataset of batches, because tf.data spends more time on each step of a row
than on the row: a task is `[batch, make_rows(...), tokenize, append_eos_after_trim, unbatch]`.
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

LABEL = 0
RATIONALE = 1
TASK_NAMES = ('label', 'rationale')
PREFIXES = tuple(f'[{name}] ' for name in TASK_NAMES)
SEPARATOR = '</s>'

BATCH = 512
"""Source examples that are tokenised at once."""

Features = Mapping[str, tf.Tensor]
Row = tuple[int, str]
"""The task of a row (LABEL or RATIONALE) and the source field that holds its target."""


def batch(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Groups source examples; the first step of a task. Their order stays as it is."""
  return dataset.batch(BATCH)


def unbatch(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Gives the rows one by one; the last step of a task."""
  return dataset.unbatch()


def make_rows(rows: Sequence[Row], prefixed: bool) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """Makes the preprocessor that turns every source example into one row per task, in order.

  A row whose target is blank is left out: it would train the student to say nothing.

  Args:
    rows: what each source example becomes, e.g. `[(LABEL, 'label'), (RATIONALE, 'rationale')]`.
    prefixed: whether inputs begin with the task's prefix.

  Returns:
    A function from a dataset of batches of the strings `input`, `label`, `rationale`,
    `teacher_label` and the integer `example_id`, all [examples], to one of batches of the strings
    `inputs`, `targets`, `label` (always the gold one) and the int32 `task_id`, `example_id`, all
    [rows]. Rows of one example stay adjacent.
  """
  prefixes = [PREFIXES[task_id] if prefixed else '' for task_id, _ in rows]
  task_ids = [task_id for task_id, _ in rows]

  def rows_of(examples: Features) -> Features:
    targets = tf.stack([examples[field] for _, field in rows], axis=1)  # [examples, tasks]
    number, label, text = (
      tf.repeat(examples[key][:, tf.newaxis], len(rows), axis=1)
      for key in ('example_id', 'label', 'input')
    )
    columns = {
      'inputs': tf.strings.join([tf.broadcast_to(prefixes, tf.shape(text)), text]),
      'targets': targets,
      'label': label,
      'task_id': tf.broadcast_to(tf.constant(task_ids, tf.int32), tf.shape(text)),
      'example_id': tf.cast(number, tf.int32),
    }
    has_target = tf.strings.length(tf.strings.strip(targets)) > 0
    return {name: tf.boolean_mask(column, has_target) for name, column in columns.items()}

  return lambda dataset: dataset.map(rows_of, num_parallel_calls=tf.data.AUTOTUNE)


def tokenize(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Encodes `inputs` and `targets`, keeping their texts as `inputs_pretokenized` and so on.

  Unlike seqio.preprocessors.tokenize it takes batches of rows, whose tokens become int32
  RaggedTensors [rows, (length)], and puts the end-of-sequence id wherever the input's text says
  `</s>` (NLI: `premise</s>hypothesis`), which plain SentencePiece would spell out in pieces.
  The final end of sequence is added later, by seqio.preprocessors.append_eos_after_trim.
  """

  def tokenize_rows(rows: Features) -> Features:
    return {
      **rows,
      'inputs_pretokenized': rows['inputs'],
      'targets_pretokenized': rows['targets'],
      'inputs': encode_parts(rows['inputs'], output_features['inputs'].vocabulary),
      'targets': output_features['targets'].vocabulary.encode_tf(rows['targets']),
    }

  return dataset.map(tokenize_rows, num_parallel_calls=tf.data.AUTOTUNE)


def encode_parts(texts: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
  """Encodes the parts of texts [n] around each `</s>`, with the true EOS id between them.

  Args:
    texts: strings [n].
    vocabulary: one of `load_vocabulary`, whose encode_tf takes vectors.

  Returns:
    int32 [n, (length)]; no EOS at the end.
  """
  parts = tf.strings.split(texts, SEPARATOR)
  # Tokenising is most of the time of a task, and e-SNLI tells each premise three times in a row.
  different, positions = tf.unique(tf.strings.strip(parts.values))
  ids = tf.gather(vocabulary.encode_tf(different), positions)
  ids = tf.concat([ids, tf.fill([ids.nrows(), 1], vocabulary.eos_id)], axis=1)
  return parts.with_values(ids).merge_dims(1, 2)[:, :-1]


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
