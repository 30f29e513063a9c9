"""`dss VERB --help`: every setting with type, default and meaning, from the fields themselves."""

import dataclasses
import re
import subprocess
import sys

import pytest

from dss_jax.runs import evaluation, pretrained, run_config
from dss_jax.settings import defaults, field_docs, gin_files, help_text, statements

VERBS = ('train', 'compare', 'sweep', 'plan', 'evaluate', 'predict', 'serve')


def test_help_is_printed_whatever_else_is_given_and_exits(capsys):
  with pytest.raises(SystemExit) as caught:
    gin_files.parse(['--help', '--nonsense'], 'runs/train.gin')
  assert caught.value.code == 0
  text = capsys.readouterr().out
  assert text.startswith('`dss train`: what every training job needs.')
  assert '--gin_search_paths' in text and '\n  dss train --gin_file=models/' in text


@pytest.mark.parametrize(
  'verb, entry',
  [
    ('train', '--learning_rate  (float, default 5e-05)\n      the peak, or the factor of'),
    ('train', '--train_steps  (int, default 10000)\n      updates in all'),
    ('train', '--model_dir  (path, required: --model_dir=FOLDER'),
    ('train', '--mixture_or_task_module, --module  (str | None, default None)\n'),
    ('train', '--remat_policy  (str, default \'auto\')\n'),
    ('train', '--method  (str | Method | None, default None)\n      set by methods/NAME.gin'),
    ('train', 'By --gin.optimizers.OptimizerConfig.NAME=VALUE: b1 (float, 0.9)'),
    ('plan', "(Mapping[str, int], default {'inputs': 512, 'targets': 128})\n      'inputs' and"),
    ('plan', '--topology  (str, required: --topology=NAME: cpu gpu'),
    ('compare', '--methods  (Sequence[str], default (\'standard\', \'dss\'))'),
    ('sweep', '--grid  (Mapping[str, Sequence[Any]] | None, default None)'),
    ('evaluate', '--step  (int | str, default \'best\')\n      of the checkpoint'),
    ('predict', '--output  (path | None, default None)\n      file of JSON lines; None: standard'),
  ],
)  # fmt: skip
def test_an_entry_has_type_default_and_meaning(verb, entry):
  assert entry in help_text.of_verb(f'runs/{verb}.gin')


@pytest.mark.parametrize('verb', VERBS)
def test_every_macro_that_a_verb_reads_is_told_once_with_its_meaning(verb):
  text = help_text.of_verb(f'runs/{verb}.gin')
  for name in {name for one in statements.of_shipped(f'runs/{verb}.gin') for name in one.macros}:
    if name == statements.REQUIRED:
      continue
    entries = re.findall(
      rf'\n  --{name.lower()}(?:, .*)?  \(.*\n      \w|\n  --{name.lower()}  \(.*\n', text
    )
    assert len(entries) == 1, name
    assert re.search(rf'\n  --{name.lower()}\b.*\n      \S', text), f'{name} has no meaning'


@pytest.mark.parametrize('verb', VERBS)
def test_types_and_defaults_read_from_source_are_those_of_the_objects(verb):
  gin_files.parse(
    ['--model_dir=a']
    if verb in ('evaluate', 'predict')
    else ['--gin_file=models/t5_1_1/tiny.gin', '--gin_file=datasets/embedded_arithmetic.gin',
          '--model_dir=a', '--topology=v5e-8'],
    f'runs/{verb}.gin',
  )  # fmt: skip
  checked = 0
  for one in statements.of_shipped(f'runs/{verb}.gin'):
    if not one.configurable:
      continue
    read = field_docs.of(one.configurable).fields[one.parameter]
    found = defaults.parameter_of(one.configurable, one.parameter)
    has_default = isinstance(found.default, int | float | str | tuple | None)
    assert read.default == (repr(found.default) if has_default else None)
    checked += 1
  assert checked > 10


def test_fields_of_a_base_class_in_another_module_are_known():
  read = field_docs.of('dss_jax.runs.evaluation.EvaluateConfig')
  assert list(read.fields) == [
    field.name for field in dataclasses.fields(evaluation.EvaluateConfig)
  ]
  assert read.fields['step'].meaning.startswith('of the checkpoint')


def test_every_field_of_a_run_and_every_argument_says_what_it_means():
  for made in (run_config.RunConfig, run_config.EvalConfig, pretrained.train_steps):
    read = field_docs.of(f'{made.__module__}.{made.__name__}')
    assert all(field.meaning for field in read.fields.values())


@pytest.mark.parametrize(
  'name', ['dss_jax.nowhere.Thing', 'dss_jax.cli.Nothing', 'alone', 'math.pi']
)
def test_what_has_no_source_is_not_known(name):
  assert field_docs.of(name) is None


def test_entries_of_a_docstring_go_over_lines_and_share_meanings():
  text = 'Summary.\n\nArgs:\n  a, b: two\n    lines: so.\n  **rest: others.\n\nReturns:\n  c: no.'
  assert field_docs.meanings(text) == {
    'a': 'two lines: so.',
    'b': 'two lines: so.',
    'rest': 'others.',
  }


@pytest.mark.parametrize('verb', ['', *VERBS, 'prepare', 'vocab', 'launch'])
def test_help_ends_quietly_when_nobody_reads_on(verb):
  program = [sys.executable, '-m', 'dss_jax', *([verb] if verb else []), '--help']
  done = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  done.stdout.close()
  assert done.stderr.read() == ''
  assert done.wait() == 141
