"""A method as data: the rows that an example becomes, its loss, and how the student is asked.

Owns the types and the parsing of templates. A run stores its method in its config.json, so its
folder alone tells how to ask the student. Does not own the table of methods (registry.py), the text
of rows as tensors (tasks/preprocessors.py) or the loss itself (training/losses.py).

A template is text with fields in braces: `[label] {input}`. Fields are those of a source example:
`input`, `label` (gold or the teacher's, see `Method.label_source`), `rationale` (the teacher's),
any others that a data set's source provides, and those that are made of these (derived.py).
"""

import dataclasses
import math
import string
from collections.abc import Mapping, Sequence

from dss_jax.methods import derived
from dss_jax.methods.choices import Choices

LABEL_SOURCES = ('gold', 'teacher')
Weight = float | tuple[tuple[float, float], ...]
"""A number, or points (fraction of TRAIN_STEPS, number) with straight lines between them."""
KINDS = ('tokens', 'choices', 'perturbed', 'agreement')
"""Of loss terms: the mean token loss of a task's rows, and those over all rows of an example:

  choices    cross-entropy over an example's choices, one row each, scored by the mean log
             probability of their tokens; on data without choices, the mean token loss
  perturbed  the same after the rationale in the input was hidden or changed (training/perturbation)
  agreement  how far the second row's prediction is from the first's (training/group_losses)
"""


@dataclasses.dataclass(frozen=True)
class Row:
  """One training row: what the student reads and what it is to write.

  Attributes:
    task: the loss term that the row's target tokens belong to. Any name is allowed.
    input: template of the encoder's text.
    target: template of the decoder's text. If it has several fields, an output is split at the
      texts between them (`parse`), so they must not be blank.
    weight_if_wrong: loss weight of the row's target tokens where the teacher's label is not the
      gold one; all other rows have 1. With 0 there is no such row.
    each_choice: whether a row is made for every choice of an example, with the choice as `{label}`
      and the right one first, on data sets that have choices. An answer of this kind is the
      likeliest choice rather than what is decoded.
  """

  task: str
  input: str
  target: str
  weight_if_wrong: float = 1.0
  each_choice: bool = False

  def __post_init__(self):
    if not 0.0 <= self.weight_if_wrong < math.inf:
      raise ValueError(
        f'Row {self.task!r}: weight_if_wrong is at least 0, not {self.weight_if_wrong}.'
      )
    for template in (self.input, self.target):
      if not fields_of(template):
        raise ValueError(f'Row {self.task!r}: the template {template!r} has no {{field}}.')
    between = [text for text, name in pieces(self.target)[1:] if name]
    if any(not text.strip() for text in between):
      raise ValueError(
        f'Row {self.task!r}: the target {self.target!r} needs text between its fields, at which an '
        "output is split, e.g. '{rationale} [label] {label}'."
      )
    if self.each_choice and (not self.is_label_alone or 'label' in fields_of(self.input)):
      raise ValueError(
        f"Row {self.task!r}: a row for each choice has the target '{{label}}' and no label in its "
        f'input, not {self.input!r} -> {self.target!r}.'
      )

  @property
  def has_label(self) -> bool:
    """Whether the label is part of what the student writes."""
    return 'label' in fields_of(self.target)

  @property
  def is_label_alone(self) -> bool:
    """Whether the label is all that the student writes."""
    return self.target == '{label}'

  @property
  def fields(self) -> frozenset[str]:
    """The fields of both templates."""
    return fields_of(self.input) | fields_of(self.target)

  @property
  def sources(self) -> frozenset[str]:
    """The fields of a source that the row is made of."""
    judged = {derived.VERDICT} if self.weight_if_wrong != 1.0 else set()
    return derived.sources_of(self.fields | judged)

  def parse(self, output: str) -> dict[str, str]:
    """The target's fields in what a student wrote; '' for a missing field.

    If the target is a single field, the field is the output, unchanged. Otherwise an output is
    split at the texts between the target's fields, in their order. At a missing text, the rest of
    the output belongs to the field before it.
    """
    parts = pieces(self.target)
    if len(parts) == 1 and not parts[0][0]:
      return {parts[0][1]: output}
    fields = dict.fromkeys(fields_of(self.target), '')
    rest = output.strip().removeprefix(parts[0][0].strip())
    for (_, name), (text, _) in zip(parts, [*parts[1:], ('', '')], strict=True):
      value, separator, rest = rest.partition(text.strip()) if text.strip() else (rest, '', '')
      if name:
        fields[name] = value.strip()
      if not separator:
        break
    return fields


@dataclasses.dataclass(frozen=True)
class Term:
  """One term of the loss: `weight` times a mean over the batch.

  Attributes:
    task: whose rows' tokens are averaged over; of another kind than 'tokens', a name for the log.
    weight: at least 0.
    kind: what is averaged, one of KINDS.
    smoothing: of 'choices' and 'perturbed': probability in [0, 1) that is spread evenly over all
      choices, or over all tokens where there are none.
  """

  task: str
  weight: Weight = 1.0
  kind: str = 'tokens'
  smoothing: float = 0.0

  def __post_init__(self):
    check_weight(self.weight, f'the loss weight of {self.task!r}')
    if self.kind not in KINDS:
      raise ValueError(f'the kind of the loss {self.task!r} is one of {KINDS}, not {self.kind!r}.')
    if not 0.0 <= self.smoothing < 1.0:
      raise ValueError(f'the smoothing of {self.task!r} is in [0, 1), not {self.smoothing}.')


@dataclasses.dataclass(frozen=True)
class Method:
  """How a student learns from one source example, and how it is asked: a complete method.

  Attributes:
    name: of the method, and the end of its SeqIO names: data set `svamp` and method `dss` make
      `svamp_dss`.
    summary: one phrase for the model card.
    rows: what a source example becomes, at most one row per task. If an example has K rationales,
      a row that needs `rationale` is made K times.
    loss: the terms; every task of `rows` has one.
    answer: the row that asks for the label, often but not necessarily one of `rows`.
    source: where it is from: paper and equation.
    label_source: whose label `{label}` is in training, 'gold' or 'teacher'. Scores always compare
      with the gold one.
    paired: whether all rows of an example are in one batch, and in one packed row if they fit.
      Otherwise the tasks are drawn independently, as in a SeqIO mixture of equal rates.
  """

  name: str
  summary: str = dataclasses.field(compare=False)  # prose may be mended later
  rows: tuple[Row, ...]
  loss: tuple[Term, ...]
  answer: Row
  label_source: str = 'gold'
  paired: bool = False
  source: str = dataclasses.field(default='', compare=False)

  def __post_init__(self):
    if not self.name.replace('_', '').isalnum():
      raise ValueError(
        f'the name of a method has letters, digits and underscores, not {self.name!r}.'
      )
    if self.label_source not in LABEL_SOURCES:
      raise ValueError(
        f'Method {self.name}: label_source is one of {LABEL_SOURCES}, not {self.label_source!r}.'
      )
    rows, terms = [row.task for row in self.rows], self.tasks
    if not rows or len(set(rows)) < len(rows) or len(set(terms)) < len(terms):
      raise ValueError(
        f'Method {self.name}: rows and loss terms need one task each, without repeats.'
      )
    if set(rows) - set(terms):
      missing = sorted(set(rows) - set(terms))
      raise ValueError(f'Method {self.name}: no loss term for the rows of {", ".join(missing)}.')
    if not self.answer.has_label:
      raise ValueError(f"Method {self.name}: the answer's target has no {{label}}.")
    self._check_groups()

  def _check_groups(self) -> None:
    """Refuses loss terms over several rows that the rows do not fit."""
    kinds = {term.kind for term in self.loss}
    choices = [row for row in self.rows if row.each_choice]
    if choices and (len(self.rows) > 1 or self.label_source != 'gold' or not self.is_grouped):
      raise ValueError(
        f'Method {self.name}: a row for each choice needs gold labels, no other rows, and a loss '
        "term of the kind 'choices'."
      )
    if kinds & {'choices', 'perturbed'} and not choices:
      raise ValueError(
        f"Method {self.name}: losses of the kinds 'choices' and 'perturbed' need a row for each "
        'choice (each_choice=True).'
      )
    if 'perturbed' in kinds and not self.mark:
      raise ValueError(
        f"Method {self.name}: a loss of the kind 'perturbed' needs an input that ends in a text "
        "and the rationale, such as '{input} [rationale] {rationale}'."
      )
    if 'agreement' in kinds and not (len(self.rows) == 2 and self.paired):
      raise ValueError(
        f"Method {self.name}: a loss of the kind 'agreement' needs two rows and paired=True."
      )

  @property
  def tasks(self) -> tuple[str, ...]:
    """The tasks of the loss, in order: their numbers in a batch's `decoder_task_ids`."""
    return tuple(term.task for term in self.loss)

  @property
  def is_grouped(self) -> bool:
    """Whether a term looks at several rows of an example, so that a batch needs all of them."""
    return any(term.kind != 'tokens' for term in self.loss)

  @property
  def mark(self) -> str:
    """The text before the rationale at the end of the first row's input; '' if there is none."""
    text, name = pieces(self.rows[0].input)[-1]
    return text.strip() if name == 'rationale' else ''

  @property
  def passes(self) -> int:
    """How often a batch goes through the network in a step."""
    return 1 + sum(term.kind == 'perturbed' for term in self.loss)

  def rows_per_example(self, choices: Choices | None) -> int:
    """Rows of an example with one rationale, on a data set with these choices."""
    return sum(choices.count if row.each_choice and choices else 1 for row in self.rows)

  @property
  def other_rows(self) -> tuple[Row, ...]:
    """The rows that a student can be asked for besides the answer: rationales, mostly."""
    return tuple(row for row in self.rows if row.task != self.answer.task)

  @property
  def uses_teacher(self) -> bool:
    """Whether the student learns from any output of the teacher."""
    fields = frozenset[str]().union(*(row.sources for row in self.rows))
    return self.label_source == 'teacher' or bool(fields & {'rationale', 'teacher_label'})

  @property
  def needs(self) -> frozenset[str]:
    """The fields besides `input` that a question needs, such as the teacher's rationale."""
    return fields_of(self.answer.input) - {'input'}


def from_teacher(method: Method) -> Method:
  """The same method with the teacher's labels, named teacher_<name>: it needs no gold labels.

  Source: Hsieh et al. 2023, section 4.2 and figure 5.
  """
  return dataclasses.replace(
    method,
    name=f'teacher_{method.name}',
    summary=f"{method.summary}, labels are the teacher's",
    label_source='teacher',
    source=f'{method.source}; labels: section 4.2' if method.source else '',
  )


def points_of(weight: Weight) -> tuple[tuple[float, float], ...]:
  """The points (fraction of TRAIN_STEPS, number) of a weight; one point if it is constant."""
  return weight if isinstance(weight, tuple) else ((0.0, weight),)


def check_weight(weight: Weight, name: str) -> None:
  """Refuses what is no weight of a loss term.

  Raises:
    ValueError: a number is negative or infinite, or the points are not in the order of time; the
      message starts with the name.
  """
  points = points_of(weight)
  fractions = [point[0] for point in points if len(point) == 2]
  if len(fractions) < max(len(points), 1) or [0, *fractions, 1] != sorted([0, *fractions, 1]):
    raise ValueError(
      f'{name} is a number, or points (fraction of TRAIN_STEPS, number) whose fractions rise from '
      f'0 to 1, such as ((0, 1.0), (1, 0.0)); not {weight}.'
    )
  if not all(0.0 <= number < math.inf for _, number in points):
    raise ValueError(f'{name} is at least 0, not {weight}.')


def formula(tasks: Sequence[str], weights: Sequence[Weight]) -> str:
  """A loss as text, `L_label + 0.5 L_rationale`; a schedule as `(1 → 0)`."""
  terms = []
  for task, weight in zip(tasks, weights, strict=True):
    numbers = ' → '.join(f'{number:g}' for _, number in points_of(weight))
    factor = f'({numbers}) ' if isinstance(weight, tuple) else '' if weight == 1 else f'{numbers} '
    terms.append(f'{factor}L_{task}')
  return ' + '.join(terms)


def fields_of(template: str) -> frozenset[str]:
  """The names of a template's fields.

  Raises:
    ValueError: an unbalanced brace, or a field that is not a plain name.
  """
  return frozenset(name for _, name in pieces(template) if name)


def fill(template: str, fields: Mapping[str, str]) -> str:
  """The template with its fields filled in.

  Raises:
    ValueError: a field is missing.
  """
  missing = sorted(fields_of(template) - set(fields))
  if missing:
    raise ValueError(f'{template!r} needs the field {missing[0]!r}; given: {sorted(fields)}.')
  return ''.join(text + (fields[name] if name else '') for text, name in pieces(template))


def pieces(template: str) -> list[tuple[str, str]]:
  """A template as pairs (text, field that follows it); the last field is '' if text ends it.

  Raises:
    ValueError: an unbalanced brace, or a field that is not a plain name.
  """
  try:
    parsed = list(string.Formatter().parse(template))
  except ValueError as error:
    raise ValueError(f'the template {template!r} cannot be read: {error}.') from error
  for _, name, options, conversion in parsed:
    if name is not None and (not name.isidentifier() or options or conversion):
      raise ValueError(f'the template {template!r} has a field that is not a name: {{{name}}}.')
  return [(text, name or '') for text, name, _, _ in parsed]
