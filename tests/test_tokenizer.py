"""Tokenizer files for transformers: what AutoTokenizer makes of them encodes as our tasks do."""

import functools
import json
import pathlib
import random

import pytest
import sentencepieces
import tensorflow as tf
import transformers
from sentencepiece import sentencepiece_model_pb2

from dss_jax import datasets, methods
from dss_jax.checkpoints.hf import tokenizer
from dss_jax.datasets import embedded_arithmetic, release
from dss_jax.tasks import preprocessors, vocabulary

KINDS = ('bytes', 'embedded_arithmetic', 'unigram', 'bpe_without_bytes')
NORMALISED = ('unigram', 'bpe_without_bytes')  # with a character table: some marks are lost
ROWS = 2048
LETTERS = [
  *'abc 123  \n\t[]()/.,$%\'"éüß漢🙂\r\x07',
  *('</s>', ' </s>\n', '[label] ', ' [rationale] ', '[label]', 'hello', 'apples ', '\u3000\u200b'),
]


def _random_texts(count: int, seed: int) -> list[str]:
  rng = random.Random(seed)
  return [''.join(rng.choices(LETTERS, k=rng.randrange(20))) for _ in range(count)]


@pytest.fixture(scope='module')
def vocabularies(tmp_path_factory):
  """By kind: ours of bytes and of `dss vocab`, and two as T5's and others' are made."""
  folder = tmp_path_factory.mktemp('models')
  texts = [
    row[key]
    for row in embedded_arithmetic.problems('train')[:2000]
    for key in ('input', 'rationale')
  ]
  paths = {
    'bytes': 'bytes',
    'embedded_arithmetic': 'embedded_arithmetic',
    'unigram': sentencepieces.train(
      folder / 'unigram.model', texts, vocab_size=400, model_type='unigram'
    ),
    'bpe_without_bytes': sentencepieces.train(
      folder / 'bpe.model', texts, vocab_size=400, model_type='bpe'
    ),
  }
  return {kind: vocabulary.load_vocabulary(path) for kind, path in paths.items()}


@pytest.fixture(scope='module')
def load(vocabularies, tmp_path_factory):
  """Writes the files of a kind of vocabulary and loads them as a user does."""

  @functools.cache
  def load(kind: str, max_length: int | None = None):
    folder = tmp_path_factory.mktemp(kind)
    (folder / 'config.json').write_text('{"model_type": "t5"}')
    agreements = tokenizer.write(folder, vocabularies[kind], ROWS, max_length)
    for of, agreement in agreements.items():
      known = kind in NORMALISED and of == tokenizer.HARD
      assert agreement.texts > 50 and (known or agreement.different == 0), (of, agreement)
    return transformers.AutoTokenizer.from_pretrained(folder)

  return load


def _ours(loaded, texts) -> list[list[int]]:
  parts = preprocessors.encode_parts(tf.constant(texts), loaded).to_list()
  return [[*ids, loaded.eos_id] for ids in parts]


@pytest.mark.parametrize('kind', KINDS)
def test_every_text_has_the_ids_that_our_tasks_give_it(load, vocabularies, kind):
  texts = [f'[label] {text}' for text in _random_texts(1000, 0)] + _random_texts(1000, 1)
  theirs = load(kind)(texts).input_ids
  for text, one, other in zip(texts, _ours(vocabularies[kind], texts), theirs, strict=True):
    assert one == other, repr(text)


@pytest.mark.parametrize('kind', KINDS)
def test_ids_become_the_same_text(load, vocabularies, kind):
  loaded, texts = vocabularies[kind], ['( 27 + 13 )', 'Ben has 3 apples.', '  a  b ', '', '<unk> é']
  for ids in loaded.encode_tf(tf.constant(texts)).to_list():
    assert load(kind).decode(ids) == loaded.decode(ids)
    skipped = load(kind).decode([0, *ids, 1, 0], skip_special_tokens=True)
    if loaded.unk_id in ids:  # transformers skips the unknown token too
      assert skipped.split() == loaded.decode(ids).replace('\u2047', '').split()
    else:
      assert skipped == loaded.decode(ids)


@pytest.mark.parametrize('kind', KINDS)
def test_the_unknown_token_is_named_as_ctranslate2_needs_it(load, kind):
  assert (load(kind).unk_token, load(kind).unk_token_id) == ('<unk>', 2)


def test_ties_and_lost_marks_are_counted_and_are_differences(vocabularies, tmp_path):
  """`000` is `00` and `0`, or `0` and `00`: equally good, and SentencePiece's float32 chooses."""
  model = sentencepiece_model_pb2.ModelProto()
  with open(vocabularies['unigram'].sentencepiece_model_file, 'rb') as file:
    model.ParseFromString(file.read())
  for piece, score in (('z', -9.1234567), ('zz', -9.7654321)):
    model.pieces.add(piece=piece, score=score, type=1)
  (tmp_path / 'spiece.model').write_bytes(model.SerializeToString())
  loaded = vocabulary.load_vocabulary(str(tmp_path))
  texts = [*('z' * n for n in range(2, 13)), '\ufb01\u0301', 'Ben']
  agreements = tokenizer.write(tmp_path, loaded, ROWS, inputs=texts)
  assert set(agreements) == {tokenizer.PIECES, tokenizer.HARD, tokenizer.INPUTS}
  made = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / tokenizer.FILE))
  pairs = zip(texts, _ours(loaded, texts), made(texts).input_ids, strict=True)
  wrong = [text for text, ours, theirs in pairs if ours != theirs]
  assert wrong == ['z' * 11, '\ufb01\u0301']
  assert agreements[tokenizer.INPUTS] == (len(texts), len(wrong), wrong[0])
  assert agreements[tokenizer.HARD].different >= len(wrong)


def test_bytes_that_are_no_text_are_left_out_as_seqio_does(load, vocabularies):
  rng = random.Random(2)
  for _ in range(200):
    ids = [rng.randrange(3, 259) for _ in range(rng.randrange(1, 12))]
    assert load('bytes').decode(ids) == vocabularies['bytes'].decode(ids), ids


@pytest.mark.parametrize('kind', KINDS)
def test_the_separator_of_an_input_is_the_end_of_sequence(load, kind):
  ids = load(kind)('A dog runs. </s> An animal moves.').input_ids
  parts = [load(kind)(text).input_ids for text in ('A dog runs.', 'An animal moves.')]
  assert ids == parts[0] + parts[1]
  assert ids.count(1) == 2


@pytest.mark.parametrize('kind', KINDS)
def test_a_long_input_is_cut_at_the_length_of_training_and_keeps_its_end(load, kind):
  cut = load(kind, 6)('Ben has 12345 apples and some more of them', truncation=True).input_ids
  whole = load(kind)('Ben has 12345 apples and some more of them').input_ids
  assert cut == [*whole[:5], 1]


def test_prefixes_are_the_pieces_that_they_are_to_us(load, vocabularies):
  ids = load('embedded_arithmetic')('[label] Ben').input_ids
  assert ids[0] == vocabularies['embedded_arithmetic'].tokenizer.piece_to_id('▁[label]')


@pytest.mark.parametrize('kind', ['embedded_arithmetic', 'unigram'])
def test_sentinels_are_the_last_ids_as_in_t5(load, vocabularies, kind):
  loaded, made = vocabularies[kind], load(kind)
  assert len(made) == loaded.vocab_size
  assert made.convert_tokens_to_ids('<extra_id_0>') == loaded.vocab_size - 1
  assert made('a <extra_id_7> b').input_ids == _ours(loaded, ['a <extra_id_7> b'])[0]


def test_bytes_get_as_many_sentinels_as_the_embedding_has_rows_for():
  loaded = vocabulary.load_vocabulary('bytes')
  for rows, first, size in ((384, 259, 384), (300, 259, 300), (512, 259, 384)):
    made = tokenizer.make(loaded, rows)
    assert (made.token_to_id('<extra_id_0>'), made.get_vocab_size()) == (first, size)


def test_sentinels_that_a_model_has_among_its_pieces_are_its_own(tmp_path, vocabularies):
  """As mT5's has."""
  model = sentencepiece_model_pb2.ModelProto()
  with open(embedded_arithmetic.VOCABULARY_PATH, 'rb') as file:
    model.ParseFromString(file.read())
  for number in reversed(range(100)):
    model.pieces.add(piece=f'▁<extra_id_{number}>', score=0.0, type=4)  # user defined
  (tmp_path / 'spiece.model').write_bytes(model.SerializeToString())
  loaded = vocabulary.load_vocabulary(str(tmp_path))
  if loaded.extra_ids:
    pytest.skip('load_vocabulary adds sentinels to those that are there')
  made = tokenizer.make(loaded, ROWS)
  assert (
    made.get_vocab_size() == loaded.vocab_size == vocabularies['embedded_arithmetic'].vocab_size
  )
  assert made.encode('a <extra_id_7> b').ids == _ours(loaded, ['a <extra_id_7> b'])[0]


def test_a_model_of_words_is_refused(tmp_path):
  path = sentencepieces.train(
    tmp_path / 'word.model', ['one two', 'two three'], vocab_size=10, model_type='word'
  )
  with pytest.raises(ValueError, match=r'word\.model is .*--to=t5x'):
    tokenizer.make(vocabulary.load_vocabulary(path), ROWS)


def test_a_difference_is_counted_and_shown(vocabularies):
  made = tokenizer.make(vocabularies['bytes'], ROWS)
  agreement = tokenizer.compare(made, vocabularies['embedded_arithmetic'], ['Ben', '', 'Mia'])
  assert agreement == (3, 2, 'Ben')


def test_the_settings_name_no_class_that_would_build_it_anew(load):
  settings = json.loads((_folder(load('embedded_arithmetic')) / tokenizer.CONFIG).read_text())
  assert settings['tokenizer_class'] == 'PreTrainedTokenizerFast'


def test_the_sentencepiece_model_is_beside_it_for_other_programs(load):
  model = _folder(load('embedded_arithmetic')) / tokenizer.SENTENCEPIECE
  assert model.read_bytes() == pathlib.Path(embedded_arithmetic.VOCABULARY_PATH).read_bytes()
  assert not (_folder(load('bytes')) / tokenizer.SENTENCEPIECE).exists()


def _folder(made) -> pathlib.Path:
  return pathlib.Path(made.name_or_path)


@pytest.mark.parametrize('kind', ['bytes', 'embedded_arithmetic'])
@pytest.mark.parametrize('name', ['svamp', 'cqa', 'anli1'])
def test_real_inputs_and_targets_have_our_ids(load, vocabularies, raw_dir, kind, name):
  dataset, loaded = datasets.get(name), vocabularies[kind]
  inputs, targets = set(), set()
  for split in dataset.splits:
    files = release.split_files(dataset, raw_dir, split)
    for example in release.read_examples(dataset, files, split) if files else ():
      inputs |= {
        f'{prefix}{example.input}' for prefix in ('', *(f'{mark} ' for mark in methods.marks()))
      }
      targets |= {example.label, *example.rationale, *example.teacher_label}
  assert len(inputs) > 2000
  texts = sorted(inputs)
  assert load(kind)(texts).input_ids == _ours(loaded, texts)
  texts = sorted(targets)
  plain = loaded.encode_tf(tf.constant(texts)).to_list()
  assert load(kind)(texts, add_special_tokens=False).input_ids == plain
