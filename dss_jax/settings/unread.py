"""Which settings would be ignored, and what becomes of them.

A macro is read where a value holds %NAME. A configurable is built where a run file binds it, or
where a value that is itself used refers to it (@module.name); one that its own module made
configurable (@gin.configurable) is taken for built, since code may call it anywhere. A statement
of a file or of the command line is judged by the first of these that holds:

1. What is read is this verb's: the macro is read, or the configurable built, by the statements
   that were parsed: those of the verb's run file, of the files named, and of the command line.
2. Another verb reads it, by its run file (gin/runs/) together with the files named. In a file it
   is accepted, so that one file serves `train`, `evaluate` and all others: without a word in a file
   that ships with dss_jax, with a note in one of the user's. On the command line, which is for one
   verb, it is refused.
3. Nobody reads it: it is refused, with its file and line and with near names; a macro of T5X's
   with what says the same here.

That a macro is overwritten later does not matter: `MODEL = @t5.T5Config()` still reads the network
where a second file sets another MODEL.

A configurable or a parameter that does not exist is refused by gin itself.
"""

import difflib
import functools
from collections.abc import Collection, Iterable, Sequence
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
  parsed: Sequence[Statement], run_file: str, called_by_code: Collection[str] = ()
) -> Judged:
  """Refuses what nobody reads.

  Args:
    parsed: every statement that was parsed, the run file's included.
    run_file: the verb's, e.g. 'runs/train.gin'.
    called_by_code: configurables that their own modules made so.

  Raises:
    ConfigError: see the top of this file.
  """
  verb = run_file.removeprefix('runs/').removesuffix('.gin')
  own = _Readers(parsed, statements.of_shipped(run_file), called_by_code)
  others = _Readers([*parsed, *_run_files()], _run_files())
  used: list[Statement] = []
  unread: dict[str, list[str]] = {}
  for one in parsed:
    if own.reads(one):
      used.append(one)
    elif not others.reads(one) or not one.file:
      raise ConfigError(_refusal(one, own, verb, elsewhere=others.reads(one)))
    elif not one.shipped:
      unread.setdefault(one.file, []).append(one.name or f'{one.configurable}.{one.parameter}')
  return Judged(used, [_note(file, verb, names) for file, names in unread.items()])


class _Readers:
  """The macros that are read and the configurables that are built by some statements."""

  def __init__(
    self,
    all_statements: Sequence[Statement],
    roots: Iterable[Statement],
    built: Collection[str] = (),
  ):
    self.macros = {name for one in all_statements for name in one.macros}
    self.built = {one.configurable for one in roots if one.configurable} | set(built)
    scopes = {ref.scope for one in all_statements for ref in one.references} | self.macros
    self.scopes = {part for scope in scopes for part in scope.split('/')}
    waiting = list(all_statements)
    while used := [one for one in waiting if self.reads(one)]:
      waiting = [one for one in waiting if one not in used]
      self.built |= {reference.configurable for one in used for reference in one.references}

  def reads(self, one: Statement) -> bool:
    """Whether what a statement sets is read."""
    if one.name:
      return one.name in self.macros
    if one.scope and not set(one.scope.split('/')) <= self.scopes:
      return False
    return any(statements.same(one.configurable, built) for built in self.built)


@functools.cache
def _run_files() -> tuple[Statement, ...]:
  """The statements of all run files that ship with dss_jax."""
  names = sorted(file.name for file in (statements.gin_root() / 'runs').glob('*.gin'))
  return tuple(one for name in names for one in statements.of_shipped(f'runs/{name}'))


def _note(file: str, verb: str, names: Sequence[str]) -> str:
  rest = len(names) - MOST_NAMED
  more = f' and {rest} more' if rest > 0 else ''
  return (
    f'{file}: `dss {verb}` does not read {", ".join(names[:MOST_NAMED])}{more}; other verbs do.'
  )


def _refusal(one: Statement, own: _Readers, verb: str, elsewhere: bool) -> str:
  if not one.name:
    scoped = f'{one.scope}/{one.configurable}' if one.scope else one.configurable
    return (
      f'{one.where}: `dss {verb}` does not build {scoped}, so nothing reads {one.parameter} of it; '
      'take the binding away, or refer to it (@...) in a value that is read.'
    )
  if told := t5x_names.answer(one.name):
    return f'{one.where}: {told}'
  near = difflib.get_close_matches(one.name, own.macros, n=3, cutoff=0.5)
  known = ', '.join(sorted(own.macros - {statements.REQUIRED}))
  hint = f'did you mean {" or ".join(near)}?' if near else f'there are {known}.'
  who = ', which other verbs read' if elsewhere else ''
  return f'{one.where}: `dss {verb}` does not read the macro {one.name}{who}: {hint}'
