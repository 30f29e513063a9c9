"""The process of `dss serve`: compiles, listens, and ends in order.

Owns the order of things: the port is open at once and says that it is not ready; shapes are
compiled beside it; after SIGTERM what was accepted is finished, new questions get 503, and the
process ends within its time-out, whoever still reads. Does not own routes (app.py).
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dss_jax.serving import app as routes
from dss_jax.serving.batcher import Batcher
from dss_jax.serving.deferral import Deferral
from dss_jax.serving.engine import Engine
from dss_jax.serving.gate import Gate
from dss_jax.serving.meters import Meters
from dss_jax.serving.protocol import Protocol
from dss_jax.serving.service import Service
from dss_jax.settings.errors import ConfigError

KEY_VARIABLE = 'DSS_API_KEY'
SHORTEST_KEY = 16
POLL_S = 0.02
HEAD_S = 30.0
"""For the head of a connection's first request; a later one has up to twice as long."""
LAST_S = 1
"""Of the time-out, kept for connections that do not end by themselves."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a server takes.

  Attributes:
    queue_size: most requests that wait for a batch.
    max_body_bytes: largest body.
    drain_seconds: between SIGTERM and the end, at most.
    logs: whether a line for each request is logged.
  """

  queue_size: int
  max_body_bytes: int
  drain_seconds: float
  logs: bool


def key_for(host: str) -> str:
  """The key that requests must have, '' if none is needed.

  Raises:
    ConfigError: an address that others reach, without a key; or a key that is easily guessed.
  """
  key = os.environ.get(KEY_VARIABLE, '').strip()
  if not key and not is_loopback(host):
    raise ConfigError(
      f'HOST {host} can be reached from other machines: set {KEY_VARIABLE} in the environment, '
      'which every request must then send, or leave HOST at 127.0.0.1.'
    )
  if key and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable()):
    raise ConfigError(
      f'{KEY_VARIABLE} is a key of at least {SHORTEST_KEY} ASCII letters, and this is none; '
      '`openssl rand -hex 16` makes one.'
    )
  return key


def is_loopback(host: str) -> bool:
  """Whether only this machine reaches an address."""
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'


def listen(host: str, port: int) -> socket.socket:
  """A socket that listens.

  Raises:
    ConfigError: the port is taken, or the address is none of this machine's.
  """
  try:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=1024)
  except OSError as error:
    raise ConfigError(
      f'HOST {host}, PORT {port}: {error.strerror}; choose another PORT, or 0 for a free one.'
    ) from error


def run(
  engine: Engine,
  protocol: Protocol,
  about: Mapping[str, Any],
  listening: socket.socket,
  key: str,
  limits: Limits,
  deferral: Deferral | None,
) -> None:
  """Serves until a signal.

  Args:
    engine: the student.
    protocol: the teacher's format.
    about: what the page shows.
    listening: from `listen`.
    key: from `key_for`.
    limits: what is taken.
    deferral: the teacher behind the student.

  Raises:
    Exception: as compiling does.
  """
  _log_to_stderr()
  meters = Meters()
  rows = engine.sizes[-1]
  with contextlib.ExitStack() as stack:
    batcher = Batcher(engine.begin, rows, limits.queue_size, meters.rows.observe)
    process = _Process(Service(engine, batcher, meters, deferral), limits)
    stack.callback(process.ended)
    stack.enter_context(batcher)
    gate = Gate(
      routes.make(process.service, protocol, about, process.why_not),
      meters, key, limits.max_body_bytes, limits.logs, process.why_not,
    )  # fmt: skip
    process.run(gate, listening)


def _log_to_stderr() -> None:
  """Lines of this room, as they are; those of libraries stay where they go."""
  log = logging.getLogger('dss_jax.serving')
  log.setLevel(logging.INFO)
  log.propagate = False
  log.handlers[:] = [logging.StreamHandler(sys.stderr)]


class _Process:
  """What changes while a server runs."""

  def __init__(self, service: Service, limits: Limits):
    self.service, self._limits = service, limits
    self._compiled = self._draining = False
    self._failure: BaseException | None = None
    self._deadline = threading.Timer(limits.drain_seconds, _end_now)
    self._deadline.daemon = True

  def ended(self) -> None:
    """Forgets the deadline; call once nothing is left to wait for."""
    self._deadline.cancel()

  def why_not(self) -> str:
    """Why no question can be asked now; '' if it can."""
    if self._draining:
      return routes.DRAINING
    return '' if self._compiled else 'the student is being compiled: ask again a little later.'

  def run(self, gate: Gate, listening: socket.socket) -> None:
    """Compiles in a thread and serves in this one."""
    server = _Server(config_of(gate))
    compiling = threading.Thread(target=self._compile, args=(server,), name='dss-compile')
    compiling.start()
    try:
      asyncio.run(self._serve(server, gate, listening))
    finally:
      self._draining = True
      compiling.join()
    if self._failure is not None:
      raise self._failure

  def _compile(self, server: uvicorn.Server) -> None:
    try:
      self.service.engine.compile(lambda: self._draining)
      self._compiled = True
    except BaseException as error:
      self._failure, server.should_exit = error, True
    if self._compiled and not self._draining:
      with contextlib.suppress(OSError):  # nobody reads it
        print('ready', flush=True)

  async def _serve(self, server: uvicorn.Server, gate: Gate, listening: socket.socket) -> None:
    ending: list[asyncio.Task[None]] = []

    def end() -> None:
      if ending:  # a second signal
        _end_now()
      self._deadline.start()
      ending.append(asyncio.ensure_future(self._drain(server, gate)))

    deferral = self.service.deferral
    async with contextlib.AsyncExitStack() as stack:
      if deferral is not None:
        await stack.enter_async_context(deferral.client)
      stack.enter_context(_signals(end))
      await server.serve(sockets=[listening])
      for task in ending:
        task.cancel()

  async def _drain(self, server: uvicorn.Server, gate: Gate) -> None:
    """Refuses what is new, waits for what was accepted, then ends the server."""
    self._draining = True
    self.service.batcher.drain()
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(max(0.0, self._limits.drain_seconds - LAST_S)):
        while gate.active:
          await asyncio.sleep(POLL_S)
    server.should_exit = True


def config_of(gate: Gate) -> uvicorn.Config:
  """How connections are served."""
  return uvicorn.Config(
    gate, log_level='critical', access_log=False, lifespan='off', server_header=False, ws='none',
    http=_Connection, timeout_graceful_shutdown=LAST_S,
  )  # fmt: skip


class _Connection(H11Protocol):
  """A connection that is closed if the head of its next request does not come."""

  def connection_made(self, transport: Any) -> None:
    super().connection_made(transport)
    self.loop.call_later(HEAD_S, self._look, None)

  def _look(self, before: Any) -> None:
    """Compares the request with that of HEAD_S ago; goes on looking unless nothing has come."""
    if self.transport.is_closing():
      return
    if self.cycle is before and (before is None or before.response_complete):
      self.transport.close()
    else:
      self.loop.call_later(HEAD_S, self._look, self.cycle)


def _end_now() -> None:
  """Ends the process, whatever its threads do: nothing stops a compilation that has begun."""
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
    sys.stderr.flush()
  os._exit(0)


class _Server(uvicorn.Server):
  """Without uvicorn's own signals, which would close the port at once."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _signals(end: Callable[[], None]) -> Iterator[None]:
  """Calls `end` for the signals that end a process."""
  loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  before = {number: signal.getsignal(number) for number in numbers}
  kept = [number for number, handler in before.items() if handler != signal.SIG_IGN]
  for number in kept:
    loop.add_signal_handler(number, end)
  try:
    yield
  finally:
    for number in kept:
      loop.remove_signal_handler(number)
      signal.signal(number, before[number])
