"""Every example is decoded once, whatever the batches and devices, and scored by its task."""

import dataclasses

import jax
import numpy as np
import pytest
import run_folders
import seqio
import tensorflow as tf
from run_folders import NAME

from dss_jax.inference import evaluator
from dss_jax.inference.decoding import Decoding, decode
from dss_jax.models import t5
from dss_jax.parallel import devices, partitioning
from dss_jax.tasks import metrics, vocabulary
from dss_jax.tasks.registration import register_dataset

CONFIG = run_folders.MODEL
LENGTH = 12


@pytest.fixture(autouse=True)
def _bytes():
  run_folders.register()
  with vocabulary.temporary_vocabulary('bytes'):
    yield


@pytest.fixture(scope='module')
def params():
  return jax.jit(t5.init, static_argnums=0)(CONFIG, jax.random.key(5))


@pytest.fixture
def examples():
  return evaluator.load_examples(f'{NAME}_label', 'test')


def make_decoder(batch_size=2, max_input_length=48, mesh=None, seed=0, **settings):
  settings = Decoding(max_length=LENGTH, **settings)
  return evaluator.Decoder(CONFIG, settings, batch_size, max_input_length, mesh, seed)


def make_mesh(**sizes):
  return partitioning.make_mesh(partitioning.MeshConfig(**sizes))


def test_batches_side_by_side_are_those_of_one_thread(params, examples, monkeypatch):
  decoder = make_decoder(batch_size=2)
  alone = decoder(params, examples)
  monkeypatch.setattr(devices, 'decoding_threads', lambda mesh: 3)
  together = decoder(params, examples)
  np.testing.assert_array_equal(together.tokens, alone.tokens)
  np.testing.assert_array_equal(together.scores, alone.scores)


def test_an_error_in_a_thread_is_raised(examples, monkeypatch):
  monkeypatch.setattr(devices, 'decoding_threads', lambda mesh: 3)

  def fails(inputs, segments, rows):
    raise ValueError('of a batch')

  with pytest.raises(ValueError, match='of a batch'):
    list(make_decoder().map_batches(examples, fails))


@dataclasses.dataclass(frozen=True)
class Says:
  """A decoder with given answers; an answer that ends in `...` lacks its EOS."""

  answers: tuple[str, ...]

  def __call__(self, params, examples, progress=None):
    tokens = np.zeros((len(self.answers), 64), np.int32)
    for row, answer in zip(tokens, self.answers, strict=True):
      text, dots, _ = answer.partition('...')
      ids = [*vocabulary.get_vocabulary().encode(text), *([] if dots else [1])]
      row[: len(ids)] = ids
    return evaluator.Decoded(tokens, np.linspace(-1, 0, len(tokens), dtype=np.float32))

  def truncated(self, examples):
    return 0


class TestDecoder:
  def test_each_example_gets_what_it_gets_alone(self, params, examples):
    found = make_decoder()(params, examples)
    for i in range(len(examples)):
      tokens = examples.inputs[examples.input_offsets[i] : examples.input_offsets[i + 1]][None]
      alone, score = decode(
        CONFIG, params, tokens, np.ones_like(tokens), Decoding(max_length=LENGTH)
      )
      np.testing.assert_array_equal(found.tokens[i], alone[0])
      np.testing.assert_allclose(found.scores[i], score[0], rtol=1e-4)

  @pytest.mark.parametrize('batch_size', [1, 3, 100])
  def test_the_batch_size_changes_nothing(self, params, examples, batch_size):
    expected = make_decoder()(params, examples)
    found = make_decoder(batch_size)(params, examples)
    np.testing.assert_array_equal(found.tokens, expected.tokens)

  @pytest.mark.parametrize('sizes', [{}, {'data': 2, 'fsdp': 4}, {'data': 4, 'tensor': 2}], ids=str)
  @pytest.mark.parametrize('method', ['greedy', 'beam'])
  def test_eight_devices_equal_one(self, params, examples, sizes, method):
    expected = make_decoder(method=method, beams=2)(params, examples)
    mesh = make_mesh(**sizes)
    shapes, axes = t5.abstract(CONFIG)
    placed = jax.device_put(params, partitioning.shardings(mesh, shapes, axes))
    found = make_decoder(16, mesh=mesh, method=method, beams=2)(placed, examples)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)

  def test_samples_depend_on_the_seed_and_not_on_the_batches(self, params, examples):
    sample = lambda **kind: make_decoder(method='temperature', **kind)(params, examples).tokens  # noqa: E731
    expected = sample(batch_size=5, seed=1)
    np.testing.assert_array_equal(sample(batch_size=2, seed=1), expected)
    np.testing.assert_array_equal(sample(batch_size=8, seed=1, mesh=make_mesh()), expected)
    assert (sample(batch_size=5, seed=2) != expected).any()

  def test_progress_counts_examples_and_no_filler(self, params, examples):
    calls = []
    make_decoder(batch_size=2)(params, examples, lambda *call: calls.append(call))
    assert calls == [(2, 5), (4, 5), (5, 5)]

  def test_cut_inputs_are_counted(self, params, examples):
    assert make_decoder().truncated(examples) == 0
    decoder = make_decoder(max_input_length=30)
    expected = sum(
      len(f'[label] {text}'.replace('</s>', '.')) + 1 > 30 for text in run_folders.INPUTS
    )
    assert decoder.truncated(examples) == expected == 2
    found = evaluator.evaluate(f'{NAME}_label', examples, decoder, params)
    assert found.truncated == 2
    assert len(found.records) == 5

  def test_few_numbers_of_rows_are_compiled_for(self):
    decoder = make_decoder(batch_size=64, mesh=make_mesh(data=2, fsdp=4))
    rows = [decoder.fewest_rows(n) for n in (1, 8, 9, 17, 33)]
    assert rows == [8, 8, 16, 32, 64]
    assert [make_decoder().fewest_rows(n) for n in (1, 2, 3, 5)] == [1, 2, 4, 8]

  def test_impossible_sizes_are_refused(self):
    with pytest.raises(ValueError, match='batch_size is at least 1'):
      make_decoder(batch_size=0)
    with pytest.raises(ValueError, match='max_input_length is at least 1'):
      make_decoder(max_input_length=0)
    with pytest.raises(ValueError, match='batch size of decoding 12 is not a multiple'):
      make_decoder(batch_size=12, mesh=make_mesh())


class TestEvaluate:
  def test_text_labels_are_scored_by_exact_match(self, examples):
    says = Says(('yes', ' entailment ', 'yes', 'Yes', 'no'))
    found = evaluator.evaluate(f'{NAME}_label', examples, says, None)
    low, high = metrics.wilson_interval(3, 5)
    assert found.metrics == {
      'accuracy': 0.6, 'accuracy_low': low, 'accuracy_high': high, 'unfinished': 0.0
    }  # fmt: skip
    assert [record['correct'] for record in found.records] == [True, True, False, False, True]
    assert found.records[1] == {
      'id': 1,
      'input': '[label] A dog runs.</s>An animal moves.',
      'target': 'entailment',
      'prediction': ' entailment ',
      'score': -0.75,
      'correct': True,
    }

  def test_students_of_teacher_labels_are_scored_by_gold_ones(self):
    examples = evaluator.load_examples(f'{NAME}_teacher_label', 'test')
    says = Says(tuple(run_folders.ROWS['teacher_label']))
    found = evaluator.evaluate(f'{NAME}_teacher_label', examples, says, None)
    assert found.metrics['accuracy'] == 0.6

  def test_equations_are_scored_by_value(self):
    rows = {name: ['( 1 + 2 )', '10 / 4', '7'] for name in ('label', 'teacher_label')}
    rows |= {name: ['a', 'b', 'c'] for name in ('input', 'rationale')}
    read = lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(rows)  # noqa: E731
    if 'evaluator_equations_label' not in seqio.TaskRegistry.names():
      register_dataset(
        'evaluator_equations', seqio.FunctionDataSource(read, ['test']), metric='equation'
      )
    task = 'evaluator_equations_label'
    examples = evaluator.load_examples(task, 'test')
    found = evaluator.evaluate(task, examples, Says(('3', '2', 'seven')), None)
    assert found.metrics['accuracy'] == pytest.approx(1 / 3)
    assert found.metrics['parse_rate'] == pytest.approx(2 / 3)
    assert [record['correct'] for record in found.records] == [True, False, False]

  def test_rationales_are_scored_by_rouge_l(self):
    task = f'{NAME}_rationale'
    examples = evaluator.load_examples(task, 'test')
    says = Says(('Rain is water.', 'dogs are', 'nothing', 'Stones weigh.', 'No is no.'))
    found = evaluator.evaluate(task, examples, says, None)
    scores = [1.0, 0.8, 0.0, 1.0, 1.0]
    assert [record['rouge_l'] for record in found.records] == pytest.approx(scores)
    assert found.metrics == pytest.approx({'rouge_l': sum(scores) / 5, 'unfinished': 0.0})
    assert found.records[0]['target'] == 'Rain is water.'

  def test_outputs_without_eos_are_counted(self, examples):
    says = Says(('yes...', 'entailment', 'no...', 'no', 'no'))
    found = evaluator.evaluate(f'{NAME}_label', examples, says, None)
    assert found.metrics['unfinished'] == 0.4


class TestLoadExamples:
  def test_the_first_examples_come_in_order(self):
    examples = evaluator.load_examples(f'{NAME}_label', 'test', 2)
    assert examples.example_ids.tolist() == [0, 1]
    assert examples.texts['label'] == ['yes', 'entailment']
    assert len(examples.inputs) == examples.input_offsets[-1]
    assert len(examples.targets) == examples.target_offsets[-1]

  def test_more_than_there_are_is_all(self):
    assert len(evaluator.load_examples(f'{NAME}_label', 'test', 1000)) == 5

  @pytest.mark.parametrize(
    ('task', 'split', 'count', 'message'),
    [
      (f'{NAME}_lable', 'test', None, f'{NAME}_label'),
      (f'{NAME}_label', 'tests', None, "'tests'.*test"),
      (f'{NAME}_paired', 'test', None, f"evaluate '{NAME}_label' or '{NAME}_rationale'"),
      (f'{NAME}_label', 'test', 0, 'num_examples is at least 1'),
    ],
  )
  def test_what_cannot_be_evaluated_is_refused(self, task, split, count, message):
    with pytest.raises(ValueError, match=message):
      evaluator.load_examples(task, split, count)


def test_text_ends_before_the_eos():
  known = vocabulary.get_vocabulary()
  ids = known.encode('ab')
  assert evaluator.to_text(np.array([*ids, 1, *ids]), known) == 'ab'
  assert evaluator.to_text(np.array(ids), known) == 'ab'
  assert evaluator.to_text(np.array([1, 0, 0]), known) == ''


def test_an_example_that_the_teacher_was_asked_of_k_times_is_scored_once():
  rows = {name: ['q0', 'q1'] for name in ('input', 'label')}
  rows |= {'rationale': [['r0', 's0'], ['r1', 's1']], 'teacher_label': [['a', 'b'], ['c', 'd']]}
  read = lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(rows)  # noqa: E731
  register_dataset('evaluator_asked_twice', seqio.FunctionDataSource(read, ['test']))
  examples = evaluator.load_examples('evaluator_asked_twice_rationale', 'test')
  assert examples.example_ids.tolist() == [0, 1]
  assert list(examples.texts['targets_pretokenized']) == ['r0', 'r1']
  (only,) = evaluator.load_examples('evaluator_asked_twice_rationale', 'test', 1).example_ids
  assert only == 0
