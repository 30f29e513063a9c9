"""The commands that the docs tell a reader to type, found in their Markdown.

Owns the convention. A command stands in an indented or fenced block, or in code within a sentence.
A comment right above a block says what it needs that the tests do not have:

    <!-- needs: a TPU -->

Such a block is not run. Its commands are resolved (doc_resolving.py); all others are run
(doc_session.py). `<!-- file: my_module.py -->` above a block means that the reader saves it as that
file. The site shows both comments.
"""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = (
  'dss', 'make', 'pip', 'python', '.venv/bin/python', 'pytest', 'launch/local.sh', '.ci/run',
  'export', 'source', 'git', 'cd', 'gcloud', 'sky', 'vllm', 'docker', 'pre-commit',
)  # fmt: skip
STARTS = re.compile(
  r'(?:[A-Z0-9_]+=\S+ )*(?:' + '|'.join(map(re.escape, PROGRAMS)) + r')(?: |$)|for \w+ in .*; do '
)
MARK = re.compile(r'<!-- (needs|file): (.+) -->')
SPAN = re.compile(r'`(dss [a-z0-9_-]+(?: [^`]*)?)`')
ENDS = ('|', '<', '>', '&&', '&')  # what follows is the shell's
LOOP = re.compile(r'for (\w+) in (\S+).*?; do (.*?); done')


class Command(NamedTuple):
  """A command of a page.

  Attributes:
    page: its path in the repository.
    line: where it stands, from 1.
    text: on one line, as a shell would read it.
    needs: what it needs, so that no test runs it; '' if nothing.
    is_span: whether it stands within a sentence or a table, as a name of what a reader might type.
  """

  page: str
  line: int
  text: str
  needs: str = ''
  is_span: bool = False

  @property
  def where(self) -> str:
    return f'{self.page}:{self.line}'

  @property
  def words(self) -> list[str]:
    """As a shell passes them on: without comments, pipes and redirections."""
    words = shlex.split(self.text, comments=True)
    end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
    words = words[:end]
    while words and re.fullmatch(r'[A-Z0-9_]+=.*', words[0]):
      words = words[1:]
    return words


class Block(NamedTuple):
  """A block of code: where its first line stands, its lines, and the comment above it."""

  line: int
  lines: list[str]
  mark: tuple[str, str] | None


def pages() -> list[str]:
  """README, CONTRIBUTING and everything below docs/, by their paths in the repository."""
  docs = sorted((REPOSITORY / 'docs').rglob('*.md'))
  return ['README.md', 'CONTRIBUTING.md', *(str(path.relative_to(REPOSITORY)) for path in docs)]


def of_page(page: str) -> list[Command]:
  """All commands of a page, those of its blocks first."""
  text = (REPOSITORY / page).read_text(encoding='utf-8')
  blocks = list(blocks_of(text))
  found = []
  for block in blocks:
    if block.mark is None or block.mark[0] == 'needs':
      found += _of_block(page, block)
  in_blocks = {block.line + at for block in blocks for at in range(len(block.lines))}
  for number, line in enumerate(text.splitlines(), start=1):
    if number not in in_blocks:
      found += [Command(page, number, span, is_span=True) for span in SPAN.findall(line)]
  return found


def of_gin_heads() -> list[Command]:
  """The commands in the heads of the gin files that ship, which the reference shows."""
  found = []
  for path in sorted((REPOSITORY / 'gin').rglob('*.gin')):
    name = str(path.relative_to(REPOSITORY))
    lines = path.read_text(encoding='utf-8').splitlines()
    end = next((at for at, line in enumerate(lines) if not line.startswith('#')), len(lines))
    head = [line.removeprefix('#').removeprefix(' ') for line in lines[:end]]
    inner = [line[2:] if line.startswith('  ') else '' for line in head]
    found += _of_block(name, Block(1, inner, ('needs', 'what the file says')))
  return found


def files_of(page: str) -> dict[str, str]:
  """The files that a page lets its reader save, by their names."""
  text = (REPOSITORY / page).read_text(encoding='utf-8')
  found = {}
  for block in blocks_of(text):
    if block.mark and block.mark[0] == 'file':
      found[block.mark[1]] = '\n'.join(block.lines).strip('\n') + '\n'
  return found


def blocks_of(text: str) -> Iterator[Block]:
  """The blocks of code of a page, fenced or indented by four spaces."""
  lines = text.splitlines()
  at, mark = 0, None
  while at < len(lines):
    line = lines[at]
    if line.startswith('```'):
      end = next(end for end in range(at + 1, len(lines)) if lines[end].startswith('```'))
      yield Block(at + 2, lines[at + 1 : end], mark)
      at, mark = end + 1, None
    elif line.startswith('    ') and (at == 0 or not lines[at - 1].strip()):
      end = at
      while end < len(lines) and (not lines[end].strip() or lines[end].startswith('    ')):
        end += 1
      yield Block(at + 1, [one[4:] for one in lines[at:end]], mark)
      at, mark = end, None
    else:
      if found := MARK.fullmatch(line.strip()):
        mark = (found[1], found[2])
      elif line.strip():
        mark = None
      at += 1


def _of_block(page: str, block: Block) -> Iterator[Command]:
  """The commands of a block: what starts with a known program, up to its end."""
  needs = block.mark[1] if block.mark else ''
  at = 0
  while at < len(block.lines):
    first, text = at, block.lines[at]
    at += 1
    if not STARTS.match(text):
      continue
    while at < len(block.lines) and (text.endswith('\\') or not _is_closed(text)):
      text = text.removesuffix('\\') + ' ' + block.lines[at].strip()
      at += 1
    loop = LOOP.match(text)
    if loop:
      text = loop[3].replace(f'${loop[1]}', loop[2])
    yield Command(page, block.line + first, text, needs)


def _is_closed(text: str) -> bool:
  try:
    shlex.split(text, comments=True)
  except ValueError:
    return False
  return True
