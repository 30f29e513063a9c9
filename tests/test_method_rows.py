"""What every method makes of two examples, by hand; and its loss on a fixed batch, in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from dss_jax import methods
from dss_jax.data import packing
from dss_jax.data.examples import Examples, offsets_of
from dss_jax.methods import base
from dss_jax.tasks import preprocessors
from dss_jax.training import losses

EXAMPLES = {
  'input': ['A dog runs.</s>It moves.', 'Is ice hot?'],
  'label': ['entailment', 'no'],
  'rationale': ['A dog that runs moves.', 'Ice is hot.'],
  'teacher_label': ['entailment', 'yes'],
  'example_id': [0, 1],
}
A, B = EXAMPLES['input']
LABELS = [(f'[label] {A}', 'entailment'), (f'[label] {B}', 'no')]


def with_second_task(*texts: str) -> list[tuple[str, str]]:
  """The rows of the label, and those of the texts of the second task."""
  return [*LABELS, *zip((f'[rationale] {A}', f'[rationale] {B}'), texts, strict=False)]


TEACHER_LABELS = [(f'[label] {A}', 'entailment'), (f'[label] {B}', 'yes')]
RATIONALES = with_second_task(*EXAMPLES['rationale'])
ROWS = {
  'standard': [(A, 'entailment'), (B, 'no')],
  'label': LABELS,
  'rationale': RATIONALES[2:],
  'dss': RATIONALES,
  'paired': RATIONALES,
  'mutual_information': RATIONALES,
  'pinto': [  # where there are no choices
    (f'{A} [rationale] A dog that runs moves.', 'entailment'),
    (f'{B} [rationale] Ice is hot.', 'no'),
  ],
  'single_task': [
    (A, 'A dog that runs moves. [label] entailment'), (B, 'Ice is hot. [label] no')
  ],
  'rationale_input': [
    (f'{A} [rationale] A dog that runs moves.', 'entailment'),
    (f'{B} [rationale] Ice is hot.', 'no'),
  ],
  'label_first': [
    (A, 'entailment [rationale] A dog that runs moves.'), (B, 'no [rationale] Ice is hot.')
  ],
  'other_rationale': with_second_task('Ice is hot.', 'A dog that runs moves.'),
  'shuffled_rationale': with_second_task('runs that moves. dog A', 'Ice hot. is'),
  'copy_input': with_second_task('A dog runs. It moves.', 'Is ice hot?'),
  'span_corruption': [
    *LABELS,
    ('[rationale] A dog runs. </s> It <extra_id_0>', '<extra_id_0> moves.'),
    ('[rationale] Is ice <extra_id_0>', '<extra_id_0> hot?'),
  ],
  'cue_words': with_second_task('dog runs moves', 'Ice hot'),
  'truncated_rationale': with_second_task('A dog that', 'Ice is'),
  'right_rationales': with_second_task('A dog that runs moves.'),
  'weighted_rationales': RATIONALES,
  'curriculum': RATIONALES,
  'self_evaluation': [
    *RATIONALES,
    (f'[evaluation] {A} [rationale] A dog that runs moves.', 'right'),
    (f'[evaluation] {B} [rationale] Ice is hot.', 'wrong'),
  ],
}  # fmt: skip
WEIGHTS = {'weighted_rationales': [1.0, 1.0, 1.0, 0.5]}


def rows_of(method: methods.Method) -> list[dict]:
  """The rows of the method's first task, then those of its second, ..."""
  dataset = tf.data.Dataset.from_tensors(EXAMPLES)
  label = 'label' if method.label_source == 'gold' else 'teacher_label'
  return [
    row
    for one in method.rows
    for row in preprocessors.make_rows([one], label)(dataset).unbatch().as_numpy_iterator()
  ]


@pytest.mark.parametrize('name', methods.names())  # before other tests register their own
def test_the_rows_of_a_method(name):
  rows = rows_of(methods.get(name))
  found = [(row['inputs'].decode(), row['targets'].decode()) for row in rows]
  expected = ROWS[name.removeprefix('teacher_')]
  if name.startswith('teacher_'):
    expected = [
      (asked, text if text.endswith('hot.') else text.replace('no', 'yes')) if B in asked
      else (asked, text) for asked, text in expected
    ]  # fmt: skip
  assert found == expected
  weights = [float(row.get('loss_weight', 1.0)) for row in rows]
  assert weights == WEIGHTS.get(name, [1.0] * len(rows))


# The others are in test_group_losses.py.
@pytest.mark.parametrize('name', [name for name in ROWS if not methods.get(name).is_grouped])
def test_the_loss_of_a_method_on_a_fixed_batch(name):
  """Σ_task weight · Σ w loss / Σ w over its own target tokens, row by row in float64."""
  method = methods.get(name)
  rows = rows_of(method)
  targets = [[ord(c) % 60 + 3 for c in row['targets'].decode()] + [1] for row in rows]
  tasks = [t for t, row in enumerate(method.rows) for _ in rows_of_task(method, row)]
  weights = [float(row.get('loss_weight', 1.0)) for row in rows]
  examples = Examples(
    inputs=np.ones(len(rows), np.int32),
    input_offsets=np.arange(len(rows) + 1),
    targets=np.concatenate(targets).astype(np.int32),
    target_offsets=offsets_of(np.array([len(each) for each in targets])),
    task_ids=np.array([method.tasks.index(method.rows[t].task) for t in tasks], np.int32),
    example_ids=np.arange(len(rows)),
    loss_weights=np.array(weights, np.float32),
  )
  lengths = {'inputs': 4, 'targets': 64}
  batch = packing.fill(examples, packing.one_per_row(np.arange(len(rows))), lengths)
  logits = np.random.default_rng(0).normal(size=(len(rows), 64, 64)).astype(np.float32)

  expected = 0.0
  for term in method.loss:
    total = count = 0.0
    for row, ids in enumerate(targets):
      if method.rows[tasks[row]].task == term.task:
        log_p = special.log_softmax(logits[row, : len(ids)].astype(np.float64), axis=-1)
        total += weights[row] * -log_p[np.arange(len(ids)), ids].sum()
        count += weights[row] * len(ids)
    at_first = base.points_of(term.weight)[0][1]
    expected += at_first * total / count

  loss_weights = jnp.asarray(batch['decoder_loss_weights'])
  target_tokens = jnp.asarray(batch['decoder_target_tokens'])
  token_losses = losses.token_losses(jnp.asarray(logits), target_tokens)
  task_ids = jnp.asarray(batch['decoder_task_ids'])
  found = losses.combine(
    losses.sum_by_task(token_losses * loss_weights, task_ids, len(method.loss)),
    losses.sum_by_task(loss_weights, task_ids, len(method.loss)),
    losses.objective(method.loss, losses.LossConfig()),
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def rows_of_task(method: methods.Method, row: methods.Row) -> list[dict]:
  return rows_of(methods.Method('one', '', (row,), (methods.Term(row.task),), method.answer))
