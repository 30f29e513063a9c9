"""The HTML file of a report, and the files beside it.

Owns what is written and under which policy it is shown. What is in the sections is theirs. Text
from data is escaped by the template, or packed and later set as text; only our own figures, style
and script are put in as they are, and the policy allows no other script, style or address.
"""

import base64
import hashlib
import json
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jinja2
from etils import epath

from dss_jax import __version__
from dss_jax.experiments.report.browser import Block, Packed
from dss_jax.experiments.report.document import Section, Table
from dss_jax.settings import whole_files

FOLDED = 12  # rows of a table that is folded up
MOST_ROWS = 120  # of a figure's values in the page; more are in its CSV alone
MOST_FIGURES = 24  # of a section in the page; more are files alone
MOST_BYTES = 5_000_000


class Content(NamedTuple):
  """What a page shows.

  Attributes:
    title: its heading.
    facts: one line below it.
    sections: of it.
    runs: the table of runs.
    unfinished: which cells are not done, or ''.
    about_examples: paragraphs above the browser, made when it is packed.
  """

  title: str
  facts: str
  sections: tuple[Section, ...]
  runs: Table
  unfinished: str
  about_examples: Callable[[Packed], Sequence[str]]


def write(
  path: epath.Path, content: Content, pack: Callable[[int], Packed], most: int = MOST_BYTES
) -> Packed:
  """Writes the page, and beside it FILE_files/ with CSV, JSON, SVG and PNG.

  Args:
    path: of the page.
    content: of it.
    pack: makes the examples that fit into a number of bytes.
    most: bytes of the page.

  Returns:
    What was packed.
  """
  files = path.with_name(f'{path.stem}_files')
  rest = len(html(content, (), (), files.name).encode())
  packed = pack(most - rest - 5_000)  # the elements around the blocks
  page = html(content, packed.blocks, content.about_examples(packed), files.name)
  files.mkdir(parents=True, exist_ok=True)
  tables = [content.runs]
  for section in content.sections:
    tables += [*section.tables, *(figure.table for figure in section.figures)]
    for figure in section.figures:
      whole_files.write_bytes(files / f'{figure.name}.svg', figure.svg)
      whole_files.write_bytes(files / f'{figure.name}.png', figure.png)
  for table in tables:
    whole_files.write_text(files / f'{table.name}.csv', table.csv())
  values = {table.name: table.values() for table in tables}
  whole_files.write_text(files / 'report.json', json.dumps(values, indent=1) + '\n')
  whole_files.write_text(path, page)  # last: a page that is there has its files
  return packed


def html(
  content: Content, blocks: Sequence[Block], about_examples: Sequence[str], files: str
) -> str:
  """The page as text.

  Args:
    content: of it.
    blocks: of the examples.
    about_examples: paragraphs above them.
    files: name of the folder beside it.
  """
  css, js = _part('page.css'), _part('page.js')
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
  )
  values: dict[str, Any] = {
    **content._asdict(),
    'about_examples': about_examples,
    'blocks': blocks,
    'css': jinja2.utils.markupsafe.Markup(css),
    'files': urllib.parse.quote(files),
    'folded': FOLDED,
    'footer': f'Made by dss report of dss_jax {__version__}. The file asks no other for anything.',
    'js': jinja2.utils.markupsafe.Markup(js),
    'most_figures': MOST_FIGURES,
    'most_rows': MOST_ROWS,
    'policy': policy(css, js),
  }
  return environment.from_string(_part('page.html.j2')).render(values)


def policy(css: str, js: str) -> str:
  """The Content-Security-Policy: our own style and script by their hashes, and nothing else."""
  style, script = (
    base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js)
  )
  return (
    f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
    "base-uri 'none'; form-action 'none'"
  )


def _part(name: str) -> str:
  return (epath.resource_path('dss_jax') / 'experiments' / 'report' / name).read_text()
