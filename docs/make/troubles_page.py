"""The section of docs/troubleshooting.md on errors of all libraries: the table of `dss doctor`.

Owns its layout. The table is settings/troubles.toml; an entry's anchor is its
name.
"""

import os
import pathlib
import re

from dss_jax.settings import troubles
from dss_jax.settings.troubles import Trouble

PAGE = 'docs/troubleshooting.md'
HEADING = '## Errors by what they show'
_OPENING = """\
The table in which `dss doctor --error=TEXT` looks, for errors of libraries and systems too.
`*` stands for any text."""


def text(root: pathlib.Path) -> str:
  """The whole page: what is written by hand, and the section anew.

  Raises:
    ValueError: the page lacks the section's heading.
  """
  page = (root / PAGE).read_text(encoding='utf-8')
  written, heading, _ = page.partition(HEADING)
  if not heading:
    raise ValueError(f'{PAGE} has no line {HEADING!r}, below which the table stands.')
  entries = (_entry(one) for one in troubles.all_troubles())
  return '\n\n'.join([written + HEADING, _OPENING, *entries]) + '\n'


def _entry(one: Trouble) -> str:
  shown = ', '.join(f'`{text.strip("^$")}`' for text in dict.fromkeys(one.shows))
  page = os.path.relpath(one.page, os.path.dirname(PAGE))
  fix = re.sub(r"(`[^`]*`)|(--[a-z_]+=?(?:[\w./':]*\w)?)", _as_code, one.fix)
  return (
    f'<a id="{one.name}"></a>\n**{one.title}** ({shown})<br>\n'
    f'{one.means}<br>\nFix: {fix}<br>\n[More]({page})'
  )


def _as_code(match: re.Match[str]) -> str:
  """What is code already as it is; a flag as code."""
  return match[1] or f'`{match[2]}`'
