"""One line of a batch file, in the form of OpenAI's Batch API: a request, or what came of it.

Owns both forms and the name of a request in them. Does not own: files and folders (batches.py),
what a body says (answers.py). A worker of beam.py imports this without a store.
"""

import base64
import json
import re
from typing import Any

from dss_jax.settings.errors import ConfigError
from dss_jax.settings.printable import one_line
from dss_jax.teacher import answers
from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.client import INSTEAD, spoken
from dss_jax.teacher.requests import Request

API = '/v1'
_NAME = re.compile(r'([A-Za-z0-9_-]{43})-([0-9a-f]+)')


def name_of(key: bytes, batch: str) -> str:
  """The `custom_id` of a request: 64 letters at most, which every API takes.

  Args:
    key: of the request.
    batch: in which it is asked, hexadecimal; another one if it is asked again.
  """
  return f'{base64.urlsafe_b64encode(key).decode().rstrip("=")}-{batch}'


def parts_of(name: Any, where: str) -> tuple[bytes, str]:
  """The key and the batch in a `custom_id`.

  Raises:
    ConfigError: it is none that `name_of` makes.
  """
  found = _NAME.fullmatch(name) if isinstance(name, str) else None
  if found is None:
    raise ConfigError(
      f'{where}: expected a line of a batch that dss annotate wrote, with its custom_id; got '
      f'{one_line(repr(name), 80)}.'
    )
  return base64.urlsafe_b64decode(f'{found.group(1)}='), found.group(2)


def of_request(request: Request, batch: str, dialect: dict[str, str | None]) -> bytes:
  """The line that asks a request.

  Args:
    request: what is asked.
    batch: as of `name_of`.
    dialect: the server's, as in client.Client.
  """
  line = {
    'custom_id': name_of(request.key, batch),
    'method': 'POST',
    'url': f'{API}{request.path}',
    'body': spoken(request.body(), dialect),
  }
  return f'{json.dumps(line, ensure_ascii=False)}\n'.encode()


def request_of(line: dict[str, Any]) -> Request:
  """The request that a line asks, with its parameters under the names that we know them by."""
  names = {instead: name for name, instead in INSTEAD.items() if instead}
  body = {names.get(name, name): value for name, value in line['body'].items()}
  prompt = body.pop('messages', None) or body.pop('prompt')
  return Request(body.pop('model'), prompt, body)


def of_outcome(name: str, outcome: Answer | Failure) -> dict[str, Any]:
  """What an output file has for a request.

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
    error = {'code': outcome.kind, 'message': outcome.reason, 'usage': usage}
    return {'custom_id': name, 'response': None, 'error': error}
  message = {'content': outcome.text, 'reasoning': outcome.reasoning or None}
  choice = {'index': 0, 'message': message, 'finish_reason': outcome.finish_reason}
  response = {'status_code': 200, 'body': {'choices': [choice], 'usage': usage}}
  return {'custom_id': name, 'response': response, 'error': None}


def outcome_of(line: dict[str, Any]) -> Answer | Failure:
  """What a line of an output or error file says."""
  response, error = line.get('response'), line.get('error')
  status = response.get('status_code') if isinstance(response, dict) else None
  body = response.get('body') if isinstance(response, dict) else None
  if status == 200 and not error:
    return answers.read(body)
  said = answers.error_message(error or body, 'the batch has no answer to it')
  kind, tokens = 'refused', None
  if isinstance(error, dict) and error.get('code') in answers.CHARGED:  # as `of_outcome` has it
    kind, tokens = error['code'], answers.tokens_of(error.get('usage'))
  return Failure(f'HTTP {status}: {said}' if isinstance(status, int) else said, kind, tokens=tokens)
