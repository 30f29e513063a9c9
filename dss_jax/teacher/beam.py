"""The requests of batch files asked on many machines: an Apache Beam pipeline.

    python -m dss_jax.teacher.beam --input='DIR/requests-*.jsonl' --output=DIR/answers
      --base_url=URL [--requests_per_minute=N --workers=N] [--runner=DataflowRunner ...]

Reads what `dss annotate --write_batch=DIR` wrote, and writes what `--read_batch=DIR` reads: Beam
takes the place of a batch API. So answers of laptop, batch API and Beam come together in one store,
by the key of their request, and under one budget, which was reserved when the files were written.

Owns: the pipeline. Does not own: one exchange (client.py), the pace (pace.py), the form of the
files (batches.py). Beam's pins contradict ours, so it lives in an environment of its own
(requirements-beam.txt), with this package installed without its dependencies. Nothing else imports
this module.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options import pipeline_options

from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import pace
from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.client import Client
from dss_jax.teacher.requests import Request

AT_ONCE = 16
"""Requests of one worker thread."""
TRIES = 6
"""As of run.py, which keeps answers where Beam has no store."""


class Ask(beam.DoFn):
  """Asks lines of a batch file, and yields lines of an output file; an error is a line, too.

  It never fails a bundle: Beam would ask all of it again, and lose what was paid for.
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
    self._over: str | None = None

  def teardown(self) -> None:
    """Closes it."""
    self._loop.run_until_complete(self._client.__aexit__())
    self._loop.close()

  def process(self, lines: list[str]) -> Iterator[str]:
    """Asks some lines at once."""
    yield from self._loop.run_until_complete(self._ask_all(lines))

  async def _ask_all(self, lines: list[str]) -> list[str]:
    return list(await asyncio.gather(*map(self._answered, lines)))

  async def _answered(self, line: str) -> str:
    values = json.loads(line)
    body = values['body']
    prompt = body.pop('messages', None) or body.pop('prompt')
    request = Request(body.pop('model'), prompt, body)
    try:
      outcome = await self._ask(request)
    except ConfigError as error:
      self._over = str(error)  # nothing will be answered: the rest is not sent
      outcome = Failure(self._over, 'refused')
    return json.dumps(line_of(values['custom_id'], outcome), ensure_ascii=False)

  async def _ask(self, request: Request) -> Answer | Failure:
    tries = 0
    while True:
      if self._over is not None:
        return Failure(self._over, 'refused')
      outcome = await self._pace.exchange(self._client.ask, request)
      tries += not isinstance(outcome, Answer) and outcome.kind != 'limit'
      if isinstance(outcome, Answer) or outcome.kind in ('final', 'refused') or tries >= TRIES:
        return outcome
      if outcome.wait is None:
        await asyncio.sleep(pace.backoff(max(1, tries)))


def line_of(name: str, outcome: Answer | Failure) -> dict[str, Any]:
  """What an output file of OpenAI's Batch API has for a request.

  Args:
    name: the request's custom_id.
    outcome: its answer, or why it has none.
  """
  usage = outcome.tokens and {
    'prompt_tokens': outcome.tokens.input,
    'completion_tokens': outcome.tokens.output,
    'prompt_tokens_details': {'cached_tokens': outcome.tokens.cached},
  }
  if isinstance(outcome, Failure):
    error = {'code': outcome.kind, 'message': outcome.reason}
    return {'custom_id': name, 'response': None, 'error': error}
  message = {'content': outcome.text, 'reasoning': outcome.reasoning or None}
  choice = {'index': 0, 'message': message, 'finish_reason': outcome.finish_reason}
  response = {'status_code': 200, 'body': {'choices': [choice], 'usage': usage}}
  return {'custom_id': name, 'response': response, 'error': None}


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
  rate = given.requests_per_minute and given.requests_per_minute / given.workers
  options = pipeline_options.PipelineOptions(rest, save_main_session=False)
  with beam.Pipeline(options=options) as pipeline:
    _ = (
      pipeline
      | 'read' >> beam.io.ReadFromText(given.input)
      | 'spread' >> beam.Reshuffle()
      | 'batch' >> beam.BatchElements(min_batch_size=AT_ONCE, max_batch_size=4 * AT_ONCE)
      | 'ask' >> beam.ParDo(Ask(given.base_url, given.api_key_env, given.timeout, rate))
      | 'write' >> beam.io.WriteToText(given.output, file_name_suffix='.jsonl')
    )


if __name__ == '__main__':
  os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')
  main(sys.argv[1:])
