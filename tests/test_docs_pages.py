"""The pages of the docs and what is made of them: nothing can be old without a test that fails.

Commands are tests/test_docs_commands.py's. That the site builds is `make docs`'s.
"""

import ast
import functools
import importlib
import pathlib
import re
import sys

import pytest
import yaml

from dss_jax import cli
from dss_jax.settings import statements, troubles

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MAKER = REPOSITORY / 'docs' / 'make'
OLD = 'is old: run `python docs/make --kept`'
ERROR = re.compile(r'^\*\*`(.+?)`\*\*', re.MULTILINE)


@pytest.fixture(scope='module')
def maker():
  """The modules of docs/make, which is a program and no package."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(MAKER))
    names = ('pages', 'llms', 'house', 'reference_pages', 'python_page', 'troubles_page')
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
      sys.modules.pop(name, None)


@functools.cache
def _texts_of_code() -> tuple[str, ...]:
  """Every text in our source; what is put into one at run time is a NUL."""
  found = []
  for folder in ('dss_jax', 'tasks', 'launch'):
    for path in (REPOSITORY / folder).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.JoinedStr):
          parts = (getattr(part, 'value', '') for part in node.values)
          found.append('\0'.join(part if isinstance(part, str) else '' for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
          found.append(node.value)
  return tuple(found)


def _is_said(error: str) -> bool:
  """Whether our source has an error with these words in this order; `...` is what is put in."""
  pattern = re.compile('.*?'.join(map(re.escape, error.split('...'))), re.DOTALL)
  return any(pattern.search(text) for text in _texts_of_code())


def test_every_error_of_the_page_is_said_by_the_source():
  page = (REPOSITORY / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
  errors = ERROR.findall(page)
  assert len(errors) >= 30
  assert not [error for error in errors if not _is_said(error)]
  assert not _is_said('no such words are anywhere')
  assert not _is_said('No vocabulary ... of all things')


def test_what_is_kept_is_not_old(maker):
  assert (REPOSITORY / 'dss_jax' / 'llms.txt').read_text() == maker['llms'].text(REPOSITORY), OLD
  assert (REPOSITORY / 'docs' / 'house.svg').read_text() == maker['house'].picture(REPOSITORY), OLD


def test_the_page_of_errors_has_the_table_of_doctor(maker):
  page = (REPOSITORY / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
  assert page == maker['troubles_page'].text(REPOSITORY), OLD
  for one in troubles.all_troubles():
    assert page.count(f'<a id="{one.name}"></a>') == 1
    assert one.title in page and one.means in page


def test_llms_txt_ships(maker):
  assert "'llms.txt'" in (REPOSITORY / 'setup.py').read_text()


def test_every_page_is_in_the_navigation_and_exists(maker):
  config = yaml.safe_load((REPOSITORY / 'mkdocs.yml').read_text())
  listed = [place for _, pairs in maker['llms']._sections(config['nav']) for _, place in pairs]
  places = {place for place in maker['pages'].names(REPOSITORY).values() if place.endswith('.md')}
  assert sorted(listed) == sorted(places | set(maker['llms'].GENERATED))


def test_links_in_the_repository_lead_somewhere(maker):
  for source in maker['pages'].names(REPOSITORY):
    if not source.endswith('.md'):
      continue
    text = (REPOSITORY / source).read_text(encoding='utf-8')
    for _, link, _ in maker['pages'].LINK.findall(text):
      path = link.partition('#')[0]
      is_made = path.startswith('reference/') or '../reference/' in path
      if path and '://' not in path and not is_made:
        assert (REPOSITORY / source).parent.joinpath(path).exists(), f'{source}: {link}'


def test_links_on_the_site_are_those_of_the_repository(maker):
  places = {'README.md': 'index.md', 'docs/a.md': 'a.md', 'docs/t/b.md': 't/b.md'}
  moved = maker['pages'].on_site
  assert (
    moved('[x](docs/a.md#y) [z](https://z)', 'README.md', places) == '[x](a.md#y) [z](https://z)'
  )
  assert moved('[x](../a.md) [y](#y)', 'docs/t/b.md', places) == '[x](../a.md) [y](#y)'
  assert moved('[x](../../README.md)', 'docs/t/b.md', places) == '[x](../index.md)'


def test_what_a_command_needs_is_shown(maker):
  shown = maker['pages'].on_site('<!-- needs: a TPU -->', 'docs/a.md', {'docs/a.md': 'a.md'})
  assert shown == '<p class="needs">Needs a TPU.</p>'


def test_the_commands_page_has_every_verb_with_its_help(maker):
  page = maker['reference_pages'].commands()
  for verb, summary in cli.VERBS.items():
    assert f'\n## dss {verb}\n' in page and summary in page
  assert '--max_usd' in page and '--rationale_weight' in page and '--accelerators' in page


def test_the_settings_page_has_every_macro_of_the_run_files_with_its_default(maker):
  page = maker['reference_pages'].settings()
  for verb in maker['reference_pages'].RUN_VERBS:
    for one in statements.of_shipped(f'runs/{verb}.gin'):
      if one.configurable and isinstance(one.value, statements.Macro):
        assert f'`{one.value.name}`' in page, one.value.name
  assert '| `LEARNING_RATE` | `learning_rate` | `float` | `5e-05` | the peak' in page
  assert '| `DROPOUT_RATE` |' in page


def test_the_gin_page_has_every_file_with_its_head_and_values(maker):
  page = maker['reference_pages'].gin_files()
  root = statements.gin_root()
  for path in root.rglob('*.gin'):
    if statements.FROM_T5X not in path.parts:
      assert f'### {path.relative_to(root)}\n' in page
  assert "| `DATASET` | `'cqa'` |" in page and '| `MODEL` | `@pretrained.network()` |' in page


def test_the_python_page_names_modules_that_exist(maker):
  for modules in maker['python_page'].MODULES.values():
    for module in modules:
      assert importlib.util.find_spec(module), module


def test_a_page_is_told_by_its_first_sentence(maker):
  page = '# Title\n\n    a command\n\n<!-- needs: x -->\n\nIt has [a link](b.md) in it. And more.\n'
  assert maker['llms'].first_sentence(page) == 'It has a link in it.'
