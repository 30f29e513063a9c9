"""Every answer that a teacher gave, and what was spent: one SQLite file, safe against any crash.

Owns what a claim is, what is kept of an answer, and the sums that the limits are compared with.
Does not own: who asks and when (run.py), which owner lives (owners.py), prices (prices.py).

A request is claimed before it is sent: its worst case is then reserved within the limits, and no
other process sends it. What is answered, failed or lost is settled: the reservation becomes what
was charged. A claim whose owner has died is lost: its worst case counts as spent, since the server
may have answered. So the limits hold over all processes and restarts.

Several processes on one machine may share a store; SQLite's WAL does not work across machines.
"""

import contextlib
import dataclasses
import json
import pathlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from dss_jax.teacher import owners
from dss_jax.teacher.answers import Answer
from dss_jax.teacher.requests import Request, Tokens

VERSION = 1
WAIT_S = 120
"""For another process's transaction."""
_SCHEMA = """
CREATE TABLE requests (
  key BLOB PRIMARY KEY, same BLOB NOT NULL, state TEXT NOT NULL, owner TEXT, reserved INTEGER,
  model TEXT NOT NULL, sample INTEGER NOT NULL, text TEXT, reasoning TEXT, finish_reason TEXT,
  failure TEXT, input INTEGER, cached INTEGER, output INTEGER, charged INTEGER, at TEXT
) WITHOUT ROWID;
CREATE INDEX same_prompt ON requests (same) WHERE state = 'answered';
CREATE INDEX claims ON requests (owner) WHERE state = 'claimed';
CREATE TABLE ledger (spent INTEGER, reserved INTEGER, sent INTEGER, open INTEGER, lost INTEGER);
INSERT INTO ledger VALUES (0, 0, 0, 0, 0);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
_SAME = "same = ? AND state = 'answered' ORDER BY at DESC LIMIT 1"
_NOW = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"


class Limits(NamedTuple):
  """What a store may never pass; None: no limit.

  Attributes:
    spent: billionths of a dollar.
    sent: requests that a server took.
  """

  spent: int | None = None
  sent: int | None = None


NO_LIMITS = Limits()


class Ledger(NamedTuple):
  """What a store has spent: billionths of a dollar and requests, settled and still open."""

  spent: int
  reserved: int
  sent: int
  open: int
  lost: int


@dataclasses.dataclass(frozen=True)
class Kept:
  """What a store has of a request.

  Attributes:
    state: 'answered', 'failed' or 'claimed'.
    answer: if it is answered.
    failure: why it failed.
    model: which was asked.
    at: when, in UTC.
    charged: billionths of a dollar, tries that failed before included.
  """

  state: str
  answer: Answer | None
  failure: str
  model: str
  at: str
  charged: int = 0


class Store:
  """An open store; used by one thread at a time."""

  def __init__(self, path: pathlib.Path):
    """Opens a store, and makes it if there is none.

    Raises:
      ValueError: the file is no store.
      OSError: it cannot be written.
    """
    self.path = path.absolute()
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self._naming():
      self._sql = sqlite3.connect(
        self.path, timeout=WAIT_S, isolation_level=None, check_same_thread=False
      )
      self._sql.execute('PRAGMA journal_mode = WAL')
      self._sql.execute('PRAGMA synchronous = FULL')  # money was paid for what is written
      self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
    with self.transaction():
      version = self._sql.execute('PRAGMA user_version').fetchone()[0]
      if version == 0:
        for statement in _SCHEMA.split(';'):
          self._sql.execute(statement)
        self._sql.execute(f'PRAGMA user_version = {VERSION}')
      elif version != VERSION:
        raise ValueError(
          f'{self.path} is a store of form {version}, and this version of dss_jax reads form '
          f'{VERSION}: name another file in --store.'
        )
    self._owner = owners.Owner(self.path)
    self.owner = self._owner.name

  def close(self) -> None:
    """Closes the file; what this process has claimed and not settled is lost."""
    with self.transaction():
      self.end_claims(self.owner)
    self._owner.close()
    self._reader.close()
    self._sql.close()

  @contextlib.contextmanager
  def transaction(self) -> Iterator[None]:
    """All that is done within is written at once, and on disk at the end; not nested.

    Raises:
      ValueError, OSError: as `__init__`.
    """
    with self._naming():
      self._sql.execute('BEGIN IMMEDIATE')
      try:
        yield
        self._sql.execute('COMMIT')
      except BaseException:
        self._sql.rollback()
        raise

  @contextlib.contextmanager
  def part(self) -> Iterator[None]:
    """Within a transaction: what fails within leaves nothing, and the rest of it stands.

    Raises:
      sqlite3.Error: of the file; then nothing of the transaction stands.
    """
    self._sql.execute('SAVEPOINT part')
    try:
      yield
    except sqlite3.Error:
      raise
    except BaseException:
      self._sql.execute('ROLLBACK TO part')
      self._sql.execute('RELEASE part')
      raise
    self._sql.execute('RELEASE part')

  @contextlib.contextmanager
  def _naming(self) -> Iterator[None]:
    try:
      yield
    except sqlite3.OperationalError as error:
      raise OSError(f'{self.path}: {error}.') from error
    except sqlite3.DatabaseError as error:
      raise ValueError(f'{self.path} is no store of answers: {error}.') from error

  # ---------------------------------------------------------------- claims

  def claim(
    self,
    request: Request,
    worst: int,
    limits: Limits,
    retry_failed: bool = False,
    same_prompt: bool = False,
    owner: str | None = None,
  ) -> str:
    """Claims a request, within a transaction.

    Args:
      request: what is to be asked.
      worst: the most that it can cost, billionths of a dollar.
      limits: which no claim may pass.
      retry_failed: ask again what has failed.
      same_prompt: an answer to the same prompt and input will do.
      owner: of the claim; None: this process.

    Returns:
      'claimed' (send it), 'answered', 'failed', 'elsewhere' (a process has claimed it), 'in_batch'
      (it is in batch files), or 'refused' (a limit would be passed).
    """
    state, holder = self.state(request.key)
    if state == 'answered' or (same_prompt and self._has_same(request)):
      return 'answered'
    if holder is not None:
      return 'in_batch' if owners.is_folder(holder) else 'elsewhere'
    if state == 'failed' and not retry_failed:
      return 'failed'
    if not self._reserve(worst, limits):
      return 'refused'
    self._sql.execute(  # what is known of a failure stays, in case the claim is given back
      'INSERT INTO requests (key, same, state, owner, reserved, model, sample, at) '
      f"VALUES (?, ?, 'claimed', ?, ?, ?, ?, {_NOW}) ON CONFLICT (key) DO UPDATE SET "
      'state = excluded.state, owner = excluded.owner, reserved = excluded.reserved',
      (request.key, request.same, owner or self.owner, worst, request.model, request.sample),
    )
    return 'claimed'

  def _has_same(self, request: Request) -> bool:
    select = f'SELECT 1 FROM requests WHERE {_SAME}'
    return self._sql.execute(select, (request.same,)).fetchone() is not None

  def _reserve(self, worst: int, limits: Limits) -> bool:
    now = self.ledger()
    if limits.spent is not None and now.spent + now.reserved + worst > limits.spent:
      return False
    if limits.sent is not None and now.sent + now.open + 1 > limits.sent:
      return False
    self._add(reserved=worst, open=1)
    return True

  def answered(self, key: bytes, answer: Answer, charged: int | None) -> None:
    """Settles a claim with its answer; `charged` in billionths of a dollar, None: the worst."""
    self._settle(
      key, charged, answer.tokens,
      state='answered', text=answer.text, reasoning=answer.reasoning,
      finish_reason=answer.finish_reason, failure=None,
    )  # fmt: skip

  def failed(self, key: bytes, reason: str, charged: int | None, tokens: Tokens | None) -> None:
    """Settles a claim with the reason why it has no answer; `charged` as in `answered`."""
    self._settle(key, charged, tokens, state='failed', failure=reason)

  def adopt(self, request: Request, worst: int) -> bool:
    """Claims what was asked already, whatever the limits; False if it is answered."""
    state, _ = self.state(request.key)
    if state in ('answered', 'claimed'):
      return state == 'claimed'
    return self.claim(request, worst, NO_LIMITS, retry_failed=True) == 'claimed'

  def lost(self, key: bytes, charged: int | None, limits: Limits) -> bool:
    """Counts a try that may have been charged, and reserves another one; False: a limit forbids."""
    worst = self._reserved(key)
    if worst is None:  # as in `_settle`
      self._add(spent=charged or 0, sent=1, lost=1)
      return False
    charged = worst if charged is None else charged
    self._spend(worst, charged, lost=1)
    adding = 'UPDATE requests SET charged = COALESCE(charged, 0) + ? WHERE key = ?'
    self._sql.execute(adding, (charged, key))
    if self._reserve(worst, limits):
      return True
    self._forget('key = ?', (key,))
    return False

  def release(self, keys: Iterable[bytes], owner: str | None = None) -> None:
    """Gives back claims of what was never sent; keys that the owner has not claimed stay.

    Args:
      keys: of the requests.
      owner: None: this process.
    """
    mine = self.claims(owner or self.owner)
    for key in keys:
      if key in mine:
        self._add(reserved=-(self._reserved(key) or 0), open=-1)
        self._forget('key = ?', (key,))

  def hand_over(self, keys: Iterable[bytes], owner: str) -> None:
    """Makes another one the owner of claims."""
    change = "UPDATE requests SET owner = ? WHERE key = ? AND state = 'claimed'"
    self._sql.executemany(change, ((owner, key) for key in keys))

  def _forget(self, where: str, values: tuple[Any, ...]) -> None:
    """Ends claims without an outcome: what had failed before is failed again."""
    self._sql.execute(f'DELETE FROM requests WHERE {where} AND failure IS NULL', values)
    back = "state = 'failed', owner = NULL, reserved = NULL"
    self._sql.execute(f'UPDATE requests SET {back} WHERE {where}', values)

  def end_claims(self, owner: str) -> int:
    """Counts all that an owner has claimed and not settled as lost; returns how many."""
    where, values = "state = 'claimed' AND owner = ?", (owner,)
    select = f'SELECT COUNT(*), COALESCE(SUM(reserved), 0) FROM requests WHERE {where}'
    count, reserved = self._sql.execute(select, values).fetchone()
    self._add(spent=reserved, reserved=-reserved, sent=count, open=-count, lost=count)
    self._forget(where, values)
    return count

  def end_dead_claims(self) -> int:
    """As `end_claims`, of all owners that have died."""
    dead = [one for one in self.claimants() if not owners.lives(self.path, one)]
    return sum(self.end_claims(owner) for owner in dead if owner != self.owner)

  def is_asking(self) -> bool:
    """Whether any process, this one included, has claims that it will settle."""
    return any(not owners.is_folder(owner) for owner in self.claimants())

  def claimants(self) -> list[str]:
    """All owners of claims."""
    select = "SELECT DISTINCT owner FROM requests WHERE state = 'claimed'"
    return [owner for (owner,) in self._sql.execute(select)]

  def claims(self, owner: str) -> set[bytes]:
    """The keys that an owner has claimed and not settled."""
    select = "SELECT key FROM requests WHERE state = 'claimed' AND owner = ?"
    return {key for (key,) in self._sql.execute(select, (owner,))}

  def _reserved(self, key: bytes) -> int | None:
    select = "SELECT reserved FROM requests WHERE key = ? AND state = 'claimed'"
    row = self._sql.execute(select, (key,)).fetchone()
    return None if row is None else row[0]

  def _settle(
    self, key: bytes, charged: int | None, tokens: Tokens | None, **columns: str | None
  ) -> None:
    reserved = self._reserved(key)
    if reserved is None:  # another process has settled it meanwhile; this try was charged, too
      self._add(spent=charged or 0, sent=1)
      return
    charged = reserved if charged is None else charged
    self._spend(reserved, charged, lost=0)
    counts = tokens._asdict() if tokens else {}
    values = {'owner': None, 'reserved': None, **columns, **counts}
    names = ', '.join(f'{name} = ?' for name in values)
    names += f', charged = COALESCE(charged, 0) + ?, at = {_NOW}'
    update = f'UPDATE requests SET {names} WHERE key = ?'
    self._sql.execute(update, (*values.values(), charged, key))

  def _spend(self, reserved: int, charged: int, lost: int) -> None:
    self._add(spent=charged, reserved=-reserved, sent=1, open=-1, lost=lost)

  def _add(self, **amounts: int) -> None:
    names = ', '.join(f'{name} = {name} + ?' for name in amounts)
    self._sql.execute(f'UPDATE ledger SET {names}', tuple(amounts.values()))

  # ---------------------------------------------------------------- reading

  def ledger(self) -> Ledger:
    """What was spent so far."""
    select = 'SELECT spent, reserved, sent, open, lost FROM ledger'
    return Ledger(*self._sql.execute(select).fetchone())

  def price(self, model: str, cost: Callable[[Tokens], int]) -> int:
    """Charges what was counted as free since no price of the model was known.

    Returns:
      How many of its requests have no known cost: without tokens, or open without a reservation.
    """
    free = 'model = ? AND charged = 0 AND output > 0'
    select = f'SELECT key, input, cached, output FROM requests WHERE {free}'
    for key, *counts in self._sql.execute(select, (model,)).fetchall():
      charged = cost(Tokens(*counts))
      self._sql.execute('UPDATE requests SET charged = ? WHERE key = ?', (charged, key))
      self._add(spent=charged)
    uncounted = "(state = 'answered' AND charged = 0) OR (state = 'claimed' AND reserved = 0)"
    select = f'SELECT COUNT(*) FROM requests WHERE model = ? AND ({uncounted})'
    return self._sql.execute(select, (model,)).fetchone()[0]

  def find(self, request: Request, same_prompt: bool = False) -> Kept | None:
    """What is kept of a request, at any time, also while another thread changes the store.

    Args:
      request: as it was asked.
      same_prompt: or else an answer to the same prompt and input will do.
    """
    columns = (
      'state, text, reasoning, finish_reason, input, cached, output, failure, model, at, charged'
    )
    select = f'SELECT {columns} FROM requests WHERE'
    row = self._reader.execute(f'{select} key = ?', (request.key,)).fetchone()
    if same_prompt and (row is None or row[0] != 'answered'):
      row = self._reader.execute(f'{select} {_SAME}', (request.same,)).fetchone() or row
    if row is None:
      return None
    state, text, reasoning, finish, *counts, failure, model, at, charged = row
    tokens = None if None in counts else Tokens(*counts)
    answer = Answer(text, reasoning or '', finish, tokens) if state == 'answered' else None
    return Kept(state, answer, failure or '', model, at, charged or 0)

  def state(self, key: bytes) -> tuple[str | None, str | None]:
    """'answered', 'failed' or 'claimed', None if it is unknown; and who has claimed it."""
    select = 'SELECT state, owner FROM requests WHERE key = ?'
    return self._sql.execute(select, (key,)).fetchone() or (None, None)

  def note(self, name: str) -> dict[str, Any]:
    """What was noted under a name; {} if nothing was."""
    row = self._reader.execute('SELECT value FROM notes WHERE name = ?', (name,)).fetchone()
    return json.loads(row[0]) if row else {}

  def set_note(self, name: str, value: dict[str, Any]) -> None:
    """Notes something, within a transaction."""
    self._sql.execute('INSERT OR REPLACE INTO notes VALUES (?, ?)', (name, json.dumps(value)))
