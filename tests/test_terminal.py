"""What a terminal gets: quick help with examples, completion, bars that others never see."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest

import dss_jax
from dss_jax import cli
from dss_jax.commands import completion
from dss_jax.settings import progress, topologies

HEAVY = {'jax', 'tensorflow', 'gin', 'numpy', 'etils', 'rich', 'seqio', 'asyncio'}


def python(program, *arguments):
  done = subprocess.run([sys.executable, '-c', program, *arguments], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout


def everything(terminal):
  """What programs write to a terminal until they end; closes it."""
  written = b''
  while True:
    try:
      if not (part := os.read(terminal, 4096)):
        break
    except OSError:  # the other end is closed
      break
    written += part
  os.close(terminal)
  return written


def test_help_and_the_package_import_nothing_heavy():
  program = (
    'import sys, dss_jax\nfrom dss_jax import cli\ncli.main(sys.argv[1:])\n'
    'print(" ".join(name for name in sys.modules if "." not in name))'
  )
  output = python(program, '--help')
  assert output.startswith('usage: dss VERB')
  assert not HEAVY & set(output.splitlines()[-1].split())


@pytest.mark.parametrize('verb', sorted(cli.VERBS))
def test_the_help_of_every_verb_has_a_command_line_of_it(verb, capsys):
  try:
    cli.main([verb, '--help'])
  except SystemExit as end:
    assert end.code == 0
  text = capsys.readouterr().out
  assert re.search(rf'^ *(\$ )?(or: )?dss {verb} [^\[]', text, re.MULTILINE), text


def test_exit_codes_are_told_where_they_are_looked_for(capsys):
  assert cli.main([]) == 0
  text = capsys.readouterr().out
  for code in (1, 2, 74, 130, 141):
    assert re.search(rf'\b{code} ', text), code
  assert 'or a mistake of ours, with a traceback' in ' '.join(text.split())
  assert 'NO_COLOR' in text
  assert cli.main(['--version']) == 0 and capsys.readouterr().out.startswith('dss_jax 0.')
  assert cli.main(['doctr']) == 2


def test_a_mistake_of_ours_is_a_traceback_and_exit_code_1():
  program = (
    'import sys\nfrom dss_jax import cli\nfrom dss_jax.commands import methods\n'
    'methods.main = lambda argv: {}[7]\nsys.exit(cli.main(["methods"]))'
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert done.returncode == 1 and done.stderr.endswith('KeyError: 7\n')
  assert done.stderr.startswith('Traceback')


# ---------------------------------------------------------------- completion


@pytest.fixture(scope='module')
def script(tmp_path_factory):
  path = tmp_path_factory.mktemp('completion') / 'dss.bash'
  output, sys.stdout = sys.stdout, io.StringIO()
  try:
    assert completion.main(['bash']) == 0
    path.write_text(sys.stdout.getvalue())
  finally:
    sys.stdout = output
  return path


@pytest.mark.parametrize(
  ('typed', 'expected'),
  [
    ('dss tra', ['train']),
    ('dss new', ['new-task']),
    ('dss train --learning', ['--learning_rate=']),
    ('dss sweep --topology v5e-8', ['v5e-8']),
    ('dss train --gin_file datasets/anl', ['datasets/anli1.gin']),
    ('dss export --to h', ['hf']),
    ('dss annotate --max_u', ['--max_usd=']),
    ('dss sweep --topology = v5e-8', ['v5e-8']),
    ('dss sweep --topology =', list(topologies.TOPOLOGIES)),
    ('dss train --gin_file = datasets/anl', ['datasets/anli1.gin']),
    ('dss train --gin_file = x.gin --topology = v5e-8', ['v5e-8']),
    ('dss train --gin_file = x.gin --learning', ['--learning_rate=']),
    ('dss doctor --no-dev', ['--no-devices']),
    ('dss doctor --err', ['--error']),
  ],
)
def test_bash_completes_verbs_settings_and_gin_files(script, typed, expected):
  program = (
    f'source {script}; COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); '
    '_dss; printf "%s\\n" "${COMPREPLY[@]}"'
  )
  done = subprocess.run(['bash', '-c', program], capture_output=True, text=True)
  assert done.stdout.split() == expected, done.stderr


def test_a_real_bash_completes_a_value_after_the_equal_sign(script):
  main, other = pty.openpty()
  program = ['bash', '--norc', '--noprofile', '-i']
  with subprocess.Popen(program, stdin=other, stdout=other, stderr=other, start_new_session=True):
    os.close(other)
    os.write(main, f'source {script}; dss() {{ echo "<$*>"; exit; }}\n'.encode())
    os.write(main, b'dss sweep --topo\tv5p-64 --gin_file=datasets/sv\t_a\t\n')
    written = everything(main)
  assert b'<sweep --topology=v5p-64 --gin_file=datasets/svamp_asdiv.gin>' in written


def test_the_script_names_its_version(script, capsys):
  assert f'dss_jax {dss_jax.__version__}' in script.read_text().splitlines()[1]
  for shell, start in (('zsh', '#compdef dss'), ('tcsh', '#')):
    assert completion.main([shell]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith(start) and dss_jax.__version__ in second


_NO_JAX = """
import contextlib, sys
from dss_jax import cli
assert cli.main(['completion', 'bash']) == 0
for verb in cli.VERBS:
  with contextlib.suppress(SystemExit):
    cli.main([verb, '--help'])
assert not {'jax', 'tensorflow', 'seqio'} & set(sys.modules)
"""


def test_completion_and_the_help_of_all_verbs_import_no_jax():
  helped = python(_NO_JAX).partition('complete -o bashdefault -F _dss dss')[2]
  assert not [verb for verb in cli.VERBS if f'dss {verb} ' not in helped]


def test_zsh_is_told_defaults(capsys):
  assert completion.main(['zsh']) == 0
  text = capsys.readouterr().out
  assert '--learning_rate=[(float, default 5e-05) the peak' in text
  assert 'models/t5_1_1/tiny.gin' in text


# ---------------------------------------------------------------- bars

_BAR = """
import time
from dss_jax.settings import progress
with progress.bar('reading', total=300) as advance:
  for number in progress.counted(iter(range(300)), advance):
    pass
  advance(300, name='comparing')
  time.sleep(0.3)
print('done')
"""


def on_a_terminal(program, **variables):
  """What a program writes to a terminal of 80 columns."""
  main, other = pty.openpty()
  environment = {**os.environ, 'TERM': 'xterm-256color', 'COLUMNS': '80', **variables}
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=other, env=environment
  ) as process:
    os.close(other)
    written = everything(main)
    output = process.communicate()[0]
  assert process.returncode == 0
  return written.decode(), output.decode()


def test_a_terminal_sees_a_bar_and_what_reads_the_output_does_not():
  written, output = on_a_terminal(_BAR)
  assert 'comparing' in written and '300/300' in written
  assert output == 'done\n'


def test_no_color_leaves_colors_out():
  written, _ = on_a_terminal(_BAR, NO_COLOR='1')
  assert 'comparing' in written and not re.search(r'\x1b\[[0-9;]*3\d[0-9;]*m', written)
  assert re.search(r'\x1b\[[0-9;]*3\d[0-9;]*m', on_a_terminal(_BAR)[0])


def test_nothing_is_shown_elsewhere(capfd):
  with progress.bar('reading') as advance:
    advance(3, total=5, name='x')
    assert list(progress.counted(iter('abc'), advance, every=1)) == ['a', 'b', 'c']
  assert capfd.readouterr() == ('', '')
