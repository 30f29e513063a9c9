"""Batches of the server: the answers are those of the same student asked directly."""

import itertools

import numpy as np
import pytest
import run_folders
import served

from dss_jax.inference import decoding
from dss_jax.methods import Row
from dss_jax.parallel import devices
from dss_jax.serving.batcher import Job
from dss_jax.serving.engine import Answer, End, Engine, Piece
from dss_jax.serving.outputs import Output
from dss_jax.tasks import vocabulary

QUESTIONS = [
  {'input': text, 'rationale': why}
  for text, why in zip(run_folders.INPUTS, run_folders.ROWS['rationale'], strict=True)
]


def asked(engine, questions, rationale=True, scores=True, streams=True):
  """The events of questions that are one batch."""
  events, jobs = [[] for _ in questions], []
  for question, sent in zip(questions, events, strict=True):
    work = engine.work(question, rationale, scores, streams)
    jobs.append(Job(work, len(work.rows), sent.append))
  batch = engine.begin(jobs)
  while batch.advance():
    pass
  assert all(job.ended for job in jobs)
  return events


@pytest.mark.parametrize('method', ['dss', 'label_first', 'pinto'])
def test_answers_are_those_of_the_predictor(method):
  engine = served.engine_of(method)
  questions = QUESTIONS[:4]
  expected = engine.predictor.answers(questions)
  for sent, wanted in zip(asked(engine, questions), expected, strict=True):
    answer, *pieces, end = sent
    assert isinstance(answer, Answer) and isinstance(end, End), 'the label comes first'
    assert answer.label == wanted['label']
    assert end.rationale == wanted['rationale']
    assert all(isinstance(piece, Piece) and piece.text for piece in pieces)
    assert ''.join(piece.text for piece in pieces) == (end.rationale or '')
    assert 0 <= answer.confidence <= 1


@pytest.fixture
def shrinks(monkeypatch):
  """As on one CPU; the tests' mesh has several devices."""
  monkeypatch.setattr(devices, 'shrinks_decoding', lambda: True)


def test_rows_that_have_ended_leave_the_batch(shrinks):
  small = served.engine_of('dss')
  engine = Engine(small.predictor, 16, run_folders.CHOICES)
  assert engine.sizes == [8, 16]
  jobs = [Job(engine.work(question, True, False), 2, [].append) for question in QUESTIONS]
  batch = engine.begin(jobs)
  sizes = []
  while batch.advance():
    sizes.append(batch._size)
  assert (sizes[0], batch._size) == (16, 8), 'ten rows, then five: the labels have ended'
  alone = [asked(small, [one])[0] for one in QUESTIONS]
  for one, other in zip(asked(engine, QUESTIONS), alone, strict=True):
    assert (one[0].label, one[1:]) == (other[0].label, other[1:])


def test_scores_are_those_of_the_predictor_and_confidence_is_the_labels():
  engine = served.engine_of('dss')
  labels = list(run_folders.CHOICES.labels)
  expected = np.exp(engine.predictor.label_scores(QUESTIONS, labels))
  row = engine.predictor.method.answer
  tokens, means = engine.decoder(engine.predictor.params, engine.predictor.encode(row, QUESTIONS))
  own = np.exp(means * (tokens > 0).sum(axis=1))
  for sent, scores, confidence in zip(asked(engine, QUESTIONS[:4]), expected, own, strict=False):
    assert list(sent[0].scores) == labels
    np.testing.assert_allclose(list(sent[0].scores.values()), scores, rtol=1e-4)
    np.testing.assert_allclose(sent[0].confidence, confidence, rtol=1e-4)


def test_an_answer_does_not_depend_on_its_batch():
  engine = served.engine_of('dss')
  together = asked(engine, QUESTIONS[:4])
  alone = [asked(engine, [question])[0] for question in QUESTIONS[:4]]
  for one, other in zip(together, alone, strict=True):
    assert one[0].label == other[0].label and one[-1] == other[-1]
    assert one[0].confidence == pytest.approx(other[0].confidence, rel=1e-4)


def test_what_is_not_wanted_is_not_computed():
  engine = served.engine_of('dss')
  ((answer, end),) = asked(engine, QUESTIONS[:1], rationale=False, scores=False)
  assert answer.scores is None and end.rationale is None
  assert len(engine.work(QUESTIONS[0], False, False).rows) == 1


def test_a_cut_input_is_reported_and_answered_as_by_the_predictor():
  engine = served.engine_of('dss')
  long = {'input': 'word ' * 40}
  ((answer, *_),) = asked(engine, [long])
  assert answer.truncated and answer.label == engine.predictor.answers([long])[0]['label']
  assert not asked(engine, QUESTIONS[:1])[0][0].truncated


def test_a_missing_field_is_named():
  with pytest.raises(ValueError, match="the field 'rationale'"):
    served.engine_of('pinto').work({'input': 'x'}, False, False)


def test_compiling_leaves_nothing_to_compile(shrinks):
  engine = Engine(served.engine_of('dss').predictor, 16, run_folders.CHOICES)
  assert engine.sizes == [8, 16] and engine.widths == [16, 48]
  engine.compile()
  counts = [one._cache_size() for one in _programs()]
  assert counts[-1] > 0
  asked(engine, QUESTIONS)
  asked(engine, [{'input': 'x'}], rationale=False, scores=False)
  assert [one._cache_size() for one in _programs()] == counts
  engine.compile(lambda: pytest.fail('asked once too often') if counts is None else True)


def _programs():
  from dss_jax.inference import stepping

  return stepping.begin, stepping.advance, stepping.scores, stepping.take


@pytest.mark.parametrize(
  'target', ['{rationale} [label] {label}', '{label} [rationale] {rationale}']
)
def test_a_field_is_complete_once_the_next_one_starts(target):
  row = Row('both', '{input}', target)
  text = target.format(rationale='Rain is wet é.', label='yes')
  with vocabulary.temporary_vocabulary('bytes') as known:
    output = Output(row, 99, known)
    shown = {'label': [], 'rationale': []}
    for id_ in known.encode(text):
      output.add([id_], [-0.5])
      complete, growing = output.fields()
      for name, value in (complete | growing).items():
        shown[name].append(value)
        assert '[' not in value and '\ufffd' not in value
    output.add([decoding.EOS_ID, 7], [-0.5, -9.0])
  assert output.ended and not output.is_cut and output.fields() == (row.parse(text), {})
  assert output.log_prob == -0.5 * (len(output.ids) + 1)
  for name, values in shown.items():
    assert all(later.startswith(one) for one, later in itertools.pairwise(values)), name


def test_an_output_ends_at_its_limit():
  with vocabulary.temporary_vocabulary('bytes') as known:
    output = Output(Row('label', '{input}', '{label}'), 3, known)
    output.add(known.encode('abcdef'), [-1.0] * 6)
  assert output.ended and output.is_cut and output.text == 'abc' and output.log_prob == -3
