"""Text of others as a terminal can show it: no escape sequence works, no letter is reordered."""

import unicodedata

KEPT = '\n\t\u200c\u200d'  # the last two join and part letters: emoji and Persian need them


def printable(text: str) -> str:
  r"""A text whose control characters are visible: '\x1b' and '\u202e' as these six letters.

  Line ends and tabs stay, and so do spaces of any width.
  """
  if text.isprintable():
    return text
  return ''.join(letter if _is_shown(letter) else _escape(letter) for letter in text)


def one_line(text: str, most: int | None = None) -> str:
  """A text within a message: line ends and tabs are escaped too; cut to `most` letters."""
  shown = text if text.isprintable() else repr(text)[1:-1]
  return shown if most is None or len(shown) <= most else f'{shown[:most]}...'


def _is_shown(letter: str) -> bool:
  return letter.isprintable() or letter in KEPT or unicodedata.category(letter) == 'Zs'


def _escape(letter: str) -> str:
  return letter.encode('unicode_escape').decode()
