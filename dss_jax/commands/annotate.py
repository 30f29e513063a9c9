"""`dss annotate`: asks a large language model for a rationale and a label of every input.

Owns: the order of its steps, progress, what is printed. Does not own: its options
(annotate_options.py), asking (teacher/run.py), files of answers (teacher/annotations.py,
teacher/batches.py), the prepared data set (prepare.py).
"""

import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dss_jax.commands.annotate_options import Settings, price_of, settings
from dss_jax.commands.annotate_options import parser as parser
from dss_jax.settings import progress as bars
from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import printable
from dss_jax.teacher import batches, owners, preview
from dss_jax.teacher.annotations import Annotator, Source, Written, dollars, judge
from dss_jax.teacher.client import KEY_VARIABLE, Client
from dss_jax.teacher.pace import Pace
from dss_jax.teacher.requests import Request
from dss_jax.teacher.run import OVER, Progress, run
from dss_jax.teacher.store import Store

LINE_S = 30.0
"""Between two lines of progress where no terminal shows a bar."""
MOST_REASONS = 5
UNPRICED = 'requests without a price'
"""The store's note on models that were asked when no price was known."""


class OverLimitError(ConfigError):
  """A limit in dollars or requests stopped a run."""


def main(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after the verb.

  Returns:
    Exit status 0.

  Raises:
    ValueError, OSError: wrong options, a server that refuses, files that cannot be read or written.
    SystemExit: a signal stopped it.
  """
  given = settings(argv)
  store = Store(given.store)
  try:
    _count_money(given, store)
    return _annotate(given, store)
  finally:
    store.close()


def _count_money(given: Settings, store: Store) -> None:
  """Charges what was asked when there was no price, so that the limit holds over all runs.

  Raises:
    ConfigError: there is a limit, and the price of such requests is not known, or their tokens.
  """
  model, price = given.asking.model, given.plan.price
  unknown = store.note(UNPRICED)  # from model to the requests whose cost is not known
  if price is None:
    unknown[model] = 1
  for name in list(unknown) if price else ():
    with contextlib.suppress(ConfigError), store.transaction():
      found = price_of(given.flags, name)
      if found is not None:
        left = store.price(name, found.cost)
        unknown[name] = 0 if found.is_free else left + store.ledger().lost
  unknown = {name: count for name, count in unknown.items() if count}
  with store.transaction():
    store.set_note(UNPRICED, unknown)
  if given.plan.limits.spent is not None and unknown:
    raise ConfigError(
      f'--max_usd cannot hold for {given.store}: it has requests to {", ".join(unknown)} that were '
      'sent without a price, and what they cost is not known. Add the price to --price_file, name '
      'another --store, or leave out --max_usd.'
    )


def _annotate(given: Settings, store: Store) -> int:
  flags = given.flags
  annotator = Annotator(given.asking, store, given.plan.same_prompt)
  if flags.give_up_batch:
    return _give_up_batch(given, store)
  if flags.write_batch:
    return _write_batch(given, store, annotator)
  if flags.read_batch:
    _read_batch(given, store, annotator)
  elif flags.preview:
    return _preview(given, store, annotator)
  else:
    annotator.check(given.sources, given.output)
    try:
      _ask_all(given, store, annotator, given.sources)
    except OverLimitError as error:
      where = ''
      with contextlib.suppress(ConfigError):  # if nothing is answered
        _write(given, store, annotator)
        where = f' What is answered is in {given.output}, for dss prepare --teacher_outputs.'
      raise ConfigError(f'{error}{where}') from error
  print(json.dumps(_write(given, store, annotator)), flush=True)
  if given.prepare is None:
    return 0
  # A process of its own, since only this step needs TensorFlow; it needs no key.
  keys = (given.flags.api_key_env, KEY_VARIABLE)
  environment = {name: value for name, value in os.environ.items() if name not in keys}
  command = [sys.executable, '-m', 'dss_jax', 'prepare', *given.prepare]
  return subprocess.run(command, env=environment).returncode


def _write(given: Settings, store: Store, annotator: Annotator) -> dict[str, Any]:
  """Writes what is answered, and returns the report for programs."""
  has_price, with_rows = given.plan.price is not None, bool(given.flags.input)
  sources = [source.whole() for source in given.sources]  # answers to other splits stay
  total = annotator.write(sources, given.output, has_price, _dialect(given, store), with_rows)
  _say(f'{given.output}: {total.rows} rows; {_counts(total.statuses)}.')
  if total.long:
    _say(f'{total.long} rationales are as long as they came: asking for a shorter one did not help '
         'or was not done yet.')  # fmt: skip
  return {
    'dataset': given.dataset.name,
    'requests': total.requests,
    'tokens': total.tokens._asdict(),
    'usd': dollars(total.charged) if has_price else None,
    'statuses': total.statuses,
    'agreement': round(total.agree / total.judged, 6) if total.judged else None,
  }


# ---------------------------------------------------------------- asking


def _ask_all(given: Settings, store: Store, annotator: Annotator, sources: list[Source]) -> None:
  """Asks about all rows of sources, then what makes long rationales short.

  Raises:
    OverLimitError: a limit stopped it.
    SystemExit: a signal stopped it.
  """
  count = given.asking.samples * sum(1 for source in sources for _ in source.asked())
  questions = _once(map(annotator.requests, sources))
  _report(given, store, _ask(given, store, questions, count))
  if given.asking.words is not None:
    short = list(_once(map(annotator.condensing, sources)))
    _report(given, store, _ask(given, store, short, len(short)))


def _once(parts: Iterable[Iterable[Request]]) -> Iterator[Request]:
  """Requests without those that came before."""
  seen: set[bytes] = set()
  for request in itertools.chain.from_iterable(parts):
    if request.key not in seen:
      seen.add(request.key)
      yield request


def _ask(given: Settings, store: Store, requests: Iterable[Request], total: int) -> Progress:
  """Asks requests, about as many as `total`."""
  flags = given.flags
  progress = Progress()

  async def go() -> None:
    def keep(name: str, instead: str | None) -> None:
      what = f'{instead} is sent instead' if instead else 'it is left out'
      _say(f'{flags.base_url} refuses {name}: {what}.')

    client = Client(
      flags.base_url, flags.api_key_env, flags.timeout, _dialect(given, store), on_dialect=keep
    )
    pace = Pace(flags.concurrency, flags.requests_per_minute, flags.tokens_per_minute)
    async with client:
      shown = asyncio.create_task(_show(progress, total, pace, given))
      try:
        await run(requests, store, client, pace, given.plan, progress)
      finally:
        shown.cancel()
        await asyncio.wait([shown])
        with store.transaction():
          store.set_note(_note(given), client.dialect)

  asyncio.run(go())
  return progress


def _note(given: Settings) -> str:
  return f'dialect {given.flags.base_url} {given.asking.model}'


def _dialect(given: Settings, store: Store) -> dict[str, str | None]:
  """Parameters that the server is known to refuse."""
  return store.note(_note(given))


async def _show(progress: Progress, total: int, pace: Pace, given: Settings) -> None:
  """Shows how far a run is: a bar in a terminal, else a line now and then."""
  next_line = time.monotonic() + LINE_S
  with bars.bar('asking', total) as advance:
    try:
      while True:
        await asyncio.sleep(0.5)
        state = _state(progress, pace, given)
        advance(progress.settled, name=f'asking  {state}')
        if not sys.stderr.isatty() and time.monotonic() > next_line:
          next_line = time.monotonic() + LINE_S
          _say(f'{progress.settled} of {total}: {state}')
    finally:
      advance(progress.settled)


def _state(progress: Progress, pace: Pace, given: Settings) -> str:
  """The running total: money, failures, pace."""
  parts = [f'{pace.in_flight} at once']
  if given.plan.price:
    limit = given.plan.limits.spent
    parts.append(f'${progress.spent / 1e9:.4f}' + (f' of ${dollars(limit)}' if limit else ''))
  if progress.failed:
    parts.append(f'{progress.failed} failed')
  if progress.slowed:
    parts.append(f'slowed {progress.slowed} times')
  if (pause := pace.until - time.monotonic()) > 1:
    parts.append(f'pausing {pause:.0f} s')
  return ', '.join(parts)


def _report(given: Settings, store: Store, progress: Progress) -> None:
  """Says what came of a run; raises if it was stopped."""
  ledger = store.ledger()
  before = f', {progress.before} had an answer' if progress.before else ''
  old = (
    f', {progress.failed_before} failed before (--retry_failed)' if progress.failed_before else ''
  )
  out = f', {progress.in_batch} are in batch files' if progress.in_batch else ''
  if progress.in_batch:
    folders = sorted({str(owners.folder_of(one)) for one in batches.open_folders(store)})
    out += f' (of {", ".join(folders)}: --read_batch, or --give_up_batch if no answers will come)'
  _say(f'{progress.answered} answered{before}{old}{out}, {progress.failed} failed.')
  _say_failures(progress.failures)
  if given.plan.price:
    _say(
      f'${dollars(ledger.spent):.4f} spent in all, {ledger.lost} requests without an answer '
      'counted as charged among it.'
    )
  if progress.stopped == OVER:
    raise OverLimitError(
      f'stopped by --max_usd or --max_requests: ${dollars(ledger.spent):.4f} and {ledger.sent} '
      f'requests are spent by {given.store}, all runs together, and {progress.settled} requests '
      'are settled. Raise the limit and run the same command: nothing is asked again.'
    )
  if progress.stopped is not None:
    _say('stopped; the same command goes on from here.')
    raise SystemExit(128 + int(progress.stopped))


def _say_failures(failures: dict[str, int]) -> None:
  ordered = sorted(failures.items(), key=lambda one: -one[1])
  for reason, count in ordered[:MOST_REASONS]:
    _say(f'  {count} x {reason}')
  if len(ordered) > MOST_REASONS:
    _say(f'  and {len(ordered) - MOST_REASONS} other reasons')


# ---------------------------------------------------------------- preview


def _preview(given: Settings, store: Store, annotator: Annotator) -> int:
  """Asks about a few rows, shows what came, and projects the cost of all."""
  few = _some(given)
  before = store.ledger().spent
  _ask_all(given, store, annotator, few)
  print(preview.prompt_text(next(iter(annotator.requests(few[0])))))
  total, shown = Written(), []
  for source in few:
    for row in source.asked():
      gold = source.dataset.fields(row)[1]
      for completion, reason in annotator.completions(source, row, total) or ():
        right = total.agree
        read = judge(source, row, gold, completion, reason, total)
        is_right = total.agree > right if gold else None
        shown.append(preview.Shown(given.asking.prompt.question(row), gold, read, is_right))
  print(preview.table(shown))
  everything = given.asking.samples * sum(1 for source in given.sources for _ in source.asked())
  cost = total.charged if given.plan.price else None
  if cost is not None:
    _say(f'the preview cost ${dollars(store.ledger().spent - before):.4f}.')
  print(preview.summary(total, len(shown), everything, cost))
  print('Nothing more is asked: leave out --preview to annotate all; these answers are kept.')
  return 0


def _some(given: Settings) -> list[Source]:
  """The sources cut to the rows of a preview."""
  flags = given.flags
  share = max(1, flags.preview // len(given.sources))
  return [source.few(share) for source in given.sources]


# ---------------------------------------------------------------- batch files


def _write_batch(given: Settings, store: Store, annotator: Annotator) -> int:
  flags = given.flags
  folder = pathlib.Path(flags.write_batch).expanduser()
  requests = _once(map(annotator.requests, given.sources))
  dialect = _dialect(given, store)
  most = flags.part or batches.MOST_REQUESTS
  done = batches.write(folder, requests, store, given.plan, dialect, most)
  if given.asking.words is not None:
    short = _once(map(annotator.condensing, given.sources))
    more = batches.write(folder, short, store, given.plan, dialect, most)
    done.parts += more.parts
    done.requests += more.requests
    done.is_over |= more.is_over
  for part in done.parts:
    print(part)
  _say(
    f'{done.requests} requests written; put output and error files into {folder}, then run '
    f'the same command with --read_batch={folder}.'
  )
  if done.is_over:
    raise ConfigError('--max_usd or --max_requests leaves no room for the other requests.')
  return 0


def _read_batch(given: Settings, store: Store, annotator: Annotator) -> None:
  flags = given.flags
  parts = itertools.chain(
    map(annotator.requests, given.sources), map(annotator.condensing, given.sources)
  )
  folder = pathlib.Path(flags.read_batch).expanduser()
  done = batches.read(folder, _once(parts), store, given.plan)
  _say(f'{done.answered} answered, {done.failed} failed, {done.known} were read before.')
  _say_failures(done.failures)
  if done.strangers:
    _say(f'{done.strangers} answers are to other requests: another model, prompt or setting.')
  if done.out:
    _say(f'{done.out} requests of {flags.read_batch} have no answer yet.')


def _give_up_batch(given: Settings, store: Store) -> int:
  folder = pathlib.Path(given.flags.give_up_batch).expanduser()
  count = batches.give_up(folder, store)
  _say(f'{count} requests of {folder} count as charged, and are asked by the next run.')
  return 0


def _counts(counts: dict[str, int]) -> str:
  return ', '.join(f'{name} {count}' for name, count in sorted(counts.items()))


def _say(text: str) -> None:
  print(printable(text), file=sys.stderr, flush=True)
