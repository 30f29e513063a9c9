"""`python docs/make`: writes the pages of the docs site, and the files that are kept in git.

Owns the order. zensical then builds the site from build/docs/pages (mkdocs.yml; `make docs`). What
is kept in git, `dss_jax/llms.txt`, `docs/house.svg` and the last section of
`docs/troubleshooting.md`, is written by `python docs/make --kept` alone; tests/test_docs_pages.py
says when it is old.
"""

import os
import pathlib
import shutil
import sys

import house
import llms
import pages
import python_page
import reference_pages
import troubles_page

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILT = ROOT / 'build' / 'docs'


def main() -> None:
  """Writes everything that the command line asks for."""
  if '--kept' in sys.argv[1:]:
    (ROOT / 'docs' / 'troubleshooting.md').write_text(troubles_page.text(ROOT), encoding='utf-8')
    (ROOT / 'dss_jax' / 'llms.txt').write_text(llms.text(ROOT), encoding='utf-8')
    (ROOT / 'docs' / 'house.svg').write_text(house.picture(ROOT), encoding='utf-8')
    return
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # some verbs' help imports TensorFlow
  shutil.rmtree(BUILT, ignore_errors=True)
  folder = BUILT / 'pages'
  pages.write(ROOT, folder)
  python_page.link_package(ROOT, BUILT / 'package')
  reference = folder / 'reference'
  reference.mkdir()
  for name, text in {
    'commands.md': reference_pages.commands(),
    'settings.md': reference_pages.settings(),
    'gin_files.md': reference_pages.gin_files(),
    'python.md': python_page.text(),
  }.items():
    (reference / name).write_text(text, encoding='utf-8')


if __name__ == '__main__':
  main()
