"""From a data set's strings to the token rows of a method.

Owns: filling a method's templates, the separator between the parts of an input, tokenisation. Does
not own: the rows of a method (dss_jax/methods), the tasks (registration.py), the vocabulary
(vocabulary.py), packing and batching (dss_jax/data).

Every step takes a dataset of batches, because tf.data's overhead per step exceeds the work on a
row: a task is `[batch, make_rows(...), tokenize_with_eos, unbatch]`.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from dss_jax.datasets import release
from dss_jax.methods import Choices, Row, base, derived, registry
from dss_jax.tasks import metrics

SEPARATOR = release.INPUT_SEPARATOR

BATCH = 512
"""Source examples that are tokenised at once."""

Features = Mapping[str, tf.Tensor]
TEACHERS = ('rationale', 'teacher_label')
"""Fields that may have K values in an example: the teacher's outputs in K samples."""


def batch(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Groups source examples; the first step of a task. Their order does not change."""
  shapes = [spec.shape for spec in dataset.element_spec.values()]
  if all(shape.is_fully_defined() for shape in shapes):
    return dataset.batch(BATCH)
  return dataset.padded_batch(BATCH)  # K differs: padded with '', which makes no row


def unbatch(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Splits batches into rows; the last step of a task."""
  return dataset.unbatch()


def make_rows(
  rows: Sequence[Row],
  label_field: str = 'label',
  needed: Collection[str] | None = None,
  all_samples: bool = True,
  is_right: Callable[[str, str], bool] = metrics.text_correct,
  choices: Choices | None = None,
  keeps_groups: bool = False,
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """Makes the preprocessor that turns every source example into rows by their templates.

  Args:
    rows: what each source example becomes, in this order.
    label_field: the field for `{label}`: 'label', or 'teacher_label'.
    needed: fields that must not be blank, else the row is left out; None: all fields of the row's
      target, and of its input all but the input. A blank target would train the student to write
      nothing.
    all_samples: whether a row that uses the rationale, or a field made of it, is made for each of
      an example's K rationales, with the teacher label of the same sample, or only for the first
      that is not blank.
    is_right: whether (gold label, teacher's label) agree, by the metric of the data set.
    choices: of an example; a row with `each_choice` is made for each of them, the right one first.
    keeps_groups: whether an example's rows are left out together, and are repeated together for
      each of its K rationales.

  Returns:
    A function from a dataset of batches to one of batches. In: strings [examples], or
    [examples, K] for the teacher's fields, and the integer `example_id`. Out: the strings `inputs`,
    `targets`, `label` (always the gold one) and the int32 `task_id`, `example_id`, all [rows]; if
    any row has a `weight_if_wrong`, also the float32 `loss_weight`; with `choices` also the string
    `choices`, one a line. Rows of one example stay adjacent.
  """
  judged = any(row.weight_if_wrong != 1.0 for row in rows)
  labelled = [
    (row, field)
    for row in rows
    for field in (_choice_fields(choices) if row.each_choice and choices else [label_field])
  ]

  def rows_of(examples: Features) -> Features:
    examples = _with_derived(examples, rows, is_right)
    if choices is not None:
      examples = _with_choices(examples, choices)
    parts = [_filled(row, examples, field, needed, all_samples) for row, field in labelled]
    columns_of_rows = zip(*parts, strict=True)
    if keeps_groups:
      inputs, targets, kept, task_ids, weights = map(_groups, columns_of_rows)
      kept = _whole_groups(kept, len(labelled))
    else:
      inputs, targets, kept, task_ids, weights = (tf.concat(c, axis=1) for c in columns_of_rows)
    columns = {'inputs': inputs, 'targets': targets, 'task_id': task_ids}
    if judged:
      columns['loss_weight'] = weights
    for name in ('label', 'example_id', *(['choices'] if choices is not None else [])):
      columns[name] = tf.broadcast_to(examples[name][:, tf.newaxis], tf.shape(inputs))
    columns['example_id'] = tf.cast(columns['example_id'], tf.int32)
    return {name: tf.boolean_mask(column, kept) for name, column in columns.items()}

  return lambda dataset: dataset.map(rows_of, num_parallel_calls=tf.data.AUTOTUNE)


def _with_derived(
  examples: Features, rows: Sequence[Row], is_right: Callable[[str, str], bool]
) -> Features:
  """The examples with the derived fields of these rows, by one call of Python for a batch.

  A field that is made of fields with K samples [examples, K] has K samples, too.
  """
  wanted = sorted(
    name
    for name in {name for row in rows for name in _fields(row)} - set(examples)
    if derived.is_derived(name)
  )
  sources = sorted(derived.sources_of(wanted))
  if missing := sorted(set(sources) - set(examples)):
    raise ValueError(_lacks(f'the fields {", ".join(wanted)} are made of', missing[0], examples))
  if not wanted:
    return examples
  sampled = [
    any(examples[source].shape.rank == 2 for source in derived.sources_of([name]))
    for name in wanted
  ]

  def compute(ids: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    samples = max((column.shape[1] for column in columns if column.ndim == 2), default=1)
    of_samples = [
      derived.compute(
        wanted,
        {name: _texts(column, k) for name, column in zip(sources, columns, strict=True)},
        ids.tolist(),
        is_right,
      )
      for k in range(max(samples, 1))
    ]
    made = np.array([[_bytes(texts) for texts in each] for each in of_samples], object)
    return [
      made[:samples, at].T if has_samples else made[0, at] for at, has_samples in enumerate(sampled)
    ]

  columns = [examples[source] for source in sources]
  made = tf.numpy_function(
    compute, [examples['example_id'], *columns], [tf.string] * len(wanted), stateful=False
  )
  for tensor, has_samples in zip(made, sampled, strict=True):
    tensor.set_shape([None, None] if has_samples else [None])
  return {**examples, **dict(zip(wanted, made, strict=True))}


def _texts(column: np.ndarray, sample: int) -> list[str]:
  """The texts of one sample; a field without samples has the same in each."""
  if column.ndim == 2:
    column = column[:, sample] if column.shape[1] else np.full(len(column), b'', object)
  return [text.decode('utf-8', 'surrogateescape') for text in column]


def _bytes(texts: Sequence[str]) -> list[bytes]:
  return [text.encode('utf-8', 'surrogateescape') for text in texts]


def _fields(row: Row) -> frozenset[str]:
  """The fields of a row's templates, and of its loss weight."""
  return row.fields | ({derived.VERDICT} if row.weight_if_wrong != 1.0 else set())


def _lacks(what: str, field: str, examples: Features) -> str:
  return (
    f'{what} the field {field!r}; the source of the data set has '
    f'{sorted(set(examples) - {"example_id"})}.'
  )


def _groups(parts: Sequence[tf.Tensor]) -> tf.Tensor:
  """The rows of every sample side by side: [examples, samples or 1] each, to [examples, ...]."""
  parts = [tf.broadcast_to(part, _shape_of_all(parts)) for part in parts]
  return tf.reshape(tf.stack(parts, axis=2), [tf.shape(parts[0])[0], -1])


def _whole_groups(kept: tf.Tensor, rows: int) -> tf.Tensor:
  """Which rows [examples, groups * rows] are kept if a group is only kept as a whole."""
  groups = tf.reshape(kept, [tf.shape(kept)[0], -1, rows])
  whole = tf.reduce_all(groups, axis=2, keepdims=True)
  return tf.reshape(tf.broadcast_to(whole, tf.shape(groups)), tf.shape(kept))


def _shape_of_all(parts: Sequence[tf.Tensor]) -> tf.Tensor:
  shape = tf.shape(parts[0])
  for part in parts[1:]:
    shape = tf.broadcast_dynamic_shape(shape, tf.shape(part))
  return shape


def _choice_fields(choices: Choices) -> list[str]:
  """Names of the fields that hold an example's choices, the right one first."""
  return [f'choice {number}' for number in range(choices.count)]  # no name of a template


def _with_choices(examples: Features, choices: Choices) -> Features:
  """The examples with their choices in fields of their own, and in `choices`, one a line."""
  found = tf.numpy_function(
    functools.partial(_choices_of, choices),
    [examples['input'], examples['label'], examples['example_id']],
    tf.string,
  )
  found = tf.ensure_shape(found, [None, choices.count])
  is_wrong = tf.not_equal(tf.strings.strip(found), tf.strings.strip(examples['label'])[:, None])
  order = tf.argsort(tf.cast(is_wrong, tf.int32), axis=1, stable=True)
  ordered = tf.unstack(tf.gather(found, order, batch_dims=1), axis=1)
  return {
    **examples,
    **dict(zip(_choice_fields(choices), ordered, strict=True)),
    'choices': tf.strings.reduce_join(found, axis=1, separator='\n'),
  }


def _choices_of(
  choices: Choices, inputs: np.ndarray, labels: np.ndarray, ids: np.ndarray
) -> np.ndarray:
  """The choices of examples, bytes [examples, choices]; blank, so without rows, without a label.

  Raises:
    ValueError: an input does not list them, or a label is none of them.
  """
  found = []
  for text, label, number in zip(inputs, labels, ids, strict=True):
    try:
      of_one = choices.of(text.decode(errors='replace'))
    except ValueError as error:
      raise ValueError(f'example {number} (from 0): {error}') from None
    gold = label.decode(errors='replace').strip()
    if gold and gold not in of_one:
      raise ValueError(
        f'example {number} (from 0): the label {gold!r} is none of the choices {of_one}.'
      )
    found.append([choice.encode() if gold else b'' for choice in of_one])
  return np.array(found, object)


def _filled(
  row: Row, examples: Features, label_field: str, needed: Collection[str] | None, all_samples: bool
) -> tuple[tf.Tensor, ...]:
  """Inputs, targets, whether kept, task ids, loss weights of one row: all [examples, samples]."""
  missing = sorted(row.fields - {'label'} - set(examples))
  if missing:
    raise ValueError(_lacks(f'the row {row.input!r} -> {row.target!r} needs', missing[0], examples))
  sampled = [
    name
    for name in sorted(row.fields - {'label', 'teacher_label'})
    if 'rationale' in derived.sources_of([name]) or name == derived.VERDICT
  ]
  samples_of_all = all_samples and bool(sampled)

  def field(name: str) -> tf.Tensor:  # [examples, samples]; samples is 1 if there is only one
    values = examples[label_field if name == 'label' else name]
    if values.shape.rank == 1:
      return values[:, tf.newaxis]
    return values if samples_of_all else _first_sample(values)

  fields = {name: field(name) for name in sorted(row.fields)}
  shape = tf.shape(fields[sampled[0] if samples_of_all else min(fields)])
  fields = {name: tf.broadcast_to(values, shape) for name, values in fields.items()}

  def text(template: str) -> tf.Tensor:
    parts = [part for piece in base.pieces(template) for part in piece]
    literal = [fields[part] if at % 2 else part for at, part in enumerate(parts) if part]
    return tf.strings.join(literal)

  written = base.fields_of(row.target)
  wanted = row.fields - {'input'} | written if needed is None else set(needed)
  kept = tf.ones(shape, bool)
  for name in sorted(wanted):
    kept &= tf.strings.length(tf.strings.strip(field(name))) > 0
  weights = tf.ones(shape, tf.float32)
  if row.weight_if_wrong != 1.0:
    weights = tf.where(field(derived.VERDICT) == derived.WRONG, row.weight_if_wrong, weights)
    kept &= weights > 0
  target = text(row.target)
  if 'input' in derived.sources_of(written):
    # A target has one end of sequence, its last token.
    target = tf.strings.regex_replace(target, rf'\s*{SEPARATOR}\s*', ' ')
  task_ids = tf.fill(shape, tf.constant(registry.task_id(row.task), tf.int32))
  return text(row.input), target, kept, task_ids, weights


def _first_sample(values: tf.Tensor) -> tf.Tensor:
  """Of each example's samples [examples, samples] the first that is not blank, [examples, 1]."""
  values = tf.pad(values, [[0, 0], [0, 1]], constant_values='')  # blank where all are, or none is
  said = tf.cast(tf.strings.length(tf.strings.strip(values)) > 0, tf.int32)
  return tf.gather(values, tf.argmax(said, axis=1), axis=1, batch_dims=1)[:, tf.newaxis]


def tokenize(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Encodes `inputs` and `targets`, keeping their texts as `inputs_pretokenized` and so on.

  Unlike seqio.preprocessors.tokenize it takes batches of rows, whose tokens become int32
  RaggedTensors [rows, (length)], and puts the end-of-sequence id wherever the input's text has
  `</s>` (NLI: `premise</s>hypothesis`), which plain SentencePiece would split into pieces.
  There is no end of sequence at the end.
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


def tokenize_with_eos(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
  """`tokenize`, then the end of sequence, for which longer sequences make room.

  Where nothing is cut, both are one step and of fewer operations: TensorFlow takes longer to build
  a task than to run it.
  """
  lengths = sequence_length or {}
  if any(lengths.get(name) is not None for name in ('inputs', 'targets')):
    return seqio.preprocessors.append_eos_after_trim(
      tokenize(dataset, output_features), output_features, sequence_length
    )

  def tokenize_rows(rows: Features) -> Features:
    vocabulary = output_features['targets'].vocabulary
    targets = vocabulary.encode_tf(rows['targets'])
    end = tf.fill([targets.nrows(), 1], vocabulary.eos_id)
    return {
      **rows,
      'inputs_pretokenized': rows['inputs'],
      'targets_pretokenized': rows['targets'],
      'inputs': _encode_with_eos(rows['inputs'], output_features['inputs'].vocabulary),
      'targets': tf.concat([targets, end], axis=1),
    }

  return dataset.map(tokenize_rows, num_parallel_calls=tf.data.AUTOTUNE)


def encode_parts(texts: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
  """Encodes the parts of texts [n] around each `</s>`, with the true EOS id between them.

  Args:
    texts: strings [n].
    vocabulary: from `load_vocabulary`, so that its encode_tf takes vectors.

  Returns:
    int32 [n, (length)]; no EOS at the end.
  """
  return _encode_with_eos(texts, vocabulary)[:, :-1]


def _encode_with_eos(texts: tf.Tensor, vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
  parts = tf.strings.split(texts, SEPARATOR)
  # Tokenising takes most of a task's time, and e-SNLI repeats each premise three times in a row.
  different, positions = tf.unique(tf.strings.strip(parts.values))
  ids = tf.gather(vocabulary.encode_tf(different), positions)
  ids = tf.concat([ids, tf.fill([ids.nrows(), 1], vocabulary.eos_id)], axis=1)
  return parts.with_values(ids).merge_dims(1, 2)


def label_reader(row: Row) -> Callable[..., str]:
  """SeqIO's postprocessor of a task whose outputs hold a label, parsed by the row's target.

  Predictions are always compared with the gold label. Otherwise, tasks whose targets are the
  teacher's labels would measure agreement with the teacher.
  """

  def read(output: str, example: Mapping[str, bytes] | None = None, is_target: bool = False) -> str:
    if is_target and example is not None:
      return tf.compat.as_text(example['label'])
    return row.parse(output)['label']

  return read
