"""Requests and answers as files of OpenAI's Batch form, which batch APIs and vLLM's run-batch take.

Owns the files of a folder: the parts that are written, and what is read back from whatever else is
in it. A request's `custom_id` is its key, so answers find their request in any order and number.
Does not own: sending (the provider, vLLM, beam.py).

The folder is the owner of the requests in it: nobody asks them while it exists, and their worst
case stays reserved until the answers are read. Deleting the folder gives them up.
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from dss_jax.settings import json_form
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line
from dss_jax.teacher import answers, owners
from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.client import spoken
from dss_jax.teacher.requests import Request
from dss_jax.teacher.run import Plan
from dss_jax.teacher.store import Store

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
"""Of a part: what OpenAI's Batch API takes at most."""
PART = 'requests-{:04}.jsonl'
API = '/v1'
_AT_ONCE = 500  # claims of one transaction
_FREE = ('server', 'refused')  # failures that nobody charges for


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
) -> Exchanged:
  """Writes all requests that nobody has asked as parts of a batch, and claims them.

  Args:
    folder: is made if there is none; parts that are there stay.
    requests: those that have an answer are left out.
    store: which reserves their worst case.
    plan: the price and the limits.
    dialect: the server's, as in client.Client.

  Raises:
    OSError: a part cannot be written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  owner, done = owners.of_folder(folder), Exchanged()
  written = {key for part in folder.glob('requests-*.jsonl') for key, _ in _lines(part)}
  with store.transaction():  # a crash may have come between claiming and writing
    store.end_dead_claims()
    store.release(store.claims(owner) - written, owner)
  number = itertools.count(1)
  waiting = _claimed(requests, store, plan, owner, done)
  for group in _parts(waiting, dialect):
    path = next(path for n in number if not (path := folder / PART.format(n)).exists())
    temporary = path.with_suffix('.tmp')
    with temporary.open('wb') as file:
      file.writelines(group)
      file.flush()
      os.fsync(file.fileno())
    temporary.rename(path)
    done.parts.append(path)
  return done


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


def _parts(requests: Iterable[Request], dialect: dict[str, str | None]) -> Iterator[list[bytes]]:
  """The lines of each part."""
  part: list[bytes] = []
  size = 0
  for request in requests:
    line = _line(request, dialect)
    if part and (len(part) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
      yield part
      part, size = [], 0
    part.append(line)
    size += len(line)
  if part:
    yield part


def _line(request: Request, dialect: dict[str, str | None]) -> bytes:
  line = {
    'custom_id': request.key.hex(),
    'method': 'POST',
    'url': f'{API}{request.path}',
    'body': spoken(request.body(), dialect),
  }
  return f'{json.dumps(line, ensure_ascii=False)}\n'.encode()


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
    found = ((key, line) for key, line in _lines(path) if 'method' not in line)
    while batch := list(itertools.islice(found, _AT_ONCE)):
      with store.transaction():
        for key, line in batch:
          outcome = _outcome(line)
          if not _keep(store, key, outcome, plan, done):
            strangers[key] = outcome
  strangers = _adopt(requests, strangers, store, plan, done)
  done.strangers = len(strangers)
  done.out = len(store.claims(owners.of_folder(folder)))
  if not (done.answered or done.failed or done.known or done.strangers):
    raise ConfigError(
      f'--read_batch={folder}: expected output and error files of a batch there, *.jsonl, but '
      'there are no answers in it.'
    )
  return done


def _adopt(
  requests: Iterable[Request],
  outcomes: dict[bytes, Answer | Failure],
  store: Store,
  plan: Plan,
  done: Exchanged,
) -> dict[bytes, Answer | Failure]:
  """Keeps outcomes of requests that another store has claimed; returns the others."""
  rest = dict(outcomes)
  for request in requests if rest else ():
    if request.key in rest:
      outcome = rest.pop(request.key)
      with store.transaction():
        store.adopt(request, plan.worst(request))
        _keep(store, request.key, outcome, plan, done)
  return rest


def _keep(store: Store, key: bytes, outcome: Answer | Failure, plan: Plan, done: Exchanged) -> bool:
  """Settles a claim; False if the store does not know the request."""
  state = store.state(key)
  if state in ('answered', 'failed') and not (state == 'failed' and isinstance(outcome, Answer)):
    done.known += 1
    return True
  if state != 'claimed':
    return False
  charged = plan.cost(outcome.tokens)
  if isinstance(outcome, Answer):
    store.answered(key, outcome, charged)
    done.answered += 1
    return True
  done.failed += 1
  done.failures[outcome.reason] += 1
  charged = 0 if outcome.kind in _FREE else charged
  store.failed(key, outcome.reason, charged, outcome.tokens)
  return True


def _outcome(line: dict[str, Any]) -> Answer | Failure:
  """What a line of an output or error file says."""
  response, error = line.get('response'), line.get('error')
  status = response.get('status_code') if isinstance(response, dict) else None
  body = response.get('body') if isinstance(response, dict) else None
  if status == 200 and not error:
    return answers.read(body)
  said = answers.error_message(error or body, 'the batch has no answer to it')
  return Failure(f'HTTP {status}: {said}' if isinstance(status, int) else said, 'refused')


def _lines(path: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """The lines of a file with the key of each."""
  with path.open('rb') as file:
    for number, line in enumerate(file, start=1):
      if not line.strip():
        continue
      where = f'{path}, line {number}'
      values = json_form.parse_object(line, where)
      name = values.get('custom_id')
      try:
        key = bytes.fromhex(name if isinstance(name, str) else '?')
      except ValueError:
        raise ConfigError(
          f'{where}: expected a line of a batch that dss annotate wrote, with its custom_id; got '
          f'{one_line(repr(name), 80)}.'
        ) from None
      yield key, values
