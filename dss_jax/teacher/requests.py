"""What a teacher is asked: one request, and the two keys by which its answer is kept.

Owns the body that is sent, its keys and the most that it can cost in tokens. Does not own: prompts
(prompts.py), what a server makes of parameters that it does not take (client.py).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CHAT, COMPLETIONS = '/chat/completions', '/completions'
CAP = 'max_tokens'
"""The parameter that every request has: the most tokens of its answer."""
EXTRA_TOKENS = 16
"""Of a message, at most, beside its text: its role and what parts it from the next."""
BYTES_OF_TOKEN = 3
"""Of UTF-8, about; English has 4 to 5, Chinese 3."""

Messages = Sequence[Mapping[str, str]]


class Tokens(NamedTuple):
  """Tokens of a request and its answer; `cached` are those of `input` that were cheaper."""

  input: int
  cached: int
  output: int


@dataclasses.dataclass(frozen=True)
class Request:
  """One question to a teacher.

  Attributes:
    model: the server's name of it.
    prompt: messages of a chat, or the text that a completion goes on from.
    parameters: of sampling, as the API names them; `max_tokens` always.
    sample: which of the K answers to the same question it is, from 0.
  """

  model: str
  prompt: Messages | str
  parameters: Mapping[str, Any]
  sample: int = 0

  @property
  def path(self) -> str:
    """Where it is sent, below the server's address."""
    return COMPLETIONS if isinstance(self.prompt, str) else CHAT

  @property
  def cap(self) -> int:
    """The most tokens that its answer may have."""
    return self.parameters[CAP]

  def body(self) -> dict[str, Any]:
    """What is sent, as the API's documentation names it."""
    field = 'prompt' if isinstance(self.prompt, str) else 'messages'
    return {'model': self.model, field: self.prompt, **self.parameters}

  @functools.cached_property
  def key(self) -> bytes:
    """A hash of all that decides the answer: model, prompt, parameters, sample."""
    return _hash(self.model, self._asked, self.parameters, self.sample)

  @functools.cached_property
  def same(self) -> bytes:
    """A hash of the prompt, input included, and the sample: the same whatever else changes."""
    return _hash(self._asked, self.sample)

  @functools.cached_property
  def _asked(self) -> str:
    """A hash of the prompt, which is long."""
    return _hash(self.prompt).hex()

  def worst_tokens(self) -> Tokens:
    """The most tokens that it can be charged for: no token has less than a byte."""
    texts = [self.prompt] if isinstance(self.prompt, str) else _texts(self.prompt)
    size = sum(len(text.encode()) for text in texts)
    size += len(json.dumps(dict(self.parameters)))  # a schema is part of what the model reads
    return Tokens(size + EXTRA_TOKENS * (len(texts) + 1), 0, self.cap)

  def likely_tokens(self) -> int:
    """About as many as a provider counts against a limit of tokens a minute: input and cap."""
    return self.worst_tokens().input // BYTES_OF_TOKEN + self.cap


def _texts(messages: Messages) -> list[str]:
  return [text for message in messages for text in message.values()]


def _hash(*parts: Any) -> bytes:
  text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(',', ':'))
  return hashlib.sha256(text.encode()).digest()
