"""Fetches an archive of raw files: resumable download, extraction that stays in its folder.

Owns: HTTP ranges, checksums, refusing dangerous archives. Does not own: what is in the archive
(release.py), the command (prepare.py).
"""

import hashlib
import http.client
import pathlib
import re
import shutil
import stat
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib

import rich.progress

from dss_jax.datasets.release import file_sha256

MAX_EXTRACTED_BYTES = 8 << 30
"""The release has less than 1 GiB."""
ATTEMPTS = 3
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20


def fetch(url: str, folder: pathlib.Path, sha256: str | None = None) -> pathlib.Path:
  """Downloads a file into a folder, or finds it there; resumes an interrupted download.

  The received bytes are in `<file>.part`, which becomes the file once complete and verified. An
  HTTP range resumes it if the server still has the same file (If-Range); else it starts again.

  Args:
    url: http, https or file; a file is used in place.
    folder: where `<hash of the URL>-<name>` is written.
    sha256: expected checksum, hexadecimal; without it the content is not verified.

  Raises:
    ValueError: another scheme, no answer, an incomplete download or a wrong checksum.
  """
  parts = urllib.parse.urlsplit(url)
  if parts.scheme == 'file':
    path = pathlib.Path(urllib.request.url2pathname(parts.path))
    if not path.is_file():
      raise ValueError(f'--url={url}: there is no such file.')
    _verify(path, url, sha256)
    return path
  if parts.scheme not in ('http', 'https'):
    raise ValueError(f'--url must begin with https://, http:// or file://; got {url!r}.')
  name = pathlib.PurePosixPath(urllib.parse.unquote(parts.path)).name or 'download'
  path = folder / f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}'
  if path.is_file() and (sha256 is None or file_sha256(path) == sha256.lower()):
    return path
  folder.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.part')
  _download(url, part)
  try:
    _verify(part, url, sha256)
  except ValueError:
    part.unlink()
    raise
  part.replace(path)
  _validator_file(part).unlink(missing_ok=True)
  return path


def extract(archive: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Extracts a zip archive into a folder of its own, or finds it there.

  Returns:
    `<folder>/<first 16 digits of the archive's SHA-256>`, which exists only once it is complete.

  Raises:
    ValueError: the archive is damaged, encrypted or too large, or has an entry that is outside its
      folder or not a plain file.
  """
  target = folder / file_sha256(archive)[:16]
  if target.is_dir():
    return target
  temporary = target.with_name(f'{target.name}.part')
  shutil.rmtree(temporary, ignore_errors=True)
  try:
    with zipfile.ZipFile(archive) as file:
      entries = file.infolist()
      _check_entries(archive, entries)
      for entry in entries:
        path = temporary / entry.filename
        if entry.is_dir():
          path.mkdir(parents=True, exist_ok=True)
          continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with file.open(entry) as source, path.open('wb') as sink:
          shutil.copyfileobj(source, sink, CHUNK_BYTES)
  except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
    raise ValueError(
      f'{archive} is not a sound zip archive ({error}): delete it and download it again.'
    ) from error
  temporary.replace(target)
  return target


def _check_entries(archive: pathlib.Path, entries: list[zipfile.ZipInfo]) -> None:
  """Refuses a dangerous archive before any of it is written."""
  for entry in entries:
    path = pathlib.PurePosixPath(entry.filename)
    mode = entry.external_attr >> 16
    if path.is_absolute() or '..' in path.parts or re.search(r'[\\:\0]', entry.filename):
      raise ValueError(f'{archive} is refused: entry {entry.filename!r} leaves its folder.')
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
      raise ValueError(f'{archive} is refused: entry {entry.filename!r} is a link or a device.')
    if entry.flag_bits & 1:
      raise ValueError(f'{archive} is refused: entry {entry.filename!r} is encrypted.')
  size = sum(entry.file_size for entry in entries)  # zipfile never writes more than it declares
  if size > MAX_EXTRACTED_BYTES:
    raise ValueError(
      f'{archive} is refused: it extracts to {size} bytes, more than {MAX_EXTRACTED_BYTES}; '
      'extract it yourself and set --raw_dir to the folder.'
    )


def _verify(path: pathlib.Path, url: str, sha256: str | None) -> None:
  if sha256 is not None and (actual := file_sha256(path)) != sha256.lower():
    raise ValueError(f'{url}: expected SHA-256 {sha256.lower()}, got {actual}. Check --sha256.')


def _download(url: str, part: pathlib.Path) -> None:
  """Completes a part file, in a few attempts."""
  problem: Exception | None = None
  for _ in range(ATTEMPTS):
    try:
      if _continue(url, part):
        return
    except urllib.error.HTTPError as error:
      raise ValueError(f'{url}: the server answered {error.code} {error.reason}.') from error
    except (OSError, http.client.HTTPException) as error:
      problem = error
  size = part.stat().st_size if part.exists() else 0
  raise ValueError(
    f'{url}: the download broke off after {size} bytes ({problem or "connection closed"}). '
    'Run the command again: it resumes there.'
  ) from problem


def _continue(url: str, part: pathlib.Path) -> bool:
  """Requests the missing bytes of a part file once; returns whether it is complete now."""
  received = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={'Accept-Encoding': 'identity'})
  if received:
    request.add_header('Range', f'bytes={received}-')
    if _validator_file(part).exists():
      request.add_header('If-Range', _validator_file(part).read_text(encoding='utf-8'))
  try:
    response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not received:
      raise
    if error.headers.get('Content-Range') == f'bytes */{received}':
      return True  # killed after the last byte, before the rename
    part.unlink()
    return False
  with response:
    content_range = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
    if resumes and (content_range is None or int(content_range.group(1)) != received):
      part.unlink()
      return False
    if not resumes:  # the server ignores ranges, or has another file now
      received = 0
      _note_validator(part, response.headers)
    length = response.headers.get('Content-Length')
    total = received + int(length) if length else None
    _copy(response, part, received, total)
    return total is None or part.stat().st_size == total


def _copy(response, part: pathlib.Path, received: int, total: int | None) -> None:
  """Appends a response to the first `have` bytes of a part file."""
  bar = rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.DownloadColumn(),
    disable=not sys.stderr.isatty(),
    console=rich.console.Console(stderr=True),
  )
  with part.open('ab') as file, bar:
    file.truncate(received)
    task = bar.add_task(part.name, total=total, completed=received)
    while chunk := response.read1(CHUNK_BYTES):
      file.write(chunk)
      bar.advance(task, len(chunk))


def _validator_file(part: pathlib.Path) -> pathlib.Path:
  """The file that holds the server's name for the version being downloaded."""
  return part.with_name(f'{part.name}.version')


def _note_validator(part: pathlib.Path, headers) -> None:
  etag = headers.get('ETag', '')
  validator = headers.get('Last-Modified') if not etag or etag.startswith('W/') else etag
  _validator_file(part).unlink(missing_ok=True)
  if validator:
    _validator_file(part).write_text(validator, encoding='utf-8')
