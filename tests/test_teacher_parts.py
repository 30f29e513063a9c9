"""The parts of the teacher by themselves: keys, answers, prices, pace, the store."""

import asyncio
import time
import types
from email import utils as mail

import httpx2
import pytest

from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import answers, client, commits, pace, prices, store
from dss_jax.teacher.answers import Answer, Failure
from dss_jax.teacher.requests import Request, Tokens

CHAT = [{'role': 'user', 'content': 'Why?'}]
REQUEST = Request('m', CHAT, {'max_tokens': 10})


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
  'other, is_same',
  [
    (Request('m', CHAT, {'max_tokens': 11}), True),
    (Request('n', CHAT, {'max_tokens': 10}), True),
    (Request('m', CHAT, {'max_tokens': 10}, sample=1), False),
    (Request('m', [{'role': 'user', 'content': 'Why not?'}], {'max_tokens': 10}), False),
    (Request('m', 'Why?', {'max_tokens': 10}), False),
  ],
)
def test_each_thing_that_decides_the_answer_is_in_the_key(other, is_same):
  assert other.key != REQUEST.key and (other.same == REQUEST.same) == is_same


def test_a_key_does_not_depend_on_the_order_of_parameters_or_on_the_process():
  one = Request('m', 'ä', {'max_tokens': 1, 'temperature': 0.0})
  two = Request('m', 'ä', {'temperature': 0.0, 'max_tokens': 1})
  assert two.key == one.key and one.key.hex().startswith('854fe8c7e93197ad')


def test_no_tokenizer_makes_more_tokens_than_the_worst_case():
  text = 'Zwölf 桃 \U0001f351'
  assert Request('m', text, {'max_tokens': 7}).worst_tokens() == (len(text.encode()) + 49, 0, 7)


def test_what_a_model_reads_beside_the_prompt_is_in_the_worst_case():
  schema = {'type': 'json_schema', 'json_schema': {'description': 'x' * 1000}}
  wide = Request('m', 'Why?', {'max_tokens': 7, 'response_format': schema})
  assert (
    wide.worst_tokens().input > Request('m', 'Why?', {'max_tokens': 7}).worst_tokens().input + 1000
  )


# ---------------------------------------------------------------- answers


def body(message=None, finish='stop', **more):
  choice = {'finish_reason': finish, 'message': message if message is not None else {}}
  return {'choices': [choice], **more}


@pytest.mark.parametrize(
  'message, text, reasoning',
  [
    ({'content': 'Yes.'}, 'Yes.', ''),
    ({'content': 'Yes.', 'reasoning': ' Hm. '}, 'Yes.', 'Hm.'),
    ({'content': 'Yes.', 'reasoning_content': 'Hm.'}, 'Yes.', 'Hm.'),
    ({'content': '<think>\nHm.\n</think>\n\nYes.'}, 'Yes.', 'Hm.'),
    ({'content': 'Hm.</think>Yes.'}, 'Yes.', 'Hm.'),
    ({'content': [{'type': 'text', 'text': 'Y'}, {'text': 'es.'}]}, 'Yes.', ''),
    ({'content': 'Y\0es\ud800.'}, 'Yes?.', ''),
  ],
)
def test_text_and_reasoning_are_found_wherever_servers_put_them(message, text, reasoning):
  assert answers.read(body(message)) == Answer(text, reasoning, 'stop')


@pytest.mark.parametrize(
  'given, kind, reason',
  [
    ([], 'broken', 'no JSON object'),
    ({'choices': None}, 'broken', 'no choices'),
    ({'choices': [7]}, 'broken', 'no choices'),
    (body({'content': None}), 'final', 'no text (finish_reason stop)'),
    (body({'content': '<think>Hm'}, 'length'), 'final', 'within the reasoning; raise --max_tokens'),
    (body({'content': ''}, 'content_filter'), 'final', 'content filter'),
    (body({'refusal': 'No.'}), 'final', 'refusal: No.'),
    (body({'content': 5}, finish=3), 'final', 'no text'),
    (body({'content': 'Ye'}, finish='abort'), 'broken', 'broken off: finish_reason abort'),
    (body({'content': 'Ye'}, finish='error'), 'broken', 'broken off: finish_reason error'),
    ({'error': {'code': 429, 'message': 'Slow down.'}}, 'limit', 'Slow down.'),
    ({'error': {'message': 'Upstream is gone.'}}, 'broken', 'Upstream is gone.'),
  ],
)
def test_what_is_no_answer_is_a_failure_with_its_reason(given, kind, reason):
  failure = answers.read(given)
  assert isinstance(failure, Failure) and failure.kind == kind and reason in failure.reason


@pytest.mark.parametrize('finish', ['model_length', 'max_tokens', 'MAX_TOKENS', 'length'])
def test_an_answer_at_the_cap_says_so_in_one_way(finish):
  assert answers.read(body({'content': 'Ye'}, finish)).finish_reason == 'length'


@pytest.mark.parametrize(
  'usage, tokens',
  [
    # A thought that is charged, and is not among completion_tokens.
    ({'prompt_tokens': 9, 'completion_tokens': 3, 'total_tokens': 40}, Tokens(9, 0, 31)),
    ({'prompt_tokens': 0, 'completion_tokens': 0}, None),
    ({'prompt_tokens': 9, 'completion_tokens': 3}, Tokens(9, 0, 3)),
    (
      {'prompt_tokens': 9, 'completion_tokens': 3, 'prompt_tokens_details': {'cached_tokens': 8}},
      Tokens(9, 8, 3),
    ),
    ({'prompt_tokens': 9, 'completion_tokens': 3, 'prompt_cache_hit_tokens': 20}, Tokens(9, 9, 3)),
    ({'prompt_tokens': -9, 'completion_tokens': 3}, None),
    ({'prompt_tokens': True, 'completion_tokens': 3}, None),
    ({'prompt_tokens': 1e300, 'completion_tokens': 3}, None),
    ('many', None),
  ],
)
def test_tokens_are_what_a_server_can_have_counted(usage, tokens):
  assert answers.read(body({'content': 'x'}, usage=usage)).tokens == tokens


@pytest.mark.parametrize(
  'headers, wait',
  [
    ({'retry-after': '7'}, 7.0),
    ({'retry-after-ms': '250', 'retry-after': '1'}, 0.25),
    ({'retry-after': '-1'}, 0.0),
    ({'retry-after': '1e9'}, client.MAX_WAIT),
    ({'retry-after': 'nan'}, None),
    ({'retry-after': 'soon'}, None),
    ({}, None),
  ],
)
def test_retry_after_is_read(headers, wait):
  assert client._wait(httpx2.Headers(headers)) == wait


def test_retry_after_may_be_a_date():
  date = mail.formatdate(time.time() + 100, usegmt=True)
  assert 98 <= client._wait(httpx2.Headers({'retry-after': date})) <= 100


def test_the_date_of_retry_after_is_compared_with_the_servers_clock():
  headers = {
    name: mail.formatdate(at, usegmt=True) for name, at in (('date', 1e9), ('retry-after', 1e9 + 7))
  }
  assert client._wait(httpx2.Headers(headers)) == 7


# ---------------------------------------------------------------- money


def test_a_price_counts_cached_input_apart_and_rounds_up():
  price = prices.Price(input=0.4, output=1.6, cached_input=0.1)
  assert price.cost(Tokens(1000, 600, 50)) == 400 * 400 + 600 * 100 + 50 * 1600
  assert prices.Price(input=0.0001, output=0).cost(Tokens(1, 0, 0)) == 1
  assert price.worst(REQUEST) == (len('userWhy?{"max_tokens": 10}') + 48) * 400 + 10 * 1600


@pytest.mark.parametrize(
  'content, message',
  [
    ('{}', "has no 'm'"),
    ('{"m": 3}', 'expected the fields of Price'),
    ('{"m": {"input": 1}}', "'output' of Price is missing"),
    ('{"m": {"input": -1, "output": 1}}', 'input is dollars per million tokens'),
    ('{"m": {"input": "1", "output": 1}}', 'Price.input'),
    ('{', 'not JSON'),
  ],
)
def test_a_wrong_price_file_is_one_sentence(tmp_path, content, message):
  (tmp_path / 'prices.json').write_text(content)
  with pytest.raises(ConfigError, match=message):
    prices.load(str(tmp_path / 'prices.json'), 'm')


def test_prices_of_a_package_are_those_of_the_provider_that_is_asked():
  pytest.importorskip('genai_prices')
  price = prices.known('gpt-4.1-mini', 'https://api.openai.com/v1')
  assert price == prices.Price(input=0.4, output=1.6, cached_input=0.1)
  assert prices.known('gpt-4.1-mini', 'http://localhost:8000/v1') is None
  assert prices.known('no-such-model', 'https://api.openai.com/v1') is None


# ---------------------------------------------------------------- pace


def test_a_refusal_lowers_the_pace_by_a_quarter_once_a_round_trip():
  one = pace.Pace(most=32)
  one.answered()
  assert one.limit == 32
  sent = time.monotonic()
  for _ in range(20):
    one.refused(sent, None)
  assert one.limit == 24
  one.refused(time.monotonic(), None)
  assert one.limit == 18 and one.until > time.monotonic()  # the second in a row: all pause


def test_the_pace_rises_by_one_after_as_many_answers_as_are_in_flight():
  one = pace.Pace(most=32)
  one.answered()
  one.limit = 10.0
  for _ in range(10):
    one.answered()
  assert 10.9 < one.limit < 11
  for _ in range(2000):
    one.answered()
  assert one.limit == 32


class Clock(asyncio.SelectorEventLoop):
  """A loop whose time passes only while everything in it waits."""

  now = 0.0

  def time(self):
    return self.now

  def _run_once(self):
    if not self._ready and self._scheduled:
      self.now = max(self.now, self._scheduled[0].when() + 1e-6)
    super()._run_once()


@pytest.fixture
def waited(monkeypatch):
  """Runs a coroutine, and returns the seconds of its own clock that it took."""

  def run(coroutine):
    async def timed():
      loop = asyncio.get_running_loop()
      monkeypatch.setattr(pace, 'time', types.SimpleNamespace(monotonic=loop.time))
      await coroutine
      return loop.time()

    with asyncio.Runner(loop_factory=Clock) as runner:
      return runner.run(timed())

  return run


def test_requests_a_minute_are_never_passed(waited):
  async def ask(count):
    one = pace.Pace(8, requests_per_minute=1200)
    for _ in range(count):
      await one.turn(1)

  assert waited(ask(42)) == pytest.approx(2, abs=0.06)  # 20 a second, and two at the start


def test_tokens_a_minute_are_never_passed_even_by_one_large_request(waited):
  one = pace.Pace(8, tokens_per_minute=60_000)  # 10,000 at once, then 1,000 a second
  assert waited(one.turn(10_400)) == pytest.approx(0.4, abs=0.01)


def test_a_pause_that_a_server_asks_for_holds_every_request(waited):
  async def ask():
    one = pace.Pace(8)
    one.refused(0.0, 7.0)
    await asyncio.gather(*(one.turn(1) for _ in range(5)))

  assert waited(ask()) == pytest.approx(7, abs=0.01)


@pytest.mark.parametrize('kind, limit', [('lost', 24), ('network', 24), ('refused', 32)])
def test_no_answer_in_time_lowers_the_pace_too(kind, limit):
  async def ask(request):
    return Failure('x', kind)

  one = pace.Pace(most=32)
  one.answered()
  asyncio.run(one.exchange(ask, REQUEST))
  assert one.limit == limit


# ---------------------------------------------------------------- the store


@pytest.fixture
def kept(tmp_path):
  one = store.Store(tmp_path / 'store.sqlite')
  yield one
  one.close()


def test_a_claim_reserves_and_is_settled_by_what_was_charged(kept):
  with kept.transaction():
    assert kept.claim(REQUEST, 50, store.Limits(spent=60)) == 'claimed'
    assert kept.claim(REQUEST, 50, store.NO_LIMITS) == 'elsewhere'
    other = Request('m', 'other', {'max_tokens': 1})
    assert kept.claim(other, 11, store.Limits(spent=60)) == 'refused'
    assert kept.claim(other, 1, store.Limits(sent=1)) == 'refused'
  assert kept.ledger() == (0, 50, 0, 1, 0)
  with kept.transaction():
    kept.answered(REQUEST.key, Answer('Yes.', 'Hm.', 'stop', Tokens(3, 1, 2)), 20)
  assert kept.ledger() == (20, 0, 1, 0, 0)
  found = kept.find(REQUEST)
  assert found.answer == Answer('Yes.', 'Hm.', 'stop', Tokens(3, 1, 2)) and found.model == 'm'


def test_a_change_that_fails_leaves_nothing(kept):
  with pytest.raises(ZeroDivisionError), kept.transaction():
    kept.claim(REQUEST, 50, store.NO_LIMITS)
    raise ZeroDivisionError
  assert kept.ledger() == (0, 0, 0, 0, 0) and kept.find(REQUEST) is None


def test_an_answer_to_a_claim_that_another_process_has_settled_is_charged_too(kept):
  with kept.transaction():
    kept.claim(REQUEST, 50, store.NO_LIMITS)
    kept.answered(REQUEST.key, Answer('First.'), 20)
    kept.answered(REQUEST.key, Answer('Second.'), 20)
    assert not kept.lost(REQUEST.key, 5, store.NO_LIMITS)
  assert kept.ledger() == (45, 0, 3, 0, 1) and kept.find(REQUEST).answer.text == 'First.'


def test_one_change_that_fails_does_not_undo_those_written_with_it(kept):
  def fails():
    kept.claim(REQUEST, 50, store.NO_LIMITS)
    raise ZeroDivisionError

  async def together():
    async with commits.Commits(kept) as change:
      other = Request('m', 'other', {'max_tokens': 1})
      changes = (change(fails), change(kept.claim, other, 7, store.NO_LIMITS))
      return await asyncio.gather(*changes, return_exceptions=True)

  error, verdict = asyncio.run(together())
  assert isinstance(error, ZeroDivisionError) and verdict == 'claimed'
  assert kept.ledger() == (0, 7, 0, 1, 0) and kept.find(REQUEST) is None


@pytest.mark.parametrize('end', ['release', 'lost', 'end_claims'])
def test_a_failure_that_is_asked_again_in_vain_is_a_failure_again(kept, end):
  with kept.transaction():
    kept.claim(REQUEST, 50, store.NO_LIMITS)
    kept.failed(REQUEST.key, 'refused', 20, None)
    assert kept.claim(REQUEST, 50, store.NO_LIMITS) == 'failed'
    assert kept.claim(REQUEST, 50, store.NO_LIMITS, retry_failed=True) == 'claimed'
    if end == 'release':
      kept.release([REQUEST.key])
    elif end == 'lost':
      kept.lost(REQUEST.key, 50, store.Limits(sent=1))
    else:
      kept.end_claims(kept.owner)
    assert kept.claim(REQUEST, 50, store.NO_LIMITS) == 'failed'
  assert kept.find(REQUEST).failure == 'refused'
  assert (kept.ledger().reserved, kept.ledger().open) == (0, 0)


def test_a_file_that_is_no_store_is_one_sentence(tmp_path):
  path = tmp_path / 'store.sqlite'
  path.write_text('These are notes of mine, and no database at all. ' * 100)
  with pytest.raises(ValueError, match='is no store of answers'):
    store.Store(path)


def test_a_store_of_another_version_is_not_touched(kept, tmp_path):
  kept._sql.execute('PRAGMA user_version = 9')
  with pytest.raises(ValueError, match='form 9'):
    store.Store(kept.path)
