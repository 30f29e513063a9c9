"""Errors that users meet, and what mends them: the table troubles.toml.

Owns reading and searching it. Does not own: its printing (commands/doctor.py), its page in docs/.
"""

import dataclasses
import functools
import pathlib
import re
import tomllib

FILE = pathlib.Path(__file__).with_name('troubles.toml')
MOST_LETTERS = 1 << 16
"""Of an error's text; a longer one is looked through at its end."""
_BETWEEN = 200
"""Letters that a * stands for, at most."""


@dataclasses.dataclass(frozen=True)
class Trouble:
  """An entry of the table.

  Attributes:
    name: of letters and dashes.
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

  def line_in(self, text: str) -> int:
    """The last line of a text, as `find` has it, that shows this trouble; -1 if none does."""
    ends = [match.end() for one in self.shows for match in _pattern(one).finditer(text)]
    return text.count('\n', 0, max(ends)) if ends else -1


@functools.cache
def all_troubles() -> tuple[Trouble, ...]:
  """The table, in its order."""
  values = tomllib.loads(FILE.read_text(encoding='utf-8'))['trouble']
  return tuple(Trouble(**{**one, 'shows': tuple(one['shows'])}) for one in values)


def find(text: str) -> list[Trouble]:
  """The troubles that an error's text shows: those in its last lines come first.

  The last line of a traceback says what happened, and those above it how it came to that.
  """
  lines = (' '.join(line.split()) for line in text[-MOST_LETTERS:].lower().splitlines())
  plain = '\n'.join(line for line in lines if line)
  found = [(one.line_in(plain), one) for one in all_troubles()]
  shown = [(line, one) for line, one in found if line >= 0]
  return [one for _, one in sorted(shown, key=lambda entry: -entry[0])]


@functools.cache
def _pattern(shown: str) -> re.Pattern[str]:
  """What finds an entry of `shows`: whole words, whose spaces may be line ends."""
  plain = shown.lower().strip('^$')
  parts = (r'\s'.join(map(re.escape, part.split(' '))) for part in plain.split('*'))
  start = '^' if shown[0] == '^' else r'(?<!\w)' * plain[0].isalnum()
  end = '$' if shown[-1] == '$' else r'(?!\w)' * plain[-1].isalnum()
  between = f'[^\0]{{0,{_BETWEEN}}}?'
  return re.compile(start + between.join(parts) + end, re.MULTILINE)
