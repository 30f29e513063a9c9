"""`dss train --explain_t5x=FILE`: what each line of T5X's gin files becomes here.

Owns the lines that are printed. What a statement becomes is t5x_translation.py's.
"""

import collections
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dss_jax.settings import gin_files, gin_reader, t5x_names, t5x_translation, unread
from dss_jax.settings.printable import printable
from dss_jax.settings.statements import Macro, Reference, Statement
from dss_jax.settings.t5x_verdicts import TRANSLATED, Verdict, refused

FLAG = '--explain_t5x'
SAME = 'the same here'
OVERRIDDEN = 'overridden'


def of(argv: Sequence[str]) -> Sequence[str] | None:
  """The command line without the flag, its file read last; None where the flag is not given."""
  rest, files = [], []
  arguments = iter(argv)
  for argument in arguments:
    name, equals, value = argument.partition('=')
    if name == FLAG:
      files.append(f'--gin_file={value if equals else next(arguments, "")}')
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
  judged = {id(one.statement): one for one in t5x_translation.judge(parsed)}
  counts: collections.Counter[str] = collections.Counter()
  ours = [one for one in parsed if id(one) not in judged]
  is_read = unread.reader_of(ours, run_file)
  last = {one.name: one for one in parsed if one.name}
  for entry in reader.lines:
    if isinstance(entry, gin_reader.Line):
      yield printable(f'{entry.file}:{entry.line}: {entry.text} -> {entry.became}')
      continue
    if entry.shipped:
      continue
    if one := judged.get(id(entry)):
      verdict, overridden_by = one.verdict, one.overridden_by
    else:
      verdict = _ours(entry, is_read(entry), parsed)
      counted = last.get(entry.name, entry)
      overridden_by = '' if counted is entry else counted.where
    counts[OVERRIDDEN if overridden_by else verdict.kind] += 1
    yield printable(f'{_stated(entry)} -> {_became(verdict, overridden_by)}')
  total = ', '.join(f'{count} {kind}' for kind, count in counts.most_common())
  yield f'{counts.total()} statements: {total or "none"}; none is ignored'


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


def _became(verdict: Verdict, overridden_by: str) -> str:
  settings = ', '.join(f'{name} = {text}' for name, text in verdict.settings.items())
  settings = re.sub(r'dss_jax\.\w+\.', '', settings)  # a module's name is enough
  if verdict.kind == TRANSLATED:
    what = f'translated to {settings}' if settings else 'translated: the same macro is read here'
    what += f' ({verdict.why})' if verdict.why else ''
  elif verdict.is_refused:
    what = f'refused; here: {verdict.why}'
  else:
    what = f'{verdict.kind}: {verdict.why}' if verdict.why else verdict.kind
  return f'overridden by {overridden_by}; by itself {what}' if overridden_by else what


def _stated(statement: Statement) -> str:
  name = t5x_translation.name_of(statement)
  return f'{statement.where}: {name} = {_shown(statement.value)!r}'


class _Text(str):
  """Text that `repr` shows as it is."""

  __slots__ = ()

  def __repr__(self) -> str:
    return str(self)


def _shown(value: Any) -> Any:
  """A value whose `repr` is what a gin file has."""
  if isinstance(value, Macro):
    return _Text(f'%{value.name}')
  if isinstance(value, Reference):
    short = '.'.join(value.configurable.split('.')[-2:])
    return _Text('@' + '/'.join(filter(None, (value.scope, short))))
  if isinstance(value, dict):
    return {_shown(key): _shown(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_shown(item) for item in value)
  return value
