"""Downloads that resume and are checked, against our own server."""

import concurrent.futures
import hashlib
import http.server
import io
import threading
import urllib.request
import zipfile

import pytest

from dss_jax.commands import prepare
from dss_jax.datasets import download

CONTENT = bytes(range(256)) * 4096


class Server(http.server.ThreadingHTTPServer):
  """Serves CONTENT at any path, breaking off or refusing as a test says."""

  content = CONTENT
  ranges = True
  etag = '"one"'
  break_after: int | None = None
  error: int | None = None
  location: str | None = None
  has_length = True
  is_chunked = False

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_address[1]}/datasets.zip'


class Handler(http.server.BaseHTTPRequestHandler):
  """One answer, with or without range."""

  server: Server
  protocol_version = 'HTTP/1.1'

  def do_GET(self):
    server = self.server
    wanted = self.headers.get('Range')
    server.requests.append(wanted)
    if server.error:
      self.send_error(server.error)
      return
    if server.location and self.path.startswith('/datasets.zip'):
      self.send_response(302)
      self.send_header('Location', server.location)
      self.end_headers()
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
    body = server.content[start:][: server.break_after]
    if server.is_chunked:
      self.send_header('Transfer-Encoding', 'chunked')
      end = b'' if server.break_after else b'\r\n0\r\n\r\n'
      body = b'%x\r\n%b' % (len(server.content), body) + end
    elif server.has_length:
      self.send_header('Content-Length', str(len(server.content) - start))
    self.end_headers()
    self.wfile.write(body)
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
    with pytest.raises(ConnectionError, match='broke off after 300000 bytes'):
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


def test_it_also_goes_on_within_a_call(server, tmp_path):
  server.break_after = 500_000
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert server.requests == [None, 'bytes=500000-', 'bytes=1000000-']


@pytest.mark.parametrize('etag', ['', 'W/"one"', '"o\tne"', 'one'])
def test_without_a_strong_etag_it_begins_anew(server, tmp_path, etag):
  """A weak one stands for several contents, whose halves would be joined."""
  server.etag = etag
  interrupt(server, tmp_path)
  server.content = CONTENT[::-1]
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT[::-1]
  assert server.requests == [None]


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
  path.with_name(f'{path.name}.part.version').write_text(server.etag)
  path.rename(path.with_name(f'{path.name}.part'))
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert server.requests[1:] == [f'bytes={len(CONTENT)}-']


def test_a_part_file_longer_than_the_file_begins_anew(server, tmp_path):
  path = download.fetch(server.url, tmp_path)
  path.with_name(f'{path.name}.part.version').write_text(server.etag)
  path.rename(path.with_name(f'{path.name}.part')).write_bytes(CONTENT + b'more')
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_wrong_sum_is_an_error_and_leaves_nothing(server, tmp_path):
  with pytest.raises(ValueError, match='expected SHA-256 0000'):
    download.fetch(server.url, tmp_path, '0' * 64)
  assert not [path for path in tmp_path.iterdir() if not path.name.endswith('.version')]
  good = hashlib.sha256(CONTENT).hexdigest().upper()
  assert download.fetch(server.url, tmp_path, good).read_bytes() == CONTENT


def test_the_id_of_a_git_blob_is_a_sum_too(server, tmp_path):
  """`git hash-object` of the content says the same."""
  with pytest.raises(ValueError, match=r'expected git blob 0000.*, got'):
    download.fetch(server.url, tmp_path, '0' * 40)
  server.content = b'hello\n'
  path = download.fetch(server.url, tmp_path, 'ce013625030ba8dba906f756967f9e9ca394464a')
  assert path.read_bytes() == b'hello\n'


def test_the_release_is_one_commit_with_a_known_content(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(download, 'fetch', lambda *arguments: asked.append(arguments) or tmp_path)
  for more in ([], [f'--sha256={"0" * 64}']):
    options = ['--dataset=svamp', f'--data_dir={tmp_path}', '--url', *more]
    prepare._raw_folder(prepare.options(options))
  assert [digest for _, _, digest in asked] == [prepare.RELEASE_BLOB, '0' * 64]
  assert f'/raw/{prepare.RELEASE_COMMIT}/' in asked[0][0] and 'main' not in asked[0][0]


@pytest.mark.parametrize(
  ('code', 'kind'), [(404, ValueError), (403, ValueError), (503, OSError), (429, OSError)]
)
def test_an_error_of_the_server_is_named(server, tmp_path, code, kind):
  """A wrong address is the user's mistake; a server that is busy may answer later."""
  server.error = code
  with pytest.raises(kind, match=f'answered {code}'):
    download.fetch(server.url, tmp_path)


@pytest.mark.parametrize(
  ('url', 'message'),
  [
    ('ftp://127.0.0.1/x.zip', 'must begin with'),
    ('data:text/plain,x', 'must begin with'),
    ('https://me:secret@host/x.zip', 'has a user name or a password'),
    ('file://elsewhere/x.zip', 'of another machine'),
    ('https:///x.zip', 'is no address'),
    ('https://host:port/x.zip', 'is no address'),
    ('https://[::1/x.zip', 'is no address'),
    ('https://a..b/x.zip', 'is no address'),
    ('https://host/x y.zip', 'is no address'),
    ('https://host/\x1b[2J.zip', 'is no address'),
    ('https://h\u00f6st/x.zip', 'is no address'),
  ],
)
def test_other_addresses_are_refused(tmp_path, url, message):
  with pytest.raises(ValueError, match=message) as caught:
    download.fetch(url, tmp_path)
  assert 'secret' not in str(caught.value) and str(caught.value).isprintable()


def test_a_sum_that_is_none_is_refused(tmp_path):
  with pytest.raises(ValueError, match="--sha256 has 64 hexadecimal digits, not 'abc'"):
    download.fetch('http://127.0.0.1/x.zip', tmp_path, 'abc')


@pytest.mark.parametrize(
  ('before', 'after', 'allowed'),
  [
    ('https', 'https://b/x', True),
    ('http', 'https://b/x', True),
    ('http', 'http://b/x', True),
    ('https', 'http://b/x', False),
    ('https', 'ftp://b/x', False),
    ('http', 'ftp://b/x', False),
    ('http', 'file:///etc/passwd', False),
  ],
)
def test_a_redirection_never_leads_to_a_weaker_protocol(before, after, allowed):
  request = urllib.request.Request(f'{before}://a/x?key=secret')
  follow = lambda: download._SafeRedirects().redirect_request(  # noqa: E731
    request, None, 302, 'Found', {}, after
  )
  if allowed:
    assert follow().full_url == after
  else:
    with pytest.raises(ValueError, match=f'redirects from {before} to') as caught:
      follow()
    assert 'secret' not in str(caught.value)


def test_redirections_are_followed_and_refused(server, tmp_path):
  server.location = server.url.replace('datasets', 'other')
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  for location in ('ftp://127.0.0.1/x', 'file:///etc/passwd', server.url):
    server.location = location
    with pytest.raises(ValueError, match='redirects'):
      download.fetch(f'{server.url}?{location[:4]}', tmp_path)


def whole_zip() -> bytes:
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as file:
    file.writestr('a', CONTENT)
  return content.getvalue()


def test_without_a_length_it_is_complete_if_it_is_a_whole_zip(server, tmp_path):
  server.has_length, server.content = False, whole_zip()
  interrupt(server, tmp_path)
  assert download.fetch(server.url, tmp_path).read_bytes() == server.content


def test_without_a_length_half_a_file_is_not_taken_for_the_whole(server, tmp_path):
  server.has_length, server.break_after, server.etag = False, 300_000, ''
  server.content = whole_zip()
  with pytest.raises(ConnectionError, match='broke off after 300000 bytes'):
    download.fetch(server.url, tmp_path)
  assert [path.suffix for path in tmp_path.iterdir()] == ['.part']


def test_chunks_say_themselves_where_they_end(server, tmp_path):
  server.is_chunked, server.etag = True, ''
  interrupt(server, tmp_path)
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize('has_length', [True, False])
def test_a_file_that_is_too_large_is_refused(server, tmp_path, monkeypatch, has_length):
  monkeypatch.setattr(download, 'MAX_BYTES', 400_000)
  monkeypatch.setattr(download, 'CHUNK_BYTES', 1000)
  server.has_length = has_length
  with pytest.raises(ValueError, match='more than 400000 bytes'):
    download.fetch(server.url, tmp_path)
  assert not list(tmp_path.glob('*.part'))


def test_two_at_once_download_once(server, tmp_path):
  with concurrent.futures.ThreadPoolExecutor() as pool:
    paths = list(pool.map(lambda _: download.fetch(server.url, tmp_path), range(6)))
  assert len(set(paths)) == 1 and paths[0].read_bytes() == CONTENT
  assert server.requests == [None]
  assert list(tmp_path.iterdir()) == [paths[0]]


@pytest.mark.parametrize('path', ['/%2e%2e', '/..', '/a%00b', f'/{"x" * 300}.zip', '/', '/a%0ab'])
def test_any_path_has_a_proper_name(server, tmp_path, path):
  url = server.url.replace('/datasets.zip', path) + '?key=secret'
  file = download.fetch(url, tmp_path)
  assert file.parent == tmp_path and file.is_file() and 'secret' not in file.name


def test_a_local_url_is_used_where_it_lies(tmp_path):
  path = tmp_path / 'a b.zip'
  path.write_bytes(CONTENT)
  assert download.fetch(path.as_uri(), tmp_path / 'downloads') == path
  with pytest.raises(ValueError, match='expected SHA-256'):
    download.fetch(path.as_uri(), tmp_path, '0' * 64)
  with pytest.raises(ValueError, match='no such file'):
    download.fetch(path.as_uri() + 'x', tmp_path)
