"""Downloads that resume, against our own server; archives that must not be extracted."""

import hashlib
import http.server
import stat
import threading
import zipfile

import pytest

from dss_jax.datasets import download

CONTENT = bytes(range(256)) * 4096


class Server(http.server.ThreadingHTTPServer):
  """Serves CONTENT at any path, breaking off or refusing as a test says."""

  content = CONTENT
  ranges = True
  etag = '"one"'
  break_after: int | None = None
  error: int | None = None

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_address[1]}/datasets.zip'


class Handler(http.server.BaseHTTPRequestHandler):
  """One answer, with or without range."""

  server: Server

  def do_GET(self):
    server = self.server
    wanted = self.headers.get('Range')
    server.requests.append(wanted)
    if server.error:
      self.send_error(server.error)
      return
    start = int(wanted.removeprefix('bytes=').removesuffix('-')) if wanted else 0
    same = self.headers.get('If-Range') in (None, server.etag)
    if not server.ranges or not same:
      start = 0
    if start and start >= len(server.content):
      self.send_response(416)
      self.send_header('Content-Range', f'bytes */{len(server.content)}')
      self.send_header('Content-Length', '0')
      self.end_headers()
      return
    self.send_response(206 if start else 200)
    if start:
      self.send_header('Content-Range', f'bytes {start}-{len(server.content) - 1}/x')
    if server.etag:
      self.send_header('ETag', server.etag)
    self.send_header('Content-Length', str(len(server.content) - start))
    self.end_headers()
    self.wfile.write(server.content[start:][: server.break_after])
    self.close_connection = True

  def log_message(self, *args):
    """Quiet."""


@pytest.fixture
def server():
  server = Server()
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


def interrupt(server, folder, attempts=1):
  """Leaves a part file, as a download does whose connection broke off."""
  server.break_after = 300_000
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(download, 'ATTEMPTS', attempts)
    with pytest.raises(ValueError, match='broke off after 300000 bytes'):
      download.fetch(server.url, folder)
  server.break_after = None
  server.requests.clear()


def test_a_file_is_downloaded_once(server, tmp_path):
  path = download.fetch(server.url, tmp_path)
  assert path.read_bytes() == CONTENT
  assert download.fetch(server.url, tmp_path) == path
  assert server.requests == [None]
  assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
  interrupt(server, tmp_path)
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert server.requests == ['bytes=300000-']


def test_it_also_goes_on_within_a_call_and_without_a_version(server, tmp_path):
  server.etag, server.break_after = '', 500_000
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert server.requests == [None, 'bytes=500000-', 'bytes=1000000-']


def test_a_server_that_ignores_ranges_begins_anew(server, tmp_path):
  interrupt(server, tmp_path)
  server.ranges = False
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert server.requests == ['bytes=300000-']


def test_a_file_that_changed_on_the_server_begins_anew(server, tmp_path):
  interrupt(server, tmp_path)
  server.etag, server.content = '"two"', CONTENT[::-1]
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_part_file_that_is_complete_is_only_renamed(server, tmp_path):
  path = download.fetch(server.url, tmp_path)
  path.rename(path.with_name(f'{path.name}.part'))
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert server.requests[1:] == [f'bytes={len(CONTENT)}-']


def test_a_part_file_longer_than_the_file_begins_anew(server, tmp_path):
  path = download.fetch(server.url, tmp_path)
  path.rename(path.with_name(f'{path.name}.part')).write_bytes(CONTENT + b'more')
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_wrong_sum_is_an_error_and_leaves_nothing(server, tmp_path):
  with pytest.raises(ValueError, match='expected SHA-256 0000'):
    download.fetch(server.url, tmp_path, '0' * 64)
  assert not [path for path in tmp_path.iterdir() if not path.name.endswith('.version')]
  good = hashlib.sha256(CONTENT).hexdigest().upper()
  assert download.fetch(server.url, tmp_path, good).read_bytes() == CONTENT


def test_an_error_of_the_server_is_named(server, tmp_path):
  server.error = 503
  with pytest.raises(ValueError, match='answered 503'):
    download.fetch(server.url, tmp_path)


def test_other_schemes_are_refused(tmp_path):
  with pytest.raises(ValueError, match='must begin with'):
    download.fetch('ftp://127.0.0.1/x.zip', tmp_path)


def test_a_local_url_is_used_where_it_lies(tmp_path):
  path = tmp_path / 'a b.zip'
  path.write_bytes(CONTENT)
  assert download.fetch(path.as_uri(), tmp_path / 'downloads') == path
  with pytest.raises(ValueError, match='expected SHA-256'):
    download.fetch(path.as_uri(), tmp_path, '0' * 64)
  with pytest.raises(ValueError, match='no such file'):
    download.fetch(path.as_uri() + 'x', tmp_path)


def archive(tmp_path, *entries):
  """Writes a zip of (name or ZipInfo, content)."""
  path = tmp_path / 'datasets.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
    for name, content in entries:
      file.writestr(name, content)
  return path


def link(name, target):
  info = zipfile.ZipInfo(name)
  info.external_attr = (stat.S_IFLNK | 0o777) << 16
  return info, target


def test_extraction_gives_the_files_and_is_done_once(tmp_path):
  path = archive(tmp_path, ('datasets/', ''), ('datasets/svamp/a.json', 'text'), ('b', 'c'))
  folder = download.extract(path, tmp_path / 'out')
  assert (folder / 'datasets' / 'svamp' / 'a.json').read_text() == 'text'
  (folder / 'b').write_text('kept')
  assert (download.extract(path, tmp_path / 'out') / 'b').read_text() == 'kept'


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    (('../evil', 'x'), 'leaves its folder'),
    (('a/../../evil', 'x'), 'leaves its folder'),
    (('/tmp/evil', 'x'), 'leaves its folder'),
    (('..\\evil', 'x'), 'leaves its folder'),
    (('C:/evil', 'x'), 'leaves its folder'),
    (link('datasets', '/'), 'link'),
  ],
)
def test_dangerous_archives_are_refused_before_anything_is_written(tmp_path, entry, message):
  path = archive(tmp_path, ('good', 'x'), entry)
  with pytest.raises(ValueError, match=message):
    download.extract(path, tmp_path / 'in' / 'out')
  assert not (tmp_path / 'in').exists()


def test_too_large_archives_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(download, 'MAX_EXTRACTED_BYTES', 1000)
  with pytest.raises(ValueError, match='1200 bytes, more than 1000'):
    download.extract(archive(tmp_path, ('a', 'x' * 600), ('b', 'x' * 600)), tmp_path / 'out')


def test_a_damaged_archive_is_an_error_and_leaves_no_folder(tmp_path):
  path = archive(tmp_path, ('a', CONTENT))
  damaged = bytearray(path.read_bytes())
  damaged[100] ^= 255
  path.write_bytes(damaged)
  for _ in range(2):
    with pytest.raises(ValueError, match='not a sound zip archive'):
      download.extract(path, tmp_path / 'out')
  path.write_bytes(b'no zip')
  with pytest.raises(ValueError, match='not a sound zip archive'):
    download.extract(path, tmp_path / 'out')
