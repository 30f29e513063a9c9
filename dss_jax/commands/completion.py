"""`dss completion`: a script for bash, zsh or tcsh that completes verbs, settings and gin files.

Owns the parser of all verbs that shtab makes the script from. Does not own the flags: those of
verbs without gin files are in their own parsers, the others in settings/help_text.py.
"""

import argparse
import importlib
import re
from collections.abc import Iterator, Sequence

import dss_jax
from dss_jax.commands import verbs
from dss_jax.settings import arguments, help_text, statements, topologies
from dss_jax.settings.errors import ConfigError

SHELLS = ('bash', 'zsh', 'tcsh')
_DESCRIPTION = """\
Prints a script that completes verbs, settings with their defaults, topologies and gin files. It
knows those of the version that printed it: print it again after an update.
"""
_EXAMPLES = """\
dss completion bash > ~/.local/share/bash-completion/completions/dss
dss completion zsh > ~/.zfunc/_dss        # with fpath+=~/.zfunc before compinit in ~/.zshrc
dss completion tcsh > ~/.dss.tcsh         # source it in ~/.tcshrc
"""
_PREAMBLE = {
  'bash': '_dss_gin_file() {{\n  compgen -W "{files}" -- "$1"\n  compgen -f -- "$1"\n}}\n',
  'zsh': '_dss_gin_file() {{\n  compadd {files}\n  _files\n}}\n',
  'tcsh': '',
}
_BASH = """
# Bash takes the = of --name=value for a word, which the function above does not expect.
_dss() {
  local word index=0 cword=$COMP_CWORD
  local -a words=()
  for word in "${COMP_WORDS[@]}"; do
    if [[ $word != '=' ]]; then
      words+=("$word")
    elif (( index < COMP_CWORD )); then
      (( cword -= 1 ))
    elif (( index == COMP_CWORD )); then
      words+=('')
    fi
    (( index += 1 ))
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$cword
  _shtab_dss
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == --* ]]; then
    local nargs="_shtab_dss_${words[1]//[^[:alnum:]]/_}_${COMPREPLY[0]//[^[:alnum:]]/_}_nargs"
    if [[ ${!nargs:-1} == 1 ]]; then  # it takes a value
      COMPREPLY[0]+='='
      compopt -o nospace 2>/dev/null || :
    fi
  fi
}

"""
_ZSH_OPTION = re.compile(r'^(  "\*?--[\w-]+)(\[.*\]:[^"]*")$', re.MULTILINE)
"""An option that takes a value, as shtab writes it: after a space alone."""
_GIN_FILE = {'bash': '_dss_gin_file', 'zsh': '_dss_gin_file', 'tcsh': 'f:*.gin'}
_PATHS = ('dir', 'file', 'input', 'output', 'path', 'vocabulary', 'from', 'checkpoint')
"""In the name of a setting that is a file or folder."""


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns exit status 0.

  Raises:
    ConfigError: shtab is not installed.
  """
  shell = parser().parse_args(argv).shell
  try:
    import shtab
  except ImportError as error:
    raise ConfigError(f'{error}: pip install shtab.') from error
  preamble = _PREAMBLE[shell].format(files=' '.join(gin_names()))
  print(_with_equal_signs(shtab.complete(all_verbs(), shell, preamble=preamble), shell))
  return 0


def _with_equal_signs(script: str, shell: str) -> str:
  """A script of shtab's that completes --name=value, which gin verbs ask for, and has a version."""
  first, _, rest = script.partition('\n')
  script = f'{first}\n# Of dss_jax {dss_jax.__version__}: print it again after an update.\n{rest}'
  if shell == 'bash':
    before, command, after = script.rpartition('complete -o bashdefault -F _shtab_dss dss')
    return before + _BASH + command.replace('_shtab_dss', '_dss') + after
  return _ZSH_OPTION.sub(r'\1=\2', script) if shell == 'zsh' else script


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('completion', _DESCRIPTION, _EXAMPLES)
  made.add_argument('shell', choices=SHELLS)
  return made


def gin_names() -> list[str]:
  """The gin files that ship, as --gin_file takes them."""
  root = statements.gin_root()
  return sorted(str(path.relative_to(root)) for path in root.rglob('*.gin'))


def all_verbs() -> argparse.ArgumentParser:
  """One parser of all verbs and their flags."""
  made = argparse.ArgumentParser('dss', allow_abbrev=False)
  parsers = made.add_subparsers(metavar='VERB')
  for verb, meaning in verbs.VERBS.items():
    parents = [one for one in (_own(verb, verbs.module_of(verb)),) if one is not None]
    described = parsers.add_parser(verb, help=meaning, parents=parents, add_help=not parents)
    for action in _gin_flags(verb, described) if not parents else described._actions:
      _set_kind(action)
  return made


def _own(verb: str, module: str) -> argparse.ArgumentParser | None:
  """The parser of a verb without gin files."""
  if (statements.gin_root() / f'runs/{verb}.gin').exists() or verb == 't5x':
    return None
  found = importlib.import_module(
    f'{module}.arguments' if verb == 'launch' else verbs.FLAGS.get(verb, module)
  )
  return found.parser()


def _gin_flags(verb: str, made: argparse.ArgumentParser) -> Iterator[argparse.Action]:
  """Adds the flags of a verb that gin files configure."""
  yield made.add_argument('--gin_file', help='a gin file; repeatable, later ones win')
  yield made.add_argument('--gin_search_paths', help='more folders to look in')
  if verb == 't5x':
    yield made.add_argument('--tfds_data_dir', help='where dss prepare wrote the data sets')
    return
  known = {'topology': list(topologies.TOPOLOGIES)}
  yield made.add_argument('--topology', choices=known['topology'], help='the mesh of a machine')
  for name, text in help_text.flags(f'runs/{verb}.gin').items():
    if name not in known:
      yield made.add_argument(f'--{name}', help=text.replace('%', '%%'))


def _set_kind(action: argparse.Action) -> None:
  """Tells shtab what completes the value of a flag."""
  import shtab

  if '--gin_file' in action.option_strings:
    action.complete = _GIN_FILE  # type: ignore[attr-defined]
  elif action.nargs != 0 and any(part in action.dest for part in _PATHS):
    action.complete = shtab.FILE  # type: ignore[attr-defined]
