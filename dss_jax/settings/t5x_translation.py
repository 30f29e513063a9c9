"""What T5X's statements of a whole command line become: our settings, or one error.

Owns what depends on all files together: which statement counts, the values of macros, and whether
a setting of ours overrides one of T5X's. What a name means alone is t5x_names.py's.

As in gin, the later of two statements counts. A binding of T5X's counts more than a macro of the
same meaning, whichever is later, as `train/utils.DatasetConfig.batch_size = 8` does for T5X where
BATCH_SIZE is 128; if the command line gives that macro another value, it is refused. What T5X's
classes and functions have by default counts least: where nothing, earlier or later, sets the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dss_jax.settings import statements, t5x_model, t5x_names, t5x_verdicts
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.statements import Macro, Statement
from dss_jax.settings.t5x_verdicts import (
  TRANSLATED,
  Becomes,
  Says,
  Verdict,
  nothing,
  refused,
  translated,
)

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
  judged = _with_one_vocabulary(judged, values)
  return _without_contradictions(_without_validation(judged, values))


class Made(NamedTuple):
  """A statement of ours that one of T5X's became.

  Attributes:
    statement: ours.
    text: it, for gin.
    origin: T5X's.
    overridden_by: the place of the statement that counts instead; '' if this one does.
    conflict: why a run may not start with both; '' if it may.
  """

  statement: Statement
  text: str
  origin: Statement
  overridden_by: str = ''
  conflict: str = ''

  @property
  def target(self) -> str:
    """The setting: a macro, or 'module.name.parameter'."""
    return self.text.partition(' = ')[0]


def settle(parsed: Sequence[Statement], judged: Sequence[Judged]) -> list[Made]:
  """All statements of ours that T5X's become, those that do not count too.

  Args:
    parsed: all statements, in the order in which they count.
    judged: from `judge`.
  """
  counting = [one for one in judged if not one.overridden_by and not one.verdict.is_refused]
  places = {id(statement): at for at, statement in enumerate(parsed)}
  made = [
    _settled(_made(target, text, one.statement), parsed[places[id(one.statement)] + 1 :])
    for one in counting
    for target, text in one.verdict.settings.items()
  ]
  last = {one.target: one for one in made if not one.overridden_by}
  made = [
    one
    if one.overridden_by or last[one.target].text == one.text
    else one._replace(overridden_by=last[one.target].origin.where)
    for one in made
  ]
  taken = {one.target for one in made}
  without_effect = {id(one.origin) for one in made if one.overridden_by}
  for one in counting:
    for target, text in one.verdict.defaults.items():
      if target in taken or id(one.statement) in without_effect or _later(target, parsed):
        continue
      taken.add(target)
      made.append(_made(target, text, one.statement))
  return made


def translate(parsed: Sequence[Statement]) -> list[Made]:
  """The statements of ours that T5X's become and that count, in the order in which gin reads them.

  Args:
    parsed: all statements, in the order in which they count.

  Raises:
    ConfigError: statements that count are refused; it has the file, line and reason of each.
  """
  judged = judge(parsed)
  wrong = [sentence(one) for one in judged if one.verdict.is_refused and not one.overridden_by]
  if wrong:
    more = f'\nand {len(wrong) - MOST_NAMED} more' if len(wrong) > MOST_NAMED else ''
    raise ConfigError('\n'.join(wrong[:MOST_NAMED]) + more)
  made = settle(parsed, judged)
  for one in made:
    if one.conflict:
      raise ConfigError(f'the command line: {one.conflict}.')
  return [one for one in made if not one.overridden_by]


def overriding(made: Sequence[Made], ours: Statement) -> Made | None:
  """The statement of T5X's, as ours, that counts more than a statement of ours and differs."""
  return next(
    (
      one
      for one in made
      if not one.overridden_by and _sets(ours, one.target) and one.statement.value != ours.value
    ),
    None,
  )


def sentence(judged: Judged) -> str:
  """A refusal, as it stands in an error."""
  one = judged.statement
  return f"{one.where}: T5X's {name_of(one)} is refused; here: {judged.verdict.why}."


def notes(parsed: Sequence[Statement]) -> list[str]:
  """What a run does otherwise, and one line where users' files have statements of T5X's."""
  judged = judge(parsed)
  validates = any('EVAL_PERIOD' in one.macros for one in parsed if not t5x_names.is_theirs(one))
  different = [
    f"{one.statement.where}: T5X's {name_of(one.statement)} = {one.statement.value}; here "
    f'{one.verdict.why}.'
    for one in judged
    if validates and one.verdict.kind == t5x_verdicts.DIFFERS and not one.overridden_by
  ]
  of_users = [one.statement for one in judged if one.statement.file and not one.statement.shipped]
  files = list(dict.fromkeys(one.file for one in of_users))
  if not files:
    return different
  count = len(of_users)
  more = f' and {len(files) - 1} more' if len(files) > 1 else ''
  return [
    *different,
    f'{files[-1]}{more}: {count} statements of T5X were translated; `dss train '
    f'--explain_t5x={files[-1]}` shows what each became.',
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
  named = [name for one in made for name in one.statement.configurables]
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
    shipped=origin.shipped,
  )
  return Made(statement, f'{target} = {text}', origin)


def _settled(made: Made, rest: Sequence[Statement]) -> Made:
  """What became of T5X's statement, against the statements after it."""
  later = _later(made.target, rest)
  if later is None or (later.file and made.target in t5x_names.SHARED):
    return made
  if made.target not in t5x_names.SHARED:
    return made._replace(overridden_by=later.where)
  if later.value == made.statement.value:
    return made
  name = name_of(made.origin)
  return made._replace(
    conflict=f'{made.target} is {later.value!r}, but {made.origin.where} binds {name}, which '
    f'counts more; give --gin.{name}=VALUE'
  )


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
  if isinstance(rule, Says) and statement.value == Macro(rule.target):
    return nothing(f'{rule.target} says it')
  value = statements.with_macros(statement.value, values)
  if isinstance(value, Macro):
    return nothing(f'%{value.name} has no value yet')
  return rule(value)


def _with_one_vocabulary(judged: Sequence[Judged], values: Mapping[str, Any]) -> list[Judged]:
  """Refuses another vocabulary of targets than that of inputs."""
  ends = (t5x_model.INPUT_VOCABULARY, t5x_model.OUTPUT_VOCABULARY)
  found = [one for one in judged
           if not one.overridden_by and t5x_names.key_of(one.statement) in ends]  # fmt: skip
  given = [statements.with_macros(one.statement.value, values) for one in found]
  if all(value == given[0] for value in given):
    return list(judged)
  verdict = refused('VOCABULARY is of inputs and targets')
  return [one._replace(verdict=verdict) if one in found else one for one in judged]


def _without_validation(judged: Sequence[Judged], values: Mapping[str, Any]) -> list[Judged]:
  """Sets EVAL_PERIOD to 0 where T5X would neither compute a loss nor decode."""
  parts = (t5x_names.LOSS_OF_VALIDATION, t5x_names.DECODED_BY_VALIDATION)
  off = {
    t5x_names.key_of(one.statement)
    for one in judged
    if not one.overridden_by and statements.with_macros(one.statement.value, values) is None
  }
  if not off.issuperset(parts):
    return list(judged)
  verdicts = {
    **dict.fromkeys(parts, translated(EVAL_PERIOD=0)),
    'train.eval_period': nothing('there is no validation'),
  }
  return [
    one._replace(verdict=verdicts.get(t5x_names.key_of(one.statement), one.verdict))
    for one in judged
  ]


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
  ours = (one for one in reversed(rest) if not t5x_names.is_theirs(one))
  return next((one for one in ours if _sets(one, target)), None)


def _sets(ours: Statement, target: str) -> bool:
  configurable, _, parameter = target.rpartition('.')
  if not configurable:
    return ours.name == target
  is_same = statements.same(ours.configurable, configurable)
  return ours.parameter == parameter and not ours.scope and bool(ours.configurable) and is_same
