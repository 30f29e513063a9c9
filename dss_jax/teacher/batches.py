"""Requests and answers as files of OpenAI's Batch form, which batch APIs and vLLM's run-batch take.

Owns the files of a folder: the parts that are written, and what is read back from whatever else is
in it. Does not own: a line (batch_lines.py), sending (the provider, vLLM, beam.py).

The folder is the owner of the requests in it: nobody asks them, and their worst case stays
reserved, until the answers are read or the folder is given up, wherever its files are taken.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from dss_jax.settings import json_form
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import batch_lines, owners
from dss_jax.teacher.answers import CHARGED, Answer, Failure
from dss_jax.teacher.requests import Request
from dss_jax.teacher.run import Plan
from dss_jax.teacher.store import Store

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
"""Of a part: what OpenAI's Batch API takes at most."""
PART = 'requests-{:04}.jsonl'
_AT_ONCE = 500  # claims of one transaction
_UNFINISHED = 'beam-temp-'  # folders of a pipeline that did not end


@dataclasses.dataclass
class Exchanged:
  """What went to or came from a folder.

  Attributes:
    parts: files that were written.
    requests: that were written.
    answered, failed: that were read; `failures`: their reasons, counted.
    known: that were settled before.
    strangers: answers to requests that are not of this data set or its settings.
    out: requests whose answers have not come.
    is_over: a limit of the plan was reached.
  """

  parts: list[pathlib.Path] = dataclasses.field(default_factory=list)
  requests: int = 0
  answered: int = 0
  failed: int = 0
  failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  known: int = 0
  strangers: int = 0
  out: int = 0
  is_over: bool = False


# ---------------------------------------------------------------- writing


def write(
  folder: pathlib.Path,
  requests: Iterable[Request],
  store: Store,
  plan: Plan,
  dialect: dict[str, str | None],
  most: int = MOST_REQUESTS,
) -> Exchanged:
  """Writes all requests that nobody has asked as parts of a batch, and claims them.

  Args:
    folder: is made if there is none; parts that are there stay.
    requests: those that have an answer are left out.
    store: which reserves their worst case.
    plan: the price and the limits.
    dialect: the server's, as in client.Client.
    most: requests of a part.

  Raises:
    ConfigError: another process writes to the folder.
    OSError: a part cannot be written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with owners.writing(folder):
      return _write(folder, requests, store, plan, dialect, min(most, MOST_REQUESTS))
  except BlockingIOError:
    raise ConfigError(f'--write_batch={folder}: another process is writing there.') from None


def _write(
  folder: pathlib.Path,
  requests: Iterable[Request],
  store: Store,
  plan: Plan,
  dialect: dict[str, str | None],
  most: int,
) -> Exchanged:
  _end_unfinished(folder, store)
  batch, done = uuid.uuid4().hex[:8], Exchanged()
  pending, owner = (owners.of_folder(folder, batch, is_written) for is_written in (False, True))
  waiting = _claimed(requests, store, plan, pending, done)
  lines = ((one.key, batch_lines.of_request(one, batch, dialect)) for one in waiting)
  number = itertools.count(1)
  for group in _parts(lines, most):
    path = next(path for n in number if not (path := folder / PART.format(n)).exists())
    temporary = path.with_suffix('.tmp')
    with temporary.open('wb') as file:
      file.writelines(line for _, line in group)
      file.flush()
      os.fsync(file.fileno())
    temporary.rename(path)
    with store.transaction():
      store.hand_over((key for key, _ in group), owner)
    done.parts.append(path)
  return done


def _end_unfinished(folder: pathlib.Path, store: Store) -> None:
  """Gives back what was claimed, and not written, before a crash."""
  with store.transaction():
    store.end_dead_claims()
    pending = [one for one in _owners(folder, store) if owners.is_being_written(one)]
    if not pending:
      return
    written = {name for part in folder.glob('requests-*.jsonl') for name, _ in _lines(part)}
    for owner in pending:
      batch, keys = owners.batch_of(owner), store.claims(owner)
      found = {key for key in keys if (key, batch) in written}
      store.hand_over(found, owners.of_folder(folder, batch))
      store.release(keys - found, owner)


def _owners(folder: pathlib.Path, store: Store) -> list[str]:
  """The owners of claims that are batches of a folder."""
  folders = filter(owners.is_folder, store.claimants())
  return [one for one in folders if owners.folder_of(one) == folder.absolute()]


def _claimed(
  requests: Iterable[Request], store: Store, plan: Plan, owner: str, done: Exchanged
) -> Iterator[Request]:
  waiting = iter(requests)
  while not done.is_over and (batch := list(itertools.islice(waiting, _AT_ONCE))):
    with store.transaction():
      verdicts = [
        store.claim(one, plan.worst(one), plan.limits, plan.retry_failed, plan.same_prompt, owner)
        for one in batch
      ]
    done.is_over = 'refused' in verdicts
    mine = [one for one, verdict in zip(batch, verdicts, strict=True) if verdict == 'claimed']
    done.requests += len(mine)
    yield from mine


def _parts(lines: Iterable[tuple[bytes, bytes]], most: int) -> Iterator[list[tuple[bytes, bytes]]]:
  """The keys and lines of each part."""
  part: list[tuple[bytes, bytes]] = []
  size = 0
  for key, line in lines:
    if part and (len(part) == most or size + len(line) > MOST_BYTES):
      yield part
      part, size = [], 0
    part.append((key, line))
    size += len(line)
  if part:
    yield part


def give_up(folder: pathlib.Path, store: Store) -> int:
  """Counts what a folder has claimed as charged without an answer; returns how many requests.

  Raises:
    ConfigError: it has claimed nothing.
  """
  with store.transaction():
    count = sum(map(store.end_claims, _owners(folder, store)))
  if not count:
    known = sorted({str(owners.folder_of(one)) for one in open_folders(store)})
    raise ConfigError(
      f'--give_up_batch={folder}: expected a folder whose answers are awaited, '
      f'{", ".join(known) or "but there is none"}.'
    )
  return count


def open_folders(store: Store) -> list[str]:
  """The owners of claims that are folders."""
  return [one for one in store.claimants() if owners.is_folder(one)]


# ---------------------------------------------------------------- reading


def read(folder: pathlib.Path, requests: Iterable[Request], store: Store, plan: Plan) -> Exchanged:
  """Keeps all answers and errors in a folder; reading them again changes nothing.

  Args:
    folder: with output files and error files, `*.jsonl` of any name.
    requests: all of the data set; those that this store did not claim are found among them.
    store: where they are kept.
    plan: the price.

  Raises:
    ConfigError: there is no such folder, nothing in it, or a line that is none of a batch.
  """
  if not folder.is_dir():
    raise ConfigError(f'--read_batch={folder}: there is no such folder.')
  done, strangers = Exchanged(), {}
  for path in sorted(folder.rglob('*.jsonl')):
    if any(one.startswith(_UNFINISHED) for one in path.parts):
      continue
    found = (one for one in _lines(path) if 'method' not in one[1])
    while batch := list(itertools.islice(found, _AT_ONCE)):
      with store.transaction():
        for (key, name), line in batch:
          outcome = batch_lines.outcome_of(line)
          if not _keep(store, key, name, outcome, plan, done):
            strangers[key] = (name, outcome)
  done.strangers = _adopt(requests, strangers, store, plan, done)
  done.out = sum(len(store.claims(owner)) for owner in _owners(folder, store))
  if not (done.answered or done.failed or done.known or done.strangers):
    raise ConfigError(
      f'--read_batch={folder}: expected output and error files of a batch there, *.jsonl, but '
      'there are no answers in it.'
    )
  return done


def _adopt(
  requests: Iterable[Request],
  outcomes: dict[bytes, tuple[str, Answer | Failure]],
  store: Store,
  plan: Plan,
  done: Exchanged,
) -> int:
  """Keeps outcomes of requests that another store has claimed; returns how many others remain."""
  rest = dict(outcomes)
  for request in requests if rest else ():
    if request.key in rest:
      _, outcome = rest.pop(request.key)
      with store.transaction():
        if store.adopt(request, plan.worst(request)):
          _settle(store, request.key, outcome, plan, done)
        else:
          done.known += 1
  return len(rest)


def _keep(
  store: Store, key: bytes, batch: str, outcome: Answer | Failure, plan: Plan, done: Exchanged
) -> bool:
  """Settles a claim; False if the store does not know the request."""
  state, holder = store.state(key)
  is_answer = isinstance(outcome, Answer)
  if state is None or (state == 'failed' and is_answer):
    return False
  # The failure of a batch is not that of another one, or of a process that asks again.
  is_its_own = holder and owners.is_folder(holder) and owners.batch_of(holder) == batch
  if state == 'claimed' and (is_answer or is_its_own):
    _settle(store, key, outcome, plan, done)
  else:
    done.known += 1
  return True


def _settle(
  store: Store, key: bytes, outcome: Answer | Failure, plan: Plan, done: Exchanged
) -> None:
  charged = plan.cost(outcome.tokens)
  if isinstance(outcome, Answer):
    store.answered(key, outcome, charged)
    done.answered += 1
    return
  done.failed += 1
  done.failures[outcome.reason] += 1
  charged = charged if outcome.kind in CHARGED else 0
  store.failed(key, outcome.reason, charged, outcome.tokens)


def _lines(path: pathlib.Path) -> Iterator[tuple[tuple[bytes, str], dict[str, Any]]]:
  """The lines of a file with the key and the batch of each."""
  with path.open('rb') as file:
    for number, line in enumerate(file, start=1):
      if line.strip():
        where = f'{path}, line {number}'
        values = json_form.parse_object(line, where)
        yield batch_lines.parts_of(values.get('custom_id'), where), values
