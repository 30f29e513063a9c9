"""`llms.txt`: what a language model, or a hurried reader, needs to find its way (llmstxt.org).

Owns its layout. Its lines are the pages of mkdocs.yml with their first sentence, and the verbs.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pages
import yaml

from dss_jax import cli

GENERATED = {
  'reference/commands.md': '`dss VERB --help` of every verb.',
  'reference/settings.md': 'Every setting of the verbs that gin files configure, with its type, '
  'default and meaning; also `dss train --help`.',
  'reference/gin_files.md': 'Every gin file that ships, with its head and what it sets; the files '
  'are in the package, in `dss_jax/gin`.',
  'reference/python.md': 'The modules that are meant to be called from outside.',
}


def text(root: pathlib.Path) -> str:
  """The whole file."""
  config = yaml.safe_load((root / 'mkdocs.yml').read_text(encoding='utf-8'))
  sources = {place: source for source, place in pages.names(root).items()}
  parts = [
    '# dss_jax',
    f'> {config["site_description"]} A teacher language model writes a rationale and a label for '
    'every input; a T5 student learns both as two prefixed tasks and is asked for the label alone.',
    'Install: `pip install .` in a clone (Python 3.11 or later). Paths below are those of the '
    'repository; pages of `reference/` are made by `make docs`.',
    '## Commands\n\n' + '\n'.join(f'- `dss {verb}`: {line}' for verb, line in cli.VERBS.items()),
  ]
  for title, places in _sections(config['nav']):
    lines = [_line(root, name, place, sources) for name, place in places]
    parts.append(f'## {title}\n\n' + '\n'.join(lines))
  return '\n\n'.join(parts) + '\n'


def _sections(nav: list[Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
  """Titles of the navigation, each with its pages' names and places."""
  for entry in nav:
    ((title, below),) = entry.items()
    items = [{title: below}] if isinstance(below, str) else below
    yield title, [pair for item in items for pair in item.items()]


def _line(root: pathlib.Path, name: str, place: str, sources: dict[str, str]) -> str:
  if place in GENERATED:
    return f'- [{name}]({place}): {GENERATED[place]}'
  page = (root / sources[place]).read_text(encoding='utf-8')
  return f'- [{name}]({sources[place]}): {first_sentence(page)}'


def first_sentence(page: str) -> str:
  """The first sentence of a page's first paragraph, without its links and comments."""
  paragraphs = re.split(r'\n\s*\n', page)
  prose = next(part for part in paragraphs if re.match(r'\n*[\w`*_\[]', part))
  plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', ' '.join(prose.split()))
  return re.split(r'(?<=[.?!:]) (?=[A-Z`])', plain)[0].rstrip(':')
