"""Asking the teacher where the student is unsure.

Owns when it is asked and how often at once, what it may cost, and its answer as a label and a
rationale. Does not own the connection (teacher/client.py) or the format (protocol.py). A teacher
that fails costs nothing but time: the student's answer stands, and the failure is counted.
"""

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax.serving.protocol import Protocol
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher.answers import Answer
from dss_jax.teacher.requests import CAP, Request, Tokens

if TYPE_CHECKING:  # it needs openai, which only a server with a teacher has
  from dss_jax.teacher.client import Client

CAPS = (CAP, 'max_completion_tokens')
"""Names of the most tokens of an answer."""
OWN = ('model', 'messages', 'stream', 'stream_options', 'n')
"""What a chat is sent on without, or in other words."""
log = logging.getLogger(__name__)


class _UnusableError(Exception):
  """There is no answer; says why, in words that may be logged."""


@dataclasses.dataclass(frozen=True)
class Taught:
  """The teacher's answer.

  Attributes:
    text: as it came.
    rationale: read in it.
    label: read in it.
    finish_reason: why it ends; None if the server does not say.
    tokens: None if it does not count them.
  """

  text: str
  rationale: str
  label: str
  finish_reason: str | None = None
  tokens: Tokens | None = None


@dataclasses.dataclass(frozen=True)
class Deferral:
  """When and how the teacher is asked.

  Attributes:
    below: confidence under which it is.
    client: of its server.
    model: the server's name of it.
    protocol: how it is asked and read.
    most: questions that may wait for it at once.
  """

  below: float
  client: 'Client'
  model: str
  protocol: Protocol
  most: int = 256
  _waiting: set[object] = dataclasses.field(default_factory=set)
  _told: set[str] = dataclasses.field(default_factory=set)

  async def ask(self, text: str, chat: Mapping[str, Any] | None = None) -> Taught | None:
    """The teacher's answer to a student's input; None if there is no usable one.

    The first failure of a kind is logged, without a word of the request, the answer or the key.

    Args:
      text: the input.
      chat: the body of a chat request, which is sent on as it came, but for OWN and CAPS; None: the
        prompt asks.
    """
    place = object()
    try:
      if len(self._waiting) >= self.most:
        raise _UnusableError('too many questions wait for it')
      self._waiting.add(place)
      return await self._ask(text, chat)
    except _UnusableError as error:
      kind = str(error)
    except ConfigError as error:  # its message repeats the server's, which may repeat the request
      kind = f'{type(error).__name__}: a wrong key, or no such model'
    except Exception as error:  # whatever a server sends: the student's answer stands
      kind = type(error).__name__
    finally:
      self._waiting.discard(place)
    if kind not in self._told:
      self._told.add(kind)
      log.warning('the teacher failed, so the student answers (%s)', kind)
    return None

  async def _ask(self, text: str, chat: Mapping[str, Any] | None) -> Taught:
    if chat is None:
      answer = await self.client.ask(self._question(text))
    else:
      apart = copy.copy(self.client)  # what is refused of an application's says nothing of ours
      apart.dialect = dict(self.client.dialect)
      answer = await apart.ask(self._sent_on(chat))
    if not isinstance(answer, Answer):
      raise _UnusableError(f'no answer, of the kind {answer.kind!r}')
    read = self.protocol.read(text, answer.text, answer.finish_reason)
    if not read.label:
      raise _UnusableError('an answer without a label that can be read')
    return Taught(answer.text, read.rationale, read.label, answer.finish_reason, answer.tokens)

  def _question(self, text: str) -> Request:
    prompt = self.protocol.prompt
    given: dict[str, Any] = {CAP: prompt.max_tokens, 'temperature': 0.0}
    if prompt.stop:
      given['stop'] = list(prompt.stop)
    return Request(self.model, prompt.chat(self.protocol.question(text)), given)

  def _sent_on(self, chat: Mapping[str, Any]) -> Request:
    """A chat for the teacher, with no more tokens than the prompt allows."""
    most = self.protocol.prompt.max_tokens
    given = {
      name: value for name, value in chat.items() if name not in OWN and value is not None
    }  # fmt: skip
    caps = {name: min(given[name], most) for name in CAPS if name in given} or {CAP: most}
    messages: Sequence[Any] = chat['messages']
    return Request(self.model, messages, given | caps)
