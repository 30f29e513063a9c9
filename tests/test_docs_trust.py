"""What docs/trust.md promises is shown by tests that exist."""

import re


def test_every_test_that_the_page_names_exists(repository):
  text = (repository / 'docs' / 'trust.md').read_text()
  named = re.findall(r'`(tests/\w+\.py)::(\w+)`', text)
  assert len(named) > 20
  for file, name in named:
    assert f'\ndef {name}(' in (repository / file).read_text(), f'{file}::{name}'
