"""What T5X's statements of a whole command line become: our settings, or one error.

Owns what depends on all files together: which statement counts, the values of macros, and whether
a setting of ours overrides one of T5X's. What a name means alone is t5x_names.py's.

As in gin, the later of two statements counts. A binding of T5X's counts more than a macro of the
same meaning, whichever is later, as `train/utils.DatasetConfig.batch_size = 8` does for T5X where
BATCH_SIZE is 128; if the command line gives that macro another value, it is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.settings import statements, t5x_names
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.statements import Macro, Statement
from dss_jax.settings.t5x_verdicts import TRANSLATED, Becomes, Verdict, nothing, refused

# Settings of ours that several bindings of T5X's say at once.
SAID_ONCE = (
  'EVAL_SPLIT', 'INITIAL_CHECKPOINT_PATH', 'MESH_TENSOR', 'MIXTURE_OR_TASK_NAME',
  'TASK_FEATURE_LENGTHS',
)  # fmt: skip
MOST_NAMED = 8  # refusals in an error
UNKNOWN = 'it is none of the names of T5X that dss_jax knows'


class Judged(NamedTuple):
  """A statement of T5X's, and what becomes of it.

  Attributes:
    statement: T5X's.
    verdict: what it becomes by itself.
    overridden_by: the place of the statement that counts instead; '' if this one does.
  """

  statement: Statement
  verdict: Verdict
  overridden_by: str = ''


def judge(parsed: Sequence[Statement]) -> list[Judged]:
  """What becomes of each statement of T5X's among all, in their order."""
  last = {_key(statement): statement for statement in parsed}
  values = {one.name: one.value for one in parsed if one.name}
  readers: dict[str, Statement] = {}
  for one in parsed:
    readers |= dict.fromkeys(one.macros, one)
  judged = []
  for statement in filter(t5x_names.is_theirs, parsed):
    counts = last[_key(statement)]
    verdict = _verdict(statement, values, readers)
    judged.append(Judged(statement, verdict, '' if counts is statement else counts.where))
  return _without_contradictions(judged)


class Made(NamedTuple):
  """A statement of ours that one of T5X's became, and its text for gin."""

  statement: Statement
  text: str


def translate(parsed: Sequence[Statement]) -> list[Made]:
  """The statements of ours that T5X's become, in the order in which gin is to read them.

  Args:
    parsed: all statements, in the order in which they count.

  Raises:
    ConfigError: statements that count are refused; it has the file, line and reason of each.
  """
  counting = [one for one in judge(parsed) if not one.overridden_by]
  wrong = [sentence(one) for one in counting if one.verdict.is_refused]
  if wrong:
    more = f'\nand {len(wrong) - MOST_NAMED} more' if len(wrong) > MOST_NAMED else ''
    raise ConfigError('\n'.join(wrong[:MOST_NAMED]) + more)
  places = {id(statement): at for at, statement in enumerate(parsed)}
  made = []
  for one in counting:
    for target, text in one.verdict.settings.items():
      later = _later(target, parsed[places[id(one.statement)] + 1 :])
      ours = _made(target, text, one.statement)
      if later is None or (later.file and target in t5x_names.SHARED):
        made.append(ours)
      elif target in t5x_names.SHARED and later.value != ours.statement.value:
        raise ConfigError(
          f'the command line: {target} is {later.value!r}, but {one.statement.where} binds '
          f'{name_of(one.statement)}, which counts more; give --gin.{name_of(one.statement)}=VALUE.'
        )
  return made


def sentence(judged: Judged) -> str:
  """A refusal, as it stands in an error."""
  one = judged.statement
  return f"{one.where}: T5X's {name_of(one)} is refused; here: {judged.verdict.why}."


def notes(theirs: Sequence[Statement]) -> list[str]:
  """One line where users' files have statements of T5X's."""
  files = list(dict.fromkeys(one.file for one in theirs if one.file))
  if not files:
    return []
  count = sum(bool(one.file) for one in theirs)
  more = f' and {len(files) - 1} more' if len(files) > 1 else ''
  return [
    f'{files[-1]}{more}: {count} statements of T5X were translated; `dss train '
    f'--explain_t5x={files[-1]}` shows what each became.'
  ]


def name_of(statement: Statement) -> str:
  """A statement's name as a T5X user writes it, from the command line too."""
  if statement.name:
    return statement.name
  module, _, name = (
    statement.configurable.removeprefix('t5x.').removeprefix('__main__.').rpartition('.')
  )
  short = '.'.join(filter(None, (module.rpartition('.')[2], name, statement.parameter)))
  return f'{statement.scope}/{short}' if statement.scope else short


def gin_text(made: Sequence[Made]) -> str:
  """The text by which gin reads them."""
  named = [name for one in made for name in _configurables(one.statement)]
  modules = sorted({name.rpartition('.')[0] for name in named})
  imports = [f'import {module}' for module in modules]
  return '\n'.join(
    ['from __gin__ import dynamic_registration', *imports, *(one.text for one in made)]
  )


def _made(target: str, text: str, origin: Statement) -> Made:
  """A statement of ours, `target = text`, in the place of one of T5X's."""
  configurable, _, parameter = target.rpartition('.')
  statement = Statement(
    name='' if configurable else target,
    configurable=configurable,
    parameter=parameter if configurable else '',
    value=statements.of_text(f'x = {text}')[0][0].value,
    file=origin.file,
    line=origin.line,
  )
  return Made(statement, f'{target} = {text}')


def _configurables(statement: Statement) -> list[str]:
  named = [statement.configurable, *(one.configurable for one in statement.references)]
  return [name for name in named if name]


def _verdict(
  statement: Statement, values: Mapping[str, Any], readers: Mapping[str, Statement]
) -> Verdict:
  rule = t5x_names.rule_of(statement)
  if statement.name and statement.name not in t5x_names.VALUES:
    reader = readers.get(statement.name)
    if reader is not None:
      return nothing(f'{reader.where} reads it')
  if rule is None:
    return refused(UNKNOWN)
  if isinstance(rule, Verdict):
    return rule
  if isinstance(rule, Becomes) and statement.value == Macro(rule.target):
    return Verdict(TRANSLATED, rule.why, rule.more)
  value = _resolved(statement.value, values)
  if isinstance(value, Macro):
    return nothing(f'%{value.name} has no value yet')
  return rule(value)


def _resolved(value: Any, values: Mapping[str, Any], depth: int = 20) -> Any:
  """A value with the values of its macros; a macro that nothing defines stays."""
  if isinstance(value, Macro):
    known = depth and value.name in values and value.name != statements.REQUIRED
    return _resolved(values[value.name], values, depth - 1) if known else value
  if isinstance(value, dict):
    return {key: _resolved(item, values, depth) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_resolved(item, values, depth) for item in value)
  return value


def _without_contradictions(judged: Sequence[Judged]) -> list[Judged]:
  """Refuses statements that count and give one setting different values."""
  said: dict[str, tuple[str, Statement]] = {}
  result = []
  for one in judged:
    verdict = one.verdict
    for target, text in verdict.settings.items():
      if target not in SAID_ONCE or one.overridden_by:
        continue
      before, where = said.setdefault(target, (text, one.statement))
      if before != text:
        verdict = refused(
          f'{target} is one for a whole run, and {name_of(where)} ({where.where}) makes it {before}'
        )
    result.append(one._replace(verdict=verdict))
  return result


def _key(statement: Statement) -> tuple[str, ...]:
  if statement.name:
    return (statement.name,)
  if t5x_names.is_theirs(statement):
    return (statement.scope, t5x_names.short(statement.configurable), statement.parameter)
  return (statement.scope, statement.configurable, statement.parameter)


def _later(target: str, rest: Sequence[Statement]) -> Statement | None:
  """The last statement of ours that sets the same."""
  configurable, _, parameter = target.rpartition('.')
  for one in reversed(rest):
    if t5x_names.is_theirs(one):
      continue
    if (
      one.name == target
      if not configurable
      else (
        one.parameter == parameter
        and not one.scope
        and statements.same(one.configurable, configurable)
      )
    ):
      return one
  return None
