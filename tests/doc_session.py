"""Runs the commands of the docs that need nothing, one after another, as a reader would.

`python tests/doc_session.py FOLDER` runs them in one process, in one folder, so that a student that
one page trains is there for the next, and writes FOLDER/ran.json: of each command its exit code,
its seconds and the end of what it printed. They run as they stand, but training is SHORT and
compares at equal labels alone. One that takes longer than LIMIT_S ends them all, and says where.
"""

import contextlib
import faulthandler
import io
import json
import os
import pathlib
import runpy
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # also with PYTHONSAFEPATH

import doc_commands
import programs
from doc_commands import Command

FIRST = ('docs/tutorials/laptop.md', 'docs/tutorials/own_data.md')  # what others look at
TRAINS = ('train', 'compare', 'sweep')
SHORT = ('--train_steps=4', '--warmup_steps=1', '--eval_period=4', '--evaluator_num_examples=8')
COMPARES = ('--equal_compute=False',)
RAN = 'ran.json'
KEPT = 2000  # characters of an output
LIMIT_S = 240  # of one command


def commands() -> list[Command]:
  """The commands that are run, in their order."""
  pages = [*FIRST, *(page for page in doc_commands.pages() if page not in FIRST)]
  found = (command for page in pages for command in doc_commands.of_page(page))
  return [command for command in found if not command.needs and not command.is_span]


def refusal(words: Sequence[str]) -> str:
  """Why a command is not run, although its block says nothing; '' for one that may be run."""
  only_prints = words[:2] == ['dss', 'launch'] and '--submit' not in words
  if words[:2] == ['dss', 'serve']:
    return 'serves without an end'
  if any('gs://' in word for word in words) and not only_prints:
    return 'asks a bucket'
  return '' if words[0] in ('dss', 'python') else f'starts {words[0]}'


def main(folder: str) -> None:
  """Runs all of them in a folder."""
  os.environ.update(programs.VARIABLES, JAX_PLATFORMS='cpu', XLA_FLAGS=programs.XLA_FLAGS)
  os.chdir(folder)
  results = [_run(command) for command in commands()]
  pathlib.Path(RAN).write_text(json.dumps(results, indent=1), encoding='utf-8')


def _run(command: Command) -> dict[str, object]:
  """What became of a command; its page's files are there."""
  for name, text in doc_commands.files_of(command.page).items():
    pathlib.Path(name).write_text(text, encoding='utf-8')
  written, start = io.StringIO(), time.process_time()
  assert sys.__stderr__
  print(f'{command.where}: {command.text}', file=sys.__stderr__, flush=True)
  faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=sys.__stderr__)
  with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
    code = _exit_code(command.words)
  faulthandler.cancel_dump_traceback_later()
  seconds = round(time.process_time() - start, 1)
  output = written.getvalue()[-KEPT:]
  return {'where': command.where, 'text': command.text, 'code': code, 's': seconds, 'out': output}


def _exit_code(words: Sequence[str]) -> int:
  from dss_jax import cli

  try:
    if why := refusal(words):
      raise ValueError(f'{words}: it {why}, so say what it needs, <!-- needs: .. -->.')
    if words[0] == 'python':
      with _arguments(words[1:]):
        runpy.run_path(words[1], run_name='__main__')
      return 0
    return cli.main([*words[1:], *_shorter(words)])
  except SystemExit as end:
    return int(end.code or 0)
  except Exception:
    print(traceback.format_exc())
    return 1


def _shorter(words: Sequence[str]) -> tuple[str, ...]:
  """The settings that make a training short."""
  if words[1] not in TRAINS or {'--help', '--'} & set(words):
    return ()
  return SHORT if words[1] == 'train' else (*SHORT, *COMPARES)


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
  before = sys.argv
  sys.argv = list(words)
  try:
    yield
  finally:
    sys.argv = before


if __name__ == '__main__':
  main(sys.argv[1])
