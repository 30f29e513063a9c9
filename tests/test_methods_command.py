"""`dss methods`: every method is listed, from the objects, with how to choose it."""

import pathlib

import pytest

from dss_jax import methods
from dss_jax.commands import methods as command
from dss_jax.settings import statements

OURS = methods.registered()  # before other tests register their own


def listed(capsys, *argv: str) -> dict[str, list[str]]:
  assert command.main(list(argv)) == 0
  entries = (entry.split('\n  ') for entry in capsys.readouterr().out.strip().split('\n\n'))
  return {name: lines for name, *lines in entries}


def test_every_method_and_every_file_is_listed(capsys):
  found = listed(capsys)
  files = {path.stem for path in (statements.gin_root() / 'methods').glob('*.gin')}
  assert set(found) == {*methods.names(), *files}
  for name in files:
    assert f'dss train --gin_file=methods/{name}.gin ...' in found[name]


def test_a_method_is_described_by_its_object(capsys):
  assert listed(capsys, 'right_rationales', 'curriculum') == {
    'right_rationales': [
      'step by step without rationales that argue for a wrong answer',
      '[label] {input} -> {label}',
      '[rationale] {input} -> {rationale}  (weight 0 where the teacher is wrong)',
      'loss: L_label + L_rationale',
      'source: a variant of this project',
      'dss train --gin_file=methods/right_rationales.gin ...',
    ],
    'curriculum': [
      methods.curriculum.CURRICULUM.summary,
      '[label] {input} -> {label}',
      '[rationale] {input} -> {rationale}',
      'loss: (1 → 1 → 0) L_label + (0 → 0 → 1) L_rationale',
      'source: Ezgi and Onan 2026, doi 10.32604/cmc.2025.071301',
      'dss train --gin_file=methods/curriculum.gin ...',
    ],
  }


def test_an_unknown_method_is_refused_with_near_names(capsys):
  with pytest.raises(ValueError, match=r'no method .curiculum.*did you mean curriculum'):
    command.main(['curiculum'])


def test_every_method_of_ours_has_a_source_and_a_line_in_the_docs(repository: pathlib.Path):
  text = (repository / 'docs' / 'methods.md').read_text(encoding='utf-8')
  for method in OURS:
    assert method.source, method.name
    if method.label_source == 'gold':
      assert f'`{method.name}`' in text, method.name
