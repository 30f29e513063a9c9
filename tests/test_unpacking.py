"""Archives: extracted whole or not at all, and those that must not be extracted."""

import concurrent.futures
import os
import stat
import struct
import zipfile

import pytest

from dss_jax.datasets import unpacking

CONTENT = bytes(range(256)) * 4096


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
  folder = unpacking.extract(path, tmp_path / 'out')
  assert (folder / 'datasets' / 'svamp' / 'a.json').read_text() == 'text'
  (folder / 'b').write_text('kept')
  assert (unpacking.extract(path, tmp_path / 'out') / 'b').read_text() == 'kept'


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
    unpacking.extract(path, tmp_path / 'in' / 'out')
  assert not (tmp_path / 'in').exists()


def test_too_large_archives_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(unpacking, 'MAX_EXTRACTED_BYTES', 1000)
  with pytest.raises(ValueError, match='1200 bytes, more than 1000'):
    unpacking.extract(archive(tmp_path, ('a', 'x' * 600), ('b', 'x' * 600)), tmp_path / 'out')


def test_a_damaged_archive_is_an_error_and_leaves_no_folder(tmp_path):
  path = archive(tmp_path, ('a', CONTENT))
  damaged = bytearray(path.read_bytes())
  damaged[100] ^= 255
  path.write_bytes(damaged)
  for _ in range(2):
    with pytest.raises(ValueError, match='not a sound zip archive'):
      unpacking.extract(path, tmp_path / 'out')
  path.write_bytes(b'no zip')
  with pytest.raises(ValueError, match='not a sound zip archive'):
    unpacking.extract(path, tmp_path / 'out')


def test_a_failed_extraction_leaves_nothing(tmp_path, monkeypatch):
  """Neither a damaged entry, nor a full disk, nor SIGTERM, which is raised as SystemExit."""
  path = archive(tmp_path, ('good', 'x' * 1000), ('bad', CONTENT))
  for error in (OSError(28, 'No space left on device'), SystemExit(143)):

    def fail(self, size=-1, error=error):
      raise error

    monkeypatch.setattr(zipfile.ZipExtFile, 'read', fail)
    with pytest.raises(type(error)):
      unpacking.extract(path, tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


def test_several_at_once_all_get_the_whole_folder(tmp_path):
  path = archive(tmp_path, *((f'{number}/a', 'x') for number in range(200)))
  with concurrent.futures.ThreadPoolExecutor() as pool:
    folders = set(pool.map(lambda _: unpacking.extract(path, tmp_path / 'out'), range(8)))
  [folder] = folders
  assert len(list(folder.rglob('a'))) == 200
  assert list((tmp_path / 'out').iterdir()) == [folder]


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (['a', 'A'], r"several entries named 'a'"),
    (['a', 'a/b'], r"several entries named 'a'"),
    (['A/x/b', 'a/X'], r"several entries named 'a/x'"),
    (['.'], 'no proper name'),
    (['a//b'], 'no proper name'),
    (['./a'], 'no proper name'),
    (['/'], 'leaves its folder'),
    (['x' * 300], 'no proper name'),
    (['/'.join(['x' * 200] * 6)], 'too long or cannot be printed'),
    (['a\x1b[2Jb'], r'too long or cannot be printed'),
    (['a\u202eb'], 'too long or cannot be printed'),
  ],
)
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_names_that_are_no_files_or_twice_are_refused(tmp_path, names, message):
  path = archive(tmp_path, *((name, 'x') for name in names))
  with pytest.raises(ValueError, match=message) as caught:
    unpacking.extract(path, tmp_path / 'out')
  assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, method):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w', method) as file:
    file.writestr('a', CONTENT)
  with pytest.raises(ValueError, match=f"entry 'a' is compressed by method {method}; expected"):
    unpacking.extract(path, tmp_path / 'out')


def test_an_entry_without_a_name_is_refused(tmp_path):
  path = archive(tmp_path, ('a', 'x'))
  content = path.read_bytes()
  central = content.index(b'PK\x01\x02')
  entry = bytearray(content[central : content.index(b'PK\x05\x06')])
  entry[28:30] = struct.pack('<H', 0)  # the length of the name
  entry[32:34] = struct.pack('<H', 1)  # which becomes the comment
  path.write_bytes(content[:central] + bytes(entry) + content[central + len(entry) :])
  with pytest.raises(ValueError, match="entry '' has no proper name"):
    unpacking.extract(path, tmp_path / 'out')


def test_a_great_number_of_folders_is_refused_quickly(tmp_path, monkeypatch):
  path = archive(tmp_path, *((f'{number}/', '') for number in range(unpacking.MAX_ENTRIES + 1)))
  with pytest.raises(ValueError, match='it has 10001 entries, more than 10000'):
    unpacking.extract(path, tmp_path / 'out')
  monkeypatch.setattr(unpacking, 'MAX_CONTENTS_BYTES', 100_000)
  with pytest.raises(ValueError, match=r'refused: its table of contents has \d+ bytes, more'):
    unpacking.extract(path, tmp_path / 'out')


def test_entries_that_overlap_are_refused(tmp_path):
  """Many entries of one compressed content: a few kilobytes would become gigabytes."""
  path = archive(tmp_path, ('a', os.urandom(1000)))
  with zipfile.ZipFile(path, 'a') as file:
    for name in 'bcdef':
      twin = zipfile.ZipInfo(name)
      for field in ('compress_type', 'compress_size', 'file_size', 'CRC', 'header_offset'):
        setattr(twin, field, getattr(file.filelist[0], field))
      file.filelist.append(twin)
    file._didModify = True
  with pytest.raises(ValueError, match='its entries overlap'):
    unpacking.extract(path, tmp_path / 'out')


def test_an_archive_never_writes_more_than_it_declares(tmp_path):
  path = archive(tmp_path, ('a', b'\0' * 1_000_000))
  content = path.read_bytes()
  path.write_bytes(content.replace(struct.pack('<I', 1_000_000), struct.pack('<I', 10)))
  with pytest.raises(ValueError, match='not a sound zip archive'):
    unpacking.extract(path, tmp_path / 'out')
  assert list((tmp_path / 'out').iterdir()) == []
