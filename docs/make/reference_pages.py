"""Reference pages from the code: the commands, the settings, the gin files that ship.

Owns their layout. Texts are those of `--help`, of the docstrings of settings (settings/field_docs)
and of the heads of gin files, so that nothing is written twice.
"""

import contextlib
import importlib
import io
import os
from collections.abc import Iterator, Sequence

from dss_jax import cli
from dss_jax.settings import arguments, field_docs, help_text, statements
from dss_jax.settings.statements import Macro, Reference, Statement

RUN_VERBS = tuple(
  verb for verb in cli.VERBS if (statements.gin_root() / f'runs/{verb}.gin').is_file()
)
TARGETS = ('local', 'tpu-vm', 'skypilot', 'gke', 'vllm')
FOLDERS = {
  'runs': 'One file for each command, read first; and `smoke.gin`.',
  'models': 'The network.',
  'datasets': 'Data set, lengths, batch.',
  'methods': 'What is learned: [methods](../methods.md).',
  'experiments': 'Comparisons: the paper\'s, and [ours](../evidence.md).',
  'topologies': 'The mesh of a machine; `--topology=NAME` reads one.',
  't5x': 'For [T5X\'s own trainer](../t5x.md#under-t5xs-own-trainer).',
}  # fmt: skip


# ---------------------------------------------------------------- commands


def commands() -> str:
  """Every verb with its help."""
  parts = ['# Commands', 'Each text is what `dss VERB --help` prints.', _verb_table()]
  for verb in cli.VERBS:
    parts.append(f'## dss {verb}\n\n{_block(help_of(verb))}')
    if verb == 'launch':
      parts += [f'### dss launch {one}\n\n{_block(help_of(verb, one))}' for one in TARGETS]
  return '\n\n'.join(parts) + '\n'


def help_of(verb: str, *words: str) -> str:
  """What `dss VERB WORDS --help` prints, for a terminal of 100 columns."""
  columns = os.environ.get('COLUMNS')
  os.environ['COLUMNS'] = str(help_text.WIDTH)
  try:
    if verb in RUN_VERBS:
      return help_text.of_verb(f'runs/{verb}.gin')
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
      importlib.import_module(cli.module_of(verb)).main([*words, '--help'])
    return written.getvalue()
  finally:
    if columns is None:
      del os.environ['COLUMNS']
    else:
      os.environ['COLUMNS'] = columns


def _verb_table() -> str:
  rows = [f'| [`dss {verb}`](#dss-{verb}) | {text} |' for verb, text in cli.VERBS.items()]
  return '\n'.join(['| command | what it does |', '|---|---|', *rows])


def _block(text: str) -> str:
  """A text as it is printed, whose long lines wrap (docs/extra.css)."""
  return f'<div class="printed" markdown>\n\n```text\n{text.strip()}\n```\n\n</div>'


# ---------------------------------------------------------------- settings


def settings() -> str:
  """Every class and function that the run files configure, with its fields and their macros."""
  parts = [
    '# Settings',
    f'What {", ".join(f"`dss {verb}`" for verb in RUN_VERBS)} read. A macro is set by '
    '`--name=VALUE` on the command line or by `NAME = VALUE` in a gin file; a field without a '
    'macro by `--gin.CLASS.FIELD=VALUE`. A macro that nobody sets is its field\'s default.',
  ]  # fmt: skip
  found = _configurables()
  for configurable in sorted(found, key=lambda name: name.rpartition('.')[2].islower()):
    bound = found[configurable]  # classes first, functions after
    known = field_docs.of(configurable)
    if known is None or not known.fields:
      continue
    name = configurable.rpartition('.')[2]
    rows = [_row(field, known.fields[field], bound.get(field)) for field in known.fields]
    table = '\n'.join(
      ['| macro | field | type | default | meaning |', '|---|---|---|---|---|', *rows]
    )
    parts += [f'## {name}', f'`{configurable}`: {_plain(known.summary)}', table]
  return '\n\n'.join(parts) + '\n'


def _configurables() -> dict[str, dict[str, Statement]]:
  """The statements of all run files and of one network, by class or function and by field."""
  files = [
    *(f'runs/{verb}.gin' for verb in RUN_VERBS),
    help_text.MODEL_FILE,
    'models/pretrained.gin',
  ]
  found: dict[str, dict[str, Statement]] = {}
  for file in files:
    for one in statements.of_shipped(file):
      if one.configurable:
        found.setdefault(one.configurable, {}).setdefault(one.parameter, one)
  return found


def _row(name: str, field: field_docs.Field, bound: Statement | None) -> str:
  macro = bound.value.name if bound and isinstance(bound.value, Macro) else ''
  flags = [macro, *(short for short, full in arguments.SHORT_FORMS.items() if full == macro)]
  default = '' if field.default is None else f'`{field.default}`'
  shown = ', '.join(f'`{flag}`' for flag in flags if flag)
  kind = f'`{field.kind}`' if field.kind else ''
  return f'| {shown} | `{name}` | {kind} | {default} | {_cell(_plain(field.meaning))} |'


# ---------------------------------------------------------------- gin files


def gin_files() -> str:
  """Every gin file that ships, with its head and what it sets."""
  root = statements.gin_root()
  parts = [
    '# Gin files',
    'The files that ship. Name one by its path: `--gin_file=datasets/cqa.gin`. A file of that path '
    'in the working directory comes first.',
  ]
  for folder, meaning in FOLDERS.items():
    parts += [f'## {folder}/', meaning]
    for path in sorted((root / folder).rglob('*.gin')):
      name = str(path.relative_to(root))
      text = path.read_text(encoding='utf-8')
      parts += [f'### {name}', _block(_head(text)), *_table(text, str(path))]
  return '\n\n'.join(parts) + '\n'


def _head(text: str) -> str:
  lines = text.splitlines()
  end = next((at for at, line in enumerate(lines) if not line.startswith('#')), len(lines))
  return '\n'.join(line.removeprefix('#').removeprefix(' ') for line in lines[:end])


def _table(text: str, file: str) -> Iterator[str]:
  """The files that a file includes and the macros that it sets."""
  stated, includes = statements.of_text(text, file)
  if includes:
    yield 'Includes ' + ', '.join(f'`{one}`' for one in includes) + '.'
  rows = [f'| `{one.name}` | `{_written(one.value)}` |' for one in stated if one.name]
  if rows:
    yield '\n'.join(['| macro | value |', '|---|---|', *rows])


def _written(value: object) -> str:
  """A value as a gin file has it."""
  if isinstance(value, Macro):
    return f'%{value.name}'
  if isinstance(value, Reference):
    return f'@{".".join(value.configurable.split(".")[-2:])}()'
  if isinstance(value, dict):
    pairs = (f'{_written(key)}: {_written(item)}' for key, item in value.items())
    return f'{{{", ".join(pairs)}}}'
  if isinstance(value, list | tuple):
    return f'({_joined(value)})'
  return repr(value)


def _joined(values: Sequence[object]) -> str:
  return ', '.join(_written(one) for one in values)


def _cell(text: str) -> str:
  """A text, not code, within a table's cell."""
  return text.replace('|', '\\|')


def _plain(text: str) -> str:
  """A docstring's text as Markdown: names between stars or underscores stay as they are."""
  return text.replace('*', '\\*').replace('<', '&lt;').replace('[', '\\[')
