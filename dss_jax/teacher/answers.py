"""What a server answers: the text, the reasoning beside it, the tokens; or why there is none.

Owns reading the body of an answer, online or in a batch file. Whatever a server sends, it is read
or is a Failure with one sentence. Does not own: HTTP (client.py), rationale and label (reading.py).
"""

import dataclasses
import re
from typing import Any, NamedTuple

from dss_jax.settings.printable import one_line
from dss_jax.teacher.requests import Tokens

MAX_MESSAGE = 300
MOST_TOKENS = 10**9
CHARGED = ('lost', 'broken', 'final')
"""Kinds of failures of a try that may be charged; nobody charges for the others."""
_FAILED = ('error', 'abort', 'cancelled')
_CUT = ('model_length', 'max_tokens', 'MAX_TOKENS')
_THOUGHT = re.compile(r'\s*(?:<think>)?(.*?)</think>\s*', re.DOTALL)


class Answer(NamedTuple):
  """What a teacher wrote.

  Attributes:
    text: without the reasoning.
    reasoning: of a model that thinks first; '' otherwise.
    finish_reason: as the server has it: 'stop', 'length'; None if it does not say.
    tokens: None if the server does not count them.
  """

  text: str
  reasoning: str = ''
  finish_reason: str | None = None
  tokens: Tokens | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why a request has no answer.

  Attributes:
    reason: one sentence.
    kind: 'limit' (asked too fast; costs nothing, tried for ever), 'server' (its error; costs
      nothing), 'network' (it was never sent), 'lost' (sent, perhaps answered and charged), 'broken'
      (an answer that cannot be read), 'refused' (the server does not take it, and charges nothing),
      'final' (an answer without text; as with 'refused', the same request would fail again).
    wait: seconds that the server asks to wait, if it does.
    tokens: what was charged, if the server says.
  """

  reason: str
  kind: str
  wait: float | None = None
  tokens: Tokens | None = None


def read(body: Any, secret: str = '') -> Answer | Failure:
  """The answer in the parsed JSON of a response.

  Args:
    body: of chat or completions; anything that JSON can hold.
    secret: see `error_message`.
  """
  if not isinstance(body, dict):
    return Failure('the answer is no JSON object', 'broken')
  tokens = tokens_of(body.get('usage'))
  choices = body.get('choices')
  if body.get('error') and not choices:  # of a gateway, with HTTP status 200
    said = error_message(body, 'an error without a message', secret)
    return Failure(said, 'limit' if _is_limit(body['error']) else 'broken', tokens=tokens)
  if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
    return Failure('the answer has no choices', 'broken', tokens=tokens)
  choice = choices[0]
  message = choice.get('message')
  message = message if isinstance(message, dict) else {'content': choice.get('text')}
  finish = choice.get('finish_reason')
  finish = one_line(finish, 40) if isinstance(finish, str) else None
  if choice.get('error') or finish in _FAILED:
    said = error_message(choice.get('error'), f'finish_reason {finish}', secret)
    return Failure(f'the answer was broken off: {said}', 'broken', tokens=tokens)
  finish = 'length' if finish in _CUT else finish
  text, reasoning = _without_thought(_text(message.get('content')))
  reasoning = _text(message.get('reasoning') or message.get('reasoning_content')) or reasoning
  if refusal := _text(message.get('refusal')):
    return Failure(
      f'refusal: {one_line(hidden(refusal, secret), MAX_MESSAGE)}', 'final', tokens=tokens
    )
  if not text.strip():
    return Failure(_why_empty(finish, reasoning), 'final', tokens=tokens)
  return Answer(text, reasoning.strip(), finish, tokens)


def error_message(body: Any, default: str, secret: str = '') -> str:
  """What the server says in the parsed JSON of an error, one line; `default` if it says nothing.

  Args:
    body: of the response.
    default: what is said otherwise.
    secret: what servers repeat and nobody should read; taken out before the text is cut.
  """
  error = body.get('error', body) if isinstance(body, dict) else body
  if isinstance(error, dict):
    error = error.get('message') or error.get('detail') or error.get('code')
  text = error if isinstance(error, str) and error.strip() else default
  return one_line(hidden(text.strip(), secret), MAX_MESSAGE)


def hidden(text: str, secret: str) -> str:
  """A text without a secret."""
  return text.replace(secret, '***') if secret else text


def _is_limit(error: Any) -> bool:
  code = error.get('code') if isinstance(error, dict) else None
  return code in (429, '429', 'rate_limit_exceeded')


def _why_empty(finish: str | None, reasoning: str) -> str:
  if finish == 'length':
    where = ' within the reasoning' if reasoning else ''
    return f'no text: the answer reached the output cap{where}; raise --max_tokens'
  if finish == 'content_filter':
    return "no text: the server's content filter took it"
  return f'no text{f" (finish_reason {finish})" if finish else ""}'


def _without_thought(text: str) -> tuple[str, str]:
  """A text without the `<think>` it opens with, and what stood there.

  Some servers put the opening tag into the prompt; a thought that is cut off has no closing one.
  """
  if '</think>' in text:
    thought = _THOUGHT.match(text)
    if thought:
      return text[thought.end() :], thought.group(1)
  if text.lstrip().startswith('<think>'):
    return '', text.lstrip().removeprefix('<think>')
  return text, ''


def _text(value: Any) -> str:
  """A text, or the texts of a list of parts, without what is no character."""
  if isinstance(value, list):
    parts = [part.get('text') for part in value if isinstance(part, dict)]
    value = ''.join(part for part in parts if isinstance(part, str))
  if not isinstance(value, str):
    return ''
  return value.replace('\0', '').encode('utf-8', 'replace').decode()


def tokens_of(usage: Any) -> Tokens | None:
  """The tokens in the `usage` of a response; None if it does not count them."""
  if not isinstance(usage, dict):
    return None
  given, written = _count(usage.get('prompt_tokens')), _count(usage.get('completion_tokens'))
  if given is None or written is None or given + written == 0:
    return None
  # Some servers leave what a model thought out of completion_tokens, and charge for it.
  total = _count(usage.get('total_tokens'))
  written = max(written, (total or 0) - given)
  details = usage.get('prompt_tokens_details')
  cached = details.get('cached_tokens') if isinstance(details, dict) else None
  cached = usage.get('prompt_cache_hit_tokens') if cached is None else cached
  return Tokens(given, min(_count(cached) or 0, given), written)


def _count(value: Any) -> int | None:
  return value if type(value) is int and 0 <= value < MOST_TOKENS else None
