"""What every request passes before the app sees it: key, host, size, JSON, and the counting.

Owns who may ask, how large a body may be and how long it may take to come, what is refused while
the server drains, and the one line that is logged if it is asked for. Does not own routes (app.py).

Without a key, only requests to a loopback name pass: so a page of somebody else's that a browser on
this machine shows cannot ask, whatever its name resolves to.
"""

import asyncio
import dataclasses
import hmac
import logging
import math
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

from dss_jax.datasets import rows
from dss_jax.serving.meters import Meters
from dss_jax.serving.refusals import RefusedError
from dss_jax.settings import json_form

BODY_S = 30.0
"""For a body to come."""
DISCARDED = 32
"""Times the limit that is read of a body that is too large, so that its sender gets the answer."""
OPEN = ('/', '/health', '/ready')
"""Paths without anything to protect: a page without data, and two words for a load balancer."""
KNOWN = (*OPEN, '/predict', '/v1/chat/completions', '/v1/models', '/student', '/metrics')
_LOOPBACK = re.compile(r'(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?')
log = logging.getLogger('dss_jax.serving')


@dataclasses.dataclass
class Gate:
  """An ASGI application around another.

  Attributes:
    app: the other.
    meters: what is counted.
    key: that requests must have; '' if none is needed.
    max_body_bytes: largest body.
    logs: whether a line for each request is logged: method, path, status and time.
    why_not: a sentence while no question can be asked; '' otherwise.
    active: requests that were accepted and have no whole answer yet.
  """

  app: Callable[..., Any]
  meters: Meters
  key: str
  max_body_bytes: int
  logs: bool = False
  why_not: Callable[[], str] = lambda: ''
  active: int = 0

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Passes a request on, or answers it with a refusal."""
    if scope['type'] != 'http':
      return
    started, status = time.perf_counter(), 0

    async def sent(message: Any) -> None:
      nonlocal status
      status = message.get('status', status)
      await send(message)

    self.active += 1
    try:
      await self._pass(scope, receive, sent, lambda: status != 0)
    finally:
      self.active -= 1
      seconds = time.perf_counter() - started
      path = scope['path'] if scope['path'] in KNOWN else 'other'
      self.meters.requests.labels(path, str(status)).inc()
      self.meters.seconds.labels(path).observe(seconds)
      if self.logs:
        log.info('%s %s %d %.1f ms', scope['method'], path, status, 1000 * seconds)

  async def _pass(self, scope: Any, receive: Any, send: Any, has_begun: Callable[[], bool]) -> None:
    try:
      self._check(scope)
      if scope['method'] == 'POST':
        receive = _replayed(await self._body(scope, receive), receive)
      await self.app(scope, receive, send)
    except RefusedError as refusal:
      await _refuse(refusal, send)
    except Exception as error:  # its message may hold a part of the request
      place = ''.join(traceback.format_tb(error.__traceback__))
      log.error('a request failed: %s\n%s', type(error).__name__, place)
      if not has_begun():
        await _refuse(RefusedError(500, 'the server failed; its log says where.'), send)

  def _check(self, scope: Any) -> None:
    headers = dict(scope['headers'])
    if self.key and scope['path'] not in OPEN:
      scheme, _, given = headers.get(b'authorization', b'').partition(b' ')
      is_known = hmac.compare_digest(given.strip(), self.key.encode())
      if scheme.lower() != b'bearer' or not is_known:
        raise RefusedError(
          401, 'expected the header Authorization: Bearer KEY, with the key of DSS_API_KEY.'
        )
    host = headers.get(b'host', b'').decode('latin-1')
    if not self.key and not _LOOPBACK.fullmatch(host):
      raise RefusedError(
        400, 'without DSS_API_KEY this server answers on loopback alone: ask it as localhost.'
      )
    if scope['method'] != 'POST':
      return
    if reason := self.why_not():
      raise RefusedError(503, reason)
    kind = headers.get(b'content-type', b'').partition(b';')[0].strip().lower()
    if kind != b'application/json':
      raise RefusedError(415, 'expected JSON, with the header Content-Type: application/json.')

  async def _body(self, scope: Any, receive: Any) -> bytes:
    """The whole body, which is a JSON object of characters.

    Raises:
      RefusedError: it is not, is too large, or does not come.
    """
    parts, size, more = [], 0, True
    try:
      async with asyncio.timeout(BODY_S):
        while more and size <= DISCARDED * self.max_body_bytes:
          message = await receive()
          if message['type'] == 'http.disconnect':
            raise RefusedError(400, 'the connection ended before the body.')
          more = message.get('more_body', False)
          size += len(part := message.get('body', b''))
          if size <= self.max_body_bytes:
            parts.append(part)
    except TimeoutError:
      raise RefusedError(408, f'the body did not come within {BODY_S:g} s.') from None
    if size > self.max_body_bytes:
      raise RefusedError(
        413, f'expected a body of at most {self.max_body_bytes} bytes; a MAX_BODY_BYTES raises it.'
      )
    body = b''.join(parts)
    try:
      _refuse_infinite(parsed := json_form.parse_object(body, 'the body'))
      rows.refuse_broken(parsed)
    except ValueError as error:
      raise RefusedError(400, str(error)) from error
    return body


def _refuse_infinite(value: Any) -> None:
  """Refuses NaN and infinities, which JSON does not have and Python reads."""
  waiting = [value]
  while waiting:
    part = waiting.pop()
    if isinstance(part, float) and not math.isfinite(part):
      raise ValueError('the body holds a number that is not finite, which JSON does not have.')
    waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _replayed(body: bytes, receive: Any) -> Any:
  """A `receive` that gives a body that was read already, then what comes after it."""
  waiting = [{'type': 'http.request', 'body': body, 'more_body': False}]

  async def again() -> Any:
    return waiting.pop() if waiting else await receive()

  return again


async def _refuse(refusal: RefusedError, send: Any) -> None:
  headers = {'Content-Type': 'application/json', **refusal.headers}
  headers['Content-Length'] = str(len(refusal.body))
  pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
  await send({'type': 'http.response.start', 'status': refusal.status, 'headers': pairs})
  await send({'type': 'http.response.body', 'body': refusal.body})
