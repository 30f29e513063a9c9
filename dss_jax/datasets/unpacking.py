"""Extracts a zip archive of raw files into a folder of its own: all of it, or nothing.

Owns which archives are refused: an archive may be anybody's. Does not own where it comes from
(download.py) or what is in it (release.py).
"""

import io
import pathlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from etils import epath

from dss_jax.datasets.release import file_sha256
from dss_jax.settings import whole_folders

MAX_EXTRACTED_BYTES = 8 << 30
"""The release has less than 1 GiB."""
MAX_ENTRIES = 10_000
"""The release has less than a hundred."""
MAX_CONTENTS_BYTES = 8 << 20
"""Of an archive's table of contents, which is read as a whole."""
CHUNK_BYTES = 1 << 20
_UNSOUND = (
  zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError,
  struct.error,
)  # fmt: skip


def extract(archive: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Extracts a zip archive into a folder of its own, or finds it there.

  It is extracted under a temporary name and renamed when complete, so that several processes may do
  it at once; whatever ends this one, the temporary folder is removed.

  Returns:
    `<folder>/<first 16 digits of the archive's SHA-256>`, which exists only once it is complete.

  Raises:
    ValueError: the archive is damaged, encrypted, too large or of another compression, or has an
      entry that is outside its folder, not a plain file, or in the way of another.
  """
  target = folder / file_sha256(archive)[:16]
  if target.is_dir():
    return target
  with _Archive(archive) as content:
    try:
      zipped = zipfile.ZipFile(content)
      entries = zipped.infolist()
    except _RefusedError:
      raise
    except _UNSOUND as error:
      raise _unsound(archive, error) from error
    _check_entries(archive, entries)
    try:
      with whole_folders.new_folder(epath.Path(target)) as temporary:
        for entry in entries:
          _write(archive, zipped, entry, pathlib.Path(temporary) / entry.filename)
    except whole_folders.MadeMeanwhileError:  # by another process, from the same archive
      pass
  return target


class _RefusedError(ValueError):
  """An archive that may be sound, but is not extracted."""


class _Archive(io.FileIO):
  """A zip file whose table of contents, which `zipfile` reads at once, cannot fill the memory."""

  def read(self, size: int | None = -1) -> bytes:
    if size is not None and size > MAX_CONTENTS_BYTES:
      raise _RefusedError(
        f'{self.name} is refused: its table of contents has {size} bytes, more than '
        f'{MAX_CONTENTS_BYTES}.'
      )
    return super().read(size) or b''


def _write(
  archive: pathlib.Path, zipped: zipfile.ZipFile, entry: zipfile.ZipInfo, path: pathlib.Path
) -> None:
  """Writes one entry; what it really holds is compared with what the archive declares."""
  if entry.is_dir():
    path.mkdir(parents=True, exist_ok=True)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('xb') as sink:
    for chunk in _chunks(archive, zipped, entry):
      sink.write(chunk)


def _chunks(
  archive: pathlib.Path, zipped: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> Iterator[bytes]:
  try:
    with zipped.open(entry) as source:
      while chunk := source.read(CHUNK_BYTES):
        yield chunk
  except _UNSOUND as error:
    raise _unsound(archive, error) from error


def _unsound(archive: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(
    f'{archive} is not a sound zip archive ({str(error)[:200]!a}): delete it and download it again.'
  )


def _check_entries(archive: pathlib.Path, entries: list[zipfile.ZipInfo]) -> None:
  """Refuses a dangerous archive before any of it is written."""
  if len(entries) > MAX_ENTRIES:
    raise ValueError(
      f'{archive} is refused: it has {len(entries)} entries, more than {MAX_ENTRIES}.'
    )
  for entry in entries:
    if problem := _problem(entry):
      raise ValueError(f'{archive} is refused: entry {entry.filename[:80]!a} {problem}.')
  # zipfile never writes more than it declares
  if (size := sum(entry.file_size for entry in entries)) > MAX_EXTRACTED_BYTES:
    raise ValueError(
      f'{archive} is refused: it extracts to {size} bytes, more than {MAX_EXTRACTED_BYTES}; '
      'extract it yourself and set --raw_dir to the folder.'
    )
  if sum(entry.compress_size for entry in entries) > archive.stat().st_size:
    raise ValueError(f'{archive} is refused: its entries overlap.')
  _check_names(archive, entries)


def _problem(entry: zipfile.ZipInfo) -> str | None:
  """Why an entry cannot be extracted, whatever the others are."""
  name, mode = entry.filename, entry.external_attr >> 16
  parts = name.removesuffix('/').split('/')
  if name.startswith('/') or '..' in parts or re.search(r'[\\:]', name):
    return 'leaves its folder'
  if not all(part not in ('', '.') and len(part.encode()) <= 255 for part in parts):
    return 'has no proper name'
  if not name.isprintable() or len(name.encode()) > 1000:
    return 'has a name that is too long or cannot be printed'
  if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
    return 'is a link or a device'
  if entry.flag_bits & 1:
    return 'is encrypted'
  if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    return f'is compressed by method {entry.compress_type}; expected deflate, as `zip` writes it'
  return None


def _check_names(archive: pathlib.Path, entries: list[zipfile.ZipInfo]) -> None:
  """Refuses names that are one file on some systems, and a file where a folder is needed."""
  files = [entry.filename.casefold() for entry in entries if not entry.is_dir()]
  folders = {
    '/'.join(parts[:end])
    for parts in (entry.filename.casefold().split('/') for entry in entries)
    for end in range(1, len(parts))
  }
  seen: set[str] = set()
  for name in files:
    if name in seen or name in folders:
      raise ValueError(
        f'{archive} is refused: it has several entries named {name[:80]!a}, upper and lower case '
        'taken as one.'
      )
    seen.add(name)
