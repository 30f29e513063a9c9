"""Asks many requests, each until it is answered or cannot be, and keeps every answer at once.

Owns the order of things: claim, send, settle; what is tried again and when a run gives up. Does not
own: one exchange (client.py), the pace (pace.py), answers and money (store.py, prices.py).
"""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from dss_jax.settings.errors import ConfigError
from dss_jax.teacher.answers import CHARGED, Answer, Failure
from dss_jax.teacher.client import Client
from dss_jax.teacher.commits import Commits
from dss_jax.teacher.pace import Pace, backoff
from dss_jax.teacher.prices import Price
from dss_jax.teacher.requests import Request, Tokens
from dss_jax.teacher.store import NO_LIMITS, Limits, Store

TRIES = 6
"""Of a request, before it counts as failed; being asked to slow down does not count."""
PATIENCE_S = 600.0
"""Without any answer, while the server or the way to it fails."""
FIRST_PATIENCE_S = 10.0
"""Before the first answer: then it is more likely that the address is wrong."""
MOST_REFUSALS = 10
"""Requests that the server calls wrong before the first answer: then all of them are."""
GRACE_S = 20.0
"""For answers on their way when the run is told to stop."""
POLL_S = 0.5
"""Between looks at what another process is asking."""
OVER = 'limit'
"""A run is stopped by the limits of its plan."""


@dataclasses.dataclass
class Progress:
  """How far a run is, changed as it goes.

  Attributes:
    answered: by this run.
    before: that had an answer already.
    failed: by this run; `failures`: their reasons, counted.
    failed_before: not asked again.
    in_batch: that were written to batch files, whose answers have not been read.
    slowed: times that the server asked to slow down; `repeated`: other tries that came to nothing.
    tokens: of this run's answers.
    spent: billionths of a dollar, of all runs with the store.
    stopped: why the rest is not asked: OVER, or a signal's number; None: it is.
  """

  answered: int = 0
  before: int = 0
  failed: int = 0
  failed_before: int = 0
  in_batch: int = 0
  slowed: int = 0
  repeated: int = 0
  tokens: Tokens = Tokens(0, 0, 0)  # noqa: RUF009  a tuple
  spent: int = 0
  failures: dict[str, int] = dataclasses.field(default_factory=dict)
  stopped: str | int | None = None

  @property
  def settled(self) -> int:
    """Requests that are done with, one way or the other."""
    return self.answered + self.before + self.failed + self.failed_before + self.in_batch


@dataclasses.dataclass(frozen=True)
class Plan:
  """How requests are asked.

  Attributes:
    price: None: money is not counted.
    limits: of the store, all runs together.
    retry_failed: ask again what failed before.
    same_prompt: an answer to the same prompt and input will do.
  """

  price: Price | None = None
  limits: Limits = NO_LIMITS
  retry_failed: bool = False
  same_prompt: bool = False

  def worst(self, request: Request) -> int:
    """The most that a request can cost, in billionths of a dollar; 0 if money is not counted."""
    return self.price.worst(request) if self.price else 0

  def cost(self, tokens: Tokens | None) -> int | None:
    """What a request cost; None if the server did not count its tokens."""
    return None if tokens is None else self.price.cost(tokens) if self.price else 0


async def run(
  requests: Iterable[Request],
  store: Store,
  client: Client,
  pace: Pace,
  plan: Plan,
  progress: Progress,
) -> None:
  """Asks all requests that have no answer yet; `progress` says how it went.

  SIGTERM and SIGINT let the answers on their way come in, for GRACE_S at most.

  Raises:
    ConfigError: the server will answer nothing: a wrong key, an unknown model.
    ConnectionError: it has not answered for PATIENCE_S.
    OSError: the store cannot be written.
  """
  async with Commits(store) as commits:
    one = _Run(store, client, pace, plan, progress, commits)
    try:
      with _signals(one.stop):
        await one.ask_all(requests)
    except BaseExceptionGroup as group:
      raise _first(group) from None
    finally:
      await one.give_back()


@contextlib.contextmanager
def _signals(stop: Callable[[int], None]) -> Iterator[None]:
  """Calls `stop` instead of what else a signal does; not in threads, which get none."""
  loop, before = asyncio.get_running_loop(), {}
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    handler = signal.getsignal(number)
    with contextlib.suppress(ValueError, RuntimeError):
      if handler != signal.SIG_IGN:  # as under nohup
        loop.add_signal_handler(number, stop, number)
        before[number] = handler
  try:
    yield
  finally:
    for number, handler in before.items():
      loop.remove_signal_handler(number)
      signal.signal(number, handler)


def _first(error: BaseException) -> BaseException:
  """The error that ended a run, of those that it caused."""
  while isinstance(error, BaseExceptionGroup):
    error = error.exceptions[0]
  return error


class _Ending(Exception):
  """Nothing more is sent."""


class _Run:
  def __init__(
    self,
    store: Store,
    client: Client,
    pace: Pace,
    plan: Plan,
    progress: Progress,
    commits: Commits,
  ):
    self.store, self.client, self.pace, self.plan = store, client, pace, plan
    self.progress, self.commits = progress, commits
    self.started = time.monotonic()
    self.refusals = self.on_wire = 0
    self.is_over = False  # an error that cannot pass has come
    self.unsent: dict[bytes, Request] = {}  # claimed, and not on their way
    self.claimed: asyncio.Queue[Request | None] = asyncio.Queue()
    self.outstanding = 0  # claimed, and not answered or failed
    self.put_off: list[Request] = []  # asked by others, or lost without room for another try
    self.settled = asyncio.Event()
    self.tasks: list[asyncio.Task[None]] = []
    self.grace_ends = math.inf

  async def ask_all(self, requests: Iterable[Request]) -> None:
    await self.commits(self.store.end_dead_claims)
    self.progress.spent = (await self.commits(self.store.ledger)).spent
    workers = 2 * self.pace.most + self._ahead()  # some wait for the disk, some for another try
    async with asyncio.TaskGroup() as group:
      self.tasks = [group.create_task(self._claim_all(requests, workers))]
      self.tasks += [group.create_task(self._work()) for _ in range(workers)]

  def stop(self, number: int) -> None:
    """Sends nothing more; the second time it does not wait for answers either."""
    if isinstance(self.progress.stopped, int):
      self.grace_ends = 0
      return
    self.progress.stopped = number
    self.grace_ends = time.monotonic() + GRACE_S
    self.ending = asyncio.create_task(self._end())

  async def _end(self) -> None:
    await self._drain()
    for task in self.tasks:
      task.cancel()

  async def _drain(self) -> None:
    """Waits for answers on their way, and until they are on disk."""
    while self.on_wire and time.monotonic() < self.grace_ends:
      await asyncio.sleep(0.05)
    await asyncio.sleep(0)  # to their tasks, which keep them
    await self.commits(list)

  async def give_back(self) -> None:
    """Releases what was not sent; what was, and is not settled, counts as lost."""
    await self.commits(self.store.release, self.unsent)
    await self.commits(self.store.end_claims, self.store.owner)

  # ---------------------------------------------------------------- claims

  async def _claim_all(self, requests: Iterable[Request], workers: int) -> None:
    """Claims request after request as the workers take them, then tells the workers to end."""
    waiting = iter(requests)
    while not (self.progress.stopped or self.is_over):
      batch = list(itertools.islice(waiting, await self._room()))
      if batch:
        await self._claim(batch)
      elif self.outstanding:  # any of them may be put off yet
        self.settled.clear()
        await self._wait_for_room()
      elif self.put_off:
        waiting, self.put_off = iter(self.put_off), []
      else:
        break
    for _ in range(workers):
      self.claimed.put_nowait(None)

  def _ahead(self) -> int:
    """Requests that are claimed before they can be sent; a crash loses what they reserve."""
    return max(4, self.pace.most // 4)

  async def _room(self) -> int:
    """Waits until more requests can be claimed; returns how many."""
    while (room := int(self.pace.limit) + self._ahead() - self.outstanding) <= 0:
      self.settled.clear()
      await self.settled.wait()
    return room

  async def _claim(self, batch: list[Request]) -> None:
    """Claims requests and hands them to the workers; those that others are asking are put off."""
    elsewhere, rest = 0, batch
    while rest and not (self.progress.stopped or self.is_over):
      self.settled.clear()
      verdicts, room_may_come = await self.commits(self._verdicts, rest)
      refused = []
      for request, verdict in zip(rest, verdicts, strict=True):
        if verdict == 'claimed':
          self.outstanding += 1
          self.claimed.put_nowait(request)
        elif verdict == 'refused':
          refused.append(request)
        elif verdict == 'elsewhere':
          self.put_off.append(request)
          elsewhere += 1
        self.progress.before += verdict == 'answered'
        self.progress.failed_before += verdict == 'failed'
        self.progress.in_batch += verdict == 'in_batch'
      if refused and not room_may_come:
        self.progress.stopped = self.progress.stopped or OVER
      elif len(refused) == len(rest):
        await self._wait_for_room()
        await self.commits(self.store.end_dead_claims)  # whose reservations are in the way
      rest = refused
    if elsewhere == len(batch):
      await asyncio.sleep(POLL_S)
      await self.commits(self.store.end_dead_claims)

  def _verdicts(self, batch: list[Request]) -> tuple[list[str], bool]:
    """What becomes of each, and whether open requests reserve more than they will cost."""
    plan, verdicts = self.plan, []
    for one in batch:
      verdict = self.store.claim(
        one, plan.worst(one), plan.limits, plan.retry_failed, plan.same_prompt
      )
      verdicts.append(verdict)
      if verdict == 'claimed':
        self.unsent[one.key] = one  # here: the task that waits for this may be cancelled
    return verdicts, self.store.is_asking()

  async def _wait_for_room(self) -> None:
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(POLL_S):
        await self.settled.wait()

  # ---------------------------------------------------------------- asking

  async def _work(self) -> None:
    try:
      await self._ask_claimed()
    except (ConfigError, ConnectionError):
      self.is_over, self.grace_ends = True, min(self.grace_ends, time.monotonic() + GRACE_S)
      await self._drain()  # what other answers on their way cost is paid
      raise

  async def _ask_claimed(self) -> None:
    while (request := await self.claimed.get()) is not None:
      outcome = await self._ask(request)
      self.outstanding -= 1
      self.settled.set()
      if isinstance(outcome, Answer):
        await self._keep(request, outcome)
      elif outcome is not None:
        await self._fail(request, outcome)
      self.settled.set()

  async def _ask(self, request: Request) -> Answer | Failure | None:
    """Asks until there is an answer, or TRIES have failed; None if the claim is given up."""
    tries, refusals = 0, 0
    while True:
      try:
        outcome = await self.pace.exchange(self._sent, request)
      except _Ending:
        return None
      if not isinstance(outcome, Failure) or outcome.kind in ('final', 'refused'):
        return outcome
      tries += outcome.kind != 'limit'
      refusals += outcome.kind == 'limit'
      if tries >= TRIES:
        return outcome
      if not await self._may_go_on(request, outcome):
        return None
      # Beside what the server asks for, which may be 0 or past.
      await asyncio.sleep(max(outcome.wait or 0.0, backoff(max(tries, min(refusals, 5)))))

  async def _sent(self, request: Request) -> Answer | Failure:
    """What comes back; a request that costs nothing is as if it had not been sent."""
    if self.is_over or isinstance(self.progress.stopped, int):
      raise _Ending
    self.unsent.pop(request.key, None)
    self.on_wire += 1
    try:
      outcome = await self.client.ask(request)
    except ConfigError:
      self.is_over = True
      self.unsent[request.key] = request
      raise
    finally:
      self.on_wire -= 1
    if isinstance(outcome, Failure) and outcome.kind in ('limit', 'server', 'network', 'refused'):
      self.unsent[request.key] = request
    return outcome

  async def _may_go_on(self, request: Request, failure: Failure) -> bool:
    """Settles a try that came to nothing; whether there will be another."""
    if failure.kind == 'limit':
      self.progress.slowed += 1
      return True
    self.progress.repeated += 1
    last, patience = self.pace.last_response, PATIENCE_S + self.client.timeout
    if last is None and failure.kind == 'network':
      patience = FIRST_PATIENCE_S
    if failure.kind != 'broken' and time.monotonic() - (last or self.started) > patience:
      self.is_over = True
      raise ConnectionError(
        f'{self.client.base_url} has not answered for {patience:g} s ({failure.reason}). Nothing '
        'is lost: the same command goes on from here.'
      )
    if failure.kind in ('server', 'network'):
      return True
    charged = self._charged(request, failure.tokens)
    if await self.commits(self.store.lost, request.key, charged, self.plan.limits):
      self.unsent[request.key] = request
      return True
    self.put_off.append(request)
    return False

  async def _keep(self, request: Request, answer: Answer) -> None:
    self.progress.answered += 1
    self._count(answer.tokens)
    charged = self._charged(request, answer.tokens)
    await self.commits(self.store.answered, request.key, answer, charged)

  async def _fail(self, request: Request, failure: Failure) -> None:
    reason, tokens = failure.reason, failure.tokens
    charged = self._charged(request, tokens) if failure.kind in CHARGED else 0
    self._count(tokens)
    self.progress.failed += 1
    self.progress.failures[reason] = self.progress.failures.get(reason, 0) + 1
    self.unsent.pop(request.key, None)
    await self.commits(self.store.failed, request.key, reason, charged, tokens)
    self.refusals += failure.kind == 'refused'
    if self.refusals >= MOST_REFUSALS and not self.progress.answered + self.progress.before:
      raise ConfigError(f'{self.client.base_url} refuses every request: {reason}.')

  def _charged(self, request: Request, tokens: Tokens | None) -> int:
    """What a request cost, the worst case if the server does not say; counts it."""
    cost = self.plan.cost(tokens)
    charged = self.plan.worst(request) if cost is None else cost
    self.progress.spent += charged
    return charged

  def _count(self, tokens: Tokens | None) -> None:
    if tokens is not None:
      total = self.progress.tokens
      self.progress.tokens = Tokens(*(a + b for a, b in zip(total, tokens, strict=True)))
