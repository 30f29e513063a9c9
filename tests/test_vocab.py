"""`dss vocab`: what the trained vocabulary can represent, and how the command behaves."""

import random

import pytest
import seqio
import tensorflow as tf

from dss_jax import cli
from dss_jax.commands import vocab
from dss_jax.tasks import vocabulary
from dss_jax.tasks.registration import register_dataset

WORDS = ['ba', 'co', 'du', 'fi', 'ga', 'he', 'jo', 'ki', 'lu', 'ma', 'no', 'pu', 'ra', 'si', 'to']


def corpus(count: int = 400) -> list[str]:
  rng = random.Random(0)
  words = [''.join(rng.choices(WORDS, k=rng.randint(2, 3))) for _ in range(200)]
  return [
    f'[label] {" ".join(rng.choices(words, k=8))} {rng.randint(1, 999)}?' for _ in range(count)
  ]


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> seqio.Vocabulary:
  path = str(tmp_path_factory.mktemp('vocab') / 'trained.model')
  vocab.write_model(vocab.train_vocabulary(iter(corpus()), 400).model, path)
  return vocabulary.load_vocabulary(path)


def test_special_ids_are_t5s(trained):
  assert (trained.pad_id, trained.eos_id, trained.unk_id) == (0, 1, 2)
  assert trained.tokenizer.bos_id() == -1
  assert trained.vocab_size == 400 + 100


def test_prefixes_are_one_piece(trained):
  for prefix in ('[label] ', '[rationale] '):
    assert len(trained.encode(prefix.strip())) == 1
    assert trained.decode(trained.encode(f'{prefix}ba 7')) == f'{prefix}ba 7'


def test_digits_are_pieces_of_their_own(trained):
  pieces = [trained.tokenizer.id_to_piece(i) for i in range(trained.vocab_size)]
  digits = [p for p in pieces if any(c.isdigit() for c in p) and not p.startswith(('<', '▁<'))]
  assert digits
  assert all(len(piece) == 1 for piece in digits)
  assert trained.decode(trained.encode('( 1234 - 56 )')) == '( 1234 - 56 )'


@pytest.mark.parametrize('text', ['Zoë naïve', '日本語 ½ ﬁ', 'a\nb', '😀', '√2 ≤ x²'])
def test_any_text_is_represented_as_it_is(trained, text):
  ids = trained.encode(text)
  assert trained.unk_id not in ids
  assert trained.decode(ids) == text
  assert list(trained.encode_tf(tf.constant(text)).numpy()) == ids


def test_the_same_texts_give_the_same_model():
  first, second = (vocab.train_vocabulary(iter(corpus()), 350).model for _ in range(2))
  assert first == second


def test_a_corpus_too_small_for_the_size_gives_what_it_holds():
  result = vocab.train_vocabulary(iter(['one two', 'two three']), 5000)
  assert 259 < result.size < 300
  assert result.texts == 2


@pytest.mark.parametrize('size', [10, 260])
def test_a_size_that_cannot_hold_the_bytes_and_characters_is_refused(size):
  with pytest.raises(ValueError, match=rf'No vocabulary of {size} pieces.*raise --size'):
    vocab.train_vocabulary(iter(corpus()), size)


def test_no_text_is_refused():
  with pytest.raises(ValueError, match='no text'):
    vocab.train_vocabulary(iter([]), 300)


def read(split, shuffle_files):
  texts = {
    'input': ['one premise</s>its hypothesis', 'two'],
    'label': ['yes', 'no'],
    'rationale': ['since one', ''],
    'teacher_label': ['yes', 'no'],
  }
  return tf.data.Dataset.from_tensor_slices(texts)


@pytest.fixture(scope='module', autouse=True)
def pair_of_texts():
  register_dataset('vocab_toy', seqio.FunctionDataSource(read, ['train']))


def test_texts_are_inputs_and_targets_of_every_task_once(monkeypatch):
  monkeypatch.setattr(vocabulary, '_current', None)
  label = ['[label] one premise', 'its hypothesis', 'yes', '[label] two', 'no']
  rationale = ['[rationale] one premise', 'its hypothesis', 'since one']
  names = ['vocab_toy_label', 'vocab_toy_dss']
  assert list(vocab.task_texts(names)) == label + rationale
  assert vocabulary._current is None


def test_the_command_writes_the_model_and_says_what_it_holds(tmp_path, capsys):
  output = tmp_path / 'toy.model'
  assert vocab.main(['--task=vocab_toy_dss', f'--output={output}', '--size=1000']) == 0
  said = capsys.readouterr().out
  size = vocabulary.load_vocabulary(str(output), extra_ids=0).vocab_size
  assert f'only {size} pieces; 1000 were asked for' in said
  assert [path.name for path in tmp_path.iterdir()] == ['toy.model']


def test_errors_are_one_line_and_leave_no_file(tmp_path, capsys):
  missing = tmp_path / 'missing' / 'a.model'
  for arguments in (
    ['--task=no_such_task', f'--output={tmp_path}/a.model'],
    ['--task=vocab_toy_dss', f'--output={missing}', '--size=300'],
    ['--task=embedded_arithmetic_dss', '--module=no.such', f'--output={missing}'],
  ):
    assert cli.main(['vocab', *arguments]) == 2
  errors = capsys.readouterr().err.splitlines()
  assert len(errors) == 3
  assert all(line.startswith('dss vocab: ') for line in errors)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('flag', ['--module', '--mixture_or_task_module'])
def test_a_module_of_ones_own_is_imported_first(tmp_path, monkeypatch, flag):
  (tmp_path / 'my_tasks.py').write_text(
    'import seqio\n'
    'from dss_jax.tasks.registration import register_dataset\n'
    'from test_vocab import read\n'
    "register_dataset('from_module', seqio.FunctionDataSource(read, ['train']))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  output = tmp_path / 'module.model'
  arguments = ['--task=from_module_dss', f'--output={output}', '--size=300', f'{flag}=my_tasks']
  assert vocab.main(arguments) == 0
  assert output.exists()


@pytest.mark.parametrize(
  'text', ['ﬁ ½ \uff21', 'é e\u0301', '漢字 \U0001f600', 'a\u200bb', '\ue000']
)
def test_text_is_not_normalised(text, tmp_path):
  path = tmp_path / 'plain.model'
  path.write_bytes(vocab.train_vocabulary(iter(['some text'] * 9), 300).model)
  trained = seqio.SentencePieceVocabulary(str(path))
  assert trained.decode(trained.encode(text)) == text


def test_tensorflow_text_logs_nothing_of_a_trained_model(tmp_path, capfd):
  path = tmp_path / 'quiet.model'
  path.write_bytes(vocab.train_vocabulary(iter(['some text'] * 9), 300).model)
  ids = seqio.SentencePieceVocabulary(str(path)).encode_tf(tf.constant(['some text', 'é']))
  assert ids.nrows() == 2
  assert 'normalizer' not in capfd.readouterr().err


def test_two_that_write_one_vocabulary_share_no_file_and_follow_no_link(tmp_path):
  (tmp_path / 'victim').write_text('mine')
  for name in ('a.model.incomplete', 'a.model'):
    (tmp_path / name).symlink_to(tmp_path / 'victim')
  vocab.write_model(b'model', str(tmp_path / 'a.model'))
  assert (tmp_path / 'victim').read_text() == 'mine'
  assert (tmp_path / 'a.model').read_bytes() == b'model' and not (tmp_path / 'a.model').is_symlink()
