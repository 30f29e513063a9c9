"""Downloads that resume and are checked, against our own server."""

import concurrent.futures
import hashlib

import file_server
import pytest
from file_server import CONTENT, interrupt

from dss_jax.commands import prepare
from dss_jax.datasets import download


@pytest.fixture
def server():
  with file_server.serve() as running:
    yield running


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
