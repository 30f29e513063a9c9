"""The requests of batch files asked on many machines: an Apache Beam pipeline.

    python -m dss_jax.teacher.beam --input='DIR/requests-*.jsonl' --output=DIR/answers
      --base_url=URL [--requests_per_minute=N --workers=N] [--runner=DataflowRunner ...]

Reads what `dss annotate --write_batch=DIR` wrote, and writes what `--read_batch=DIR` reads: Beam
takes the place of a batch API. So answers of laptop, batch API and Beam come together in one store,
by the key of their request, and under one budget, which was reserved when the files were written.
Run again, it asks what has no line in DIR/answers*.jsonl yet.

Owns: the pipeline. Does not own: one exchange (client.py), the pace (pace.py), the form of a line
(batch_lines.py). Beam's pins contradict ours, so it lives in an environment of its own
(requirements-beam.txt), with this package installed without its dependencies. Nothing else imports
this module.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.options import pipeline_options

from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import batch_lines, pace
from dss_jax.teacher.answers import CHARGED, Answer, Failure
from dss_jax.teacher.client import Client, ForbiddenError
from dss_jax.teacher.requests import Request

AT_ONCE = 16
"""Requests of one worker thread."""
TRIES = 6
"""As of run.py, of what costs nothing: one try is reserved, so no more than one may be charged."""
MOST_FORBIDDEN = 10
"""Requests that a worker may be forbidden before its first answer: then all of them are."""
UNSENT = 'unsent'
"""The pipeline's counter of requests that nobody was asked."""


class Ask(beam.DoFn):
  """Asks lines of a batch file, and yields lines of an output file; an error is a line, too.

  It never fails a bundle: Beam would ask all of it again, and lose what was paid for. What is not
  sent, since the server will answer nothing, has no line.
  """

  def __init__(self, base_url: str, key_variable: str | None, timeout: float, rate: float | None):
    """Args: as of client.Client, and the requests a minute of this worker; None: no limit."""
    self._arguments = (base_url, key_variable, timeout)
    self._rate = rate

  def setup(self) -> None:
    """Opens the connection, on the worker."""
    self._loop = asyncio.new_event_loop()
    self._client = Client(*self._arguments)
    self._loop.run_until_complete(self._client.__aenter__())
    self._pace = pace.Pace(AT_ONCE, requests_per_minute=self._rate)
    self._is_over = False
    self._forbidden = 0
    self._unsent = beam.metrics.Metrics.counter('teacher', UNSENT)

  def teardown(self) -> None:
    """Closes it."""
    self._loop.run_until_complete(self._client.__aexit__())
    self._loop.close()

  def process(self, lines: list[str]) -> Iterator[str]:
    """Asks some lines at once."""
    yield from self._loop.run_until_complete(self._ask_all(lines))

  async def _ask_all(self, lines: list[str]) -> list[str]:
    found = await asyncio.gather(*map(self._answered, lines))
    self._unsent.inc(found.count(None))
    return [line for line in found if line is not None]

  async def _answered(self, line: str) -> str | None:
    values = json.loads(line)
    outcome = await self._ask(batch_lines.request_of(values))
    if outcome is None:
      return None
    written = batch_lines.of_outcome(values['custom_id'], outcome)
    return json.dumps(written, ensure_ascii=False)

  async def _ask(self, request: Request) -> Answer | Failure | None:
    """The outcome of a request; None if it is not sent."""
    tries = 0
    while not self._is_over:
      try:
        outcome = await self._pace.exchange(self._sent, request)
      except ForbiddenError as error:
        self._forbidden += 1
        if self._forbidden < MOST_FORBIDDEN:
          return Failure(str(error), 'refused')
        self._end(error)
        break
      except ConfigError as error:
        self._end(error)
        break
      if isinstance(outcome, Answer):
        return outcome
      tries += outcome.kind != 'limit'
      if outcome.kind in (*CHARGED, 'refused') or tries >= TRIES:
        return outcome
      await asyncio.sleep(max(outcome.wait or 0.0, pace.backoff(max(1, tries))))
    return None

  async def _sent(self, request: Request) -> Answer | Failure:
    """Asks once, unless an error that cannot pass came while the request waited for its turn."""
    if self._is_over:
      raise ConfigError('not sent')
    return await self._client.ask(request)

  def _end(self, error: ConfigError) -> None:
    """The rest is not sent: nothing will be answered."""
    if not self._is_over:
      logging.error('%s', error)
    self._is_over = True


def main(argv: Sequence[str]) -> None:
  """Runs the pipeline; `argv` are its options and those of Beam."""
  parser = argparse.ArgumentParser(prog='python -m dss_jax.teacher.beam', allow_abbrev=False)
  add = parser.add_argument
  add('--input', required=True, help='parts of a batch: local, gs://, with *')
  add('--output', required=True, help='prefix of the output files')
  add('--base_url', required=True)
  add('--api_key_env', help="variable with the key, in the workers' environment")
  add('--timeout', type=float, default=120.0, help='seconds for an answer')
  add('--requests_per_minute', type=float, help='of all workers together')
  add('--workers', type=int, default=1, help='most workers (threads), which share the rate')
  given, rest = parser.parse_known_args(argv)
  unsent = _run(given, pipeline_options.PipelineOptions(rest, save_main_session=False))
  if unsent:
    sys.exit(
      f'{unsent} requests were not sent: the log of the workers says why. The same command goes on '
      'from here.'
    )


def _run(given: argparse.Namespace, options: pipeline_options.PipelineOptions) -> int:
  """Runs the pipeline; returns how many requests were not sent."""
  rate = given.requests_per_minute and given.requests_per_minute / given.workers
  # Beam writes a file of the same name anew: each run has names of its own.
  output = f'{given.output}-{time.strftime("%Y%m%dT%H%M%S")}-{uuid.uuid4().hex[:4]}'
  pipeline = beam.Pipeline(options=options)
  lines = {
    'asked': pipeline | 'requests' >> beam.io.ReadFromText(given.input),
    'done': pipeline | 'done' >> _lines_of(f'{given.output}*.jsonl'),
  }
  named = {name: found | f'{name} by name' >> beam.Map(_named) for name, found in lines.items()}
  _ = (
    named
    | 'join' >> beam.CoGroupByKey()
    | 'open' >> beam.FlatMap(_open)
    | 'spread' >> beam.Reshuffle()
    | 'batch' >> beam.BatchElements(min_batch_size=AT_ONCE, max_batch_size=4 * AT_ONCE)
    | 'ask' >> beam.ParDo(Ask(given.base_url, given.api_key_env, given.timeout, rate))
    | 'write' >> beam.io.WriteToText(output, file_name_suffix='.jsonl')
  )
  result = pipeline.run()
  result.wait_until_finish()
  counters = result.metrics().query(beam.metrics.MetricsFilter().with_name(UNSENT))['counters']
  return sum(one.result for one in counters)


def _lines_of(pattern: str) -> beam.PTransform:
  """The lines of files, of which there may be none."""
  (found,) = filesystems.FileSystems.match([pattern])
  return beam.io.ReadFromText(pattern) if found.metadata_list else beam.Create([])


def _named(line: str) -> tuple[str, str]:
  return json.loads(line)['custom_id'], line


def _open(named: tuple[str, Mapping[str, Iterable[str]]]) -> Iterator[str]:
  """The request of a name, if there is no line about it yet."""
  _, found = named
  if not any(True for _ in found['done']):
    yield from list(found['asked'])[:1]


if __name__ == '__main__':
  os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
  main(sys.argv[1:])
