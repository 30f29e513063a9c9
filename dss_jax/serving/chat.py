"""A chat of OpenAI's protocol whose assistant is the student.

Owns the form of the answer, whole and in chunks. Does not own what the student writes in the
teacher's place (protocol.py) or its events (service.py).
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from dss_jax.serving.bodies import Chat
from dss_jax.serving.engine import End, Piece
from dss_jax.serving.protocol import Protocol
from dss_jax.serving.refusals import RefusedError
from dss_jax.serving.service import Event, Labelled

DONE = b'data: [DONE]\n\n'
_SCHEMA = ('rationale', 'answer')


class Asked(NamedTuple):
  """The student's input in a chat, and whether the answer is JSON of rationale and answer."""

  text: str
  is_json: bool


def asked(chat: Chat, protocol: Protocol, needs: Sequence[str], has_teacher: bool) -> Asked:
  """The question of a chat: its last message of a user's.

  Args:
    chat: the request.
    protocol: its format.
    needs: fields that the student needs besides the input.
    has_teacher: whether what a student does not read may be for the teacher behind it.

  Raises:
    RefusedError: there is none, the answer is wanted in another form, or a student cannot read it.
  """
  if needs:
    raise RefusedError(
      422, f'this student needs the field {needs[0]!r} besides the input, which a chat does not '
      'have: ask /predict.'
    )  # fmt: skip
  messages = [message for message in chat.messages if message.role == 'user']
  if not messages or not messages[-1].text.strip():
    raise RefusedError(422, "expected a message of the role 'user' with some text.")
  if not (has_teacher or messages[-1].is_text):
    raise RefusedError(422, "a student reads text: expected parts of the type 'text' alone.")
  return Asked(protocol.input(messages[-1].text), _is_json(chat.response_format))


class Reply:
  """The answer to a chat."""

  def __init__(self, chat: Chat, question: Asked, protocol: Protocol):
    """Args: the chat, its question, and the format of the answer."""
    self._chat, self._asked, self._protocol = chat, question, protocol
    self._id, self._created = f'chatcmpl-{uuid.uuid4().hex}', int(time.time())
    self._sent = ''

  async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
    """The answer as one object."""
    labelled: Labelled | None = None
    end: End | None = None
    async for event in events:
      labelled = event if isinstance(event, Labelled) else labelled
      end = event if isinstance(event, End) else end
    assert labelled is not None and end is not None
    message = {'role': 'assistant', 'content': self._content(labelled, end)}
    choice = {
      'index': 0, 'message': message, 'logprobs': None, 'finish_reason': end.finish_reason
    }  # fmt: skip
    return {**self._head('chat.completion'), 'choices': [choice], 'usage': _usage(end)}

  async def chunks(self, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """The answer as server-sent events."""
    labelled: Labelled | None = None
    async for event in events:
      if isinstance(event, Labelled):
        labelled = event
        yield self._chunk({'role': 'assistant', 'content': ''})
      elif isinstance(event, Piece) and self._grows(labelled):
        piece = event.text if self._sent else event.text.lstrip()  # as the whole content begins
        if piece:
          self._sent += piece
          yield self._chunk({'content': piece})
      elif isinstance(event, End):
        assert labelled is not None
        yield self._chunk({'content': self._content(labelled, event).removeprefix(self._sent)})
        yield self._chunk({}, finish=event.finish_reason)
        options = self._chat.stream_options
        if options is not None and options.include_usage:
          head = self._head('chat.completion.chunk')
          yield _event({**head, 'choices': [], 'usage': _usage(event)})
    yield DONE

  def _grows(self, labelled: Labelled | None) -> bool:
    """Whether pieces of the rationale are the start of the content."""
    own = labelled is not None and labelled.taught is None
    return own and self._protocol.starts_with_rationale and not self._asked.is_json

  def _content(self, labelled: Labelled, end: End) -> str:
    if labelled.taught is not None:
      return labelled.taught.text
    text = self._asked.text
    if self._asked.is_json:
      answer = self._protocol.answer(text, labelled.label)
      return json.dumps({'rationale': end.rationale or '', 'answer': answer})
    return self._protocol.completion(text, end.rationale, labelled.label)

  def _chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {'index': 0, 'delta': delta, 'logprobs': None, 'finish_reason': finish}
    return _event({**self._head('chat.completion.chunk'), 'choices': [choice]})

  def _head(self, kind: str) -> dict[str, Any]:
    return {
      'id': self._id, 'object': kind, 'created': self._created, 'model': self._chat.model
    }  # fmt: skip


def _event(value: Any) -> bytes:
  return f'data: {json.dumps(value)}\n\n'.encode()


def _usage(end: End) -> dict[str, int] | None:
  """Tokens of who answers; None where a teacher's server does not count them."""
  given, written = end.input_tokens, end.output_tokens
  if given is None or written is None:
    return None
  return {
    'prompt_tokens': given, 'completion_tokens': written, 'total_tokens': given + written
  }  # fmt: skip


def _is_json(form: dict[str, Any] | None) -> bool:
  """Whether an answer is wanted as JSON, in the schema of `dss annotate --schema`."""
  if form is None or form.get('type') == 'text':
    return False
  schema = form.get('json_schema')
  schema = schema.get('schema') if isinstance(schema, dict) else None
  properties = schema.get('properties') if isinstance(schema, dict) else None
  if not isinstance(properties, dict) or set(properties) != set(_SCHEMA):
    raise RefusedError(
      422, 'a student answers in text, or in the JSON schema of `dss annotate --schema`: expected '
      "response_format of the type 'text' or a schema of rationale and answer."
    )  # fmt: skip
  return True
