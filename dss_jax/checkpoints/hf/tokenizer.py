"""Our vocabularies as tokenizer files of Hugging Face: the same ids for the same text.

Owns the translation of a SentencePiece model, or of bytes, into tokenizer.json, and the check that
both encode alike. transformers' own T5Tokenizer would not do: it takes every model for a unigram
model without byte pieces, and it splits pieces that must stay whole, such as `▁[label]`.
tasks/vocabulary.py reads vocabularies.

A text is encoded as our tasks encode an input (tasks/preprocessors.py): `</s>` is the end of
sequence, and the parts around it are stripped and encoded separately. These differences from SeqIO
remain: `<pad>`, `<unk>` and `<extra_id_0>` become ids wherever a text spells them; of a unigram
model's equally good cuts, as of `000` into `00` and `0`, the `tokenizers` library takes another,
since SentencePiece adds scores in float32 and it in float64; it drops the combining marks of
letters that a model's character table changes (T5's and mT5's tables change some, that of
`dss vocab` none); and a text that is only `▁[label]`, with U+2581, is the prefix.
"""

import itertools
import json
import os
import pathlib
import random
import re
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import seqio
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from dss_jax.tasks import preprocessors

FILE = 'tokenizer.json'
CONFIG = 'tokenizer_config.json'
SENTENCEPIECE = 'spiece.model'
FIRST = PAD, EOS, UNK = '<pad>', '</s>', '<unk>'
SPACE = '▁'
BYTES = 256
BYTE_SENTINELS = 125
"""ByT5's sentinels after the 259 ids of bytes, as many as the embedding has rows for."""
IN_A_ROW = 12  # pieces that are compared as one text
REPEATED = range(2, 13)  # how often a character stands in a row in texts that are compared
PIECES, HARD, INPUTS = 'texts of its own pieces', 'hard texts', 'inputs of its data'
_WORDS = ('a', 'b.', 'Ben')
_SPACES = (
  ' ',
  '  ',
  '   ',
  '\t',
  '\n',
  '\r\n',
  '\x0b',
  '\x85',
  '\xa0',
  '\u2009',
  '\u200b',
  '\u3000',
)
_NORMALISED = (
  'e\u0301', '\xe9', 'A\u030a', '\u212b', 'e\u0323\u0302', '\ufb01', '\ufb01\u0301',
  '\u2460\u0301', '\xbd cup', 'x\xb2', '\uff46\uff55\uff4c', '\u30ab\u3099', '\uff76\uff9e',
  '\u1112\u1161\u11ab', 'a\xadb', '\ufeffa', '\u20185\u2019', '\u201ca\u201d', 'a\u2026',
  '5\u2212 3', '\u2014', 'a\x07b', '\U0001f44d\U0001f3fd', '\ufdfa',
)  # fmt: skip
_STRIP = tokenizers.Regex(r'\A[ \t\n\x0b\f\r]+|[ \t\n\x0b\f\r]+\z')
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType of SentencePiece
_NORMAL, _USER_DEFINED = 1, 4  # ModelProto.SentencePiece.Type: USER_DEFINED pieces are never split


class Agreement(NamedTuple):
  """How many texts were encoded by both sides, how many differently, and the first of those."""

  texts: int
  different: int
  example: str | None


def write(
  folder: str | os.PathLike,
  vocabulary: seqio.Vocabulary,
  rows: int,
  max_length: int | None = None,
  inputs: Sequence[str] = (),
) -> dict[str, Agreement]:
  """Writes what `AutoTokenizer.from_pretrained(folder)` needs, and the SentencePiece model.

  Args:
    folder: must exist.
    vocabulary: of `load_vocabulary`.
    rows: of the network's embedding.
    max_length: of inputs, in tokens, if the network was trained with a limit.
    inputs: real texts to compare too, if there are any.

  Returns:
    How far both encode each kind of text alike: the vocabulary's own pieces, alone and in random
    rows; hard texts, of repeated characters, white space and Unicode's other forms; and `inputs`.

  Raises:
    ValueError: tokenizer.json cannot express this kind of SentencePiece model.
  """
  folder = pathlib.Path(folder)
  made = make(vocabulary, rows)
  made.save(str(folder / FILE))
  settings: dict[str, Any] = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'pad_token': PAD,
    'eos_token': EOS,
    'unk_token': UNK,  # which CTranslate2 needs
    'clean_up_tokenization_spaces': False,
    'model_input_names': ['input_ids', 'attention_mask'],
  }
  if max_length is not None:
    settings['model_max_length'] = max_length
  (folder / CONFIG).write_text(json.dumps(settings, indent=2) + '\n', encoding='utf-8')
  path = sentencepiece_path(vocabulary)
  if path is not None:
    (folder / SENTENCEPIECE).write_bytes(_read(path))
  texts = {**_probes(vocabulary), **({INPUTS: inputs} if inputs else {})}
  return {kind: compare(made, vocabulary, of_kind) for kind, of_kind in texts.items()}


def sentencepiece_path(vocabulary: seqio.Vocabulary) -> str | None:
  """The .model file of a vocabulary; None for bytes."""
  return getattr(vocabulary, 'sentencepiece_model_file', None)


def make(vocabulary: seqio.Vocabulary, rows: int) -> tokenizers.Tokenizer:
  """The tokenizer of a vocabulary; arguments and errors as of `write`."""
  path = sentencepiece_path(vocabulary)
  made = _of_bytes() if path is None else _of_sentencepiece(path)
  # T5 counts its sentinels down to the end of the vocabulary, Hugging Face's ByT5 up from 259.
  numbers: Sequence[int] = range(min(BYTE_SENTINELS, rows - made.get_vocab_size()))
  if path is not None:
    numbers = range(vocabulary.extra_ids)[::-1]
  sentinels = [f'<extra_id_{number}>' for number in numbers]
  made.add_special_tokens([_token(text, special=True) for text in (*FIRST, *sentinels)])
  made.post_processor = processors.TemplateProcessing(
    single=f'$A {EOS}', pair=f'$A {EOS} $B {EOS}', special_tokens=[(EOS, FIRST.index(EOS))]
  )
  return made


def compare(
  made: tokenizers.Tokenizer, vocabulary: seqio.Vocabulary, texts: Sequence[str]
) -> Agreement:
  """Encodes texts as a tokenizer does and as our tasks encode inputs."""
  ours = preprocessors.encode_parts(tf.constant(texts), vocabulary).to_list()
  theirs = [encoding.ids for encoding in made.encode_batch(list(texts))]
  pairs = zip(texts, ours, theirs, strict=True)
  different = [
    text for text, our_ids, their_ids in pairs if [*our_ids, vocabulary.eos_id] != their_ids
  ]
  return Agreement(len(texts), len(different), different[0] if different else None)


def _of_bytes() -> tokenizers.Tokenizer:
  ids = {text: number for number, text in enumerate(FIRST)}
  for letter in pre_tokenizers.ByteLevel.alphabet():  # GPT-2's names of the 256 bytes
    ids[letter] = _byte_of(letter) + len(FIRST)
  made = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[]))
  made.normalizer = normalizers.Replace(_STRIP, '')
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  # SeqIO leaves out ids that are not bytes, and bytes that are not UTF-8.
  made.decoder = decoders.Sequence(
    [decoders.Replace(UNK, ''), decoders.ByteLevel(), decoders.Replace('\ufffd', '')]
  )
  return made


def _byte_of(letter: str) -> int:
  """The byte behind a letter of GPT-2: a printable byte is itself, the others count from 256."""
  printable = {*range(33, 127), *range(161, 173), *range(174, BYTES)}
  others = [byte for byte in range(BYTES) if byte not in printable]
  return ord(letter) if ord(letter) < BYTES else others[ord(letter) - BYTES]


def _of_sentencepiece(path: str) -> tokenizers.Tokenizer:
  model = _proto(path)
  trainer, normalizer = model.trainer_spec, model.normalizer_spec
  odd = trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces
  if trainer.model_type not in (_UNIGRAM, _BPE) or odd:
    raise ValueError(
      f'{path} is a SentencePiece model of a kind that tokenizer.json cannot express; expected '
      'unigram or bpe pieces with whitespace in front of words, as T5 and `dss vocab` have them. '
      'Export with --to=t5x, which needs no tokenizer.json.'
    )
  user_defined = [piece.piece for piece in model.pieces if piece.type == _USER_DEFINED]
  made = tokenizers.Tokenizer(_unigram(model) if trainer.model_type == _UNIGRAM else _bpe(model))
  made.normalizer = _normalizer(normalizer, user_defined)
  made.decoder = decoders.Sequence(
    [
      decoders.Replace(UNK, trainer.unk_surface),
      decoders.Replace(SPACE, ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', int(normalizer.add_dummy_prefix), 0),
    ]
  )
  made.add_tokens([_token(text, special=False) for text in user_defined])
  return made


def _token(text: str, special: bool) -> tokenizers.AddedToken:
  """A piece that is never split: matched in the raw text if special, else after normalising."""
  return tokenizers.AddedToken(text, normalized=not special, special=special)


def _unigram(model: Any) -> models.Unigram:
  pieces = [(piece.piece, piece.score) for piece in model.pieces]
  return models.Unigram(
    pieces, unk_id=FIRST.index(UNK), byte_fallback=model.trainer_spec.byte_fallback
  )


def _bpe(model: Any) -> models.BPE:
  """Merges in the order of the scores of their results, as SentencePiece ranks them."""
  scores = {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL}
  merges = [
    (text[:cut], text[cut:])
    for text in sorted(scores, key=lambda text: -scores[text])
    for cut in range(1, len(text))
    if text[:cut] in scores and text[cut:] in scores
  ]
  byte_fallback = model.trainer_spec.byte_fallback
  return models.BPE(
    vocab={piece.piece: number for number, piece in enumerate(model.pieces)},
    merges=merges,
    unk_token=UNK,
    fuse_unk=not byte_fallback,
    byte_fallback=byte_fallback,
  )


def _normalizer(spec: Any, user_defined: Sequence[str]) -> normalizers.Normalizer:
  """What SentencePiece does to a text before it looks for pieces.

  Args:
    spec: of the model.
    user_defined: the pieces that are never split; `tokenizers` normalises them too.
  """
  steps: list[normalizers.Normalizer] = [normalizers.Replace(_STRIP, '')]
  if spec.precompiled_charsmap:
    steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
  if spec.remove_extra_whitespaces:
    steps += [
      normalizers.Replace(tokenizers.Regex(rf'\A +|[ {SPACE}]+\z'), ''),
      normalizers.Replace(tokenizers.Regex(' {2,}'), ' '),
    ]
  if spec.add_dummy_prefix:  # not by `Prepend`: the user-defined pieces have theirs already
    pieces = '|'.join(map(re.escape, user_defined)) or r'\A\z'
    start = tokenizers.Regex(rf'\A(?!(?:{pieces})\z)(?=[\s\S])')
    steps.append(normalizers.Replace(start, SPACE))
  return normalizers.Sequence([*steps, normalizers.Replace(' ', SPACE)])


def _proto(path: str) -> Any:
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
  model.ParseFromString(_read(path))
  return model


def _read(path: str) -> bytes:
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def _probes(vocabulary: seqio.Vocabulary) -> dict[str, list[str]]:
  """Texts to compare, by kind."""
  path = sentencepiece_path(vocabulary)
  if path is None:
    pieces = [chr(code) for code in (*range(0x800), *range(0x4E00, 0x4E80), 0x1F600)]
  else:
    model = _proto(path)
    pieces = [p.piece.replace(SPACE, ' ') for p in model.pieces if p.type == _NORMAL]
  repeated = {
    before for piece in pieces for before, after in itertools.pairwise(piece) if before == after
  }
  repeated |= set(string.digits + string.punctuation)
  hard = [
    *(character * times for character in sorted(repeated) for times in REPEATED),
    *(f'{one}{space}{other}' for space in _SPACES for one in _WORDS for other in ('', *_WORDS)),
    *_NORMALISED,
    *(f'so {text} is' for text in _NORMALISED),
  ]
  random.Random(0).shuffle(pieces)
  rows = [''.join(pieces[at : at + IN_A_ROW]) for at in range(0, len(pieces), IN_A_ROW)]
  return {PIECES: [*pieces, *rows], HARD: hard}
