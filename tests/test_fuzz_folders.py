"""Fuzzing of what others hand over: archives, run folders, prepared data, and servers' answers."""

import http.server
import io
import json
import pathlib
import shutil
import tempfile
import threading
import zipfile

import fuzzing
import pytest
from etils import epath
from hypothesis import strategies as st
from small_runs import untrained_run

from dss_jax import datasets
from dss_jax.datasets import download, release, unpacking
from dss_jax.runs import model_card
from dss_jax.runs.run_config import RunConfig
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import gin_files, json_form
from dss_jax.tasks import builder, prepared

LEAVES = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.integers(min_value=10**20)
  | st.floats()
  | st.text(max_size=20)
)
VALUES = st.recursive(
  LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=5
)
NAMES = st.text(max_size=30) | st.sampled_from(['a', 'A', 'a/', 'a/b', '..', '../x', '/', 'a//b'])
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)


def changed_bytes(content: bytes, changes) -> bytes:
  """A few bytes replaced."""
  changed = bytearray(content)
  for place, byte in changes:
    changed[place % len(changed)] = byte
  return bytes(changed)


def changed_json(values, places, value):
  """One value, somewhere in a tree, replaced; `places` says where."""
  for place in places:
    if not isinstance(values, dict | list) or not values:
      return value
    key = list(values)[place % len(values)] if isinstance(values, dict) else place % len(values)
    if place % 3 == 0 or not isinstance(values[key], dict | list):
      values[key] = value
      return value
    values = values[key]
  return value


# ---------------------------------------------------------------- archives


@fuzzing.fuzz(
  st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=6),
  st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]),
  CHANGES,
)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_any_archive_is_extracted_whole_or_refused(entries, method, changes):
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', method) as file:
    for name, data in entries:
      try:
        file.writestr(zipfile.ZipInfo(name), data, method)
      except (ValueError, UnicodeError):
        continue
  with fuzzing.file_of(changed_bytes(content.getvalue(), changes)) as path:
    out = path.parent / 'out' / 'extracted'
    with fuzzing.may_refuse():
      unpacking.extract(path, out)
    assert {one.name for one in path.parent.iterdir()} <= {'input', 'out'}
    left = list(out.iterdir()) if out.exists() else []
    assert not [one for one in left if one.name.endswith('.part')]


# ---------------------------------------------------------------- run folders


def _settings_values():
  with tempfile.TemporaryDirectory() as folder:
    run = untrained_run(folder)
    return json.dumps(json_form.to_dict(run))


@fuzzing.fuzz(st.lists(st.integers(1, 40), min_size=1, max_size=4), VALUES)
def test_settings_with_any_value_are_read_or_refused(places, value):
  settings = json.loads(_SETTINGS)
  changed_json(settings, places, value)
  with fuzzing.file_of(json.dumps(settings).encode(), 'config.json') as path, fuzzing.may_refuse():
    run = RunFolder(path.parent).load_settings()
    assert run.module is None


_SETTINGS = _settings_values()


@fuzzing.fuzz(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_file_of_a_run_folder_is_read_or_refused(content):
  with fuzzing.file_of(content, 'config.json') as path:
    folder = RunFolder(path.parent)
    for name in ('metrics.jsonl', 'config.gin', 'x_1.json'):
      (path.parent / name).write_bytes(content + b'\n')
    for read, kind in (
      (folder.load_settings, RunConfig),
      (folder.metric_rows, list),
      (lambda: list(folder.evaluations()), list),
      (lambda: model_card.without_paths(folder.load_gin() or ''), str),
    ):
      assert isinstance(fuzzing.outcome(read), kind | fuzzing.Refused)


def parsed(*arguments):
  """The macros that a command line sets; no other text may set MODEL_DIR."""
  gin_files.parse([*arguments, '--model_dir=x'], 'runs/evaluate.gin')
  return gin_files.macros()


@fuzzing.fuzz(
  st.lists(
    st.sampled_from(['STEP', 'SPLIT', 'decoding.Decoding.beams', 'seed', 'mesh', 'x/y.z']),
    min_size=1,
    max_size=2,
  ),
  st.text(max_size=30) | VALUES.map(repr),
)
def test_any_override_is_taken_or_refused(names, value):
  outcome = fuzzing.outcome(lambda: parsed(*(f'--gin.{name}={value}' for name in names)))
  assert isinstance(outcome, fuzzing.Refused) or outcome['MODEL_DIR'] == 'x'


@fuzzing.fuzz(
  st.text(max_size=60) | st.sampled_from(['A = (', "A = 'x", 'A =', '@', 'A = %', '= 3'])
)
def test_any_gin_file_is_read_or_refused(text):
  with fuzzing.file_of(text.encode('utf-8', 'replace'), 'a.gin') as path:
    outcome = fuzzing.outcome(lambda: parsed(f'--gin_file={path}'))
  assert isinstance(outcome, fuzzing.Refused) or outcome['MODEL_DIR'] == 'x'


# ---------------------------------------------------------------- prepared data


@pytest.fixture(scope='module', autouse=True)
def version(tmp_path_factory):
  """A prepared version, whose folder the checks below copy."""
  folder = tmp_path_factory.mktemp('raw') / 'svamp'
  folder.mkdir()
  (folder / 'svamp_test.json').write_text('{"input": "2 and 1", "label": "( 2.0 + 1.0 )"}')
  dataset = datasets.get('svamp')
  splits = {'test': release.split_files(dataset, folder.parent, 'test')}
  made = builder.prepare(dataset, splits, str(tmp_path_factory.mktemp('data')))
  _version.append(pathlib.Path(made.folder))


_version: list[pathlib.Path] = []


@fuzzing.fuzz(
  st.sampled_from(['features.json', 'dataset_info.json', 'metadata.json']),
  st.lists(st.integers(1, 40), min_size=1, max_size=5),
  VALUES,
  st.none() | CHANGES,
)
def test_any_prepared_data_is_opened_or_refused(name, places, value, changes):
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / 'svamp' / '1.0.0'
    shutil.copytree(_version[-1], copy)
    content = json.loads((copy / name).read_text())
    changed_json(content, places, value)
    text = json.dumps(content).encode()
    (copy / name).write_bytes(changed_bytes(text, changes) if changes else text)
    with fuzzing.may_refuse():
      prepared.read_metadata(epath.Path(copy))
      opened = prepared.open_version(epath.Path(copy))
      assert set(opened.info.features) == {'input', 'label', 'rationale', 'teacher_label'}
      for split in opened.info.splits.values():
        assert all(path.parent == copy for path in map(pathlib.Path, split.filepaths))


# ---------------------------------------------------------------- servers


class Anything(http.server.BaseHTTPRequestHandler):
  """Sends the same bytes, whatever is asked."""

  answer = b''

  def do_GET(self):
    self.wfile.write(self.answer)
    self.close_connection = True

  def log_message(self, *args):
    """Quiet."""


@pytest.fixture(scope='module', autouse=True)
def server():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Anything)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  _address.append(f'http://127.0.0.1:{server.server_address[1]}')
  yield
  server.shutdown()
  server.server_close()
  thread.join()


_address: list[str] = []
HEADERS = st.sampled_from(
  [
    'Content-Length',
    'Content-Range',
    'ETag',
    'Transfer-Encoding',
    'Location',
    'Connection',
    'Content-Encoding',
  ]
)
HEADER_VALUES = (
  st.text(st.characters(max_codepoint=255), max_size=20)
  | st.integers().map(str)
  | st.sampled_from(
    ['chunked', 'gzip', 'bytes 0-3/4', 'bytes */4', '"a"', 'W/"a"', '/x', '/datasets.zip', 'ftp://x/y',
     'file:///etc/passwd', 'http://[', 'http://a:b@/', 'https://x y/', 'http:', '4']
  )
)  # fmt: skip


@fuzzing.fuzz(
  st.sampled_from([200, 206, 301, 302, 307, 404, 416, 429, 503, 999]) | st.integers(100, 999),
  st.lists(st.tuples(HEADERS, HEADER_VALUES), max_size=5),
  st.binary(max_size=40),
)
def test_any_answer_of_a_server_is_a_file_or_an_error(status, headers, body):
  lines = ''.join(f'{name}: {value}\r\n' for name, value in headers)
  Anything.answer = f'HTTP/1.1 {status} x\r\n{lines}\r\n'.encode('latin-1') + body
  with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
    patch.setattr(download, 'TIMEOUT_SECONDS', 0.5)
    for _ in range(2):
      with fuzzing.may_refuse():
        path = download.fetch(f'{_address[-1]}/datasets.zip', pathlib.Path(folder))
        assert path.parent == pathlib.Path(folder) and path.read_bytes() in body
    assert not list(pathlib.Path(folder).glob('*.lock'))


@fuzzing.fuzz(st.text(max_size=40) | st.text(max_size=20).map(lambda text: f'https://{text}/x'))
def test_any_address_is_one_or_refused(url):
  outcome = fuzzing.outcome(lambda: download.check(url))
  assert isinstance(outcome, fuzzing.Refused) or outcome.scheme in ('http', 'https', 'file')


@fuzzing.fuzz(st.text(st.characters(categories=['L', 'N', 'P', 'S']), max_size=20))
def test_no_message_has_a_password(text):
  password = f'secret{text}secret'
  for url in (f'https://me:{password}@host/x', f'me:{password}@host', f'http://x/?k={password}'):
    try:
      download.check(url)
    except ValueError as error:
      assert 'secret' not in str(error)
    assert 'secret' not in download.shown(url)
