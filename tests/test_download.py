"""Downloads that resume and are checked, against our own server."""

import concurrent.futures
import hashlib
import http.server
import io
import itertools
import threading
import time
import urllib.request
import zipfile

import pytest

from dss_jax.commands import prepare
from dss_jax.datasets import download
from dss_jax.settings import errors

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
  status: int | None = None
  more_headers: tuple[tuple[str, str], ...] = ()
  answer = None  # all that is sent: pieces, or what makes them anew for every request

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_address[1]}/datasets.zip'

  def handle_error(self, request, client_address):
    """Quiet: clients go away."""


class Handler(http.server.BaseHTTPRequestHandler):
  """One answer, with or without range."""

  server: Server
  protocol_version = 'HTTP/1.1'

  def do_GET(self):
    server = self.server
    wanted = self.headers.get('Range')
    server.requests.append(wanted)
    if server.answer:
      for sent in server.answer() if callable(server.answer) else server.answer:
        self.wfile.write(sent)
      self.close_connection = True
      return
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
      for name, value in server.more_headers:
        self.send_header(name, value)
      self.send_header('Content-Length', '0')
      self.end_headers()
      return
    self.send_response(server.status or (206 if start else 200))
    for name, value in server.more_headers:
      self.send_header(name, value)
    if start:
      size = len(server.content)
      self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
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


def test_a_part_file_of_another_version_begins_anew(server, tmp_path):
  path = download.fetch(server.url, tmp_path)
  path.with_name(f'{path.name}.part.version').write_text(server.etag)
  path.rename(path.with_name(f'{path.name}.part'))
  server.content, server.more_headers = CONTENT[::-1], (('ETag', '"two"'),)
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize('total', [len(CONTENT), '*', 'x', '9' * 30])
def test_a_range_that_ends_early_is_not_taken_for_the_rest(server, tmp_path, total):
  """Its own length is right; only the total says that there is more."""
  interrupt(server, tmp_path)
  server.answer = [
    b'HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\nETag: "one"\r\n'
    + f'Content-Range: bytes 300000-300999/{total}\r\n\r\n'.encode()
    + CONTENT[300_000:301_000]
  ]
  with pytest.raises((OSError, ValueError)):
    download.fetch(server.url, tmp_path)
  server.answer = None
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_range_is_no_longer_than_a_file_may_be(server, tmp_path, monkeypatch):
  interrupt(server, tmp_path)
  monkeypatch.setattr(download, 'MAX_BYTES', 400_000)
  monkeypatch.setattr(download, 'CHUNK_BYTES', 1000)
  server.answer = [
    b'HTTP/1.1 206 Partial Content\r\nContent-Length: 999999\r\nETag: "one"\r\n'
    b'Content-Range: bytes 300000-300999/301000\r\n\r\n',
    CONTENT,
  ]
  with pytest.raises(ValueError, match='more than 400000 bytes'):
    download.fetch(server.url, tmp_path)


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
    prepare._raw_folder(prepare._parser().parse_args(options))
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


@pytest.mark.parametrize('status', [201, 202, 203, 204, 206, 226, 300, 304, 305, 399])
def test_only_200_is_an_answer_with_the_file(server, tmp_path, status):
  server.status = status
  with pytest.raises(ValueError, match=f'{status}') as caught:
    download.fetch(server.url, tmp_path)
  assert errors.exit_code(caught.value) == errors.USERS
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('encoding', ['gzip', 'br', 'x-gzip, identity'])
def test_an_encoded_answer_is_not_the_file(server, tmp_path, encoding):
  server.more_headers = (('Content-Encoding', encoding),)
  with pytest.raises(ValueError, match=f"expected the file as it is, but .* as '{encoding}'"):
    download.fetch(server.url, tmp_path)
  server.more_headers = (('Content-Encoding', 'Identity'),)
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def drip(text):
  for letter in itertools.cycle(text):
    yield bytes([letter])
    time.sleep(0.05)


@pytest.mark.parametrize(
  ('first', 'then'),
  [
    (b'', lambda: itertools.repeat(b'HTTP/1.1 100 Continue\r\n\r\n')),
    (b'', lambda: drip(b'HTTP/1.1 200 OK')),
    (b'HTTP/1.1 200 OK\r\n', lambda: drip(b'A: b\r\n')),
    (b'HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n', lambda: drip(b'abc')),
    (b'HTTP/1.1 200 OK\r\n\r\n', lambda: drip(b'abc')),
    (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', lambda: drip(b'1\r\na\r\n')),
    (
      b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n',
      lambda: itertools.repeat(b'a: b\r\n'),
    ),
  ],
)
def test_a_server_that_never_comes_to_an_end_is_given_up(
  server, tmp_path, monkeypatch, first, then
):
  monkeypatch.setattr(download, 'TIMEOUT_SECONDS', 0.3)
  server.answer = lambda: itertools.chain([first], then())
  start = time.monotonic()
  with pytest.raises(ConnectionError, match=r'broke off .* \(TimeoutError\)') as caught:
    download.fetch(server.url, tmp_path)
  assert time.monotonic() - start < 5
  assert errors.exit_code(caught.value) == errors.MAY_PASS


def test_a_slow_server_is_waited_for_as_long_as_content_comes(server, tmp_path, monkeypatch):
  monkeypatch.setattr(download, 'TIMEOUT_SECONDS', 0.5)
  monkeypatch.setattr(download, 'LEAST_BYTES', 1000)

  def slow():
    yield f'HTTP/1.1 200 OK\r\nContent-Length: {len(CONTENT)}\r\n\r\n'.encode()
    for at in range(0, len(CONTENT), len(CONTENT) // 8):
      time.sleep(0.2)
      yield CONTENT[at : at + len(CONTENT) // 8]

  server.answer = slow
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_the_body_of_a_redirection_is_not_read(server, tmp_path):
  sent = []

  def answer():
    yield b'HTTP/1.1 302 Found\r\nLocation: /other.zip\r\n\r\n'
    server.answer = None
    for chunk in itertools.repeat(bytes(1 << 16)):
      sent.append(len(chunk))
      yield chunk

  server.answer = answer
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  assert sum(sent) < 100 << 20


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
    request, io.BytesIO(), 302, 'Found', {}, after
  )
  if allowed:
    assert follow().full_url == after
  else:
    with pytest.raises(ValueError, match=f'from {before} to') as caught:
      follow()
    assert 'secret' not in str(caught.value)


def test_redirections_are_followed_and_refused(server, tmp_path):
  server.location = server.url.replace('datasets', 'other')
  assert download.fetch(server.url, tmp_path).read_bytes() == CONTENT
  refused = ('ftp://127.0.0.1/x', 'file:///etc/passwd', 'data:,x', 'http://[', 'http://me:pw@a/')
  for number, location in enumerate((*refused, 'http://a..b/', 'http://a:b/', server.url)):
    server.location = location
    with pytest.raises(ValueError, match=r'redirects .*give the address of the file') as caught:
      download.fetch(f'{server.url}?{number}', tmp_path)
    assert errors.exit_code(caught.value) == errors.USERS
    assert 'pw' not in str(caught.value)


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


@pytest.mark.parametrize('end', [b'3', b'3\r\nab', b'0', b'000', b'0\r\n', b'0\r\na: b'])
def test_chunks_that_are_cut_are_not_all(server, tmp_path, end):
  server.answer = [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n' + end]
  with pytest.raises(ConnectionError, match='broke off after'):
    download.fetch(server.url, tmp_path)
  server.answer = [*server.answer, b'\r\n\r\n'] if end.startswith(b'0') else [whole_chunks()]
  assert download.fetch(server.url, tmp_path).read_bytes() == b'a'


def whole_chunks() -> bytes:
  return b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n'


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
