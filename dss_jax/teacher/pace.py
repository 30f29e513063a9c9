"""How fast a teacher is asked: as fast as the server lets us, within the user's limits.

Owns the number of requests in flight, the pauses, and the rates a minute. One Pace belongs to one
process: several processes that share a limit divide it among them.
"""

import asyncio
import collections
import random
import time
from collections.abc import Awaitable, Callable

import aiolimiter

from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.requests import Request

DOWN = 0.75
"""What is left of the requests in flight after the server says that they are too many."""
LONGEST_PAUSE = 30.0
"""Seconds between tries while the server refuses everything and does not say for how long."""


class Pace:
  """Additive increase, multiplicative decrease, as TCP does.

  The first request is sent alone: it shows whether the server answers at all and which parameters
  it takes, and it warms its prompt cache.

  Attributes:
    limit: requests that may be in flight.
    last_success: when an answer last came, by `time.monotonic`; None before the first.
    last_response: when the server last said anything, or a pause that it asked for ends.
    until: when the pause ends that holds everything, likewise.
  """

  def __init__(
    self,
    most: int,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
  ):
    """Args: the most requests in flight, and the rates that are never passed."""
    self.most = most
    self.limit = 1.0
    self.in_flight = 0
    self.last_success: float | None = None
    self.last_response: float | None = None
    self.until = 0.0
    self._strain = 0  # refusals in a row, one a round trip, without an answer between them
    self._lowered = 0.0
    self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
    self._requests = _limiter(requests_per_minute, 0.1)
    self._tokens = _limiter(tokens_per_minute, 10)

  async def enter(self) -> None:
    """Waits until one more request may be in flight, and counts it."""
    while self.in_flight >= int(self.limit):
      turn = asyncio.get_running_loop().create_future()
      self._waiting.append(turn)
      await turn
    self.in_flight += 1

  async def turn(self, tokens: int) -> None:
    """Waits for the end of a pause, and for the rates; `tokens` is what the request may use."""
    while True:
      if self._requests is not None:
        await self._requests.acquire(1)
      if self._tokens is not None:
        await _take(self._tokens, tokens)
      if (wait := self.until - time.monotonic()) <= 0:
        return
      await asyncio.sleep(wait)

  def leave(self) -> None:
    """One request less is in flight."""
    self.in_flight -= 1
    room = int(self.limit) - self.in_flight
    while room > 0 and self._waiting:
      turn = self._waiting.popleft()
      if not turn.done():
        turn.set_result(None)
        room -= 1

  async def exchange(
    self, ask: Callable[[Request], Awaitable[Answer | Failure]], request: Request
  ) -> Answer | Failure:
    """One request at the pace that the server allows, which then follows from what comes back."""
    await self.enter()
    try:
      await self.turn(request.likely_tokens())
      sent = time.monotonic()
      outcome = await ask(request)
      if isinstance(outcome, Answer) or outcome.kind in ('final', 'refused', 'broken'):
        self.answered()
      else:  # time-outs too: the server may have too much to do
        self.refused(sent, outcome.wait)
        if outcome.kind in ('limit', 'server'):
          self.last_response = max(time.monotonic(), self.until)
      return outcome
    finally:
      self.leave()

  def answered(self) -> None:
    """The server answered: one more may be in flight after as many answers as are in flight."""
    first = self.last_success is None
    self.last_success = self.last_response = time.monotonic()
    self._strain = 0
    self.limit = float(self.most) if first else min(self.most, self.limit + 1 / self.limit)

  def refused(self, sent: float, wait: float | None) -> None:
    """The server, or the way to it, is overloaded.

    Args:
      sent: when the request was sent; refusals of one round trip lower the pace once.
      wait: seconds that the server asks to wait, if it does.
    """
    now = time.monotonic()
    if wait is not None:
      self.until = max(self.until, now + wait)
    if sent < self._lowered:
      return
    self._lowered = now
    self.limit = max(1.0, self.limit * DOWN)
    self._strain += 1
    if not wait and self._strain > 1:
      self.until = max(self.until, now + backoff(self._strain))


def backoff(attempt: int) -> float:
  """Seconds before another try: doubled with each, up to LONGEST_PAUSE, less a random part."""
  return min(LONGEST_PAUSE, 0.25 * 2 ** min(attempt, 16)) * random.uniform(0.5, 1)


def _limiter(per_minute: float | None, burst: float) -> aiolimiter.AsyncLimiter | None:
  """A limiter that lets through what `burst` seconds allow at once, one at least."""
  if per_minute is None:
    return None
  at_once = max(1.0, per_minute / 60 * burst)
  return aiolimiter.AsyncLimiter(at_once, at_once * 60 / per_minute)


async def _take(limiter: aiolimiter.AsyncLimiter, amount: float) -> None:
  while amount > 0:
    part = min(amount, limiter.max_rate)
    await limiter.acquire(part)
    amount -= part
