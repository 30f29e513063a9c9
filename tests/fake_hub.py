"""A Hugging Face hub on this machine: models in memory, over the HTTP that huggingface_hub speaks.

Source: huggingface_hub's own requests; huggingface.co/docs/hub/api.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

Files = dict[str, bytes]


@dataclasses.dataclass
class Hub:
  """What the server has, and what it was asked.

  Attributes:
    revisions: files by (model, revision).
    requests: JSON of a model's discussions.
    refused: status and X-Error-Code by model.
    asked: 'METHOD path' of every request, in order.
    tokens: the Authorization headers that came.
    cut: how many bytes of a file are sent the first time it is asked for, by its name.
    ranges: the Range headers that came, by the file's name.
    page: what is answered whatever is asked.
    silent: whether nothing is ever answered.
  """

  revisions: dict[tuple[str, str], Files] = dataclasses.field(default_factory=dict)
  requests: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
  refused: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
  asked: list[str] = dataclasses.field(default_factory=list)
  tokens: set[str | None] = dataclasses.field(default_factory=set)
  cut: dict[str, int] = dataclasses.field(default_factory=dict)
  ranges: dict[str, str] = dataclasses.field(default_factory=dict)
  page: bytes | None = None
  silent: bool = False
  url: str = ''

  def add(self, model: str, files: Files, revision: str = 'main') -> None:
    """Puts a model, or a revision of it, on the hub."""
    self.revisions[model, revision] = files

  def propose(self, model: str, number: int, files: Files, author: str, status='open') -> None:
    """Opens a pull request."""
    self.add(model, files, f'refs/pr/{number}')
    self.requests.setdefault(model, []).append(
      {
        'num': number,
        'author': {'name': author},
        'title': 'Adding `safetensors` variant of this model',
        'status': status,
        'isPullRequest': True,
        'createdAt': '2023-03-01T12:00:00.000Z',
        'repo': {'name': model, 'type': 'model'},
      }
    )

  def downloaded(self) -> list[str]:
    """The names of the files whose content was asked for, each once."""
    found = (re.fullmatch(r'GET /.*/resolve/\w+/(.+)', line) for line in self.asked)
    return sorted({match[1] for match in found if match})


@contextlib.contextmanager
def serve():
  """Runs a hub on a free port of this machine."""
  hub = Hub()
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  server.hub = hub
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  hub.url = f'http://127.0.0.1:{server.server_address[1]}'
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


def _sha(model: str, revision: str) -> str:
  return hashlib.sha1(f'{model}@{revision}'.encode()).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers from the server's hub."""

  protocol_version = 'HTTP/1.1'

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self._answer()

  def do_GET(self):
    self._answer()

  def _answer(self):
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    self.server.hub.asked.append(f'{self.command} {path}')
    self.server.hub.tokens.add(self.headers.get('Authorization'))
    if self.server.hub.silent:
      self.rfile.read()  # until the client goes away
      return None
    if self.server.hub.page is not None:
      return self._send(200, self.server.hub.page)
    if match := re.fullmatch(r'/api/models/(.+?)(?:/(revision|tree|discussions)(?:/(.+))?)?', path):
      return self._api(match[1], match[2], match[3] or 'main')
    if match := re.fullmatch(r'/(.+)/resolve/([^/]+)/(.+)', path):
      return self._file(*match.groups())
    return self._send(404, b'{}', {'X-Error-Code': 'RepoNotFound'})

  def _api(self, model, what, revision):
    if model in self.server.hub.refused:
      status, code = self.server.hub.refused[model]
      return self._send(status, b'{}', {'X-Error-Code': code} if code else {})
    known = {_sha(m, r): r for m, r in self.server.hub.revisions if m == model}
    if not known:
      return self._send(404, b'{}', {'X-Error-Code': 'RepoNotFound'})
    if what == 'discussions':
      found = self.server.hub.requests.get(model, [])
      content: object = {'discussions': found, 'count': len(found), 'start': 0}
      return self._send(200, json.dumps(content).encode())
    revision = known.get(revision, revision)
    files = self.server.hub.revisions.get((model, revision))
    if files is None:
      return self._send(404, b'{}', {'X-Error-Code': 'RevisionNotFound'})
    content = {
      'id': model,
      'sha': _sha(model, revision),
      'siblings': [{'rfilename': name} for name in files],
    }
    if what == 'tree':
      content = [
        {'type': 'file', 'path': name, 'size': len(data), 'oid': hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
      ]
    return self._send(200, json.dumps(content).encode())

  def _file(self, model, revision, name):
    known = {_sha(m, r): r for m, r in self.server.hub.revisions if m == model}
    data = self.server.hub.revisions[model, known[revision]].get(name)
    if data is None:
      return self._send(404, b'', {'X-Error-Code': 'EntryNotFound'})
    headers = {
      'ETag': f'"{hashlib.sha1(data).hexdigest()}"',
      'X-Repo-Commit': revision,
      'Accept-Ranges': 'bytes',
    }
    given = self.headers.get('Range')
    if given is None:
      return self._send(
        200, data, headers, self.server.hub.cut.pop(name, None) if self._has_body() else None
      )
    self.server.hub.ranges[name] = given
    start = int(re.match(r'bytes=(\d+)-', given)[1])
    headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
    return self._send(206, data[start:], headers)

  def _has_body(self) -> bool:
    return self.command == 'GET'

  def _send(self, status, data, headers=None, cut=None):
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    if self._has_body():
      self.wfile.write(data[:cut])
      if cut is not None:  # as where a connection breaks
        self.close_connection = True
