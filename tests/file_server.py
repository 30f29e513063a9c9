"""A server of one file on this machine, which breaks off, refuses or answers as a test says."""

import contextlib
import http.server
import threading

import pytest

from dss_jax.datasets import download

CONTENT = bytes(range(256)) * 4096


class Server(http.server.ThreadingHTTPServer):
  """Serves CONTENT at any path, breaking off or refusing as a test says."""

  content = CONTENT
  ranges = True
  etag = '"one"'
  break_after: int | None = None
  error: int | None = None
  location: str | None = None
  has_length = True
  is_chunked = False
  status: int | None = None
  more_headers: tuple[tuple[str, str], ...] = ()
  answer = None  # all that is sent: pieces, or what makes them anew for every request

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_address[1]}/datasets.zip'

  def handle_error(self, request, client_address):
    """Quiet: clients go away."""


class Handler(http.server.BaseHTTPRequestHandler):
  """One answer, with or without range."""

  server: Server
  protocol_version = 'HTTP/1.1'

  def do_GET(self):
    server = self.server
    wanted = self.headers.get('Range')
    server.requests.append(wanted)
    if server.answer:
      for sent in server.answer() if callable(server.answer) else server.answer:
        self.wfile.write(sent)
      self.close_connection = True
      return
    if server.error:
      self.send_error(server.error)
      return
    if server.location and self.path.startswith('/datasets.zip'):
      self.send_response(302)
      self.send_header('Location', server.location)
      self.end_headers()
      return
    start = int(wanted.removeprefix('bytes=').removesuffix('-')) if wanted else 0
    same = self.headers.get('If-Range') in (None, server.etag)
    if not server.ranges or not same:
      start = 0
    if start and start >= len(server.content):
      self.send_response(416)
      self.send_header('Content-Range', f'bytes */{len(server.content)}')
      for name, value in server.more_headers:
        self.send_header(name, value)
      self.send_header('Content-Length', '0')
      self.end_headers()
      return
    self.send_response(server.status or (206 if start else 200))
    for name, value in server.more_headers:
      self.send_header(name, value)
    if start:
      size = len(server.content)
      self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
    if server.etag:
      self.send_header('ETag', server.etag)
    body = server.content[start:][: server.break_after]
    if server.is_chunked:
      self.send_header('Transfer-Encoding', 'chunked')
      end = b'' if server.break_after else b'\r\n0\r\n\r\n'
      body = b'%x\r\n%b' % (len(server.content), body) + end
    elif server.has_length:
      self.send_header('Content-Length', str(len(server.content) - start))
    self.end_headers()
    self.wfile.write(body)
    self.close_connection = True

  def log_message(self, *args):
    """Quiet."""


@contextlib.contextmanager
def serve():
  """Runs a server on a free port."""
  server = Server()
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


def interrupt(server, folder, attempts=1):
  """Leaves a part file, as a download does whose connection broke off."""
  server.break_after = 300_000
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(download, 'ATTEMPTS', attempts)
    with pytest.raises(ConnectionError, match='broke off after 300000 bytes'):
      download.fetch(server.url, folder)
  server.break_after = None
  server.requests.clear()
