"""`dss train --explain_t5x=FILE`: what each line of T5X's gin files becomes here.

Owns the lines that are printed. What a statement becomes is t5x_translation.py's, and which are
ignored t5x_ignored.py's.
"""

import collections
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dss_jax.settings import (
  gin_files,
  gin_reader,
  t5x_ignored,
  t5x_names,
  t5x_translation,
  unread,
)
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import printable
from dss_jax.settings.statements import AsWritten, Macro, Reference, Statement
from dss_jax.settings.t5x_verdicts import REFUSED, TRANSLATED, Verdict, refused

FLAG = '--explain_t5x'
SAME = 'the same here'
OVERRIDDEN = 'overridden'
NONE_IGNORED = 'none is ignored'


def of(argv: Sequence[str]) -> Sequence[str] | None:
  """The command line without the flag, its file read last; None where the flag is not given."""
  rest, files = [], []
  arguments = iter(argv)
  for argument in arguments:
    name, equals, value = argument.partition('=')
    if name == FLAG:
      file = value if equals else next(arguments, '')
      if not file:
        raise ConfigError(f"{FLAG} needs a value: {FLAG}=FILE, a gin file of T5X's.")
      files.append(f'--gin_file={file}')
    else:
      rest.append(argument)
  return [*rest, *files] if files else None


def explain(argv: Sequence[str], run_file: str) -> Iterator[str]:
  """The lines to print.

  Args:
    argv: arguments after the verb, with the files to explain as --gin_file.
    run_file: the verb's gin file.

  Raises:
    ConfigError: a file is missing or not valid gin.
  """
  reader = gin_files.read(argv, run_file)
  parsed = reader.statements
  judged = t5x_translation.judge(parsed)
  explained = _Explained(parsed, judged, t5x_translation.settle(parsed, judged), run_file)
  counts: collections.Counter[str] = collections.Counter()
  effective = []
  for entry in reader.lines:
    if isinstance(entry, gin_reader.Line):
      yield printable(f'{entry.file}:{entry.line}: {entry.text} -> {entry.became}')
    elif not entry.shipped:
      became = explained.became(entry)
      counts[became.kind] += 1
      yield printable(f'{_stated(entry)} -> {became.text}')
      if became.kind not in (OVERRIDDEN, REFUSED):
        effective.append(entry)
  total = ', '.join(f'{count} {kind}' for kind, count in counts.most_common())
  ignored = [one.where for one in t5x_ignored.find(parsed, effective, explained.is_read)]
  found = f'{len(ignored)} ignored: {", ".join(ignored)}' if ignored else NONE_IGNORED
  yield printable(f'{counts.total()} statements: {total or "none"}; {found}')


class _Became(NamedTuple):
  """What became of a statement: the kind that it is counted under, and the text that is printed."""

  kind: str
  text: str


class _Explained:
  """What becomes of each statement among all.

  Args:
    parsed: all.
    judged: those of T5X's.
    made: of these.
    run_file: the verb's gin file.
  """

  def __init__(
    self,
    parsed: Sequence[Statement],
    judged: Sequence[t5x_translation.Judged],
    made: Sequence[t5x_translation.Made],
    run_file: str,
  ):
    self._parsed, self._made = parsed, made
    self._judged = {id(one.statement): one for one in judged}
    ours = [one for one in parsed if id(one) not in self._judged]
    self.is_read = unread.reader_of(ours, run_file)
    self._last = {one.name: one for one in parsed if one.name}

  def became(self, statement: Statement) -> _Became:
    """What became of one."""
    judged = self._judged.get(id(statement))
    made = [one for one in self._made if one.origin is statement]
    if judged is None:
      verdict = _ours(statement, self.is_read(statement), self._parsed)
      where, text = self._overriding(statement), _became(verdict, [])
    else:
      verdict, where = judged.verdict, judged.overridden_by
      text = _became(verdict, made)
      if conflict := next((one.conflict for one in made if one.conflict), ''):
        return _Became(REFUSED, f'refused; here: {conflict}')
      if made and all(one.overridden_by for one in made):
        where = made[0].overridden_by
    if where:
      return _Became(OVERRIDDEN, f'overridden by {where}; by itself {text}')
    return _Became(TRANSLATED if made else verdict.kind, text)

  def _overriding(self, statement: Statement) -> str:
    """The place of what counts more than a statement of ours; '' if there is none."""
    counted = self._last.get(statement.name, statement) if statement.name else statement
    if counted is not statement:
      return counted.where
    theirs = t5x_translation.overriding(self._made, statement)
    return f'{theirs.origin.where}, {t5x_translation.name_of(theirs.origin)}' if theirs else ''


def _ours(statement: Statement, is_read: bool, parsed: Sequence[Statement]) -> Verdict:
  """What becomes of a statement that gin reads as it is."""
  if is_read:
    return Verdict(SAME)
  for other in parsed:
    if statement.name in other.macros:
      return Verdict(SAME, f'{other.where} reads it')
  if statement.name in t5x_names.ANSWERS:
    return refused(t5x_names.ANSWERS[statement.name])
  return refused('nothing reads it')


def _became(verdict: Verdict, made: Sequence[t5x_translation.Made]) -> str:
  if verdict.is_refused:
    return f'refused; here: {verdict.why}'
  texts = [_without_modules(one.text) + _instead(made, one) for one in made]
  if not texts and verdict.settings:  # it is overridden as a whole
    texts = [_without_modules(f'{name} = {text}') for name, text in verdict.settings.items()]
  if verdict.kind != TRANSLATED and not texts:
    return f'{verdict.kind}: {verdict.why}' if verdict.why else verdict.kind
  settings = ', '.join(texts)
  what = f'translated to {settings}' if settings else 'translated: the same macro is read here'
  return what + (f' ({verdict.why})' if verdict.why else '')


def _instead(made: Sequence[t5x_translation.Made], one: t5x_translation.Made) -> str:
  """What stands behind a setting where others of its statement count and it does not."""
  is_part = one.overridden_by and not all(other.overridden_by for other in made)
  return f', overridden by {one.overridden_by},' if is_part else ''


def _without_modules(text: str) -> str:
  return re.sub(r'dss_jax\.\w+\.', '', text)  # a module's name is enough


def _stated(statement: Statement) -> str:
  name = t5x_translation.name_of(statement)
  return f'{statement.where}: {name} = {_shown(statement.value)!r}'


def _shown(value: Any) -> Any:
  """A value whose `repr` is what a gin file has."""
  if isinstance(value, Macro):
    return AsWritten(f'%{value.name}')
  if isinstance(value, Reference):
    short = '.'.join(value.configurable.split('.')[-2:])
    return AsWritten('@' + '/'.join(filter(None, (value.scope, short))))
  if isinstance(value, dict):
    return {_shown(key): _shown(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_shown(item) for item in value)
  return value
