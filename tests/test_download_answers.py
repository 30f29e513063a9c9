"""What a server may answer to a download: the whole file in time, or it is refused or given up."""

import io
import itertools
import time
import urllib.request
import zipfile

import file_server
import pytest
from file_server import CONTENT, interrupt

from dss_jax.datasets import download
from dss_jax.settings import errors


@pytest.fixture
def server():
  with file_server.serve() as running:
    yield running


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
  with pytest.raises(ConnectionError, match=r'broke off .* \(less than 262144 bytes') as caught:
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
