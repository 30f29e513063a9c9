"""Fetches an archive of raw files over HTTP: resumable, checked, one writer at a time.

Owns: addresses that are refused, HTTP ranges, checksums. Does not own: archives (unpacking.py),
what is in them (release.py), the command (prepare.py).
"""

import contextlib
import fcntl
import hashlib
import http.client
import io
import os
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator

import rich.progress

from dss_jax.datasets.release import file_sha256
from dss_jax.settings.printable import one_line

MAX_BYTES = 8 << 30  # of a download; the release has less than 1 GiB
ATTEMPTS = 3
TIMEOUT_SECONDS = 60
LEAST_BYTES = 1 << 18
"""Of content that must come in every TIMEOUT_SECONDS, or the rest of the file."""
CHUNK_BYTES = 1 << 20


def fetch(url: str, folder: pathlib.Path, digest: str | None = None) -> pathlib.Path:
  """Downloads a file into a folder, or finds it there; resumes an interrupted download.

  The received bytes are in `<file>.part`, which becomes the file once complete and verified. An
  HTTP range resumes it if the server names the version of the file (a strong ETag) and still has
  it; else it starts again. A second process that wants the same file waits for the first.

  Args:
    url: http, https or file; a file is used in place.
    folder: where `<hash of the URL>-<name>` is written.
    digest: in hexadecimal digits, of the expected content: its SHA-256, or its id as a git blob.

  Raises:
    ValueError: an address or checksum that is refused, or another content than expected.
    OSError: no answer, or an incomplete download: again may help.
  """
  parts = check(url, digest)
  if parts.scheme == 'file':
    path = pathlib.Path(urllib.request.url2pathname(parts.path))
    if not path.is_file():
      raise ValueError(f'--url={url}: there is no such file.')
    _verify(path, url, digest)
    return path
  name = re.sub(r'[^A-Za-z0-9_.-]', '_', pathlib.PurePosixPath(parts.path).name)[-80:]
  path = folder / f'{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name or "download"}'
  folder.mkdir(parents=True, exist_ok=True)
  with _alone(path):
    if path.is_file() and (digest is None or _digest(path, digest) == digest.lower()):
      return path
    part = path.with_name(f'{path.name}.part')
    _download(url, part, has_digest=digest is not None)
    try:
      _verify(part, shown(url), digest)
    except ValueError:
      part.unlink()
      raise
    part.replace(path)
    _validator_file(part).unlink(missing_ok=True)
  return path


def shown(url: str) -> str:
  """An address for messages: without the query, and nothing of one with an @, which hold keys."""
  return '...' if '@' in url else url.split('?')[0].split('#')[0]


def check(url: str, digest: str | None = None) -> urllib.parse.SplitResult:
  """The parts of an address that may be fetched; asks nobody.

  Raises:
    ValueError: an address that may not, or a checksum that is none.
  """
  if digest is not None and not re.fullmatch('[0-9a-fA-F]{40}|[0-9a-fA-F]{64}', digest):
    raise ValueError(f'--sha256 has 64 hexadecimal digits, not {digest[:80]!r}.')
  wrong = ValueError(
    f'--url={shown(url)[:200]!a} is no address: expected https://HOST/PATH, with all but ASCII '
    'letters, digits and signs written as %XX.'
  )
  try:
    parts = urllib.parse.urlsplit(url)
    host, _ = parts.hostname, parts.port
  except ValueError:
    raise wrong from None
  if '@' in parts.netloc:
    raise ValueError(
      '--url has a user name or a password, which is not sent: download the file yourself and set '
      '--raw_dir to it.'
    )
  if parts.scheme not in ('http', 'https', 'file'):
    raise ValueError(
      f'--url must begin with https://, http:// or file://; got {shown(url)[:200]!a}.'
    )
  if parts.scheme == 'file':
    if parts.netloc not in ('', 'localhost'):
      raise ValueError(f'--url={shown(url)[:200]!a} names a file of another machine.')
  elif not url.isascii() or not url.isprintable() or ' ' in url or not _is_host(host or ''):
    raise wrong
  return parts


def _is_host(name: str) -> bool:
  return all(0 < len(label) <= 63 for label in name.removesuffix('.').split('.'))


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
  """Waits until no other process downloads `path`; a process that died holds nothing up."""
  lock = path.with_name(f'{path.name}.lock')
  while True:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX)
      if _is_at(descriptor, lock):  # whoever held it before has deleted it
        try:
          yield
        finally:
          lock.unlink(missing_ok=True)
        return
    finally:
      os.close(descriptor)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
  """Whether an open file is still the one with this name."""
  try:
    return os.path.samestat(os.fstat(descriptor), path.stat())
  except FileNotFoundError:
    return False


def _digest(path: pathlib.Path, like: str) -> str:
  """The digest of a file's content, of the kind of another one."""
  if len(like) == 64:
    return file_sha256(path)
  digest = hashlib.sha1(b'blob %d\0' % path.stat().st_size, usedforsecurity=False)
  with path.open('rb') as file:
    while chunk := file.read(CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()


def _verify(path: pathlib.Path, url: str, digest: str | None) -> None:
  if digest is not None and (actual := _digest(path, digest)) != digest.lower():
    kind = 'SHA-256' if len(digest) == 64 else 'git blob'
    raise ValueError(
      f'{url}: expected {kind} {digest.lower()}, got {actual}: it is another file, or not all '
      'of it. Check --url and --sha256.'
    )


# ---------------------------------------------------------------- HTTP


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
  """Follows a redirection to https, and from http to http; never to ftp, a file, or down."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    fp.read = bytes  # urllib would read the body into memory, however long
    if not newurl.startswith(('https://', f'{req.type}://')):
      raise ValueError(f'from {req.type} to {newurl.split(":")[0][:20]!r}')
    check(newurl)
    return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Watch:
  """When a download is given up, whatever the server keeps sending besides content.

  Attributes:
    has_ended: whether the server has closed its connection.
  """

  def __init__(self):
    self.has_ended = False
    self._begin()

  def _begin(self) -> None:
    self._end, self._missing = time.monotonic() + TIMEOUT_SECONDS, LEAST_BYTES

  def note_content(self, size: int) -> None:
    """Gives the download another TIMEOUT_SECONDS where enough content has come."""
    self._missing -= size
    if self._missing <= 0:
      self._begin()

  def seconds_left(self) -> float:
    """Until it is given up; raises TimeoutError once it is."""
    left = self._end - time.monotonic()
    if left <= 0:
      raise TimeoutError('the server is too slow')
    return left


class _WatchedSocket(io.RawIOBase):
  """The bytes of a connection, read under a watch."""

  def __init__(self, sock, watch: _Watch):
    self._sock, self._watch = sock, watch
    self._raw = sock.makefile('rb', buffering=0)

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int | None:
    self._sock.settimeout(self._watch.seconds_left())
    size = self._raw.readinto(buffer)
    self._watch.has_ended = size == 0
    return size

  def close(self) -> None:
    self._raw.close()
    super().close()


class _WatchedHTTP(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
  """HTTP and HTTPS of urllib, whose every read is under a watch."""

  def __init__(self, watch: _Watch):
    super().__init__()
    self._watch = watch

  def do_open(self, http_class, req, **options):
    watch = self._watch

    class Response(http.client.HTTPResponse):
      def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_WatchedSocket(sock, watch))

    def connection(*args, **kwargs):
      made = http_class(*args, **kwargs)
      made.response_class = Response
      return made

    return super().do_open(connection, req, **options)


def _download(url: str, part: pathlib.Path, has_digest: bool) -> None:
  """Completes a part file, in a few attempts."""
  problem: Exception | None = None
  for _ in range(ATTEMPTS):
    try:
      if _continue(url, part, has_digest):
        return
    except urllib.error.HTTPError as error:
      raise _refused(url, error.code) from error
    except (OSError, http.client.HTTPException) as error:
      problem = error
  size = part.stat().st_size if part.exists() else 0
  why = type(problem).__name__ if problem else 'connection closed'
  if isinstance(problem, TimeoutError):
    why = f'less than {LEAST_BYTES} bytes came in {TIMEOUT_SECONDS} seconds'
  raise ConnectionError(
    f'{shown(url)}: the download broke off after {size} bytes ({why}). Run the command again'
    f'{": it resumes there" if _validator_file(part).exists() else ""}.'
  ) from problem


def _refused(url: str, code: int) -> Exception:
  """The error of a status: the user's where the address is wrong, else one that may pass."""
  passes = code >= 500 or code in (http.HTTPStatus.REQUEST_TIMEOUT, 429)
  if 300 <= code < 400:
    return ValueError(
      f'{shown(url)} redirects too often, or to an address that is refused (status {code}): give '
      'the address of the file itself.'
    )
  message = f'{shown(url)}: the server answered {code} {http.client.responses.get(code, "")}'
  return (ConnectionError if passes else ValueError)(f'{message.strip()}, not with a file.')


def _continue(url: str, part: pathlib.Path, has_digest: bool) -> bool:
  """Requests the missing bytes of a part file once; returns whether it is complete now."""
  version = _validator_file(part).read_text(encoding='ascii') if _has_version(part) else None
  received = part.stat().st_size if version else 0
  request = urllib.request.Request(url, headers={'Accept-Encoding': 'identity'})
  if received:
    request.add_header('Range', f'bytes={received}-')
    request.add_header('If-Range', str(version))
  watch = _Watch()
  try:
    response = _opened(request, watch)
  except urllib.error.HTTPError as error:
    with error:
      if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not received:
        raise
      if _is_of(error.headers, version, f'bytes \\*/{received}'):
        return True  # killed after the last byte, before the rename
    part.unlink()
    return False
  with response:
    is_part = bool(received) and response.status == http.HTTPStatus.PARTIAL_CONTENT
    if not is_part and response.status != http.HTTPStatus.OK:
      raise _refused(url, response.status)
    encoding = response.headers.get('Content-Encoding', '').strip().lower()
    if encoding not in ('', 'identity'):
      raise ValueError(
        f'{shown(url)}: expected the file as it is, but the server sends it as '
        f'{one_line(encoding, 80)!r}; download it yourself and set --raw_dir to it.'
      )
    total = response.length
    if is_part:
      where = _is_of(response.headers, version, rf'bytes {received}-[0-9]+/([0-9]{{1,18}})')
      if where is None:
        part.unlink(missing_ok=True)
        return False
      total = int(where[1])
    else:  # the server ignores ranges, or has another file now
      received = 0
      _note_validator(part, response.headers)
    _copy(response, part, received, total, watch)
    if total is not None:
      return part.stat().st_size == total
    if response.chunked:
      return not watch.has_ended  # a line with a chunk's size may be cut so that it reads 0
    # Without a length, a closed connection and the end of the file look the same.
    return has_digest or zipfile.is_zipfile(part)


def _opened(request: urllib.request.Request, watch: _Watch):
  """The server's answer, at the end of its redirections.

  Raises:
    ValueError: a redirection is refused.
  """
  opener = urllib.request.build_opener(_SafeRedirects, _WatchedHTTP(watch))
  try:
    return opener.open(request, timeout=TIMEOUT_SECONDS)
  except (ValueError, http.client.InvalidURL) as error:
    raise ValueError(
      f'{shown(request.full_url)} redirects to an address that is refused '
      f'({one_line(str(error), 300)}): give the address of the file itself.'
    ) from error


def _is_of(headers, version: str | None, where: str) -> re.Match[str] | None:
  """What matches of a Content-Range, if the answer is of this version of the file."""
  if headers.get('ETag', version) != version:
    return None
  return re.fullmatch(where, headers.get('Content-Range', ''))


def _copy(response, part: pathlib.Path, received: int, total: int | None, watch: _Watch) -> None:
  """Appends a response to the first `received` bytes of a part file.

  Raises:
    ValueError: the file is larger than MAX_BYTES, and deleted.
  """
  bar = rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.DownloadColumn(),
    disable=not sys.stderr.isatty(),
    console=rich.console.Console(stderr=True),
  )
  size = received
  with part.open('ab') as file, bar:
    file.truncate(received)
    task = bar.add_task(part.name, total=total, completed=received)
    while max(size, total or 0) <= MAX_BYTES and (chunk := response.read1(CHUNK_BYTES)):
      file.write(chunk)
      size += len(chunk)
      watch.note_content(len(chunk))
      bar.advance(task, len(chunk))
  if max(size, total or 0) > MAX_BYTES:
    part.unlink()
    raise ValueError(
      f'{part.name.removesuffix(".part")} is refused: it has more than {MAX_BYTES} bytes; download '
      'it yourself and set --raw_dir to it.'
    )


def _validator_file(part: pathlib.Path) -> pathlib.Path:
  """The file that holds the server's name for the version being downloaded."""
  return part.with_name(f'{part.name}.version')


def _has_version(part: pathlib.Path) -> bool:
  return part.exists() and _validator_file(part).exists()


def _note_validator(part: pathlib.Path, headers) -> None:
  """Keeps a strong ETag: only that says that the bytes of two answers are of one file."""
  _validator_file(part).unlink(missing_ok=True)
  etag = headers.get('ETag', '')
  if re.fullmatch(r'"[\x21\x23-\x7e]{1,1000}"', etag):
    _validator_file(part).write_text(etag, encoding='ascii')
