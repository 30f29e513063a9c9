"""What becomes of every line of T5X's own gin files: `dss train --explain_t5x`, over all of them.

    python benchmarks/t5x_gin_files.py CHECKOUT [--refused]

CHECKOUT is one of T5X; nothing of it is copied. Each file is explained as a command line of its own
would be. A line counts in the file that has it, once, under what it becomes by itself. A statement
counts as ignored where no printed line tells of it (the file is read a second time), or where other
values of it change neither a run nor a refusal and the table does not allow that
(settings/t5x_ignored.py). Owns the table; what a line becomes is settings/t5x_*'s.
"""

import argparse
import collections
import pathlib
import re
import sys

from dss_jax.settings import statements, t5x_explained
from dss_jax.settings.errors import ConfigError

RUN_FILE = 'runs/train.gin'
PATTERNS = ('t5x/configs/**/*.gin', 't5x/examples/**/*.gin')
KINDS = ('translated', 'needs nothing', 'the same here', 'differs', 'refused')
INCLUDED = 'its statements are read here'  # of an include
UNKNOWN = re.compile(r'none of the names of T5X that dss_jax knows|nothing reads it')
UNREAD = 'unreadable'  # files that include one that T5X has not published
HEAD = ('folder', 'files', UNREAD, 'lines', *KINDS, 'of them unknown', 'ignored')


def kind_of(became: str) -> str:
  """The kind of a line, from what is printed of it."""
  by_itself = became.rpartition('; by itself ')[2]
  if by_itself == INCLUDED:
    return 'the same here'
  return next(kind for kind in KINDS if by_itself.startswith(kind))


def counts_of(file: pathlib.Path, source: pathlib.Path) -> tuple[collections.Counter, list[str]]:
  """How many lines of a file become what, and its refused lines as they are printed."""
  arguments = [f'--gin_search_paths={source}', f'--gin_file={file}']
  told, refused = {}, []
  *lines, total = t5x_explained.explain(arguments, RUN_FILE)
  for line in lines:
    found = re.fullmatch(rf'{re.escape(str(file))}:(\d+): (.*) -> (.*)', line)
    if found:
      told[int(found[1]), found[2].partition(' = ')[0]] = found[3]
  counts = collections.Counter(map(kind_of, told.values()))
  for (number, name), became in told.items():
    if kind_of(became) == 'refused':
      counts['of them unknown'] += bool(UNKNOWN.search(became))
      refused.append(f'{file.relative_to(source)}:{number}: {name} -> {became}')
  counts['lines'] = len(told)
  own = statements.of_text(file.read_text(encoding='utf-8'), str(file))[0]
  without_effect = {int(number) for number in re.findall(rf'{re.escape(str(file))}:(\d+)', total)}
  counts['ignored'] = len(({one.line for one in own} - {number for number, _ in told})
                          | without_effect)  # fmt: skip
  return counts, refused


def main() -> int:
  """Prints the table; returns 1 where a line is ignored."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('source', metavar='CHECKOUT', type=pathlib.Path)
  parser.add_argument('--refused', action='store_true', help='print every refused line too')
  options = parser.parse_args()
  groups: dict[str, collections.Counter] = {}
  for file in sorted(file for pattern in PATTERNS for file in options.source.glob(pattern)):
    try:
      counts, refused = counts_of(file, options.source)
    except ConfigError as error:
      print(f'{file.relative_to(options.source)}: {str(error).partition(". ")[0]}', file=sys.stderr)
      counts, refused = collections.Counter({UNREAD: 1}), []
    parts = file.relative_to(options.source).parent.parts
    folder = '/'.join(parts[:4])
    for name in (folder, 'all'):
      groups.setdefault(name, collections.Counter()).update({**counts, 'files': 1})
    if options.refused:
      print('\n'.join(refused))
  print('| ' + ' | '.join(HEAD) + ' |\n|' + '---|' * len(HEAD))
  for name in [*sorted(set(groups) - {'all'}), 'all']:
    print('| ' + ' | '.join([name, *(str(groups[name][key]) for key in HEAD[1:])]) + ' |')
  return int(bool(groups['all']['ignored']))


if __name__ == '__main__':
  sys.exit(main())
