"""`dss VERB --help` of the verbs that gin files configure, made from the settings themselves.

Owns the layout. A verb's own text is the comment at the top of its run file; its macros are those
that the file binds; types, defaults and meanings are those of the fields.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from dss_jax.settings import arguments, field_docs, statements
from dss_jax.settings.statements import Macro, Reference, Statement

WIDTH = 100
_ENTRY = re.compile(
  r'^  (?P<names>--\w+(?:, --\w+)*)  \((?P<kind>.*)\)\n(?P<meaning>(?:      .*)?)', re.MULTILINE
)
# Its macros are the same in every file of models/ for a network of a given size.
MODEL_FILE = 'models/t5_1_1/base.gin'


def of_verb(run_file: str) -> str:
  """The help of a verb.

  Args:
    run_file: the verb's, e.g. 'runs/train.gin'.
  """
  all_statements = statements.of_shipped(run_file)
  all_statements.sort(
    key=lambda statement: not statement.file.endswith(run_file)
  )  # included files come after
  parts = [
    _top_comment(run_file),
    'Arguments:\n' + arguments.USAGE,
    *_sections(all_statements, set()),
  ]
  if any(statement.value == Macro('MODEL') for statement in all_statements):
    known = {name for statement in all_statements for name in statement.macros}
    model = _sections(statements.of_shipped(MODEL_FILE), known)
    parts += [f'With a file of models/, here {MODEL_FILE}:', *model]
  return '\n\n'.join(parts)


def flags(run_file: str) -> dict[str, str]:
  """Every setting of a verb's help, without dashes, with its type, default and meaning."""
  found = {}
  for entry in _ENTRY.finditer(of_verb(run_file)):
    for name in entry['names'].split(', '):
      found[name.removeprefix('--')] = f'({entry["kind"]}) {entry["meaning"].strip()}'
  return found


def _top_comment(run_file: str) -> str:
  lines = (statements.gin_root() / run_file).read_text().splitlines()
  end = next((at for at, line in enumerate(lines) if not line.startswith('#')), len(lines))
  return '\n'.join(line.removeprefix('#').removeprefix(' ') for line in lines[:end])


def _sections(all_statements: Sequence[Statement], shown: set[str]) -> Iterator[str]:
  """A section for each class or function: its macros that are not in `shown`, which it extends."""
  for configurable in dict.fromkeys(
    statement.configurable for statement in all_statements if statement.configurable
  ):
    bindings = {
      statement.parameter: statement
      for statement in all_statements
      if statement.configurable == configurable
    }
    known = field_docs.of(configurable)
    lines = []
    for parameter, statement in bindings.items():
      if isinstance(statement.value, Macro) and statement.value.name not in shown:
        shown.add(statement.value.name)
        field = known.fields.get(parameter) if known else None
        lines.append(_setting(statement, field or field_docs.Field('', None, ''), all_statements))
    if lines:
      title = f'{known.summary if known else ""} ({_short(configurable)})'.strip()
      yield '\n'.join([title, *lines, *_others(configurable, bindings, known)])


def _setting(
  statement: Statement, field: field_docs.Field, all_statements: Sequence[Statement]
) -> str:
  """A macro's flag, type, default and meaning."""
  macro = statement.value.name
  defined = [other for other in all_statements if other.name == macro]
  shorts = [short for short, name in arguments.SHORT_FORMS.items() if name == macro]
  flags = ', '.join(f'--{name.lower()}' for name in (macro, *shorts))
  default = _text(defined[-1].value) if defined else field.default
  kind = f'{field.kind}, ' if field.kind else ''
  if default is None:
    head = f'  {flags}  ({kind}required: {statement.comment})'
  else:
    head = f'  {flags}  ({kind}default {default})'
  comment = defined[-1].comment if defined else ''
  meaning = field.meaning or comment
  return '\n'.join([head, *textwrap.wrap(meaning, WIDTH, **_INDENT)])


_INDENT: dict[str, Any] = {'initial_indent': ' ' * 6, 'subsequent_indent': ' ' * 6}


def _others(configurable: str, bindings, known: field_docs.Documented | None) -> list[str]:
  """Lines on the fields that no macro is bound to."""
  rest = {} if known is None else known.fields
  names = [
    f'{name} ({field.kind}, {field.default})'
    for name, field in rest.items()
    if name not in bindings and field.default is not None
  ]
  if not names:
    return []
  text = f'By --gin.{_short(configurable)}.NAME=VALUE: {", ".join(names)}.'
  return textwrap.wrap(text, WIDTH, initial_indent='  ', subsequent_indent=' ' * 6)


def _short(configurable: str) -> str:
  return '.'.join(configurable.split('.')[-2:])


def _text(value: Any) -> str:
  """A value as a gin file has it."""
  if isinstance(value, Macro):
    return f'%{value.name}'
  return f'@{_short(value.configurable)}()' if isinstance(value, Reference) else repr(value)
