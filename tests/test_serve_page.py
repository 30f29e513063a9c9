"""The page of the server in a real browser: an example's answer stands beside the teacher's.

Skipped where there is no Chromium.
"""

import re
import subprocess

import pytest
import run_folders
import served
from test_report_browser import CHROMIUM, FLAGS

from dss_jax.serving.engine import Answer, Piece

INPUT = run_folders.INPUTS[1]
EXAMPLE = {
  'input': INPUT, 'label': 'entailment', 'teacher_label': '<b>neutral</b>',
  'rationale': 'Dogs are animals.<img src=x onerror="document.title=1">',
}  # fmt: skip
TRIES = 6
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine')


def shown(address, profile):
  """The document once its scripts ran, and what the browser logged."""
  command = [
    CHROMIUM, *FLAGS, f'--user-data-dir={profile}', '--virtual-time-budget=5000',
    '--enable-logging=stderr', '--dump-dom', address,
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
  return done.stdout, done.stderr


def text_of(document, id_):
  return re.search(rf'<(\w+)[^>]* id="{id_}"[^>]*>(.*?)</\1>', document, re.DOTALL).group(2)


def test_an_example_is_asked_and_compared(tmp_path):
  engine = served.engine_of('dss')
  (answer,) = engine.predictor.answers([INPUT])
  with served.serve(engine, about={'examples': [EXAMPLE]}) as server:
    with server.client() as client:  # compiles
      client.post('/predict', json={'input': INPUT, 'rationale': True, 'stream': True})
    for number in range(TRIES):  # the browser's own time may end before the stream does
      document, log = shown(f'{server.url}/#ask', tmp_path / str(number))
      if text_of(document, 'rationale'):
        break
    assert server.count('dss_requests_total', path='/predict', status='200') >= 2
  plain = lambda text: text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')  # noqa: E731
  assert text_of(document, 'label') == (plain(answer['label']) or '(empty)')
  assert text_of(document, 'rationale') == plain(answer['rationale'])
  assert 'confidence ' in text_of(document, 'confidence')
  assert text_of(document, 'scores').count('<meter') == len(run_folders.CHOICES.labels)
  assert text_of(document, 'teacher-label') == '&lt;b&gt;neutral&lt;/b&gt;'
  assert text_of(document, 'teacher-rationale').startswith('Dogs are animals.&lt;img')
  assert text_of(document, 'gold') == 'gold label: entailment'
  assert '<title>tiny · dss serve</title>' in document, 'no text of data runs'
  assert not re.search(r'CONSOLE.*(Refused|Error|violates)', log), log


class Breaks:
  """A batch that gives a label and a piece of the rationale, and then fails."""

  def __init__(self, jobs):
    self.jobs = jobs

  def advance(self):
    for job in self.jobs:
      job.emit(Answer('yes', 0.5, None, False))
      job.emit(Piece('Rain is'))
    raise RuntimeError


def test_an_answer_that_breaks_off_says_so_and_waits_no_more(tmp_path):
  with served.serve(served.engine_of('dss'), about={'examples': [EXAMPLE]}) as server:
    server.service.batcher._begin = Breaks
    for number in range(TRIES):
      document, _ = shown(f'{server.url}/#ask', tmp_path / str(number))
      if text_of(document, 'problem'):
        break
  assert 'the student could not be asked' in text_of(document, 'problem')
  assert text_of(document, 'rationale') == 'Rain is'
  assert 'growing' not in re.search('<[^<]* id="rationale"[^>]*>', document)[0]
  assert 'disabled' not in re.search('<[^<]* id="send"[^>]*>', document)[0]


def test_a_server_with_a_key_asks_for_it(tmp_path):
  with served.serve(served.engine_of('dss'), key='a key of many letters') as server:
    document, _ = shown(server.url, tmp_path)
  assert re.search(r'<div id="keyed">', document)
  assert 'Authorization: Bearer KEY' in text_of(document, 'problem')
