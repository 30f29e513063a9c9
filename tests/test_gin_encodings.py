"""Gin files as editors save them: marks, line ends and other encodings."""

import time

import gin
import pytest

from dss_jax.settings import gin_files
from dss_jax.settings.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']


def parse(tmp_path, content):
  path = tmp_path / 'mine.gin'
  path.write_bytes(content)
  gin_files.parse([f'--gin_file={path}', '--model_dir=runs/a'], 'runs/predict.gin')
  return gin_files.macros()


@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
@pytest.mark.parametrize('end', [b'\n', b'\r\n'])
def test_a_mark_and_either_line_end_are_read(tmp_path, mark, end):
  content = mark + end.join([b'# \xc3\xa9', b'STEP = 3', b'BATCH_SIZE = \\', b'  7', b''])
  macros = parse(tmp_path, content)
  assert (macros['STEP'], macros['BATCH_SIZE']) == (3, 7)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('STEP = 3'.encode('utf-16'), r'mine\.gin, line 1: not UTF-8; save the file as UTF-8\.'),
    ('STEP = 3'.encode('utf-16-le'), r'mine\.gin: expected text in UTF-8, got a NUL byte'),
    ('STEP = 3'.encode('utf-32-le'), r'got a NUL byte \(is it UTF-16 or UTF-32\?\)'),
    (b'STEP = none', r'mine\.gin, line 1: none is no value of a gin file.*; write None\.'),
    (b'STEP = 3\nTASK = cqa_dss', r"mine\.gin, line 2: cqa_dss is no .*; write 'cqa_dss'\."),
    (b'STEP = 3\n# caf\xe9', r'mine\.gin, line 2: not UTF-8; save the file as UTF-8\.'),
  ],
)
def test_another_encoding_is_named(tmp_path, content, message):
  with pytest.raises(ConfigError, match=message):
    parse(tmp_path, content)


def test_blank_lines_take_linear_time(tmp_path):
  start = time.process_time()
  parse(tmp_path, b'\n' * 100_000 + b'STEP = 3')
  assert time.process_time() - start < 10
