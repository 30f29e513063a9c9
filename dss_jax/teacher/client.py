"""Asks one request of a server that speaks OpenAI's protocol, once.

Owns the connection, the key, what is made of parameters that the server does not take, and what
each error means. Does not own: trying again, pace and money (run.py, pace.py, store.py).

The key comes from the environment and is in no error message of this module: servers repeat it.
"""

import asyncio
import json
import logging
import math
import os
import re
import time
import urllib.parse
from collections.abc import Callable
from email import utils as mail
from typing import Any

try:
  import httpx2
  import openai
except ImportError as error:
  raise ImportError(
    f"{error}: asking a teacher needs pip install 'dss_jax[teacher]'.", name=error.name
  ) from error

from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line
from dss_jax.teacher import answers
from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.requests import CAP, Request

INSTEAD = {CAP: 'max_completion_tokens', 'temperature': None, 'stop': None}
"""Parameters that some servers refuse, and the name under which those take them."""
KEY_VARIABLE = 'OPENAI_API_KEY'
NO_KEY = 'none'
"""What is sent without a key: servers on one's own machine take anything."""
_REFUSALS = (
  'unsupported', 'not supported', 'does not support', 'unrecognized', 'unknown', 'unexpected',
  'not permitted', 'extra', 'deprecated',
)  # fmt: skip
_NEVER_SENT = ('ConnectError', 'ConnectTimeout', 'PoolTimeout', 'UnsupportedProtocol')
_NO_MORE_MONEY = ('insufficient_quota', 'billing_hard_limit_reached')
# A gateway gave up waiting: the model behind it may have answered and charged.
_PERHAPS_ANSWERED = (408, 502, 504, 524)
MAX_WAIT = 86_400.0
_VARIABLE = re.compile('[A-Z_][A-Z_0-9]{0,40}')


class ForbiddenError(ConfigError):
  """HTTP 403 before the first answer: of everything, or of one request."""


class Client:
  """A server, a key and a time-out; use with `async with`.

  Attributes:
    dialect: parameters that the server refused, and the name each is sent under instead; None: it
      is left out.
  """

  def __init__(
    self,
    base_url: str,
    key_variable: str | None = None,
    timeout: float = 120,
    dialect: dict[str, str | None] | None = None,
    on_dialect: Callable[[str, str | None], None] = lambda name, instead: None,
  ):
    """Args as the attributes, and:

      key_variable: of the environment, with the key; None: OPENAI_API_KEY, if it is set.
      timeout: seconds until an answer is complete.
      on_dialect: called once for each parameter that is refused.

    Raises:
      ConfigError: no address, a key within it, or no key in the variable.
    """
    check_address(base_url)
    self._key = _key(key_variable)
    self._key_variable = key_variable or KEY_VARIABLE
    self.base_url, self.timeout = base_url, timeout
    self.dialect = dict(dialect or {})
    self._on_dialect = on_dialect
    self._has_answered = False
    logging.getLogger('httpx2').setLevel(logging.WARNING)  # a line for each request

  async def __aenter__(self) -> 'Client':
    self._openai = openai.AsyncOpenAI(
      base_url=self.base_url, api_key=self._key or NO_KEY, timeout=self.timeout, max_retries=0
    )
    return self

  async def __aexit__(self, *error: object) -> None:
    await self._openai.close()

  async def ask(self, request: Request) -> Answer | Failure:
    """Sends a request, and again without the parameters that the server refuses.

    Raises:
      ConfigError: nothing will be answered, whatever is asked: a wrong key, an unknown model.
      ForbiddenError: so it seems.
    """
    while True:
      body = spoken(request.body(), self.dialect)
      try:
        async with asyncio.timeout(self.timeout):
          response = await self._openai.post(request.path, cast_to=httpx2.Response, body=body)
      except openai.APIStatusError as error:
        failure = self._failure(error, request, body)
        if failure is None:
          continue
        return failure
      except (TimeoutError, openai.APIConnectionError) as error:
        return self._no_answer(error)
      try:
        parsed = json.loads(response.content)
      except (ValueError, RecursionError):
        return Failure('the answer is not JSON', 'broken')
      self._has_answered = True
      return answers.read(parsed, self._key)

  def _failure(
    self, error: openai.APIStatusError, request: Request, body: dict[str, Any]
  ) -> Failure | None:
    """What an HTTP error means; None if the same request can be sent in another dialect."""
    status, code = error.status_code, getattr(error, 'code', None)
    said = answers.error_message(error.body, f'HTTP status {status}', self._key)
    if status == 401:
      raise ConfigError(f'{self.base_url} refuses the key: {said} It is read from {self._named()}.')
    out_of_money = status == 402 or code in _NO_MORE_MONEY or 'credit balance' in said.lower()
    if out_of_money or (status in (403, 404) and not self._has_answered):
      kind = ForbiddenError if status == 403 and not out_of_money else ConfigError
      raise kind(f'{self.base_url}, asked for --model={one_line(request.model)}: {said}')
    if status == 429:
      return Failure(said, 'limit', _wait(error.response.headers))
    if status in _PERHAPS_ANSWERED:
      return Failure(f'HTTP {status}: {said}', 'lost', _wait(error.response.headers))
    if status in (409, 425) or status >= 500:
      return Failure(f'HTTP {status}: {said}', 'server', _wait(error.response.headers))
    name = _refused_parameter(error, said, body)
    if name is None:
      return Failure(f'HTTP {status}: {said}', 'refused')
    if name not in self.dialect:
      self.dialect[name] = INSTEAD[name]
      self._on_dialect(name, INSTEAD[name])
    return None

  def _no_answer(self, error: Exception) -> Failure:
    cause = error.__cause__
    if cause is not None and type(cause).__name__ in _NEVER_SENT:
      return Failure(f'no connection: {self._safe(str(cause))}', 'network')
    if isinstance(error, TimeoutError | openai.APITimeoutError):
      return Failure(f'no answer within {self.timeout:g} s', 'lost')
    return Failure(f'the connection broke: {type(cause or error).__name__}', 'lost')

  def _named(self) -> str:
    missing = '' if self._key else ', which is not set'
    return f'the variable {self._key_variable}{missing}'

  def _safe(self, text: str) -> str:
    """A server's words without the key, and as one line."""
    return one_line(answers.hidden(text, self._key), answers.MAX_MESSAGE)


def spoken(body: dict[str, Any], dialect: dict[str, str | None]) -> dict[str, Any]:
  """A body as a server takes it that refuses some parameters; see `Client.dialect`."""
  renamed = {dialect.get(name, name): value for name, value in body.items()}
  return {name: value for name, value in renamed.items() if name is not None}


def check_address(base_url: str) -> None:
  """Refuses what is no address of a server.

  Raises:
    ConfigError: it is not http or https, or has a password or a query, where keys would be logged.
  """
  wanted = 'expected --base_url=http://HOST:PORT/v1 or https://..., the address of the API'
  try:
    parts = urllib.parse.urlsplit(base_url)
    host = parts.hostname
  except ValueError:
    host = None
    parts = urllib.parse.urlsplit('')
  if parts.username or parts.password or parts.query or '@' in base_url:
    raise ConfigError(
      f'{wanted}, without a name, password or query: a key comes from the variable {KEY_VARIABLE}, '
      'or the one that --api_key_env names.'
    )
  if parts.scheme not in ('http', 'https') or not host:
    raise ConfigError(f'{wanted}, got {one_line(base_url, 100)!r}.')


def _key(variable: str | None) -> str:
  """The key in the environment, '' if none is needed."""
  key = os.environ.get(variable or KEY_VARIABLE, '').strip()
  if variable is not None and not key:
    named = f'={variable}' if _VARIABLE.fullmatch(variable) else ''  # else it may be the key itself
    raise ConfigError(
      f'--api_key_env{named}: expected the name of a variable of the environment that holds the '
      'key, as MY_KEY; this variable is not set, or empty.'
    )
  if not key.isprintable() or not key.isascii():
    raise ConfigError(f'the key in {variable or KEY_VARIABLE} has letters that no key has.')
  return key


def _refused_parameter(error: openai.APIStatusError, said: str, body: dict[str, Any]) -> str | None:
  """Which parameter of INSTEAD the server does not take; None if that is not the trouble."""
  code, named = getattr(error, 'code', None), getattr(error, 'param', None)
  is_refusal = any(word in f'{code} {said}'.lower().replace('_', ' ') for word in _REFUSALS)
  if not is_refusal:
    return None
  if isinstance(named, str) and named in INSTEAD and named in body:
    return named
  quoted = lambda name: any(f'{mark}{name}{mark}' in said for mark in '\'"`')  # noqa: E731
  return next((name for name in INSTEAD if name in body and quoted(name)), None)


def _wait(headers: Any) -> float | None:
  """Seconds of Retry-After, as a number or a date; None if there is no such header."""
  for name, unit in (('retry-after-ms', 1000), ('retry-after', 1)):
    text = headers.get(name)
    if text is None:
      continue
    try:
      seconds = float(text) / unit
    except ValueError:
      parsed = mail.parsedate_tz(text)
      if parsed is None:
        continue
      seconds = mail.mktime_tz(parsed) - _now(headers)
    if math.isfinite(seconds):
      return min(max(seconds, 0.0), MAX_WAIT)
  return None


def _now(headers: Any) -> float:
  """The server's time, since this machine's clock may be wrong; ours if it does not say."""
  parsed = mail.parsedate_tz(headers.get('date') or '')
  return time.time() if parsed is None else mail.mktime_tz(parsed)
