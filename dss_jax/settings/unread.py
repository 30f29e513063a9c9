"""Finds settings that would be ignored, and accepts or refuses them.

A macro is read if a value contains %NAME. A configurable is built if a run file binds it, or if a
value that is itself used refers to it (@module.name). A configurable that its own module registered
(@gin.configurable) counts as built, since code may call it anywhere. The first of these rules that
applies decides on a statement of a file or of the command line:

1. This verb reads it: the parsed statements (of the verb's run file, the named files and the
   command line) read the macro or build the configurable. It is accepted.
2. Another verb reads it, by its run file (gin/runs/) and the named files. In a file it is accepted,
   so that one file serves `train`, `evaluate` and all others; if the file is a user's own, a note
   says so. On the command line, which is for one verb, it is refused.
3. Nobody reads it: it is refused, with its file and line and with similar names, or, for a macro of
   T5X, with the setting that replaces it.

A macro that is overwritten later still counts: `MODEL = @t5.T5Config()` reads the network even if a
second file sets another MODEL.

gin itself refuses a configurable or a parameter that does not exist.
"""

import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from dss_jax.settings import statements, t5x_names
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.statements import Statement

MOST_NAMED = 5  # settings of other verbs that a note names


class Judged(NamedTuple):
  """The statements that a verb reads, and notes on users' files with settings of other verbs."""

  used: list[Statement]
  notes: list[str]


def check(
  parsed: Sequence[Statement],
  run_file: str,
  called_by_code: Collection[str] = (),
  theirs: Sequence[Statement] = (),
) -> Judged:
  """Refuses settings that nobody reads.

  Args:
    parsed: every statement that was parsed, the run file's included, T5X's excluded.
    run_file: the verb's, e.g. 'runs/train.gin'.
    called_by_code: configurables that their own modules registered.
    theirs: statements of T5X's, which read macros too.

  Raises:
    ConfigError: see the top of this file.
  """
  verb = run_file.removeprefix('runs/').removesuffix('.gin')
  own, others = _readers(parsed, run_file, called_by_code)
  read_by_theirs = {name for statement in theirs for name in statement.macros}
  used: list[Statement] = []
  unread: dict[str, list[str]] = {}
  for statement in parsed:
    if own.reads(statement):
      used.append(statement)
    elif statement.name in read_by_theirs:
      continue
    elif not others.reads(statement) or not statement.file:
      raise ConfigError(_refusal(statement, own, verb, elsewhere=others.reads(statement)))
    elif not statement.shipped:
      unread.setdefault(statement.file, []).append(
        statement.name or f'{statement.configurable}.{statement.parameter}'
      )
  return Judged(used, [_note(file, verb, names) for file, names in unread.items()])


def reader_of(parsed: Sequence[Statement], run_file: str) -> Callable[[Statement], bool]:
  """Whether a verb, or another one, reads what a statement sets, as a function.

  Args:
    parsed: every statement that was parsed.
    run_file: the verb's.
  """
  own, others = _readers(parsed, run_file)
  return lambda statement: own.reads(statement) or others.reads(statement)


class _Readers:
  """The macros that are read and the configurables that are built by some statements."""

  def __init__(
    self,
    all_statements: Sequence[Statement],
    roots: Iterable[Statement],
    built: Collection[str] = (),
  ):
    self.macros = {name for statement in all_statements for name in statement.macros}
    self.built = {statement.configurable for statement in roots if statement.configurable} | set(
      built
    )
    scopes = {
      ref.scope for statement in all_statements for ref in statement.references
    } | self.macros
    self.scopes = {part for scope in scopes for part in scope.split('/')}
    waiting = list(all_statements)
    while used := [statement for statement in waiting if self.reads(statement)]:
      waiting = [statement for statement in waiting if not self.reads(statement)]
      self.built |= {
        reference.configurable for statement in used for reference in statement.references
      }

  def reads(self, statement: Statement) -> bool:
    """Whether what a statement sets is read."""
    if statement.name:
      return statement.name in self.macros
    if statement.scope and not set(statement.scope.split('/')) <= self.scopes:
      return False
    return any(statements.same(statement.configurable, built) for built in self.built)


def _readers(
  parsed: Sequence[Statement], run_file: str, called_by_code: Collection[str] = ()
) -> tuple[_Readers, _Readers]:
  """What a verb reads, and what all verbs read."""
  own = _Readers(parsed, statements.of_shipped(run_file), called_by_code)
  return own, _Readers([*parsed, *_run_files()], _run_files())


@functools.cache
def _run_files() -> tuple[Statement, ...]:
  """The statements of all run files that ship with dss_jax."""
  names = sorted(file.name for file in (statements.gin_root() / 'runs').glob('*.gin'))
  return tuple(statement for name in names for statement in statements.of_shipped(f'runs/{name}'))


def _note(file: str, verb: str, names: Sequence[str]) -> str:
  rest = len(names) - MOST_NAMED
  more = f' and {rest} more' if rest > 0 else ''
  return (
    f'{file}: `dss {verb}` does not read {", ".join(names[:MOST_NAMED])}{more}; other verbs do.'
  )


def _refusal(statement: Statement, own: _Readers, verb: str, elsewhere: bool) -> str:
  if not statement.name:
    scoped = (
      f'{statement.scope}/{statement.configurable}' if statement.scope else statement.configurable
    )
    return (
      f'{statement.where}: `dss {verb}` does not build {scoped}, so nothing reads '
      f'{statement.parameter} of it; remove the binding, or refer to it (@...) in a value that '
      'is read.'
    )
  if replacement := t5x_names.answer(statement.name):
    return f'{statement.where}: {replacement}'
  near = difflib.get_close_matches(statement.name, own.macros, n=3, cutoff=0.5)
  known = ', '.join(sorted(own.macros - {statements.REQUIRED}))
  hint = f'did you mean {" or ".join(near)}?' if near else f'there are {known}.'
  who = ', which other verbs read' if elsewhere else ''
  return f'{statement.where}: `dss {verb}` does not read the macro {statement.name}{who}: {hint}'
