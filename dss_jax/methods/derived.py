"""Fields of a template that are made of a source example's own fields: an open table by name.

A derived field is a pure function of texts. `compute` calls it on a batch of source examples; what
is random in it depends on an example's number alone, so that a run can be repeated. The fields of
our own are registered at the end. To add one, make one call in the module that
MIXTURE_OR_TASK_MODULE names:

    from dss_jax import methods

    def last_sentence(columns, ids):
      return [text.rstrip('.').rpartition('. ')[2] for text in columns['rationale']]

    methods.derived.register('last_sentence', ['rationale'], last_sentence)

Does not own tensors (tasks/preprocessors.py) or the metric that says whether a label is right.
"""

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence

Columns = Mapping[str, Sequence[str]]
Function = Callable[[Columns, Sequence[int]], Sequence[str]]

VERDICT, RIGHT, WRONG = 'verdict', 'right', 'wrong'
SEPARATOR = '</s>'
"""Between the parts of an input: a word of its own here."""
NOISE_SHARE, NOISE_SPAN, SENTINELS = 0.15, 3.0, 100


@dataclasses.dataclass(frozen=True)
class Derived:
  """A derived field.

  Attributes:
    name: by which templates know it. A source that has a field of this name takes precedence.
    needs: the fields that it is made of; in `columns`, `label` is the gold one.
    function: (columns, ids) -> texts. columns: each needed field's texts, one for each of n
      examples; ids: their numbers in the split. Returns n texts; a blank one makes no row.
  """

  name: str
  needs: tuple[str, ...]
  function: Function


_table: dict[str, Derived] = {}


def register(name: str, needs: Sequence[str], function: Function) -> Derived:
  """Adds a derived field to the table and returns it; see `Derived`.

  Raises:
    ValueError: the name is taken, or no name.
  """
  field = Derived(name, tuple(needs), function)
  if not name.isidentifier() or name == VERDICT or _table.setdefault(name, field) != field:
    raise ValueError(f'{name!r} is no name or another field has it; choose another name.')
  return field


def is_derived(name: str) -> bool:
  """Whether a field is made of others."""
  return name == VERDICT or name in _table


def sources_of(names: Collection[str]) -> frozenset[str]:
  """The fields of a source that these fields are, or are made of."""
  needs = {name: ('label', 'teacher_label') if name == VERDICT else _table[name].needs
           for name in names if is_derived(name)}  # fmt: skip
  below = (sources_of(needed) for needed in needs.values())
  return frozenset(names).difference(needs).union(*below)


def compute(
  names: Sequence[str],
  sources: Columns,
  ids: Sequence[int],
  is_right: Callable[[str, str], bool],
) -> list[list[str]]:
  """The texts of derived fields.

  Args:
    names: of the fields.
    sources: texts of all fields in `sources_of(names)`, n each.
    ids: n numbers of the examples.
    is_right: whether (gold label, teacher's label) agree, by the metric of the data set.

  Returns:
    For each name n texts. `verdict` says of the teacher's label 'right' or 'wrong', and is blank
    where either label is.

  Raises:
    ValueError: a function does not return n texts.
  """
  columns = dict(sources)

  def column(name: str) -> Sequence[str]:
    if name not in columns and name == VERDICT:
      labels = zip(columns['label'], columns['teacher_label'], strict=True)
      columns[name] = [_verdict(gold, said, is_right) for gold, said in labels]
    elif name not in columns:
      field = _table[name]
      texts = list(field.function({need: column(need) for need in field.needs}, ids))
      if len(texts) != len(ids) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
          f'the derived field {name!r} returns one text for each of {len(ids)} examples; got '
          f'{len(texts)} of {sorted({type(text).__name__ for text in texts})}.'
        )
      columns[name] = texts
    return columns[name]

  return [list(column(name)) for name in names]


def _verdict(gold: str, said: str, is_right: Callable[[str, str], bool]) -> str:
  if not gold.strip() or not said.strip():
    return ''
  return RIGHT if is_right(gold, said) else WRONG


# ---------------------------------------------------------------- our own


def other_rationale(columns: Columns, ids: Sequence[int]) -> list[str]:
  """The rationale of the example half a batch away; blank where there is no other one.

  Examples without a rationale are passed over. Neighbours are not taken: in e-SNLI they share a
  premise.
  """
  del ids
  texts = columns['rationale']
  said = [at for at, text in enumerate(texts) if text.strip()]
  others = [''] * len(texts)
  if len(said) > 1:
    for number, at in enumerate(said):
      others[at] = texts[said[(number + len(said) // 2) % len(said)]]
  return others


def shuffled_rationale(columns: Columns, ids: Sequence[int]) -> list[str]:
  """The words of the rationale in random order."""
  return [
    ' '.join(_shuffled(text.split(), random.Random(number)))
    for text, number in zip(columns['rationale'], ids, strict=True)
  ]


def first_half(columns: Columns, ids: Sequence[int]) -> list[str]:
  """The first half of the rationale's words, the middle one included."""
  del ids
  words = [text.split() for text in columns['rationale']]
  return [' '.join(each[: (len(each) + 1) // 2]) for each in words]


def cue_words(columns: Columns, ids: Sequence[int]) -> list[str]:
  """The rationale's words without function words and punctuation, each once, in their order."""
  del ids
  found = (re.findall(r"\w+(?:[.,'-]\w+)*", text) for text in columns['rationale'])
  return [' '.join(_first_of_each(words)) for words in found]


def corrupted_input(columns: Columns, ids: Sequence[int]) -> list[str]:
  """The input with 15 % of its words replaced by sentinels, one for each span."""
  return [_corrupted(text, number)[0] for text, number in zip(columns['input'], ids, strict=True)]


def missing_spans(columns: Columns, ids: Sequence[int]) -> list[str]:
  """What `corrupted_input` lacks: each sentinel with its words; blank for an input of one word."""
  return [_corrupted(text, number)[1] for text, number in zip(columns['input'], ids, strict=True)]


def noise_mask(length: int, drawn: random.Random) -> list[bool]:
  """Which of `length` words are noise: 15 % in spans of 3 on average; the first one never is.

  Source: Raffel et al. 2020, section 3.1.4; T5's `random_spans_noise_mask`.
  """
  if length < 2:
    return [False] * length
  noise = min(max(round(length * NOISE_SHARE), 1), length - 1)
  spans = min(max(round(noise / NOISE_SPAN), 1), length - noise, SENTINELS)
  kept_lengths, noise_lengths = (_segments(n, spans, drawn) for n in (length - noise, noise))
  return [
    is_noise
    for lengths in zip(kept_lengths, noise_lengths, strict=True)
    for is_noise, count in zip((False, True), lengths, strict=True)
    for _ in range(count)
  ]


def _segments(items: int, segments: int, drawn: random.Random) -> list[int]:
  """Random lengths of `segments` segments, none empty, that add up to `items`."""
  starts = _shuffled([at < segments - 1 for at in range(items - 1)], drawn)
  cuts = [0, *(at for at, is_start in enumerate(starts, start=1) if is_start), items]
  return [end - start for start, end in itertools.pairwise(cuts)]


def _corrupted(text: str, number: int) -> tuple[str, str]:
  """The text with sentinels in the place of its noise, and the noise, each span after its own.

  White space becomes single spaces, as in a SentencePiece vocabulary.
  """
  words = text.replace(SEPARATOR, f' {SEPARATOR} ').split()
  kept: list[str] = []
  missing: list[str] = []
  spans, before = 0, False
  for word, is_noise in zip(words, noise_mask(len(words), random.Random(number)), strict=True):
    if is_noise and not before:
      sentinel, spans = f'<extra_id_{spans}>', spans + 1
      kept.append(sentinel)
      missing.append(sentinel)
    (missing if is_noise else kept).append(word)
    before = is_noise
  return ' '.join(kept), ' '.join(missing)


def _shuffled(items: list, drawn: random.Random) -> list:
  # Only `random()` is promised to stay the same in all versions of Python.
  return sorted(items, key=lambda _: drawn.random())


def _first_of_each(words: Sequence[str]) -> list[str]:
  first: dict[str, str] = {}
  for word in words:
    first.setdefault(word.lower(), word)
  return [word for key, word in first.items() if key not in FUNCTION_WORDS]


FUNCTION_WORDS = frozenset(
  """
  a about above after again against all also am an and another any are aren't as at be because been
  before being below between both but by can can't cannot could couldn't did didn't do does doesn't
  doing don't down during each either else ever every few for from further had hadn't has hasn't
  have haven't having he hence her here hers herself him himself his how however i i'm if in into is
  isn't it it's its itself just may me might mine more most must my myself neither no nor not of off
  on once only onto or other others our ours ourselves out over own per quite rather same shall she
  should shouldn't since so some such than that that's the their theirs them themselves then there
  there's therefore these they this those though through thus to too toward towards under until up
  upon us very was wasn't we were weren't what when where whether which while who whom whose why
  will with within without won't would wouldn't yet you your yours yourself yourselves
  """.split()  # noqa: SIM905
)

for _function, _needs in (
  (other_rationale, 'rationale'),
  (shuffled_rationale, 'rationale'),
  (first_half, 'rationale'),
  (cue_words, 'rationale'),
  (corrupted_input, 'input'),
  (missing_spans, 'input'),
):
  register(_function.__name__, [_needs], _function)
