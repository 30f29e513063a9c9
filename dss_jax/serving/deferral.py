"""Asking the teacher where the student is unsure.

Owns when it is asked, and its answer as a label and a rationale. Does not own the connection
(teacher/client.py) or the format (protocol.py). A teacher that fails costs nothing but time: the
student's answer stands, and the failure is counted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax.serving.protocol import Protocol
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher.answers import Answer
from dss_jax.teacher.client import Client
from dss_jax.teacher.requests import CAP, Request

SENT_ON = (CAP, 'max_completion_tokens', 'temperature', 'top_p', 'stop', 'seed', 'response_format')
"""Parameters of a chat that the teacher gets too."""


@dataclasses.dataclass(frozen=True)
class Taught:
  """The teacher's answer: its text as it came, and what was read in it."""

  text: str
  rationale: str
  label: str


@dataclasses.dataclass(frozen=True)
class Deferral:
  """When and how the teacher is asked.

  Attributes:
    below: confidence under which it is.
    client: of its server.
    model: the server's name of it; None: as the application names it.
    protocol: how it is asked and read.
  """

  below: float
  client: Client
  model: str | None
  protocol: Protocol

  async def ask(self, text: str, chat: Mapping[str, Any] | None = None) -> Taught | None:
    """The teacher's answer to a student's input; None if there is no usable one.

    Args:
      text: the input.
      chat: the body of a chat request, which is sent on as it came; None: the prompt asks.
    """
    try:
      answer = await self.client.ask(self._request(text, chat))
    except ConfigError:  # a wrong key, an unknown model
      return None
    if not isinstance(answer, Answer):
      return None
    read = self.protocol.read(text, answer.text, answer.finish_reason)
    return Taught(answer.text, read.rationale, read.label) if read.label else None

  def _request(self, text: str, chat: Mapping[str, Any] | None) -> Request:
    prompt = self.protocol.prompt
    if chat is None:
      messages: Sequence[Mapping[str, Any]] = prompt.chat(self.protocol.question(text))
      given: dict[str, Any] = {CAP: prompt.max_tokens, 'temperature': 0.0}
      return Request(self.model or '', messages, given | _stops(prompt.stop))
    given = {name: chat[name] for name in SENT_ON if chat.get(name) is not None}
    if 'max_completion_tokens' not in given:
      given.setdefault(CAP, prompt.max_tokens)
    return Request(self.model or str(chat['model']), chat['messages'], given)


def _stops(stops: Sequence[str]) -> dict[str, Any]:
  return {'stop': list(stops)} if stops else {}
