"""Errors that users meet, and what mends them: the table troubles.toml.

Owns reading and searching it. Does not own: its printing (commands/doctor.py), its page in docs/.
"""

import dataclasses
import functools
import pathlib
import re
import tomllib

FILE = pathlib.Path(__file__).with_name('troubles.toml')
PAGE = 'docs/troubleshooting.md'
"""Where docs/ shows the table; an entry's anchor is its name."""
MOST_LETTERS = 1 << 20
"""Of an error's text; a longer one is looked through at its end."""
_BETWEEN = 200
"""Letters that a * stands for, at most."""


@dataclasses.dataclass(frozen=True)
class Trouble:
  """An entry of the table.

  Attributes:
    name: of letters and dashes, also its anchor in docs/.
    title: what is wrong, in a few words.
    shows: what an error's text has in it, any of them.
    example: such a text, as it came.
    means: why it comes.
    fix: what mends it.
    page: of docs/, which tells more.
  """

  name: str
  title: str
  shows: tuple[str, ...]
  example: str
  means: str
  fix: str
  page: str

  def is_in(self, text: str) -> bool:
    """Whether a text, as `_plain` has it, shows this trouble."""
    return any(_pattern(one).search(text) for one in self.shows)


@functools.cache
def all_troubles() -> tuple[Trouble, ...]:
  """The table, in its order."""
  values = tomllib.loads(FILE.read_text(encoding='utf-8'))['trouble']
  return tuple(Trouble(**{**one, 'shows': tuple(one['shows'])}) for one in values)


def find(text: str) -> list[Trouble]:
  """The troubles that an error's text shows: those in its last lines come first.

  The last line of a traceback says what happened, and those above it how it came to that.
  """
  lines = [_plain(line) for line in text[-MOST_LETTERS:].splitlines() if line.strip()]
  whole = _plain(text[-MOST_LETTERS:])
  found = {
    one.name: max((at for at, line in enumerate(lines) if one.is_in(line)), default=-1)
    for one in all_troubles()
    if one.is_in(whole)
  }
  return sorted(
    (one for one in all_troubles() if one.name in found), key=lambda one: -found[one.name]
  )


def _plain(text: str) -> str:
  return ' '.join(text.split()).lower()


@functools.cache
def _pattern(shown: str) -> re.Pattern[str]:
  parts = map(re.escape, _plain(shown).split('*'))
  return re.compile(r'(?<!\w)' * shown[0].isalnum() + f'.{{0,{_BETWEEN}}}?'.join(parts))
