"""The process's vocabulary: where it is looked for, what it refuses, how tasks hold it."""

import pickle
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf

from dss_jax.datasets import embedded_arithmetic
from dss_jax.tasks import vocabulary


@pytest.fixture(autouse=True)
def no_vocabulary(monkeypatch):
  """Every test starts without one and leaves none behind."""
  monkeypatch.setattr(vocabulary, '_current', None)


def test_bytes_have_t5s_special_ids():
  loaded = vocabulary.load_vocabulary('bytes')
  assert (loaded.pad_id, loaded.eos_id, loaded.unk_id) == (0, 1, 2)
  assert loaded.encode('a') == [ord('a') + 3]
  assert loaded.vocab_size == 259


def test_a_model_file_gets_a_hundred_extra_ids():
  loaded = vocabulary.load_vocabulary(embedded_arithmetic.VOCABULARY_PATH)
  pieces = vocabulary.load_vocabulary(embedded_arithmetic.VOCABULARY_PATH, extra_ids=0).vocab_size
  assert loaded.vocab_size == pieces + 100
  assert (loaded.pad_id, loaded.eos_id, loaded.unk_id) == (0, 1, 2)


@pytest.mark.parametrize('name', ['spiece.model', 'sentencepiece.model'])
def test_a_checkpoints_folder_is_searched_for_its_model(tmp_path, name):
  shutil.copy(embedded_arithmetic.VOCABULARY_PATH, tmp_path / name)
  loaded = vocabulary.load_vocabulary(f'{tmp_path}/')
  assert loaded.encode('( 17') == vocabulary.load_vocabulary(
    embedded_arithmetic.VOCABULARY_PATH
  ).encode('( 17')


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'no\.model.*Set VOCABULARY'):
    vocabulary.load_vocabulary(str(tmp_path / 'no.model'))
  with pytest.raises(ValueError, match=r'spiece\.model or .*sentencepiece\.model'):
    vocabulary.load_vocabulary(str(tmp_path))
  with pytest.raises(ValueError, match='No vocabulary is given'):
    vocabulary.load_vocabulary('')


def test_a_file_of_another_kind_is_refused(tmp_path):
  path = tmp_path / 'spiece.model'
  path.write_text('not a model')
  with pytest.raises(ValueError, match='not a SentencePiece model'):
    vocabulary.load_vocabulary(str(path))


def test_other_special_ids_are_refused(tmp_path):
  import sentencepiece

  with open(tmp_path / 'default.model', 'wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['some words', 'more words']),
      model_writer=file,
      vocab_size=20,
      hard_vocab_limit=False,
      minloglevel=2,
    )
  with pytest.raises(ValueError, match="'pad_id': 0"):
    vocabulary.load_vocabulary(str(tmp_path / 'default.model'))


def test_asking_for_a_vocabulary_before_setting_it_says_what_to_set():
  with pytest.raises(ValueError, match=r'not set\. Set VOCABULARY'):
    vocabulary.get_vocabulary()
  with pytest.raises(ValueError, match=r'not set\. Set VOCABULARY'):
    vocabulary.LazyVocabulary().encode('a')


def test_a_temporary_vocabulary_gives_way_to_the_former_one():
  former = vocabulary.set_vocabulary('bytes')
  with vocabulary.temporary_vocabulary(embedded_arithmetic.VOCABULARY_PATH) as temporary:
    assert vocabulary.get_vocabulary() is temporary
  assert vocabulary.get_vocabulary() is former


@pytest.mark.parametrize('spec', ['bytes', embedded_arithmetic.VOCABULARY_PATH])
def test_the_lazy_vocabulary_is_the_one_that_is_set(spec):
  lazy = vocabulary.LazyVocabulary()
  concrete = vocabulary.set_vocabulary(spec)
  ids = concrete.encode('( 17 + 2 )')
  assert lazy.encode('( 17 + 2 )') == ids
  assert lazy.decode([*ids, 1, 5]) == '( 17 + 2 )'
  np.testing.assert_array_equal(lazy.encode_tf(tf.constant('( 17 + 2 )')), ids)
  assert lazy.decode_tf(tf.constant([ids])).numpy()[0] == b'( 17 + 2 )'
  for name in ('vocab_size', 'extra_ids', 'pad_id', 'eos_id', 'unk_id', 'bos_id'):
    assert getattr(lazy, name) == getattr(concrete, name), name


def test_lazy_vocabularies_are_equal_to_each_other_and_to_the_one_that_is_set():
  lazy = vocabulary.LazyVocabulary()
  assert lazy == vocabulary.LazyVocabulary()
  assert lazy != seqio.ByteVocabulary()
  vocabulary.set_vocabulary('bytes')
  assert lazy == seqio.ByteVocabulary()
  assert lazy != seqio.SentencePieceVocabulary(embedded_arithmetic.VOCABULARY_PATH)
  assert pickle.loads(pickle.dumps(lazy)) == lazy


@pytest.mark.parametrize(('size', 'rows'), [(32_100, 32_128), (259, 384), (128, 128), (1, 128)])
def test_the_models_rows_are_the_next_multiple_of_128(size, rows):
  assert vocabulary.padded_vocab_size(seqio.PassThroughVocabulary(size)) == rows


@pytest.mark.parametrize('spec', ['bytes', 'embedded_arithmetic'])
def test_vectors_of_texts_are_encoded_as_each_text_is(spec):
  vocabulary_ = vocabulary.load_vocabulary(spec)
  texts = ['( 17 + 2 )', '', 'é', 'a b']
  assert vocabulary_.encode_tf(tf.constant(texts)).to_list() == [
    vocabulary_.encode(text) for text in texts
  ]
  assert vocabulary_.encode_tf(tf.constant('é')).numpy().tolist() == vocabulary_.encode('é')


def test_a_model_that_has_the_sentinels_gets_no_more(tmp_path):
  """As mT5's, whose 250,100 pieces end with them."""
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto()
  with open(embedded_arithmetic.VOCABULARY_PATH, 'rb') as file:
    model.ParseFromString(file.read())
  for number in reversed(range(100)):
    model.pieces.add(piece=f'▁<extra_id_{number}>', score=0.0, type=4)  # user defined
  (tmp_path / 'spiece.model').write_bytes(model.SerializeToString())
  mt5 = vocabulary.load_vocabulary(str(tmp_path))
  assert (
    mt5.vocab_size == vocabulary.load_vocabulary(embedded_arithmetic.VOCABULARY_PATH).vocab_size
  )
  assert mt5.tokenizer.piece_to_id('▁<extra_id_0>') == mt5.vocab_size - 1


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  shutil.copy(embedded_arithmetic.VOCABULARY_PATH, tmp_path / 'spiece.model')
  assert vocabulary.model_path('~') == vocabulary.model_path('~/spiece.model')
  assert vocabulary.load_vocabulary('~').vocab_size == 640
