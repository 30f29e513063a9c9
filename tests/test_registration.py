"""What `register_dataset` adds to SeqIO, on small sources of our own."""

import dataclasses
import importlib
import itertools
import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

from dss_jax import methods
from dss_jax.data import pipeline
from dss_jax.methods import Method, Row, Term
from dss_jax.tasks import metrics, preprocessors, registration, vocabulary
from dss_jax.tasks.registration import FIELDS, dataset_of, register_dataset

ROWS = [
  {'input': f'q{n}', 'label': f'gold{n}', 'rationale': f'why{n}', 'teacher_label': f'said{n}'}
  for n in range(12)
]
ROWS[3]['rationale'] = ''
ROWS[5]['teacher_label'] = ' '


def source_of(rows, splits=('train', 'test')) -> seqio.DataSource:
  def read(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices({k: [row[k] for row in rows] for k in FIELDS})

  return seqio.FunctionDataSource(read, splits, dict.fromkeys(splits, len(rows)))


@pytest.fixture(scope='module', autouse=True)
def toy():
  """A data set `toy` under the byte vocabulary."""
  register_dataset('toy', source_of(ROWS), metric='text')
  with vocabulary.temporary_vocabulary('bytes'):
    yield


def read(name: str, **kwargs) -> list[dict]:
  task = seqio.get_mixture_or_task(name)
  kwargs = {'sequence_length': None, 'split': 'train', 'shuffle': False, **kwargs}
  return list(task.get_dataset(**kwargs).as_numpy_iterator())


def texts(name: str, **kwargs) -> list[tuple[str, str]]:
  return [
    (row['inputs_pretokenized'].decode(), row['targets_pretokenized'].decode())
    for row in read(name, **kwargs)
  ]


@pytest.mark.parametrize(
  ('task', 'prefix', 'field', 'left_out'),
  [
    ('toy_label', '[label] ', 'label', None),
    ('toy_standard', '', 'label', None),
    ('toy_rationale', '[rationale] ', 'rationale', 3),
    ('toy_teacher_label', '[label] ', 'teacher_label', 5),
    ('toy_teacher_standard', '', 'teacher_label', 5),
  ],
)
def test_each_task_has_its_inputs_and_targets(task, prefix, field, left_out):
  expected = [(prefix + row['input'], row[field]) for row in ROWS]
  if left_out is not None:
    del expected[left_out]
  assert texts(task) == expected


def test_tokens_end_with_one_end_of_sequence_and_carry_task_example_and_gold_label():
  for task, task_id in [('toy_label', 0), ('toy_rationale', 1), ('toy_teacher_label', 0)]:
    for row in read(task):
      for feature in ('inputs', 'targets'):
        assert row[feature].dtype == np.int32
        assert list(row[feature]).index(1) == len(row[feature]) - 1
      assert row['task_id'] == task_id
      assert row['label'] == f'gold{row["example_id"]}'.encode()
      assert row['inputs_pretokenized'].endswith(f'q{row["example_id"]}'.encode())


def test_sequences_that_are_too_long_still_end_with_the_end_of_sequence():
  for row in read('toy_rationale', sequence_length={'inputs': 6, 'targets': 4}):
    assert (len(row['inputs']), len(row['targets'])) == (6, 4)
    assert row['inputs'][-1] == row['targets'][-1] == 1


@pytest.mark.parametrize('name', ['toy_paired', 'toy_rationale', 'toy_teacher_paired'])
def test_rows_do_not_depend_on_how_they_are_batched(name, monkeypatch):
  monkeypatch.setattr(preprocessors, 'BATCH', 1)
  alone = read(name, sequence_length={'inputs': 16, 'targets': 5}, num_epochs=2)
  for size in (5, 1000):
    monkeypatch.setattr(preprocessors, 'BATCH', size)
    rows = read(name, sequence_length={'inputs': 16, 'targets': 5}, num_epochs=2)
    assert [{k: v.tolist() for k, v in r.items() if k in ('inputs', 'targets')} for r in rows] == [
      {k: v.tolist() for k, v in r.items() if k in ('inputs', 'targets')} for r in alone
    ]
    assert [r['inputs_pretokenized'] for r in rows] == [r['inputs_pretokenized'] for r in alone]


def test_a_task_yields_ordinary_tensors_of_one_row():
  """What T5X and SeqIO's converters expect, though rows are made in batches."""
  dataset = seqio.get_mixture_or_task('toy_paired').get_dataset({'inputs': 8, 'targets': 8})
  string, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)
  assert dataset.element_spec == {
    'inputs': tf.TensorSpec([None], tf.int32),
    'targets': tf.TensorSpec([None], tf.int32),
    'inputs_pretokenized': string,
    'targets_pretokenized': string,
    'label': string,
    'task_id': number,
    'example_id': number,
  }


def test_a_pair_is_adjacent_and_incomplete_where_a_target_is_blank():
  rows = [(int(r['example_id']), int(r['task_id'])) for r in read('toy_teacher_paired')]
  expected = [(n, t) for n in range(12) for t in (0, 1) if (n, t) not in {(3, 1), (5, 0)}]
  assert rows == expected


def test_pairs_stay_adjacent_when_seqio_shuffles_and_epochs_differ():
  rows = read('toy_paired', shuffle=True, num_epochs=2, seed=1)
  ids = [int(row['example_id']) for row in rows]
  epochs = [ids[:23], ids[23:]]
  orders = [[n for n, _ in itertools.groupby(epoch)] for epoch in epochs]
  for epoch, order in zip(epochs, orders, strict=True):
    assert sorted(order) == list(range(12))  # each example in one run
    assert [n for n in order if epoch.count(n) == 1] == [3]
  assert orders[0] != orders[1]
  assert sorted(orders[0]) != orders[0]


def test_a_seed_fixes_the_order_of_a_shuffled_task():
  orders = [texts('toy_label', shuffle=True, seed=seed) for seed in (1, 1, 2)]
  assert orders[0] == orders[1] != orders[2]
  assert sorted(orders[0]) == sorted(orders[2])


def test_the_loss_weights_of_rows_are_read_and_are_part_of_the_data():
  """Of the teacher's labels all are wrong, but one is blank."""
  mixture = pipeline.load_mixture('toy_weighted_rationales', 'train')
  weights = {part.name: part.examples.loss_weights.tolist() for part in mixture}
  expected = [1.0 if n == 5 else 0.5 for n in range(12) if n != 3]
  assert weights == {'toy_label': [1.0] * 12, 'toy_weighted_rationales_rationale': expected}
  assert len(texts('toy_right_rationales_rationale')) == 1
  alike = [part._replace(examples=dataclasses.replace(part.examples, loss_weights=None))
           for part in mixture]  # fmt: skip
  assert pipeline.fingerprint(alike) != pipeline.fingerprint(mixture)


def test_the_number_of_an_example_survives_epochs_and_shards():
  assert [int(r['example_id']) for r in read('toy_label', num_epochs=3)] == 3 * list(range(12))
  shards = [
    [int(r['example_id']) for r in read('toy_label', shard_info=seqio.ShardInfo(i, 4))]
    for i in range(4)
  ]
  assert shards == [[i, i + 4, i + 8] for i in range(4)]


def test_the_mixture_draws_both_tasks_equally_often():
  mixture = seqio.get_mixture_or_task('toy_teacher_dss')
  assert {t.name: mixture.get_rate(t) for t in mixture.tasks} == {
    'toy_teacher_label': 1.0,
    'toy_rationale': 1.0,
  }
  rows = mixture.get_dataset(
    {'inputs': 32, 'targets': 32}, seed=0, num_epochs=None, passthrough_features=['task_id']
  )
  tasks = [int(row['task_id']) for row in rows.take(400).as_numpy_iterator()]
  assert 0.4 < np.mean(tasks) < 0.6


@pytest.mark.parametrize('name', ['toy_dss', 'toy_paired', 'toy_label'])
def test_seqios_own_packing_reads_every_task(name):
  """As T5X does: extra keys are dropped and all rows arrive."""
  converter = seqio.EncDecFeatureConverter(pack=True)
  lengths = {'inputs': 64, 'targets': 32}
  rows = list(seqio.get_dataset(name, lengths, converter, shuffle=True).as_numpy_iterator())
  segments = sum(int(row['decoder_segment_ids'].max()) for row in rows)
  assert segments >= (12 if name == 'toy_label' else 11)
  assert all(row['encoder_input_tokens'].shape == (64,) for row in rows)
  assert max(int(row['encoder_segment_ids'].max()) for row in rows) > 1


def test_metrics_of_label_tasks_compare_with_gold_whatever_the_target():
  task = seqio.get_mixture_or_task('toy_teacher_label')
  assert task.metric_fns == [metrics.text_accuracy]
  row = read('toy_teacher_label')[0]
  assert task.postprocess_fn('said0', example=row, is_target=True) == 'gold0'
  assert seqio.get_mixture_or_task('toy_rationale').metric_fns == [metrics.rouge_l]


def test_names_lead_to_the_data_set_and_to_what_it_is_evaluated_on():
  assert dataset_of('toy_dss') == dataset_of('toy_teacher_paired')
  info = dataset_of('toy_dss')
  assert (info.name, info.metric) == ('toy', 'text')
  evaluated = lambda name: registration.evaluation_task('toy', methods.get(name))  # noqa: E731
  assert evaluated('dss') == evaluated('teacher_paired') == 'toy_label'
  assert evaluated('teacher_standard') == 'toy_standard'
  register_dataset('more_toys', source_of(ROWS), metric='equation')
  seqio.MixtureRegistry.add('joined', [('more_toys_dss', 2.0), ('toy_dss', 1.0)])
  assert dataset_of('joined').name == 'more_toys'
  assert registration.method_of('joined') is methods.dss.DSS
  assert [info.name for info in registration.datasets_of('joined')] == ['more_toys', 'toy']
  members = ['more_toys_teacher_label', 'toy_teacher_label', 'toy_rationale']
  seqio.MixtureRegistry.add('by_teacher', members, default_rate=1.0)
  assert registration.method_of('by_teacher') is methods.dss.TEACHER_DSS
  seqio.MixtureRegistry.add('by_both', ['toy_label', 'toy_teacher_label'], default_rate=1.0)
  with pytest.raises(ValueError, match=r'label \(gold\), label \(teacher\)'):
    registration.method_of('by_both')
  with pytest.raises(ValueError, match=r'No task or mixture .toy.*MIXTURE_OR_TASK_NAME'):
    dataset_of('toy')


def test_a_name_is_registered_once():
  with pytest.raises(ValueError, match=r"'toy' is registered already"):
    register_dataset('toy', source_of(ROWS))


def test_an_unknown_metric_is_refused_before_anything_is_registered():
  with pytest.raises(ValueError, match=r"'text', 'equation'.*'bleu'"):
    register_dataset('unmeasured', source_of(ROWS), metric='bleu')
  assert not [name for name in seqio.TaskRegistry.names() if name.startswith('unmeasured')]


def test_a_source_without_the_fields_is_named():
  lacking = seqio.FunctionDataSource(
    lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices({'input': ['q'], 'label': [1]}),
    ['train'],
  )
  register_dataset('lacking', lacking)
  with pytest.raises(ValueError, match=r"\['label', 'rationale', 'teacher_label'\]"):
    read('lacking_label')


@pytest.mark.parametrize('place', ['docstring', 'docs'])
def test_a_data_set_of_json_lines_takes_two_lines(tmp_path, monkeypatch, place):
  """Runs the snippets of the docstring and of docs/data.md, but for the data set's name."""
  (tmp_path / 'my_data').mkdir()
  for split in ('train', 'validation', 'test'):
    lines = ''.join(json.dumps({**row, 'extra': 1}) + '\n' for row in ROWS)
    (tmp_path / 'my_data' / f'{split}.jsonl').write_text(lines, encoding='utf-8')
  monkeypatch.chdir(tmp_path)
  docs = pathlib.Path(__file__).parent.parent / 'docs' / 'data.md'
  text = registration.register_dataset.__doc__ if place == 'docstring' else docs.read_text('utf-8')
  start = text.index('from dss_jax.tasks import files')
  end = text.index(')\n', text.index("register_dataset('mine'", start)) + 1
  lines = [line.strip() for line in text[start:end].splitlines() if line.strip()]
  assert len(lines) == 2
  name = f'mine_{place}'
  lines[1] = lines[1].replace('mine', name)
  (tmp_path / f'my_lines_{place}.py').write_text('\n'.join(lines), encoding='utf-8')
  monkeypatch.syspath_prepend(str(tmp_path))
  importlib.import_module(f'my_lines_{place}')
  expected = [('[label] ' + row['input'], row['label']) for row in ROWS]
  assert texts(f'{name}_label', split='test') == expected
  assert len(read(f'{name}_paired')) == 23
  assert dataset_of(f'{name}_dss').metric == 'text'


# ---------------------------------------------------------------- methods


def test_a_single_task_is_judged_on_every_example_by_the_label_that_it_writes():
  assert texts('toy_single_task') == [
    (row['input'], f'{row["rationale"]} [label] {row["label"]}') for row in ROWS if row['rationale']
  ]
  name = registration.evaluation_task('toy', methods.single_task.SINGLE_TASK)
  assert texts(name) == [(row['input'], row['label']) for row in ROWS]  # without a rationale, too
  task = seqio.get_mixture_or_task(name)
  assert task.postprocess_fn('since [label] gold0', example=read(name)[0]) == 'gold0'
  assert registration.row_of(name) == methods.single_task.ROW


def test_a_rationale_as_input_is_read_in_training_and_at_test_time():
  name = registration.evaluation_task('toy', methods.rationale_input.RATIONALE_INPUT)
  expected = [(f'q{n} [rationale] {row["rationale"]}', f'gold{n}') for n, row in enumerate(ROWS)]
  assert texts(name) == expected
  assert texts('toy_rationale_input') == [e for n, e in enumerate(expected) if n != 3]


def test_a_method_registered_later_gets_its_tasks_and_shares_rows_it_has_in_common():
  third = Row('why_not', '[why not] {input}', 'not {teacher_label}')
  method = methods.register(
    Method(
      'toy_method',
      'three tasks',
      (*methods.dss.DSS.rows, third),
      (Term('label'), Term('rationale'), Term('why_not', 0.1)),
      methods.dss.LABEL_ROW,
    )
  )
  registration.add_methods()
  members = seqio.get_mixture_or_task('toy_toy_method').tasks
  assert {task.name for task in members} == {'toy_label', 'toy_rationale', 'toy_toy_method_why_not'}
  assert texts('toy_toy_method_why_not')[0] == ('[why not] q0', 'not said0')
  assert registration.method_of('toy_toy_method') is method
  ids = {int(row['task_id']) for task in members for row in read(task.name)}
  assert ids == {0, 1, methods.registry.task_id('why_not')} and len(ids) == 3


def test_a_mixture_of_ones_own_needs_a_method_where_none_has_its_rows():
  seqio.MixtureRegistry.add('odd', [('toy_standard', 1.0), ('toy_rationale', 1.0)])
  with pytest.raises(ValueError, match=r'no method makes the rows of .odd.*set METHOD'):
    registration.method_of('odd')


def test_more_fields_of_a_source_reach_the_templates():
  def source(split, shuffle_files):
    columns = {k: [row[k] for row in ROWS] for k in FIELDS}
    hints = [f'hint{n}' for n in range(len(ROWS))]
    return tf.data.Dataset.from_tensor_slices({**columns, 'hint': hints, 'number': hints})

  row = Row('label', '{input} ({hint})', '{label}')
  methods.register(Method('hinted', 'a hint is read', (row,), (Term('label'),), row))
  register_dataset('toy_with_hints', seqio.FunctionDataSource(source, ['train']))
  assert texts('toy_with_hints_hinted')[2] == ('q2 (hint2)', 'gold2')
