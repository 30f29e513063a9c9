"""From rows of a data set to requests, and from answers back to completions as a parser reads them.

Owns the parameters of a request, the schema of a structured answer, what becomes of a chain of
reasoning: which text is the rationale, and the request that makes a long one short. Does not own:
prompts (prompts.py), how a completion is read (reading.py).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax.datasets.teacher_outputs import TeacherOutput
from dss_jax.teacher import reading
from dss_jax.teacher.answers import Answer
from dss_jax.teacher.prompts import Exemplar, Prompt
from dss_jax.teacher.requests import CAP, Request

SOURCES = ('content', 'reasoning')
"""Where a rationale may come from: the text of the answer, or what a model thought before it."""
TOKENS_OF_WORD = 4
"""At most, for the cap of a rationale that is made short."""
SCHEMA = {
  'type': 'json_schema',
  'json_schema': {
    'name': 'answer',
    'strict': True,
    'schema': {
      'type': 'object',
      'properties': {
        'rationale': {'type': 'string', 'description': 'why, in the style of the examples'},
        'answer': {
          'type': 'string',
          'description': 'what follows the rationale in the examples, without the words before it',
        },
      },
      'required': ['rationale', 'answer'],
      'additionalProperties': False,
    },
  },
}
_CONDENSE = (
  'Shorten the reasoning to at most {words} words. Keep only the steps that lead to its answer, as '
  'plain sentences. Do not repeat the question and do not state the final answer.'
)
_SENTENCE = re.compile(r'(?<=[.!?])\s+')

Parse = Callable[[str], TeacherOutput]


@dataclasses.dataclass(frozen=True)
class Asking:
  """How a teacher is asked.

  Attributes:
    model: the server's name of it.
    prompt: exemplars and question.
    parameters: of sampling, as the API names them, `max_tokens` among them.
    is_chat: messages, or one text that a completion goes on from.
    samples: answers to each question.
    source: of the rationale, one of SOURCES.
    words: a rationale with more is made short by a second request; None: it is kept.
  """

  model: str
  prompt: Prompt
  parameters: Mapping[str, Any]
  is_chat: bool = True
  samples: int = 1
  source: str = SOURCES[0]
  words: int | None = None

  def requests(self, row: Mapping[str, Any]) -> list[Request]:
    """The K requests about a row."""
    question = self.prompt.question(row)
    form = self.prompt.chat if self.is_chat else self.prompt.text
    return [Request(self.model, form(question), self.parameters, k) for k in range(self.samples)]

  def condensing(self, row: Mapping[str, Any], answer: Answer, parse: Parse) -> Request | None:
    """The request that makes an answer's rationale short; None if it is, or there is none."""
    if self.words is None:
      return None
    chain, end = self._parts(answer, parse)
    if not end or len(chain.split()) <= self.words:
      return None
    asked = f'{self.prompt.question(row)}\n\nReasoning:\n{chain}\n\nAnswer:{end}'
    text = f'{_CONDENSE.format(words=self.words)}\n\n{asked}'
    form = [{'role': 'user', 'content': text}] if self.is_chat else f'{text}\n\nShort reasoning:'
    left_out = ('stop', 'response_format')
    kept = {name: value for name, value in self.parameters.items() if name not in left_out}
    cap = max(self.words * TOKENS_OF_WORD, self.parameters[CAP] if answer.reasoning else 0)
    return Request(self.model, form, {**kept, CAP: cap})

  def is_shorter(self, short: Answer, answer: Answer, parse: Parse) -> bool:
    """Whether the answer to `condensing` can stand for a rationale: whole, shorter, no refusal."""
    chain, _ = self._parts(answer, parse)
    whole = short.finish_reason in (None, 'stop')
    fewer = 0 < len(short.text.split()) < len(chain.split())
    return whole and fewer and not reading.refuses(short.text)

  def completion(self, answer: Answer, parse: Parse, short: str | None = None) -> str:
    """An answer as the data set's parser reads it: the rationale, then the answer.

    Args:
      answer: the teacher's.
      parse: the data set's parser for the row that was asked about.
      short: the rationale that was made short, if it was.

    Returns:
      The text as it came if its own rationale is wanted, or if no answer can be read from it.
    """
    text = self._plain(answer.text)
    if self.source == SOURCES[0] and short is None:
      return text
    chain, end = self._parts(answer, parse)
    if not end or not chain:
      return text
    put_together = _without_answers(short or chain, parse) + end
    wanted, found = reading.read(text, parse), reading.read(put_together, parse)
    return put_together if found.rationale and found.label == wanted.label else text

  def _parts(self, answer: Answer, parse: Parse) -> tuple[str, str]:
    """The rationale's text and what follows it: white space and the answer, '' if there is none."""
    text = self._plain(answer.text)
    read = reading.read(text, parse, answer.finish_reason)
    if not read.label:
      return '', ''
    texts = (text, text.replace('**', ''))
    whole = next((one for one in texts if read.rationale in one), '')
    _, _, end = (
      whole.partition(read.rationale) if read.rationale else ('', '', f' {whole.lstrip()}')
    )
    chain = answer.reasoning if self.source == SOURCES[1] and answer.reasoning else read.rationale
    return chain, end

  def _plain(self, text: str) -> str:
    """The text of an answer; that of a structured one in the form of the prompt's examples."""
    if 'response_format' not in self.parameters:
      return text
    try:
      parts = json.loads(text)
      rationale, answer = parts['rationale'], parts['answer']
    except (ValueError, TypeError, KeyError, RecursionError):
      return text
    if not isinstance(rationale, str) or not isinstance(answer, str):
      return text
    return self.prompt.written(Exemplar({}, rationale.strip(), answer.strip()))


def _without_answers(chain: str, parse: Parse) -> str:
  """A chain of reasoning as one line, without sentences that a parser would take for the answer."""
  sentences = _SENTENCE.split(' '.join(chain.split()))
  # Only where a parser finds the start of an answer is there a rationale before it.
  return ' '.join(one for one in sentences if not parse(f'So: {one}').rationale)
