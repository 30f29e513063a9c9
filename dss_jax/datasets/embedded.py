"""The embedded data set: a small entailment world in the manner of e-SNLI, generated with a seed.

Owns: the words, what they are kinds of, and the examples. It needs no file and no network. Its
vocabulary, `embedded.model`, is what `dss vocab --task=embedded_dss --size=VOCABSIZE` writes.

    input      A nun is in a chapel.</s>A woman is outdoors.
    label      contradiction
    rationale  A nun is a woman. Someone in a chapel is indoors, not outdoors.

A premise states a person and one of three aspects: mood, activity or place. A hypothesis names the
kind of a person, and makes one claim about the mood, the activity or the place. The words' kinds
decide:

    contradiction  the person is of another kind, or the stated aspect is of another kind
    neutral        else, if the premise does not state the aspect that the hypothesis claims
    entailment     else

Memorising does not help: words at the same place in the lists below, or three places apart, never
occur together in a premise of the train split, and a premise of another split is made of two such
words. So the words of a test premise were never seen together, though each was seen with others.

The rationale states what a label only implies: the kinds of the words. The data is made to show
that mechanism; what a student learns from it is no evidence about real data.
"""

import dataclasses
import functools
import pathlib
import random
from collections.abc import Mapping

from dss_jax.methods import Choices

LABELS = ('entailment', 'neutral', 'contradiction')
SIZES = {'train': 600, 'validation': 300, 'test': 600}
SEED = 2305
METRIC = 'text'
CHOICES = Choices(LABELS)
VOCABULARY_PATH = str(pathlib.Path(__file__).with_name('embedded.model'))
TEACHER_ERROR_RATE = 0.1
"""How often the teacher gives one of the two wrong labels; its rationale is always right."""

PEOPLE = {
  'woman': ('nun', 'queen', 'bride', 'waitress', 'grandmother', 'actress'),
  'man': ('monk', 'king', 'groom', 'waiter', 'grandfather', 'butler'),
  'child': ('baby', 'toddler', 'schoolgirl', 'schoolboy', 'preschooler', 'newborn'),
}
"""The words for people by their kind. Kinds are disjoint: a child is neither woman nor man."""
ASPECTS = {
  'mood': {
    'happy': ('smiling', 'beaming', 'cheerful', 'joyful', 'grinning', 'merry'),
    'sad': ('weeping', 'sobbing', 'tearful', 'gloomy', 'mournful', 'heartbroken'),
    'angry': ('furious', 'fuming', 'raging', 'scowling', 'seething', 'livid'),
  },
  'activity': {
    'resting': ('sleeping', 'napping', 'dozing', 'snoozing', 'lounging', 'reclining'),
    'exercising': ('jogging', 'sprinting', 'skipping', 'stretching', 'squatting', 'jumping'),
    'preparing food': (
      'cooking',
      'baking',
      'frying eggs',
      'grilling fish',
      'peeling carrots',
      'kneading dough',
    ),
  },
  'place': {
    'indoors': (
      'in a chapel',
      'in a library',
      'in a cellar',
      'in a museum',
      'in a bedroom',
      'in a pantry',
    ),
    'outdoors': (
      'in a meadow',
      'in a forest',
      'in a desert',
      'on a beach',
      'on a hill',
      'on a glacier',
    ),
    'in a vehicle': (
      'in a taxi',
      'in a van',
      'on a bus',
      'on a train',
      'on a ferry',
      'on a tram',
    ),
  },
}
"""What a premise states and a hypothesis claims: the words of each aspect by their kind."""


@dataclasses.dataclass(frozen=True)
class _Word:
  """A word or phrase, its kind, and its place in the kind's list."""

  text: str
  kind: str
  place: int


def _words(kinds: Mapping[str, tuple[str, ...]]) -> tuple[_Word, ...]:
  return tuple(_Word(t, kind, place) for kind, ts in kinds.items() for place, t in enumerate(ts))


_PEOPLE = _words(PEOPLE)
_ASPECTS = {aspect: _words(kinds) for aspect, kinds in ASPECTS.items()}


def is_held_out(first: int, second: int) -> bool:
  """Whether a person and another word, at these places in their lists, are kept out of train."""
  return (first - second) % 3 == 0


@functools.cache
def problems(split: str) -> tuple[dict[str, str], ...]:
  """Generates a split: SIZES[split] distinct examples, the same on every call and machine.

  The first n examples of a split are about as balanced as all.

  Returns:
    Dicts of `input`, `label`, `rationale` and `teacher_label`.

  Raises:
    ValueError: there is no such split.
  """
  if split not in SIZES:
    raise ValueError(f'The embedded data set has the splits {", ".join(SIZES)}; not {split!r}.')
  # Validation and test draw from the same combinations, so they are two parts of one list.
  train = split == 'train'
  rng = random.Random(SEED + train)
  count = SIZES['train'] if train else SIZES['validation'] + SIZES['test']
  examples: dict[str, dict[str, str]] = {}
  while len(examples) < count:
    label = LABELS[len(examples) % len(LABELS)]
    example = _example(rng, label, held_out=not train)
    examples.setdefault(example['input'], example)
  rows = tuple(examples.values())
  if train:
    return rows
  return rows[: SIZES['validation']] if split == 'validation' else rows[SIZES['validation'] :]


def _example(rng: random.Random, label: str, held_out: bool) -> dict[str, str]:
  """Draws one example of a label."""
  person, stated, word = _premise_words(rng, held_out)
  wrong_person = label == 'contradiction' and rng.random() < 0.5
  if wrong_person:  # whatever the claim about the other person is
    aspect = rng.choice(list(ASPECTS))
  elif label == 'neutral':
    aspect = rng.choice([aspect for aspect in ASPECTS if aspect != stated])
  else:
    aspect = stated
  kinds = list(ASPECTS[aspect])
  if aspect == stated and not wrong_person:
    kinds = [kind for kind in kinds if (kind == word.kind) == (label == 'entailment')]
  claim = rng.choice(kinds)
  others = [kind for kind in PEOPLE if kind != person.kind]
  claimed_person = rng.choice(others) if wrong_person else person.kind

  teacher_label = label
  if rng.random() < TEACHER_ERROR_RATE:
    teacher_label = rng.choice([other for other in LABELS if other != label])
  first = f'A {person.text} is a {person.kind}{_unlike(person.kind, claimed_person, "a ")}.'
  second = f'Someone {word.text} is {word.kind}{_unlike(word.kind, claim)}.'
  if aspect != stated:
    second = f'The {aspect} is not told.'
  return {
    'input': f'A {person.text} is {word.text}.</s>A {claimed_person} is {claim}.',
    'label': label,
    'rationale': f'{first} {second}',
    'teacher_label': teacher_label,
  }


def _premise_words(rng: random.Random, held_out: bool) -> tuple[_Word, str, _Word]:
  """Draws a person, an aspect and a word of it that may occur together in the split."""
  person = rng.choice(_PEOPLE)
  aspect = rng.choice(list(ASPECTS))
  words = [word for word in _ASPECTS[aspect] if is_held_out(person.place, word.place) == held_out]
  return person, aspect, rng.choice(words)


def _unlike(kind: str, claim: str, article: str = '') -> str:
  """What a claim adds to the statement of a kind: nothing where it is that kind."""
  return '' if claim == kind else f', not {article}{claim}'
