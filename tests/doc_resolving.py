"""What can be known of a command without running it: that all it names exists.

Owns three answers. `resolved`: a command of dss was read to its end with the code that runs it:
verb, flags, their types, gin files, macros, bindings, topology, data set and method. `named`: a
part is left out (`...`) or has to be there first, but its verb, flags, macros and files exist, as
do the targets of make, the extras of pip, and files and flags of our programs. `foreign`: a program
that is not ours.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import pathlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from unittest import mock

import doc_commands
from doc_commands import REPOSITORY, Command

from dss_jax import cli, datasets, methods
from dss_jax.experiments.results import TEACHER
from dss_jax.settings import arguments, gin_files, help_text, statements

RESOLVED, NAMED, FOREIGN = 'resolved', 'named', 'foreign'
LEFT_OUT = re.compile(r'\.\.\.|\[|^[A-Z_]{4,}$')
OWN_FLAGS = {  # of gin verbs, besides settings: what their own modules take off the command line
  'gin_file', 'gin_search_paths', 'gin_bindings', 'topology', 'explain_t5x', 'tfds_data_dir',
  'help', 'plan', 'commands', 'gather', 'json', 'search', 'input', 'input_file', 'rationale_scores',
  'num_decodes', 'run_mode', 'multiprocess_gpu', 'coordinator_address',
}  # fmt: skip
LAUNCH = ('local', 'tpu-vm', 'skypilot', 'gke', 'vllm')


class Wrong(Exception):
  """A command names something that does not exist."""


class _Read(BaseException):
  """Raised in the place of what a command does once its arguments are read."""


def resolve(command: Command, own: str = '') -> str:
  """How much of a command could be resolved.

  Args:
    command: it.
    own: the text of its page, whose code may register data sets and methods.

  Raises:
    Wrong: something that it names does not exist.
  """
  words = command.words
  if words[0] == 'launch/local.sh':
    words = ['dss', *(word for word in words[1:] if not re.match('--(devices|processes)=', word))]
  if words[0] != 'dss':
    return _of_program(words)
  return _of_dss(words[1:], own, command.is_span)


# ---------------------------------------------------------------- dss


def _of_dss(words: Sequence[str], own: str, is_span: bool) -> str:
  verb, rest = words[0], list(words[1:])
  if verb == 'VERB':
    return NAMED
  if verb not in cli.VERBS:
    raise Wrong(f'dss has no verb {verb!r}')
  end = rest.index('--') if '--' in rest else len(rest)
  before, after = rest[:end], rest[end + 1 :]
  _check_names(verb, before, own)
  kind = RESOLVED
  if verb == 'launch' and after and before[0] != 'vllm':
    kind = NAMED if after[0] == '...' else _of_dss(after, own, is_span)
    rest = before
  needs_more = verb == 't5x' or any(word.startswith('--explain_t5x') for word in rest)
  needs_more = needs_more or any(_is_readers(word, own) for word in rest)
  if needs_more or any(map(LEFT_OUT.search, rest)) or (is_span and not _is_whole(verb, rest)):
    return NAMED
  read_to_the_end(verb, rest)
  return kind


def _is_whole(verb: str, rest: Sequence[str]) -> bool:
  """Whether a command within a sentence could be typed; else it names a verb or a flag."""
  text = ' '.join(rest)
  has_most = verb == 'methods' or '--model_dir=' in text or '--topology=' in text
  return has_most and not re.search(r'=[A-Z_]{4,}(?: |$)', text)


def read_to_the_end(verb: str, rest: Sequence[str]) -> None:
  """Reads a command's arguments with the verb's own code, and does nothing else.

  Raises:
    Wrong: they are refused.
  """
  written = io.StringIO()
  try:
    with _reading_only(), contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
      importlib.import_module(cli.module_of(verb)).main(rest)
  except _Read:
    return
  except SystemExit as end:
    if end.code:
      raise Wrong(written.getvalue().strip().splitlines()[-1]) from None
    return  # --help
  except (ValueError, OSError) as error:
    raise Wrong(str(error)) from error
  raise Wrong('it ended without reading its arguments')


@contextlib.contextmanager
def _reading_only() -> Iterator[None]:
  """Ends a verb where argparse or gin has read its arguments."""
  read_flags, read_settings = argparse.ArgumentParser.parse_args, gin_files.parse

  def parse_args(self, args=None, namespace=None):
    read_flags(self, args, namespace)
    raise _Read

  def parse(argv, run_file):
    read_settings(argv, run_file)
    raise _Read

  with (
    mock.patch.object(argparse.ArgumentParser, 'parse_args', parse_args),
    mock.patch.object(gin_files, 'parse', parse),
  ):
    yield


def _check_names(verb: str, rest: Sequence[str], own: str) -> None:
  """Checks each flag by its name, and the values that are names of ours.

  Raises:
    Wrong: there is no such flag, gin file, data set or method.
  """
  known = _flags_of(verb, rest[0] if rest else '')
  has_module = any(re.match('--(module|mixture_or_task_module)=', word) for word in rest)
  for word in rest:
    if not word.startswith('--') or word == '--':
      continue
    name, _, value = word[2:].partition('=')
    if name not in known and not name.startswith('gin.'):
      raise Wrong(f'dss {verb} has no flag --{name}')
    is_known = LEFT_OUT.search(value) or _is_shipped(value) or _is_readers(word, own)
    if name == 'gin_file' and not is_known:
      raise Wrong(f'no gin file {value} ships')
    registered = {
      'method': {*methods.names(), *_registered(own)},
      'dataset': {*datasets.names(), *datasets.EMBEDDED, 'svamp_asdiv', *_registered(own)},
    }
    registered['methods'] = registered['method'] | {TEACHER, 'untrained'}
    for one in value.split(',') if name in registered and not has_module else ():
      if not LEFT_OUT.search(one) and not one.isupper() and one not in registered[name]:
        raise Wrong(f'no {name} {one!r} is registered')


def _is_readers(word: str, own: str) -> bool:
  """Whether a flag names a gin file that the reader has, as the page says: `mine.gin`."""
  name = word.removeprefix('--gin_file=')
  return name != word and '/' not in name and f'`{name}`' in own


def _registered(own: str) -> list[str]:
  """The names that a page's own code registers."""
  return re.findall(r"""(?:register_dataset\(|name=|\.dataset\()\s*['"](\w+)['"]""", own)


def _is_shipped(name: str) -> bool:
  root = statements.gin_root()
  return (root / name).is_file() or (root / statements.FROM_T5X / name).is_file()


@functools.cache
def _flags_of(verb: str, target: str) -> set[str]:
  """The names of a verb's flags and settings."""
  if verb == 't5x':
    return OWN_FLAGS | {'gin_file'}
  run_file = f'runs/{verb}.gin'
  if _is_shipped(run_file):
    stated = [*statements.of_shipped(run_file), *statements.of_shipped(help_text.MODEL_FILE)]
    macros = {name.lower() for one in stated for name in (*one.macros, one.name) if name}
    return {*macros, *(short.lower() for short in arguments.SHORT_FORMS), *OWN_FLAGS}
  found: set[str] = {'help'}

  def note(self, args=None, namespace=None):
    parser = self
    for action in self._actions:
      if isinstance(action, argparse._SubParsersAction) and target in action.choices:
        parser = action.choices[target]
    found.update(flag.removeprefix('--') for flag in parser._option_string_actions)
    raise _Read

  with (
    mock.patch.object(argparse.ArgumentParser, 'parse_args', note),
    contextlib.suppress(_Read),
  ):
    importlib.import_module(cli.module_of(verb)).main([target] if target in LAUNCH else [])
  return found


# ---------------------------------------------------------------- other programs


def _of_program(words: Sequence[str]) -> str:
  """Checks what a command of another program names of ours."""
  program, rest = words[0], list(words[1:])
  if program.endswith('python') and rest[:1] == ['-m'] and rest[1] in ('pip', 'pytest'):
    program, rest = rest[1], rest[2:]
  if program == 'make':
    targets = re.findall(r'^([\w-]+):', (REPOSITORY / 'Makefile').read_text(), re.MULTILINE)
    _all_in('target of make', [word for word in rest if '=' not in word], targets)
  elif program == 'pip':
    project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())['project']
    for word in rest:
      if extras := re.fullmatch(r'(?:\.|dss_jax)\[([\w,]+)\]', word):
        _all_in('extra', extras[1].split(','), project['optional-dependencies'])
  elif program == 'pytest':
    _check_tests([word for word in rest if not word.startswith('-')])
  elif program.endswith('python'):
    _check_script(rest)
  else:
    return FOREIGN
  return NAMED


def _all_in(kind: str, given: Sequence[str], known) -> None:
  for one in given:
    if one not in known:
      raise Wrong(f'there is no {kind} {one!r}')


def _check_tests(words: Sequence[str]) -> None:
  for word in words:
    file, _, name = word.partition('::')
    found = list(REPOSITORY.glob(file))
    if not found or (name and f'def {name}(' not in found[0].read_text()):
      raise Wrong(f'there is no test {word}')


def _check_script(rest: Sequence[str]) -> None:
  """Checks that a program of ours exists and knows its flags."""
  if rest[0] == '-m':
    spec = importlib.util.find_spec(rest[1])
    path = None if spec is None else spec.origin
  else:
    found = REPOSITORY / rest[0]
    path = str(found / '__main__.py' if found.is_dir() else found)
  try:
    text = pathlib.Path(path or '').read_text(encoding='utf-8')
  except OSError:
    raise Wrong(f'there is no program {rest[0]} {rest[1:2]}') from None
  for flag in re.findall(r'^--(\w+)', '\n'.join(rest[1:]), re.MULTILINE):
    if flag not in text and 'apache_beam' not in text:
      raise Wrong(f'{rest[0]} has no flag --{flag}')


def own_text(page: str) -> str:
  """The text of a page, with which `resolve` knows what its code registers."""
  return (doc_commands.REPOSITORY / page).read_text(encoding='utf-8')
