"""Every command that README, CONTRIBUTING, the docs and heads of gin files tell a reader to type.

What needs nothing is run; what is marked as needing something is resolved (doc_commands.py has the
convention). `python tests/test_docs_commands.py` prints how many there are of each kind.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys

import doc_commands
import doc_resolving
import doc_session
import pytest
from doc_commands import Command

SESSION = pathlib.Path(__file__).parent / 'doc_session.py'
SESSION_S = 1500
REACHED = (doc_resolving.RESOLVED, doc_resolving.NAMED, doc_resolving.FOREIGN)


@pytest.mark.parametrize('page', doc_commands.pages())
def test_every_command_of_a_page_names_only_what_exists(page):
  own, scripts = doc_resolving.own_text(page), doc_commands.files_of(page)
  for command in doc_commands.of_page(page):
    if command.words[:1] == ['python'] and command.words[1] in scripts:
      continue  # it is run
    try:
      assert doc_resolving.resolve(command, own) in REACHED
    except doc_resolving.Wrong as error:
      pytest.fail(f'{command.where}: {command.text}: {error}')


def test_every_command_of_a_gin_files_head_is_resolved():
  for command in doc_commands.of_gin_heads():
    try:
      doc_resolving.resolve(command)
    except doc_resolving.Wrong as error:
      pytest.fail(f'{command.where}: {command.text}: {error}')


def test_no_unmarked_command_serves_or_asks_a_bucket():
  refused = {one.where: doc_session.refusal(one.words) for one in doc_session.commands()}
  assert not [item for item in refused.items() if item[1]]


@pytest.mark.parametrize(
  ('text', 'why'),
  [
    ('dss serve runs/a', 'serves'),
    ('dss doctor --path=gs://b/data', 'bucket'),
    ('dss launch tpu-vm --submit --bucket=gs://b', 'bucket'),
    ('pip install dss_jax', 'pip'),
  ],
)
def test_a_command_that_needs_more_is_refused_even_unmarked(tmp_path, monkeypatch, text, why):
  monkeypatch.chdir(tmp_path)
  command = Command('README.md', 1, text)
  assert why in doc_session.refusal(command.words)
  ran = doc_session._run(command)
  assert ran['code'] == 1 and 'say what it needs' in ran['out']
  assert not doc_session.refusal(['dss', 'launch', 'tpu-vm', '--bucket=gs://b'])


def test_a_command_without_an_end_is_ended(tmp_path):
  program = (
    'import doc_session, time; from doc_commands import Command; doc_session.LIMIT_S = 0.2; '
    'doc_session._exit_code = lambda words: time.sleep(60); '
    'doc_session._run(Command("README.md", 7, "dss methods"))'
  )
  path = os.pathsep.join([str(SESSION.parent), os.environ.get('PYTHONPATH', '')])
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=60, cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': path},
  )  # fmt: skip
  assert done.returncode == 1
  assert 'README.md:7: dss methods' in done.stderr and 'Timeout' in done.stderr


def test_every_command_that_needs_nothing_runs(tmp_path):
  commands = doc_session.commands()
  assert len(commands) >= 20
  done = subprocess.run(
    [sys.executable, SESSION, tmp_path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, text=True, timeout=SESSION_S,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout[-2000:]
  ran = json.loads((tmp_path / doc_session.RAN).read_text())
  assert [one['where'] for one in ran] == [command.where for command in commands]
  assert not [one for one in ran if one['code'] != 0]


# ---------------------------------------------------------------- the checks themselves


@pytest.mark.parametrize(
  'text, wrong',
  [
    ('dss trian --model_dir=a', "no verb 'trian'"),
    ('dss train --gin_file=models/t5_1_1/huge.gin --model_dir=a', 'huge.gin'),
    ('dss train --gin_file=runs/smoke.gin --model_dir=a --learning_rat=1', '--learning_rat'),
    ('dss train --gin_file=runs/smoke.gin --model_dir=a --train_steps=many', 'TRAIN_STEPS'),
    ('dss train --gin_file=runs/smoke.gin --model_dir=a --method=dsss', "no method 'dsss'"),
    ('dss train ... --dataset=cqqa', "no dataset 'cqqa'"),
    ('dss train ... --rationales_kep=0.5', 'has no flag --rationales_kep'),
    ('dss plan --gin_file=models/t5_1_1/xxl.gin --topology=v4-63', 'v4-63'),
    ('dss annotate --dataset=cqa --raw_dir=a --model=b --max_eur=5', '--max_eur'),
    ('dss annotate ... --write_batches=b', 'has no flag --write_batches'),
    ('dss launch tpu-vm --name=a --topology=v5e-8 -- trian', "no verb 'trian'"),
    ('dss launch tpu-vm --name=a -- train ...', '--topology'),
    ('dss t5x --gin_file=t5x/models/huge.gin', 'no gin file t5x/models/huge.gin'),
    ('launch/local.sh --devices=8 trian --model_dir=a', "no verb 'trian'"),
    ('make smok', "target of make 'smok'"),
    ("pip install '.[reports]'", "extra 'reports'"),
    ('pytest tests/test_nothing.py', 'no test tests/test_nothing.py'),
    ('python benchmarks/nothing.py', 'no program benchmarks/nothing.py'),
    ('python benchmarks/cpu_training.py --wrok=a', 'no flag --wrok'),
    ('python -m dss_jax.nothing', 'no program -m'),
  ],
)  # fmt: skip
def test_a_command_that_would_fail_is_found(text, wrong):
  with pytest.raises(doc_resolving.Wrong, match='.*'.join(wrong.split(' .. '))):
    doc_resolving.resolve(Command('page', 1, text))


@pytest.mark.parametrize(
  'text, kind',
  [
    ('dss train --gin_file=runs/smoke.gin --model_dir=a', doc_resolving.RESOLVED),
    ('dss plan --help', doc_resolving.RESOLVED),
    ('dss launch logs gs://b/jobs/cqa', doc_resolving.RESOLVED),
    ('dss train --method=dss ... --model_dir=a', doc_resolving.NAMED),
    ('make test', doc_resolving.NAMED),
    ('gcloud auth application-default login', doc_resolving.FOREIGN),
  ],
)
def test_how_much_of_a_command_is_known(text, kind):
  assert doc_resolving.resolve(Command('page', 1, text)) == kind


def test_a_gin_file_of_the_readers_has_to_be_on_the_page():
  command = Command('page', 1, 'dss train --gin_file=mine.gin --model_dir=a')
  assert doc_resolving.resolve(command, 'save it as `mine.gin`') == doc_resolving.NAMED
  with pytest.raises(doc_resolving.Wrong, match=r'no gin file mine\.gin ships'):
    doc_resolving.resolve(command, 'save it as `yours.gin`')


def test_names_that_a_module_of_the_readers_registers_are_not_looked_up():
  command = 'dss prepare --dataset=reviews --raw_dir=raw --data_dir=data'
  with pytest.raises(doc_resolving.Wrong, match="no dataset 'reviews'"):
    doc_resolving.resolve(Command('page', 1, command))
  assert doc_resolving.resolve(Command('page', 1, f'{command} --module=reviews'))


PAGE = """# A page

Text with `dss train --help` in it.

<!-- needs: a TPU -->

    dss plan --gin_file=a.gin \\
      --topology=v5e-8   # which one
    T5X_SRC=DIR pytest tests/test_a.py > log

<!-- file: a.py -->
```python
print('dss train')
```

```bash
for one in a b; do dss prepare --dataset=$one --url; done
dss sweep --grid="{'A': (1,
  2)}"
```
"""


def test_commands_are_found_with_what_they_need(tmp_path, monkeypatch):
  monkeypatch.setattr(doc_commands, 'REPOSITORY', tmp_path)
  (tmp_path / 'a.md').write_text(PAGE)
  found = doc_commands.of_page('a.md')
  assert [(one.line, one.needs, one.is_span, one.words) for one in found] == [
    (7, 'a TPU', False, ['dss', 'plan', '--gin_file=a.gin', '--topology=v5e-8']),
    (9, 'a TPU', False, ['pytest', 'tests/test_a.py']),
    (17, '', False, ['dss', 'prepare', '--dataset=a', '--url']),
    (18, '', False, ['dss', 'sweep', "--grid={'A': (1, 2)}"]),
    (3, '', True, ['dss', 'train', '--help']),
  ]
  assert doc_commands.files_of('a.md') == {'a.py': "print('dss train')\n"}


def count() -> collections.Counter[str]:
  """How many commands of the pages there are of each kind."""
  kinds: collections.Counter[str] = collections.Counter()
  for page in doc_commands.pages():
    own = doc_resolving.own_text(page)
    for one in doc_commands.of_page(page):
      if not one.needs and not one.is_span:
        kinds['run'] += 1
      else:
        kind = doc_resolving.resolve(one, own)
        kinds[f'{"in a sentence" if one.is_span else "marked"}, {kind}'] += 1
  return kinds


if __name__ == '__main__':
  for name, number in sorted(count().items()):
    print(f'{number:4} {name}')
