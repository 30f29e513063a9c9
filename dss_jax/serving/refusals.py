"""Why a request has no answer: a status code and one sentence, in the form of OpenAI's errors.

Owns the codes and the form. Does not own who refuses what (gate.py, app.py).
"""

import json
from collections.abc import Mapping

from dss_jax.settings.printable import one_line

MAX_MESSAGE = 300
RETRY_S = 1
"""What Retry-After says: a queue is empty again within seconds."""
CODES = {
  400: 'bad_request',
  401: 'invalid_api_key',
  404: 'not_found',
  405: 'method_not_allowed',
  408: 'timeout',
  413: 'too_large',
  415: 'unsupported_media_type',
  422: 'invalid_request',
  429: 'rate_limit_exceeded',
  500: 'server_error',
  503: 'unavailable',
}


class RefusedError(Exception):
  """A request that is refused with this status and message."""

  def __init__(self, status: int, message: str):
    """Args: an HTTP status of CODES and one sentence."""
    super().__init__(message)
    self.status, self.message = status, one_line(message, MAX_MESSAGE)

  @property
  def headers(self) -> Mapping[str, str]:
    """What a client should know beside the message."""
    if self.status in (429, 503):
      return {'Retry-After': str(RETRY_S)}
    return {'WWW-Authenticate': 'Bearer'} if self.status == 401 else {}

  @property
  def content(self) -> dict[str, dict[str, str]]:
    """The body of the response."""
    kind = 'server_error' if self.status >= 500 else 'invalid_request_error'
    code = CODES.get(self.status, 'error')
    return {'error': {'message': self.message, 'type': kind, 'code': code}}

  @property
  def body(self) -> bytes:
    """The same as JSON."""
    return json.dumps(self.content).encode()
