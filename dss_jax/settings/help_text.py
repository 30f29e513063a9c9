"""`dss VERB --help` of the verbs that gin files configure, made from the settings themselves.

Owns the layout. A verb's own text is the comment at the top of its run file; which macros there are
is what that file binds; types, defaults and meanings are those of the fields.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from dss_jax.settings import arguments, field_docs, statements
from dss_jax.settings.statements import Macro, Reference, Statement

WIDTH = 100
# Its macros are the same in every file of models/ for a network of a given size.
MODEL_FILE = 'models/t5_1_1/base.gin'


def of_verb(run_file: str) -> str:
  """The help of a verb.

  Args:
    run_file: the verb's, e.g. 'runs/train.gin'.
  """
  said = statements.of_shipped(run_file)
  said.sort(key=lambda one: not one.file.endswith(run_file))  # what is included comes after
  parts = [_top_comment(run_file), 'Arguments:\n' + arguments.USAGE, *_sections(said, set())]
  if any(one.value == Macro('MODEL') for one in said):
    known = {name for one in said for name in one.macros}
    model = _sections(statements.of_shipped(MODEL_FILE), known)
    parts += [f'With a file of models/, here {MODEL_FILE}:', *model]
  return '\n\n'.join(parts)


def _top_comment(run_file: str) -> str:
  lines = (statements.gin_root() / run_file).read_text().splitlines()
  end = next((at for at, line in enumerate(lines) if not line.startswith('#')), len(lines))
  return '\n'.join(line.removeprefix('#').removeprefix(' ') for line in lines[:end])


def _sections(said: Sequence[Statement], told: set[str]) -> Iterator[str]:
  """One section a class or function: its macros that are not in `told`, which grows."""
  for configurable in dict.fromkeys(one.configurable for one in said if one.configurable):
    bindings = {one.parameter: one for one in said if one.configurable == configurable}
    known = field_docs.of(configurable)
    lines = []
    for parameter, one in bindings.items():
      if isinstance(one.value, Macro) and one.value.name not in told:
        told.add(one.value.name)
        field = known.fields.get(parameter) if known else None
        lines.append(_setting(one, field or field_docs.Field('', None, ''), said))
    if lines:
      title = f'{known.summary if known else ""} ({_short(configurable)})'.strip()
      yield '\n'.join([title, *lines, *_others(configurable, bindings, known)])


def _setting(one: Statement, field: field_docs.Field, said: Sequence[Statement]) -> str:
  """A macro's flag, type, default and meaning."""
  macro = one.value.name
  defined = [other for other in said if other.name == macro]
  shorts = [short for short, name in arguments.SHORT_FORMS.items() if name == macro]
  flags = ', '.join(f'--{name.lower()}' for name in (macro, *shorts))
  default = _text(defined[-1].value) if defined else field.default
  kind = f'{field.kind}, ' if field.kind else ''
  if default is None:
    head = f'  {flags}  ({kind}required: {one.comment})'
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
