"""Outputs that nobody reads any more."""

import os
import pty

import pytest

from dss_jax.settings import outputs


def test_printing_to_a_closed_terminal_does_nothing(tmp_path):
  master, terminal = pty.openpty()
  with (tmp_path / 'file').open('wb') as file:
    assert not outputs.drop_closed(terminal, file.fileno())
    os.close(master)
    with pytest.raises(OSError, match='Input/output error'):
      os.write(terminal, b'x')
    assert outputs.drop_closed(terminal, file.fileno())
    assert os.write(terminal, b'x') == os.write(file.fileno(), b'x') == 1
  os.close(terminal)
  assert (tmp_path / 'file').read_bytes() == b'x'
