"""The routes: a student's answers, the state of the server, the page.

Owns what each path answers. Does not own what every request passes first (gate.py), the way of a
question (service.py), the teacher's format (chat.py, protocol.py) or the process (server.py).
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dss_jax.serving import bodies, chat, meters
from dss_jax.serving.batcher import DrainingError, QueueFullError
from dss_jax.serving.engine import End, Piece, Work
from dss_jax.serving.protocol import Protocol
from dss_jax.serving.refusals import RefusedError
from dss_jax.serving.service import Event, FailedError, Labelled, Service

PAGE = pathlib.Path(__file__).with_name('page.html')
DRAINING = 'the server is stopping; ask another one.'
LONG = 4096
"""Letters whose tokens take about a millisecond."""
_SSE = {'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'}
_GONE = 499
"""What is counted where the client did not wait for its answer."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
  status: {'model': bodies.ErrorBody, 'description': text}
  for status, text in {
    400: 'no JSON object', 401: 'no key, or a wrong one', 408: 'the body did not come',
    413: 'the body is too large', 415: 'the body is no JSON', 422: 'the question cannot be asked',
    429: 'too many wait: come back after Retry-After', 500: 'the server failed',
    503: 'not ready, or stopping',
  }.items()
}  # fmt: skip
_ANSWERS = {**_REFUSALS, 200: {'content': {'text/event-stream': {}}}}
T = TypeVar('T')


def make(service: Service, protocol: Protocol, about: Mapping[str, Any], state: Callable[[], str]):
  """The application.

  Args:
    service: answers questions.
    protocol: the format of chats.
    about: what the page shows of the student, with its examples.
    state: '' once questions can be asked, else why not.
  """
  app = fastapi.FastAPI(title='dss serve', docs_url=None, redoc_url=None, version='1')
  _add_errors(app)
  _add_state(app, service, about, state)

  @app.post('/predict', responses=_ANSWERS, response_model=bodies.Prediction)
  async def predict(question: bodies.Question, request: fastapi.Request) -> Response:
    """The label of an input, and its rationale and scores if they are wanted."""
    fields = {**question.fields, 'input': question.input}
    work = await _work(service, fields, question.rationale, question.scores, question.stream)
    events = service.events(work, question.input)
    if question.stream:
      return await _streamed(request, _predict_events(events, question.rationale), events)
    return JSONResponse(await _unless_gone(request, _prediction(events, question.rationale)))

  @app.post('/v1/chat/completions', responses=_ANSWERS)
  async def chat_completions(body: bodies.Chat, request: fastapi.Request) -> Response:
    """The student in the teacher's place: its rationale and label in the teacher's format."""
    question = chat.asked(body, protocol, service.engine.needs, service.deferral is not None)
    work = await _work(service, {'input': question.text}, True, False, bool(body.stream))
    events = service.events(work, question.text, await request.json())
    reply = chat.Reply(body, question, protocol)
    if body.stream:
      return await _streamed(request, reply.chunks(events), events)
    return JSONResponse(await _unless_gone(request, reply.whole(events)))

  return app


def _add_state(
  app: fastapi.FastAPI, service: Service, about: Mapping[str, Any], state: Callable[[], str]
) -> None:
  """The paths that ask the student nothing."""
  page = PAGE.read_text(encoding='utf-8')
  policy = {'Content-Security-Policy': _policy(page), 'X-Content-Type-Options': 'nosniff'}
  unauthorized: dict[int | str, dict[str, Any]] = {401: _REFUSALS[401]}

  @app.get('/', response_class=HTMLResponse, include_in_schema=False)
  async def show_page() -> Response:
    return HTMLResponse(page, headers=policy)

  @app.get('/health')
  async def health() -> dict[str, str]:
    """The process lives."""
    return {'status': 'ok'}

  @app.get('/ready', responses={503: _REFUSALS[503]})
  async def ready() -> dict[str, str]:
    """All shapes are compiled, and the server does not stop."""
    if reason := state():
      raise RefusedError(503, reason)
    return {'status': 'ready'}

  @app.get('/student', responses=unauthorized)
  async def student() -> dict[str, Any]:
    """What the page shows: the student, and examples with the teacher's stored answers."""
    return dict(about)

  @app.get('/v1/models', responses=unauthorized)
  async def models() -> dict[str, Any]:
    """The student, as OpenAI's protocol lists models."""
    one = {'id': about['name'], 'object': 'model', 'created': 0, 'owned_by': 'dss_jax'}
    return {'object': 'list', 'data': [one]}

  @app.get('/metrics', include_in_schema=False)
  async def metrics() -> Response:
    service.meters.waiting.set(service.batcher.waiting)
    return Response(service.meters.text(), media_type=meters.CONTENT_TYPE)


def _add_errors(app: fastapi.FastAPI) -> None:
  """Every refusal has a status and one sentence."""

  async def refused(request: fastapi.Request, error: Exception) -> Response:
    found = _refusal(error)
    return JSONResponse(found.content, status_code=found.status, headers=dict(found.headers))

  for kind in (
    RefusedError, RequestValidationError, HTTPException, QueueFullError, DrainingError, FailedError
  ):  # fmt: skip
    app.add_exception_handler(kind, refused)


def _refusal(error: Exception) -> RefusedError:
  if isinstance(error, RefusedError):
    return error
  if isinstance(error, QueueFullError):
    return RefusedError(429, 'too many requests wait for an answer: ask again a little later.')
  if isinstance(error, DrainingError):
    return RefusedError(503, DRAINING)
  if isinstance(error, HTTPException):
    return RefusedError(error.status_code, f'{error.detail}; see /openapi.json.')
  if isinstance(error, RequestValidationError):
    return RefusedError(422, _first_problem(error.errors()))
  return RefusedError(500, str(error) if isinstance(error, FailedError) else 'the server failed.')


def _first_problem(errors: Sequence[Any]) -> str:
  """One sentence on what is wrong with a body; no value of it is repeated."""
  first = errors[0]
  place = '.'.join(str(part) for part in first['loc'][1:])
  return f'field {place!r}: {first["msg"]}.' if place else f'the body: {first["msg"]}.'


async def _work(service: Service, fields: Mapping[str, str], *wanted: bool) -> Work:
  """A question with whether rationale, scores and pieces are wanted; long ones off the loop."""
  try:
    if sum(map(len, fields.values())) <= LONG:
      return service.engine.work(fields, *wanted)
    return await asyncio.to_thread(service.engine.work, fields, *wanted)
  except ValueError as error:
    raise RefusedError(422, str(error)) from error


# ---------------------------------------------------------------- answers, whole or as they come


async def _prediction(events: AsyncIterator[Event], rationale: bool) -> dict[str, Any]:
  answer: dict[str, Any] = {}
  async for event in events:
    if isinstance(event, Labelled):
      answer = _labelled(event)
    elif isinstance(event, End):
      answer['rationale'] = event.rationale if rationale else None
  return answer


async def _predict_events(events: AsyncIterator[Event], rationale: bool) -> AsyncIterator[bytes]:
  """`label`, `rationale` for each piece, and `end`."""
  async for event in events:
    if isinstance(event, Labelled):
      yield _sse('label', _labelled(event))
    elif isinstance(event, Piece) and rationale:
      yield _sse('rationale', {'text': event.text})
    elif isinstance(event, End):
      yield _sse('end', {'rationale': event.rationale if rationale else None})


def _labelled(event: Labelled) -> dict[str, Any]:
  return {
    'label': event.label,
    'confidence': event.student.confidence,
    'scores': event.student.scores,
    'truncated': event.student.truncated,
    'answered_by': 'student' if event.taught is None else 'teacher',
    'student_label': event.student.label,
  }


def _sse(name: str, value: Any) -> bytes:
  return f'event: {name}\ndata: {json.dumps(value)}\n\n'.encode()


async def _streamed(request: fastapi.Request, parts: AsyncIterator[bytes], events: Any) -> Response:
  """A response of parts; the first one is there, so that a refusal still has its status."""

  async def begin() -> bytes:
    return await anext(parts)

  first = await _unless_gone(request, begin())

  async def all_parts() -> AsyncIterator[bytes]:
    async with contextlib.aclosing(events):
      yield first
      try:
        async for part in parts:
          yield part
      except FailedError as error:
        yield _sse('error', _refusal(error).content)

  return StreamingResponse(all_parts(), media_type='text/event-stream', headers=_SSE)


async def _unless_gone(request: fastapi.Request, answer: Coroutine[Any, Any, T]) -> T:
  """An answer, or its end as soon as the client is gone."""
  task, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_disconnected(request))
  try:
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
      raise RefusedError(_GONE, 'the client is gone.')
    return task.result()
  finally:
    for one in (task, gone):
      one.cancel()
    await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: fastapi.Request) -> None:
  while (await request.receive())['type'] != 'http.disconnect':
    pass


def _policy(page: str) -> str:
  """The page's own style and script by their hashes, this server, and nothing else."""
  hashes = {
    kind: base64.b64encode(
      hashlib.sha256(re.findall(f'<{kind}>(.*?)</{kind}>', page, re.DOTALL)[0].encode()).digest()
    ).decode()
    for kind in ('style', 'script')
  }
  return (
    f"default-src 'none'; style-src 'sha256-{hashes['style']}'; connect-src 'self'; "
    f"script-src 'sha256-{hashes['script']}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
  )
