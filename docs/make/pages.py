"""The hand-written pages of the site: those of docs/, and the four that lie elsewhere.

Owns their names on the site, the links between them, and how a reader sees what a command needs.
The Markdown in the repository reads as well where it lies; nothing is written back.
"""

import os
import pathlib
import re
import shutil

ELSEWHERE = {  # files of the repository that are pages too
  'README.md': 'index.md',
  'CONTRIBUTING.md': 'contributing.md',
  'CHANGELOG.md': 'changes.md',
  'benchmarks/RESULTS.md': 'results.md',
}
ASSETS = ('CITATION.cff', 'benchmarks/evidence/t5x_curves.csv')
LINK = re.compile(r'(\]\()([^)\s]+)(\))')
NEEDS = re.compile(r'^<!-- needs: (.+) -->$', re.MULTILINE)
FILE = re.compile(r'^<!-- file: (.+) -->$', re.MULTILINE)


def write(root: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies all pages with their pictures into a folder, and mends their links."""
  shutil.copytree(root / 'docs', folder, ignore=shutil.ignore_patterns('make'))
  places = names(root)
  for source, place in places.items():
    target = folder / place
    if target.suffix == '.md':
      text = (root / source).read_text(encoding='utf-8')
      target.write_text(on_site(text, source, places), encoding='utf-8')
    elif not source.startswith('docs/'):
      shutil.copy(root / source, target)


def names(root: pathlib.Path) -> dict[str, str]:
  """Where each file of the repository is on the site, both relative to their roots."""
  own = (file for file in (root / 'docs').rglob('*.*') if 'make' not in file.parts)
  docs = {str(file.relative_to(root)): str(file.relative_to(root / 'docs')) for file in own}
  return {**docs, **ELSEWHERE, **{asset: pathlib.PurePath(asset).name for asset in ASSETS}}


def on_site(text: str, source: str, places: dict[str, str]) -> str:
  """A page's text with the links of the site, and with what a command needs in sight.

  Args:
    text: as in the repository.
    source: its path there.
    places: see `names`.
  """
  here = os.path.dirname(places[source])

  def mended(match: re.Match) -> str:
    path, hash_, anchor = match[2].partition('#')
    target = os.path.normpath(os.path.join(os.path.dirname(source), path)) if path else ''
    if target not in places:
      return match[0]
    return match[1] + os.path.relpath(places[target], here or '.') + hash_ + anchor + match[3]

  text = LINK.sub(mended, text)
  text = NEEDS.sub(r'<p class="needs">Needs \1.</p>', text)
  return FILE.sub(r'<p class="needs"><code>\1</code></p>', text)
