"""What is asked and answered over HTTP, as OpenAPI describes it. Owns the shapes, nothing more."""

from typing import Annotated, Any, Literal

import pydantic

Text = Annotated[str, pydantic.Field(min_length=1, pattern=r'\S')]
Count = Annotated[int, pydantic.Field(strict=True, ge=1)]
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]


class Question(pydantic.BaseModel):
  """A question to the student."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  input: Text = pydantic.Field(description='without prefix; its parts joined by </s>')
  fields: dict[str, str] = pydantic.Field(
    {}, description="other fields that the student's method needs, such as `rationale`"
  )
  rationale: bool = pydantic.Field(False, description='whether the rationale is wanted')
  scores: bool = pydantic.Field(True, description='whether those of the candidate labels are')
  stream: bool = pydantic.Field(False, description='label, rationale, end as server-sent events')


class Prediction(pydantic.BaseModel):
  """What is answered."""

  label: str = pydantic.Field(description="the student's label, or the teacher's in its place")
  confidence: float = pydantic.Field(
    ge=0, le=1, description='the probability of what the student wrote, up to the end of its label'
  )
  scores: dict[str, float] | None = pydantic.Field(
    description='the probability of each candidate label; null where the set is open'
  )
  rationale: str | None = pydantic.Field(description='null if it was not asked for or not learned')
  truncated: bool = pydantic.Field(
    description='whether the input was longer than the student reads'
  )
  answered_by: Literal['student', 'teacher']
  student_label: str


class Part(pydantic.BaseModel):
  """A part of a message."""

  type: str = 'text'
  text: str = ''


class Message(pydantic.BaseModel):
  """A message of a chat."""

  role: str
  content: str | list[Part] | None = None

  @property
  def text(self) -> str:
    """What it says."""
    if isinstance(self.content, list):
      return ''.join(part.text for part in self.content if part.type == 'text')
    return self.content or ''

  @property
  def is_text(self) -> bool:
    """Whether it has no parts but text."""
    parts = self.content if isinstance(self.content, list) else []
    return all(part.type == 'text' for part in parts)


class StreamOptions(pydantic.BaseModel):
  """Of a chat that is streamed."""

  include_usage: bool | None = None


class Chat(pydantic.BaseModel):
  """A chat as OpenAI's protocol has it.

  A student has no use for most parameters; their types are checked for the teacher behind it.
  """

  model_config = pydantic.ConfigDict(extra='allow')

  model: str
  messages: list[Message] = pydantic.Field(min_length=1)
  stream: bool | None = False
  stream_options: StreamOptions | None = None
  n: Literal[1] | None = None
  response_format: dict[str, Any] | None = None
  max_tokens: Count | None = None
  max_completion_tokens: Count | None = None
  temperature: Number | None = None
  top_p: Number | None = None
  frequency_penalty: Number | None = None
  presence_penalty: Number | None = None
  seed: Annotated[int, pydantic.Field(strict=True)] | None = None
  stop: str | list[str] | None = None


class Error(pydantic.BaseModel):
  """Why a request has no answer."""

  message: str
  type: str
  code: str | None = None


class ErrorBody(pydantic.BaseModel):
  """An error as OpenAI's protocol has it."""

  error: Error
