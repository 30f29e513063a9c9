"""`dss doctor`: findings with their fix, no key in any output, errors answered by their text."""

import io
import json
import pathlib
import re
import sys
import time

import pytest

from dss_jax import cli
from dss_jax.commands import doctor, doctor_access, doctor_checks
from dss_jax.commands.findings import BAD, OK, WARNING
from dss_jax.settings import help_text, troubles

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SECRETS = {'OPENAI_API_KEY': 'sk-verysecret', 'HF_TOKEN': 'hf_verysecret'}


def run(capsys, *argv):
  status = cli.main(['doctor', *argv])
  output = capsys.readouterr()
  return status, output.out, output.err


# ---------------------------------------------------------------- errors by their text


@pytest.mark.parametrize('one', troubles.all_troubles(), ids=lambda one: one.name)
def test_an_error_as_it_came_is_answered_by_its_own_entry(one):
  assert troubles.find(one.example)[0] is one
  assert troubles.find(f'Traceback (most recent call last):\n  File "a.py"\n{one.example.upper()}')
  page = REPOSITORY / one.page.partition('#')[0]
  assert page.is_file()
  anchor = one.page.partition('#')[2]
  headings = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
  assert not anchor or anchor in [re.sub(r'\W+', '-', heading.lower()) for heading in headings]


def test_names_are_anchors_and_stand_once():
  names = [one.name for one in troubles.all_troubles()]
  assert len(set(names)) == len(names) and all(re.fullmatch('[a-z0-9-]+', one) for one in names)


def test_flags_in_fixes_exist():
  known = ''.join(help_text.of_verb(f'runs/{verb}.gin') for verb in ('train', 'evaluate'))
  for one in troubles.all_troubles():
    for flag in re.findall(
      r'--(?:num|batch|mesh|remat|check|learning|warmup|max_dec|optim)\w+', one.fix
    ):
      assert flag in known, (one.name, flag)


def test_the_last_line_of_a_traceback_counts_most(capsys):
  last = 'RuntimeError: the loss is not finite at step 3'
  text = f'OSError: [Errno 28] No space left on device\n\nDuring handling of it:\n\n{last}'
  assert [one.name for one in troubles.find(text)] == ['loss-not-finite', 'disk-full']
  status, output, _ = run(capsys, f'--error={text}')
  assert status == 0 and output.startswith('The loss is not a number.')
  assert 'fix: ' in output and 'more: docs/training.md' in output


def test_pages_are_named_only_where_they_are(capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(doctor, '_REPOSITORY', tmp_path)
  status, output, _ = run(capsys, '--error=[Errno 28] No space left on device')
  assert status == 0 and 'fix: ' in output and 'docs/' not in output


def test_an_error_may_come_from_standard_input(capsys, monkeypatch):
  text = b'\xff\n' + b'x\n' * 1000 + b'bash: dss: command not found\n'
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text)))
  status, output, _ = run(capsys, '--error', '--json')
  assert status == 0 and [one['name'] for one in json.loads(output)] == ['command-not-found']


def test_of_a_long_log_the_end_counts_and_it_is_quick(capsys, monkeypatch):
  lines = b'OSError: [Errno 28] No space left on device\n' + b'step 7: all is well\n' * 10**5
  text = lines + b'OSError: [Errno 98] Address already in use\n'
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text)))
  start = time.process_time()
  status, output, _ = run(capsys, '--error', '--json')
  assert status == 0 and [one['name'] for one in json.loads(output)] == ['port-taken']
  assert time.process_time() - start < 3


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('openai.APIConnectionError: Connection error.', 'no-network'),
    (
      "openai.RateLimitError: Error code: 429 - {'error': {'message': 'Rate limit'}}",
      'teacher-pace',
    ),
    ("Error code: 429 - {'error': {'code': 'insufficient_quota'}}", 'teacher-quota'),
    ("PermissionError: [Errno 13] Permission denied: '/data'", 'permission'),
    ('Killed', 'killed'),
    ('zsh: killed     dss train --method=dss', 'killed'),
    ("ModuleNotFoundError: No module named 'google.cloud.tpu_v2'", 'extra-missing'),
    ('step 12: loss nan', 'loss-not-finite'),
    ('a line\nOut of memory\nwhile trying to allocate 5 bytes', 'out-of-memory'),
  ],
)
def test_errors_in_the_wild_are_known(text, expected):
  assert [one.name for one in troubles.find(text)][:1] == [expected]


@pytest.mark.parametrize(
  'text',
  [
    "NameError: name 'datset' is not defined. Did you mean: 'dataset'?",
    'the loss information saved in runs/a',
    'validation loss inferred from 3 batches',
    'OPENAI_API_KEY is set',
    'He was killed by a bear, they said.',
    'Connected to the coordination service at 10.0.0.2:1234',
    'the salad is not prepared yet',
    'the bridge is damaged: do not cross',
    'the word has no split point',
    'symbols of GLIBC_2.34 are used',
    'ValueError: Errno 280 of 1220',
  ],
)
def test_texts_that_only_look_like_a_trouble_are_unknown(text):
  assert troubles.find(text) == []


@pytest.mark.parametrize('text', ['', 'all is well', 'He is skilled.', '\0' * 1000, 'a' * 10**6])
def test_a_text_that_shows_no_trouble_is_said_to_be_unknown(capsys, text):
  status, output, _ = run(capsys, f'--error={text}')
  assert status == 1 and output.startswith('No known trouble')


def test_our_own_errors_are_known(capsys, tmp_path):
  """Texts as the program writes them today, so that the table follows them."""
  argv = {
    'own-module': ['annotate', '--dataset=nope', '--prompt=esnli', '--model=m', '--raw_dir=x'],
    'unknown-setting': ['train', '--trian_steps=3', f'--model_dir={tmp_path}/runs'],
  }
  for name, arguments in argv.items():
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert [one.name for one in troubles.find(error)][:1] == [name], error


# ---------------------------------------------------------------- checks


def levels(findings):
  return [(one.level, one.what) for one in findings]


def test_no_key_is_ever_shown(capsys, monkeypatch, tmp_path):
  for name, value in SECRETS.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('HTTPS_PROXY', 'http://me:verysecret@proxy:3128')
  _, output, error = run(capsys, '--no-devices', f'--path={tmp_path}')
  assert 'verysecret' not in output + error
  assert 'OPENAI_API_KEY is set' in output and 'leads to proxy:3128' in output
  assert f'{tmp_path}: is there and can be written' in output
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('level', 'status'), [(OK, 0), (WARNING, 0), (BAD, 1)])
def test_the_exit_code_says_whether_something_is_bad(capsys, monkeypatch, level, status):
  found = [doctor_checks.Finding(OK, 'a', 'b'), doctor_checks.Finding(level, 'c', 'd', 'e')]
  monkeypatch.setattr(doctor_checks, 'all_findings', lambda *unused: iter(found))
  assert run(capsys)[0] == status


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch):
  def fail(environment=None):
    raise KeyError('sk-verysecret')
    yield

  monkeypatch.setattr(doctor_access, 'certificates', fail)
  found = list(doctor_checks.all_findings(devices=False))
  failed = next(one for one in found if one.what == 'fail')
  assert failed.level == BAD and 'KeyError' in failed.found and 'test_doctor.py' in failed.found
  assert 'verysecret' not in str(found) and found[-1].what == 'Hugging Face'


def test_a_key_with_quotes_around_it_is_bad():
  first = next(doctor_access.teacher({'OPENAI_API_KEY': '"sk-verysecret"'}))
  assert first.level == BAD and 'verysecret' not in str(first)


@pytest.mark.parametrize(
  ('variables', 'expected'),
  [
    ({'TPU_SKIP_MDS_QUERY': '1'}, (BAD, 'TPU')),
    ({'JAX_ENABLE_X64': 'True'}, (WARNING, 'jax')),
    ({}, None),
  ],
)
def test_variables_that_are_known_to_fail_are_found(variables, expected, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert levels(doctor_checks.combinations(variables)) == ([expected] if expected else [])


def test_versions_that_do_not_fit_are_found(monkeypatch):
  known = {'jax': '0.11.1', 'jaxlib': '0.10.2', 'flax': '0.12.8'}
  monkeypatch.setattr(doctor_checks, '_version', known.get)
  assert levels(doctor_checks.combinations({}))[0] == (BAD, 'jax')
  found = {one.what: one for one in doctor_checks.versions()}['versions']
  assert found.level == BAD and 'jax 0.11.1, expected <0.11,>=0.10.2' in found.found
  assert 'tensorflow is missing' in found.found
  assert "'jax<0.11,>=0.10.2'" in found.fix and 'requirements.txt' not in found.fix


def test_a_file_named_like_a_library_is_found(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('jax.py').write_text('')
  assert levels(doctor_checks.combinations({})) == [(WARNING, 'working directory')]


def test_certificates_that_cannot_be_used_are_bad_and_nothing_says_ok(tmp_path):
  (tmp_path / 'text').write_text('no certificate')
  for path, why in {
    '/nowhere.pem': 'does not exist', str(tmp_path): 'is a folder', str(tmp_path / 'text'): 'read',
  }.items():  # fmt: skip
    (found,) = doctor_access.certificates({'SSL_CERT_FILE': path})
    assert found.level == BAD and found.fix == 'unset SSL_CERT_FILE' and why in found.found
  assert levels(doctor_access.certificates({'REQUESTS_CA_BUNDLE': str(tmp_path)})) == [
    (OK, 'certificates')
  ]
  assert levels(doctor_access.certificates({'SSL_CERT_DIR': '/nowhere'})) == [(BAD, 'certificates')]


def test_certificates_of_a_file_are_read(tmp_path):
  certifi = pytest.importorskip('certifi')
  (found,) = doctor_access.certificates({'SSL_CERT_FILE': certifi.where()})
  assert found.level == OK and certifi.where() in found.found


@pytest.mark.parametrize(
  ('value', 'level', 'text'),
  [
    ('http://proxy:3128', OK, 'leads to proxy:3128'),
    ('socks5://[::1]:1080', OK, 'leads to ::1:1080'),
    ('http://proxy', OK, 'leads to proxy'),
    ('proxy:3128', WARNING, 'leads to proxy:3128'),
    ('me:verysecret@proxy:3128', WARNING, 'leads to proxy:3128'),
    ('http://proxy:abc', BAD, 'no host and port'),
    ('http://me:very/secret@proxy:80', BAD, 'no host and port'),
    ('http://:3128', BAD, 'no host and port'),
    ('htp://proxy:3128', BAD, 'has the scheme htp://'),
  ],
)
def test_a_proxy_is_judged_by_its_scheme_host_and_port(value, level, text):
  (found,) = doctor_access.proxy({'HTTPS_PROXY': value})
  assert (found.level, found.what) == (level, 'proxy') and text in found.found
  assert 'secret' not in str(found) and bool(found.fix) == (level != OK)


@pytest.mark.parametrize(
  ('text', 'level'),
  [
    ('{"type": "service_account"}', OK),
    ('my-host', BAD),
    ('{"a": "verysecret"}', BAD),
    (None, BAD),
  ],
)
def test_a_file_of_googles_credentials_is_read(tmp_path, text, level):
  if text is not None:
    (tmp_path / 'key.json').write_text(text)
  named = {'GOOGLE_APPLICATION_CREDENTIALS': str(tmp_path / 'key.json')}
  (found,) = doctor_access.google_cloud(named)
  assert found.level == level and 'verysecret' not in str(found)


def test_a_machine_of_googles_has_a_service_account(monkeypatch, tmp_path):
  nowhere = {'CLOUDSDK_CONFIG': str(tmp_path)}
  monkeypatch.setattr(doctor_access, '_PRODUCT', tmp_path / 'product')
  assert 'gcloud auth' in next(doctor_access.google_cloud(nowhere)).found
  (tmp_path / 'product').write_text('Google Compute Engine\n')
  found = next(doctor_access.google_cloud(nowhere)).found
  assert 'service account' in found and 'gcloud auth' not in found


def test_a_token_is_looked_for_in_hf_home(tmp_path):
  environment = {'HF_HOME': str(tmp_path)}
  assert 'is not there' in next(doctor_access.hugging_face(environment)).found
  (tmp_path / 'token').write_text('hf_verysecret')
  assert next(doctor_access.hugging_face(environment)).found == 'a token is there'


def test_little_memory_is_a_warning(tmp_path):
  (tmp_path / 'proc').mkdir()
  (tmp_path / 'proc/meminfo').write_text('MemTotal: 8000000 kB\nMemAvailable: 1000000 kB\n')
  assert levels(doctor_checks.memory(tmp_path)) == [(WARNING, 'memory')]


def test_a_program_that_fails_or_hangs_is_a_finding():
  def found(program, seconds=60.0):
    return next(iter(doctor_checks._in_a_process('devices', program, seconds, lambda _: iter(()))))

  text = "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process 1"
  failed = found(f'raise RuntimeError({text!r})')
  assert failed.level == BAD and 'libtpu_lockfile' in failed.fix
  assert 'no answer' in found('import time; time.sleep(60)', seconds=0.3).found


def test_devices_that_are_not_used_are_a_warning(monkeypatch):
  def found(**environment):
    return next(doctor_checks._devices([['cpu', 'cpu', None]], environment))

  monkeypatch.setattr(doctor_checks.shutil, 'which', lambda name: '/usr/bin/nvidia-smi')
  assert found()[:2] == (WARNING, 'devices') and 'dss_jax[gpu]' in found().fix
  assert found(JAX_PLATFORMS='cpu').fix == 'unset JAX_PLATFORMS'
  gpu = next(doctor_checks._devices([['gpu', 'H100', 80e9]] * 2))
  assert gpu == (OK, 'devices', '2 x gpu (H100, 80 GB)', '')


@pytest.mark.parametrize(
  ('file', 'vendor', 'level'),
  [
    ('accel0', '0x8086', WARNING),
    ('vfio/0', '0x1ae0', WARNING),
    ('vfio/0', '0x8086', OK),
    ('vfio/vfio', '0x1ae0', OK),
  ],
)
def test_a_tpu_is_found_by_its_device_file(monkeypatch, tmp_path, file, vendor, level):
  monkeypatch.setattr(doctor_checks.shutil, 'which', lambda name: None)
  for path, text in ((f'dev/{file}', ''), ('sys/bus/pci/devices/0000:00:05.0/vendor', vendor)):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(f'{text}\n')
  found = next(doctor_checks._devices([['cpu', 'cpu', None]], {}, str(tmp_path)))
  assert found.level == level and ('dss_jax[tpu]' in found.fix) == (level == WARNING)


def test_a_folder_that_is_not_there_is_bad(capsys, tmp_path):
  status, output, _ = run(capsys, '--no-devices', '--json', f'--path={tmp_path / "no"}')
  assert status == 1
  found = {one['what']: one for one in json.loads(output)}[str(tmp_path / 'no')]
  assert found['level'] == BAD and found['found'] == 'there is no such folder'
