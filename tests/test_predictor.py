"""A student that is asked many times: scores of labels against decoding and hand-computed sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_folders

from dss_jax.inference import scoring, streaming
from dss_jax.models import t5
from dss_jax.runs import student

LABELS = ('yes', 'no', 'entailment')


@pytest.fixture(scope='module')
def predictor(tmp_path_factory):
  run = run_folders.make_run(tmp_path_factory.mktemp('predictor') / 'run')
  return student.load(student.StudentConfig(run, batch_size=8)).predictor()


def test_a_label_scores_the_sum_of_its_tokens_log_probabilities(predictor):
  """Each label alone, token by token, from the network's own logits."""
  found = predictor.label_scores(run_folders.INPUTS, LABELS)
  assert found.shape == (5, 3)
  row, config = predictor.method.answer, predictor.decoder(predictor.method.answer).config
  network = t5.bind(config, jax.tree.map(jnp.asarray, jax.device_get(predictor.params)))
  for i, text in enumerate(run_folders.INPUTS):
    inputs = jnp.asarray(predictor.encode(row, [text]).inputs[None])
    encoded = network.encode(inputs, jnp.ones_like(inputs))
    for j, label in enumerate(LABELS):
      tokens = np.array([*predictor.vocabulary.encode(label), 1])
      before = jnp.array([[0, *tokens[:-1]]])
      logits = network.decode(encoded, jnp.ones_like(inputs), before, jnp.ones_like(before))
      log_p = np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(len(tokens)), tokens]
      np.testing.assert_allclose(found[i, j], log_p.sum(), rtol=1e-4)


def test_an_answers_own_score_is_that_of_greedy_decoding(predictor):
  """log p of what was decoded, divided by its length, is the decoder's score."""
  row = predictor.method.answer
  decoded = predictor.decoder(row)(predictor.params, predictor.encode(row, run_folders.INPUTS))
  ended = [i for i, tokens in enumerate(decoded.tokens) if 1 in tokens]
  for i in ended:
    length = list(decoded.tokens[i]).index(1) + 1
    candidate = scoring.padded([decoded.tokens[i][:length].tolist()])
    asked = predictor.encode(row, run_folders.INPUTS[i : i + 1])
    (score,) = scoring.score(predictor.decoder(row), predictor.params, asked, candidate)
    np.testing.assert_allclose(score[0] / length, decoded.scores[i], rtol=1e-4)


def test_scores_do_not_depend_on_the_other_questions_or_labels(predictor):
  together = predictor.label_scores(run_folders.INPUTS, LABELS)
  for i, text in enumerate(run_folders.INPUTS):
    alone = predictor.label_scores([text], LABELS[1:2])
    np.testing.assert_allclose(alone[0, 0], together[i, 1], rtol=1e-4)


def test_blank_labels_are_refused(predictor):
  with pytest.raises(ValueError, match='each with some text'):
    predictor.label_scores(['x'], ['yes', ' '])


def test_a_method_that_writes_more_than_a_label_has_no_label_scores(tmp_path):
  run = run_folders.make_run(tmp_path / 'run', 'single_task')
  loaded = student.load(student.StudentConfig(run)).predictor()
  with pytest.raises(ValueError, match='single_task writes'):
    loaded.label_scores(['x'], LABELS)


def test_questions_may_be_asked_again_and_again_without_tf_data(predictor, monkeypatch):
  import tensorflow as tf

  def refuse(*args, **kwargs):
    raise AssertionError('tf.data was asked for a request')

  monkeypatch.setattr(tf.data.Dataset, 'from_tensor_slices', refuse)
  first = predictor.answers(['Is rain wet?'])
  assert predictor.answers(['Is rain wet?']) == first
  assert predictor.answers([]) == []
  assert set(first[0]) == {'input', 'label', 'rationale'}


@pytest.mark.parametrize('place', [0, 1])
def test_text_as_it_comes_is_the_text_that_is_decoded_at_once(predictor, place):
  row = predictor.method.rows[place]
  for question in run_folders.INPUTS[:3]:
    pieces = list(predictor.stream(question, row))
    (whole,) = predictor.outputs(row, [question])
    assert ''.join(pieces) == whole
    assert all(pieces)


def test_only_greedy_decoding_comes_token_by_token(predictor):
  row = predictor.method.answer
  settings = dataclasses.replace(predictor.decoder(row).decoding, method='beam')
  decoder = dataclasses.replace(predictor.decoder(row), decoding=settings)
  with pytest.raises(ValueError, match="1 inputs and DECODING 'beam'"):
    next(streaming.tokens(decoder, predictor.params, predictor.encode(row, ['x'])))
