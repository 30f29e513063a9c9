"""The vocabulary of the process: the same for all tasks, chosen at run time.

Owns: reading a vocabulary from its specification, and the placeholder that lets tasks be
registered before the vocabulary is known. Does not own: training one (dss_jax/commands/vocab.py).
Every vocabulary has padding id 0, end-of-sequence id 1 and unknown id 2.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import seqio
import tensorflow as tf

from dss_jax import datasets
from dss_jax.settings import plain_files
from dss_jax.settings.printable import one_line

EXTRA_IDS = 100
MODEL_NAMES = ('spiece.model', 'sentencepiece.model')
_SPECIAL_IDS = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2}
_UNKNOWN = 2
_SENTINEL = '▁<extra_id_0>'
_HOW_TO_SET = (
  "Set VOCABULARY to 'bytes', to a SentencePiece .model file, or to a folder that holds "
  f'{" or ".join(MODEL_NAMES)} (local or gs://); `dss vocab` trains one.'
)

_current: seqio.Vocabulary | None = None


def load_vocabulary(spec: str, extra_ids: int = EXTRA_IDS) -> seqio.Vocabulary:
  """Reads a vocabulary.

  Args:
    spec: 'bytes'; 'embedded' or 'embedded_arithmetic', which are shipped; the path of a
      SentencePiece .model, or a folder that holds one (as T5 checkpoints do). Paths may be local
      or gs://.
    extra_ids: sentinel ids added after the pieces of a SentencePiece model (T5: 32,000 + 100).
      Bytes get none, nor does a model with sentinels among its pieces, such as mT5's.

  Raises:
    ValueError: nothing is there, it is not a SentencePiece model, or its special ids are not
      pad 0, eos 1 and unk 2.
  """
  if not spec:
    raise ValueError(f'No vocabulary is given. {_HOW_TO_SET}')
  if spec == 'bytes':
    return _Bytes()
  path = model_path(spec)
  try:
    return load_model(path, extra_ids)
  except ValueError as error:
    raise ValueError(f'{error} {_HOW_TO_SET}') from error


def load_model(path: str, extra_ids: int = EXTRA_IDS) -> seqio.Vocabulary:
  """Reads the vocabulary of a .model file, local or gs://; see `load_vocabulary`."""
  if not plain_files.size(path, 'a SentencePiece model'):
    raise ValueError(f'{path} is empty; expected a SentencePiece model.')
  vocabulary = seqio.SentencePieceVocabulary(path, extra_ids=extra_ids)
  try:
    if seqio.SentencePieceVocabulary(path, 0).tokenizer.piece_to_id(_SENTINEL) != _UNKNOWN:
      vocabulary = seqio.SentencePieceVocabulary(path, extra_ids=0)
    ids = {
      'pad_id': vocabulary.tokenizer.pad_id(),
      'eos_id': vocabulary.eos_id,
      'unk_id': vocabulary.unk_id,
    }
  except Exception as error:  # protobuf's and SentencePiece's own classes
    why = one_line(str(error), 200)  # which may hold bytes of the file
    raise ValueError(f'{path} is not a SentencePiece model: {why.rstrip(".")}.') from error
  if ids != _SPECIAL_IDS:
    raise ValueError(f'The vocabulary {path} must have {_SPECIAL_IDS} as T5 does; it has {ids}.')
  return vocabulary


def model_path(spec: str) -> str:
  """Returns the .model file that `spec` names: directly, by its folder, or as one that is shipped.

  Raises:
    ValueError: there is none.
  """
  if spec in datasets.EMBEDDED:
    return str(datasets.EMBEDDED[spec].VOCABULARY_PATH)
  spec = os.path.expanduser(spec)
  candidates = [spec]
  if tf.io.gfile.isdir(spec):
    candidates = [f'{spec.rstrip("/")}/{name}' for name in MODEL_NAMES]
  for path in candidates:
    if tf.io.gfile.exists(path):
      return path
  raise ValueError(f'No vocabulary at {spec!r}: expected {" or ".join(candidates)}. {_HOW_TO_SET}')


def set_vocabulary(spec: str, extra_ids: int = EXTRA_IDS) -> seqio.Vocabulary:
  """Loads the vocabulary that all tasks of this process use from now on, and returns it.

  Raises:
    ValueError: see `load_vocabulary`.
  """
  global _current
  _current = load_vocabulary(spec, extra_ids)
  return _current


def get_vocabulary() -> seqio.Vocabulary:
  """Returns the vocabulary that `set_vocabulary` loaded.

  Raises:
    ValueError: it was not called.
  """
  if _current is None:
    raise ValueError(f'The vocabulary is not set. {_HOW_TO_SET}')
  return _current


@contextlib.contextmanager
def temporary_vocabulary(spec: str) -> Iterator[seqio.Vocabulary]:
  """Sets the vocabulary inside a `with` block and puts the former one back after it."""
  global _current
  former = _current
  try:
    yield set_vocabulary(spec)
  finally:
    _current = former


def padded_vocab_size(vocabulary: seqio.Vocabulary) -> int:
  """Returns the rows a model's embedding needs: the size rounded up to a multiple of 128.

  T5's 32,100 ids become 32,128 rows, which divide evenly over devices.
  """
  return -(-vocabulary.vocab_size // 128) * 128


class _Bytes(seqio.ByteVocabulary):
  """SeqIO's bytes, whose encode_tf also takes a vector of texts, as SentencePiece's does."""

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    texts = tf.convert_to_tensor(s)
    if texts.shape.rank == 0:
      return super()._encode_tf(texts)
    tokens = super()._encode_tf(tf.strings.reduce_join(texts))
    return tf.RaggedTensor.from_row_lengths(tokens, tf.cast(tf.strings.length(texts), tf.int64))


class LazyVocabulary(seqio.Vocabulary):
  """A placeholder for the process's vocabulary in the features of tasks, which may be set later."""

  def __init__(self) -> None:
    """Holds no state: every access goes to `get_vocabulary()`."""

  @property
  def bos_id(self) -> int | None:
    return get_vocabulary().bos_id

  @property
  def eos_id(self) -> int | None:
    return get_vocabulary().eos_id

  @property
  def unk_id(self) -> int | None:
    return get_vocabulary().unk_id

  @property
  def pad_id(self) -> int:
    return get_vocabulary().pad_id

  @property
  def extra_ids(self) -> int:
    return get_vocabulary().extra_ids

  @property
  def vocab_size(self) -> int:
    return get_vocabulary().vocab_size

  @property
  def tokenizer(self) -> Any:
    """The SentencePiece processor, if there is one."""
    return get_vocabulary().tokenizer

  @property
  def tf_tokenizer(self) -> Any:
    """The tf.text tokenizer, if there is one."""
    return get_vocabulary().tf_tokenizer

  @property
  def _base_vocab_size(self) -> int:
    return get_vocabulary()._base_vocab_size

  def encode(self, s: Sequence[int] | str) -> Sequence[int]:
    return get_vocabulary().encode(s)

  def decode(self, ids: Iterable[int]) -> str:
    return get_vocabulary().decode(ids)

  def encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return get_vocabulary().encode_tf(s)

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return get_vocabulary().decode_tf(ids)

  def _encode(self, s: str) -> Sequence[int]:
    return get_vocabulary()._encode(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return get_vocabulary()._decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return get_vocabulary()._encode_tf(s)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return get_vocabulary()._decode_tf(ids)

  def __eq__(self, other: object) -> bool:
    if isinstance(other, LazyVocabulary):
      return True
    return _current is not None and _current == other

  def __str__(self) -> str:
    return f'LazyVocabulary({_current or "not set"})'
