"""`dss doctor`: what is wrong with this machine, or what an error means, each with its fix.

Owns: the options and what is printed. Does not own: the checks (doctor_checks.py), errors by their
text (settings/troubles.py).
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import BinaryIO

from dss_jax.commands import doctor_checks, findings
from dss_jax.settings import arguments, troubles
from dss_jax.settings.printable import printable

NOT_WELL = 1
"""The exit code where something is bad, or where an error's text is not known."""
_REPOSITORY = pathlib.Path(troubles.__file__).resolve().parents[2]
_DESCRIPTION = """\
Looks at versions, devices, memory, disk, certificates and credentials (no key is shown or sent),
and at combinations that are known to fail; says what mends each. With --error it says what an
error's text means. Exit code 0: nothing is bad; 1: something is, or the error is not known.
"""
_EXAMPLES = """\
dss doctor
dss doctor --path=gs://my-bucket/data
dss doctor --error='RESOURCE_EXHAUSTED: Out of memory'
dss train ... 2>&1 | tee log.txt; dss doctor --error < log.txt
"""


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0, or NOT_WELL.
  """
  flags = parser().parse_args(argv)
  if flags.error is not None:
    text = flags.error
    if text == '-':
      text = _end_of(sys.stdin.buffer).decode(errors='replace')
    return _answer(text, flags.json)
  return _examine(flags)


def _end_of(stream: BinaryIO) -> bytes:
  """The last bytes of a stream of any length: enough for the letters that are looked through."""
  end, most = b'', 4 * troubles.MOST_LETTERS
  while part := stream.read(most):
    end = (end + part)[-most:]
  return end


def _answer(text: str, as_json: bool) -> int:
  """Says what an error's text means."""
  found = troubles.find(text)
  if as_json:
    print(json.dumps([{'name': one.name, 'fix': one.fix, 'page': one.page} for one in found]))
  for one in [] if as_json else found:
    print(f'{one.title}.\n  {one.means}\n  fix: {one.fix}.')
    if (_REPOSITORY / one.page.partition('#')[0]).is_file():  # not where a wheel is installed
      print(f'  more: {one.page}')
  if not found and not as_json:
    print('No known trouble has this text. DSS_TRACEBACK=1 shows where an error comes from; please '
          'report it with the output of `dss doctor`.')  # fmt: skip
  return 0 if found else NOT_WELL


def _examine(flags: argparse.Namespace) -> int:
  """Prints every finding as it comes."""
  found = []
  for one in doctor_checks.all_findings(tuple(flags.path), flags.devices):
    found.append(one)
    if not flags.json:
      print(printable(f'{one.level:8} {one.what}: {one.found}.'), flush=True)
      if one.fix:
        print(printable(f'{"":8}   fix: {one.fix}.'), flush=True)
  if flags.json:
    print(json.dumps([one._asdict() for one in found]))
  is_bad = any(one.level == findings.BAD for one in found)
  return NOT_WELL if is_bad else 0


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  made = arguments.verb_parser('doctor', _DESCRIPTION, _EXAMPLES)
  add = made.add_argument
  add('--error', nargs='?', const='-', metavar='TEXT', help="an error's text; without a value, "
      'that of standard input')  # fmt: skip
  add('--path', action='append', default=[], metavar='DIR', help='a folder or gs:// path that '
      'should be written to (repeatable)')  # fmt: skip
  add('--no-devices', dest='devices', action='store_false', help='do not start JAX')
  add('--json', action='store_true', help='for programs')
  return made
