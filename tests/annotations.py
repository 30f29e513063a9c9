"""A small SVAMP in the release's layout, and a teacher for it, for tests of `dss annotate`."""

import json
import types

import pytest
import teacher_server

from dss_jax import cli

MODEL = 'big-model'
PRICES = {MODEL: {'input': 1.0, 'output': 2.0}}


def question(split, number):
  return f'Ann has {number} {split} apples and gets 2.\nHow many has she?'


def completion(number):
  return f'She has {number} and gets 2 more. The answer is ({number} + 2).'


@pytest.fixture
def job(tmp_path, monkeypatch, capsys):
  """Raw files of 10 train and 4 test rows, a server that answers them, and a way to annotate."""
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  monkeypatch.delenv('OPENAI_BASE_URL', raising=False)
  folder = tmp_path / 'raw' / 'svamp'
  folder.mkdir(parents=True)
  answers = {}
  for split, count in (('train', 10), ('test', 4)):
    rows = [{'input': question(split, n), 'label': f'( {n}.0 + 2.0 )'} for n in range(count)]
    (folder / f'svamp_{split}.json').write_text('\n'.join(map(json.dumps, rows)))
    answers |= {question(split, n): completion(n) for n in range(count)}
  (tmp_path / 'prices.json').write_text(json.dumps(PRICES))
  with teacher_server.serve(answers) as server:
    yield types.SimpleNamespace(
      server=server,
      folder=tmp_path,
      out=tmp_path / 'out',
      annotate=lambda *more, status=0: _annotate(tmp_path, server, capsys, more, status),
    )


def _annotate(folder, server, capsys, more, status):
  """Runs the command; returns its output and its messages."""
  where = {'--dataset': 'svamp', '--raw_dir': folder / 'raw', '--output': folder / 'out'}
  where |= {'--model': MODEL, '--base_url': server.url}
  given = dict(one.split('=', 1) if '=' in one else (one, None) for one in more)
  where = {name: value for name, value in {**where, **given}.items() if value != ''}
  argv = [name if value is None else f'{name}={value}' for name, value in where.items()]
  got = cli.main(['annotate', *argv])
  output = capsys.readouterr()
  assert got == status, output.err
  return output.out, output.err


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]
