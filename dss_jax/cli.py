"""`dss VERB ...`: finds the verb's module and runs its `main`. Errors of users become one line."""

import contextlib
import gc
import importlib
import logging
import os
import pathlib
import platform
import signal
import stat
import sys
import tempfile
import threading
import time
import types
import warnings
import zlib
from collections.abc import Iterator, Sequence

import dss_jax
from dss_jax.commands.verbs import FLAGS, VERBS, module_of
from dss_jax.settings import outputs
from dss_jax.settings.printable import printable

SHARED = (
  'train',
  'evaluate',
  'predict',
  'compare',
  'sweep',
  't5x',
)  # several processes may run these together
COMPILED_ONCE = (*SHARED, 'serve')
CACHE_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
CACHE_DAYS = 90  # a compiled program that is unused for so long is removed
EXPLAIN = '--explain_t5x'  # `dss train` prints and ends: one process does
READER_IS_GONE = 141  # the exit code of programs that SIGPIPE ends
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
  """The program `dss`; returns its exit code."""
  _quieten_libraries()
  try:
    with _ending_in_order():
      code = _run(argv)
    sys.stdout.flush()
    return code
  except (SystemExit, BrokenPipeError):  # SystemExit: help, or a flag that argparse refuses
    with contextlib.suppress(BrokenPipeError):
      sys.stdout.flush()
    if _stdout_is_closed():
      return READER_IS_GONE
    raise


def _run(argv: Sequence[str] | None) -> int:
  arguments = list(sys.argv[1:] if argv is None else argv)
  if not arguments or arguments[0] in ('--help', '-h'):
    print(_usage())
    return 0
  if arguments[0] == '--version':
    print(f'dss_jax {dss_jax.__version__}')
    return 0
  verb, rest = arguments[0], arguments[1:]
  if verb not in VERBS:
    print(f'dss: no verb {verb!r}.\n\n{_usage()}', file=sys.stderr)
    return 2
  from dss_jax.settings import errors, gin_files  # here: `dss --help` is quick

  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  run_file = f'runs/{verb}.gin'
  try:
    if {'--help', '-h'} & set(rest) and (gin_files.gin_root() / run_file).exists():
      gin_files.parse(rest, run_file)  # prints and exits, without a driver's slow imports
    if verb in COMPILED_ONCE:
      _cache_compiled_programs()  # before TensorFlow imports JAX, which reads the environment
    reads_settings = verb != 'launch' or rest[:1] in (['tpu-vm'], ['skypilot'], ['gke'])
    is_light = verb in ('new-task', 'report', 'annotate', 'completion', 'doctor') or (
      verb == 'methods' and not any(one.startswith('-') for one in rest)
    )
    is_help = bool({'--help', '-h'} & set(rest))
    if is_help and verb in FLAGS:
      importlib.import_module(FLAGS[verb]).parser().parse_args(rest)  # prints and exits
    module = _imported(verb, with_tensorflow=reads_settings and not is_light and not is_help)
    is_explained = any(one.startswith(EXPLAIN) for one in rest)
    if verb in SHARED and not is_help and not is_explained:
      return _run_shared(verb, module, rest)
    return module.main(rest)
  except KeyboardInterrupt:
    return 130
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _stdout_is_closed():
      return READER_IS_GONE
    if os.environ.get('DSS_TRACEBACK') or not errors.is_users(error):
      raise
    print(f'dss {verb}: {printable(str(error))}', file=sys.stderr)
    return errors.exit_code(error)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
  """Lets a signal end the program as an error does, so that what is temporary is removed.

  While training, distributed.StopSignal handles them. `nohup` keeps SIGHUP ignored.
  """
  if threading.current_thread() is not threading.main_thread():  # which alone gets signals
    yield
    return
  before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
  before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
  report, came = sys.unraisablehook, 0

  def end(number, frame):
    nonlocal came
    came = number
    handle(signal.SIG_IGN)  # while it cleans up
    raise SystemExit(128 + number)

  def end_again(failure: 'sys.UnraisableHookArgs'):
    if isinstance(failure.exc_value, SystemExit):  # the signal came in a callback of Python's own
      handle(end)
      threading.Timer(0.05, os.kill, (os.getpid(), came)).start()
    else:
      report(failure)

  def handle(handler):
    for number in before:
      signal.signal(number, handler)

  handle(end)
  sys.unraisablehook = end_again
  try:
    yield
  finally:
    sys.unraisablehook = report
    for number, handler in before.items():
      signal.signal(number, handler)


def _quieten_libraries() -> None:
  """Leaves out what orbax logs that no user can act on.

  Where one of its reads or writes fails, it raises that error, and the others fail later in threads
  and tasks that nobody waits for.
  """
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  warnings.filterwarnings('ignore', message=r"coroutine '.*' was never awaited")
  sys.unraisablehook = _report_unless_orbaxs


def _report_unless_orbaxs(failure: 'sys.UnraisableHookArgs') -> None:
  code = getattr(failure.object, 'cr_code', None)
  if 'Event loop is closed' in str(failure.exc_value) or 'orbax' in getattr(
    code, 'co_filename', ''
  ):
    return
  sys.__unraisablehook__(failure)


def _stdout_is_closed() -> bool:
  """Whether the reader of standard output is gone, as after `| head`; if so, drops the output."""
  try:
    return outputs.drop_closed(sys.stdout.fileno())  # for the flush at the end
  except (OSError, ValueError, AttributeError):  # no file
    return False


def _run_shared(verb: str, module: types.ModuleType, rest: Sequence[str]) -> int:
  """Runs a verb that several processes may run together."""
  from dss_jax.parallel import distributed

  distributed.initialize(verb, stops_softly=verb in ('train', 'compare', 'sweep'))
  try:
    return module.main(rest)
  except BaseException as error:
    if distributed.is_multiprocess():
      distributed.exit_process(verb, error)
    raise


def _cache_compiled_programs() -> None:
  """Makes JAX cache compiled programs, so that the next start of the same run need not compile.

  JAX's own variables take precedence: JAX_COMPILATION_CACHE_DIR names another folder, and
  JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
  """
  if os.environ.get(CACHE_VARIABLE):
    return
  try:
    folder = _cache_folder()
    folder.parents[2].mkdir(parents=True, exist_ok=True)
    is_ours = all(_close(path) for path in (folder.parents[1], folder.parent, folder))
  except (OSError, RuntimeError):  # no home, or one that cannot be written: compile every time
    return
  if not is_ours:
    print(
      f'note: compiled programs are not kept: {printable(str(folder))} belongs to somebody else, '
      f'and they are code. Name another folder in {CACHE_VARIABLE}.',
      file=sys.stderr,
    )
    return
  os.environ[CACHE_VARIABLE] = str(folder)
  # By default JAX skips programs that compile in less than a second; a start has many of them.
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  oldest = time.time() - CACHE_DAYS * 86_400
  with contextlib.suppress(OSError):  # another process may be removing them too
    for file in folder.glob('*-cache'):
      if file.stat().st_atime < oldest:
        file.unlink()


def _close(folder: pathlib.Path) -> bool:
  """Makes a folder that only this user may write to; returns whether it is this user's.

  If others could write to it, its programs may be theirs: they are removed.
  """
  folder.mkdir(mode=0o700, exist_ok=True)
  status = folder.lstat()
  if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
    return False
  if status.st_mode & 0o022:
    folder.chmod(0o700)
    for file in folder.glob('*-cache'):
      file.unlink()
  return True


def _cache_folder() -> pathlib.Path:
  """The user's folder of compiled programs for this kind of processor.

  A program uses all instructions of the CPU that it was compiled on, and machines with different
  CPUs may share a home folder.
  """
  kind = platform.machine()
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    traits = {line for line in lines if line.startswith(('model name', 'flags', 'Features'))}
    kind += f'-{zlib.crc32(repr(sorted(traits)).encode()):08x}'
  root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(root).expanduser() / 'dss_jax' / 'compiled' / kind


def _imported(verb: str, with_tensorflow: bool) -> types.ModuleType:
  """A verb's module, and TensorFlow before it where the verb needs it.

  Meanwhile Python looks for no garbage: imports make a million objects and hardly any garbage, and
  looking through them again and again took a fifth of the time. They are never looked at later.
  """
  largest = 'tensorflow' if with_tensorflow else module_of(verb)
  if not gc.isenabled() or largest in sys.modules:
    return importlib.import_module(module_of(verb))
  gc.disable()
  try:
    if with_tensorflow:
      _import_tensorflow()
    return importlib.import_module(module_of(verb))
  finally:
    gc.freeze()
    gc.enable()


def _import_tensorflow() -> None:
  """Imports TensorFlow without the log lines that it always prints.

  Its libraries report a missing GPU and the like while they are loaded, before they read
  TF_CPP_MIN_LOG_LEVEL. If the import fails, those lines are shown. Keras, which comes with it, is
  not given matplotlib: it would import it for figures that nobody asks for.
  """
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as written:
    os.dup2(written.fileno(), 2)
    hidden = {'matplotlib': None} if 'matplotlib' not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
      import tensorflow  # noqa: F401
    except Exception:  # not Ctrl-C
      written.seek(0)
      os.write(stderr, written.read())
      raise
    finally:
      for name in hidden:
        del sys.modules[name]
      os.dup2(stderr, 2)
      os.close(stderr)


def _usage() -> str:
  width = max(map(len, VERBS))
  verbs = '\n'.join(f'  {name:{width}}  {text}' for name, text in VERBS.items())
  return (
    'usage: dss VERB [arguments]; `dss VERB --help` lists them.\n\n'
    f'{verbs}\n\n'
    'Exit codes: 0 done; 1 not all is done, it does not fit, or a mistake of ours, with a '
    'traceback;\n'
    '2 a mistake that the message tells how to mend; 74 a network or disk failed, and the same\n'
    'command may work later; 130 Ctrl-C; 141 the reader of the output is gone; 128 + N signal N\n'
    'stopped it in order.\n\n'
    'DSS_TRACEBACK=1 in the environment shows the traceback of an error. NO_COLOR=1 leaves colors '
    'out.\n`dss doctor --error` says what an error means.'
  )
