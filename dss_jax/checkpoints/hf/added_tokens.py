"""Tokens that a Hugging Face folder adds to its vocabulary, which our vocabulary does not have.

Owns where such tokens are written and the note that says what becomes of them. SeqIO appends T5's
sentinels after the pieces of the SentencePiece model and nothing after those, so a token that
somebody added behind them is left out: its text is encoded as the pieces it consists of, or as the
unknown token.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from dss_jax.checkpoints import foreign_files

ADDED, MAP = 'added_tokens.json', 'special_tokens_map.json'
CONFIG, FAST = 'tokenizer_config.json', 'tokenizer.json'
FILES = (ADDED, MAP, CONFIG, FAST)
MOST_FAST = 64 << 20  # bytes of a tokenizer.json; mT5's has 16 MiB
_SPECIAL = re.compile(r'<pad>|</s>|<unk>|\u2581?<extra_id_\d+>')


def note(folder: pathlib.Path, vocabulary: str | None) -> tuple[str, ...]:
  """A line that names the added tokens which our vocabulary leaves out; none without such tokens.

  Args:
    folder: of the model.
    vocabulary: 'bytes', the folder of a SentencePiece model, or None.

  Raises:
    ValueError: a file is not what it should be.
  """
  if vocabulary is None:
    return ()
  added = {text for text in _texts(folder) if not _SPECIAL.fullmatch(text)}
  left_out = sorted(added - _pieces(vocabulary, added)) if added else []
  if not left_out:
    return ()
  names = ', '.join(foreign_files.shown(text) for text in left_out[:5])
  more = f' and {len(left_out) - 5} more' if len(left_out) > 5 else ''
  return (
    f'warning: {len(left_out)} token(s) were added to its vocabulary, which are left out here: '
    f'{names}{more}. Their texts become other pieces or \u2047, not the ids that the weights were '
    'trained with.',
  )


def _pieces(vocabulary: str, texts: set[str]) -> set[str]:
  """Those of the texts that are pieces of our vocabulary."""
  if vocabulary == 'bytes':
    return set()
  from dss_jax.tasks.vocabulary import load_vocabulary  # brings TensorFlow

  loaded = load_vocabulary(vocabulary)
  id_of = loaded.tokenizer.piece_to_id
  return {text for text in texts if {id_of(text), id_of(f'\u2581{text}')} != {loaded.unk_id}}


def _texts(folder: pathlib.Path) -> Iterator[str]:
  """The tokens that a folder's files list beside its pieces."""
  for name in FILES:
    file = folder / name
    if foreign_files.is_there(file):
      most = MOST_FAST if name == FAST else foreign_files.MOST_JSON
      content = foreign_files.read_json(file, 'a JSON object', most)
      yield from _of_file(name, content)


def _of_file(name: str, content: dict[str, Any]) -> Iterator[str]:
  if name == ADDED:
    yield from content
    return
  found: list[Any] = []
  for key in ('added_tokens', 'additional_special_tokens', 'added_tokens_decoder'):
    value = content.get(key)
    found += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
  if name in (MAP, CONFIG):
    found += [value for key, value in content.items() if key.endswith('_token')]
  for value in found:
    text = value.get('content') if isinstance(value, dict) else value
    if isinstance(text, str) and text:
      yield text
