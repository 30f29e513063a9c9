"""The page of a report in a real browser: it works, asks nobody, and no text of data runs.

Skipped where there is no Chromium; the test of keys also where selenium is missing.
"""

import http.server
import re
import shutil
import subprocess
import threading

import pytest
from test_report_page import make_hostile

from dss_jax.commands import report

CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), ''
)
FLAGS = (
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
)  # fmt: skip
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  path = tmp_path_factory.mktemp('browsed')
  make_hostile(path)
  assert report.main([str(path)]) == 0
  return path / 'report.html'


def shown(page, profile):
  """The document once its scripts ran, and what the browser logged."""
  command = [
    CHROMIUM, *FLAGS, f'--user-data-dir={profile}', '--virtual-time-budget=10000',
    '--enable-logging=stderr', '--dump-dom', f'file://{page}',
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
  return done.stdout, done.stderr


def test_the_page_shows_its_examples_and_runs_no_text(page, tmp_path):
  document, log = shown(page, tmp_path)
  assert re.search(r'<p id="status"[^>]*>\d+ of 30 examples; page 1 of \d+\.</p>', document)
  assert document.count('<article>') > 3 and 'students are right</summary>' in document
  assert '# Macros:' in document and f'# folder: {page.parent}' in document
  assert '<title>Report of' in document and '<img' not in document
  assert not re.search(r'CONSOLE.*(Refused|Error|violates)', log), log


@pytest.fixture
def asked():
  """An address on this machine, and the paths that were asked for there."""
  paths = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      paths.append(self.path)
      self.send_response(200)
      self.end_headers()

    def log_message(self, *args):
      del args

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f'http://127.0.0.1:{server.server_port}', paths
  server.shutdown()
  server.server_close()


def test_the_policy_of_the_page_forbids_the_network(page, asked, tmp_path):
  address, paths = asked
  attack = f'<img src="{address}/img"><script>fetch("{address}/fetch")</script></body>'
  attacked = tmp_path / 'attacked.html'
  text = page.read_text().replace('</body>', attack)
  without = re.sub(r'<meta http-equiv[^>]*>', '', text)
  attacked.write_text(without)
  shown(attacked, tmp_path / 'a')
  assert set(paths) == {'/img', '/fetch'}, 'the attack works where there is no policy'
  paths.clear()
  attacked.write_text(text)
  _, log = shown(attacked, tmp_path / 'b')
  assert paths == [] and 'Content Security Policy' in log


def test_keys_alone_reach_every_choice(page, tmp_path):
  webdriver = pytest.importorskip('selenium.webdriver')
  ui = pytest.importorskip('selenium.webdriver.support.ui')
  driver_path = shutil.which('chromedriver')
  if not driver_path:
    pytest.skip('no chromedriver on this machine')
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for flag in (*FLAGS, f'--user-data-dir={tmp_path}', '--window-size=390,844'):
    options.add_argument(flag)
  service = webdriver.ChromeService(driver_path)
  driver = webdriver.Chrome(options=options, service=service)
  try:
    driver.get(f'file://{page}')
    script, wait = driver.execute_script, ui.WebDriverWait(driver, 30).until
    wait(lambda one: 'of 30' in one.find_element('id', 'status').text)
    assert script('return document.documentElement.scrollWidth <= innerWidth'), (
      'it scrolls sideways'
    )
    script('document.getElementById("sheet").focus()')
    visited = []
    for _ in range(8):
      visited.append(script('return document.activeElement.id'))
      driver.switch_to.active_element.send_keys('\ue004')  # Tab
    wanted = ['sheet', 'run-a', 'run-b', 'which', 'find']
    assert [name for name in visited if name in wanted] == wanted
    flips = driver.find_element('id', 'status').text
    driver.find_element('id', 'which').send_keys('all')
    wait(lambda one: one.find_element('id', 'status').text.startswith('30 of 30'))
    assert not flips.startswith('30')
    driver.find_element('id', 'find').send_keys('pair 17')
    wait(lambda one: one.find_element('id', 'status').text.startswith('1 of 30'))
    assert driver.find_element('tag name', 'h3').text == 'Example 17'
    assert driver.title.startswith('Report of')
  finally:
    driver.quit()
