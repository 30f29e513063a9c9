"""The files that `dss new-task` writes: the module, the prompt and the gin file of a data set.

Owns their texts. Does not own: the splits (datasets/splitting.py), the format of a prompt
(teacher/prompts.py), options and printing (new_task.py).
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dss_jax.datasets import labels
from dss_jax.datasets.columns import Labels, Record
from dss_jax.datasets.splitting import Split
from dss_jax.teacher import answer_section

MARKER = 'So the answer is'
STOP = '\nQ:'
MOST_EXEMPLARS = 8
LONGEST_EXEMPLAR = 1200
"""Letters of its input and rationale: eight of them fit into any teacher's context."""
LETTERS_A_TOKEN = 3.0
"""Of a vocabulary of T5's kind or one of `dss vocab`, at least, on average of a text in ASCII; each
other letter counts as a token."""
INPUT_TOKENS, TARGET_TOKENS = 1024, 256
"""The paper's, which are the most here."""
PREFIX_TOKENS, END_TOKENS = 8, 4
"""Of a task's prefix, and of the end of a text."""

_MODULE = '''\
"""The data set {name}: {counts}. `dss new-task` wrote it; it is yours to change."""

import dataclasses
import pathlib

from dss_jax import datasets
from dss_jax.teacher import prompts

PROMPT = prompts.load(str(pathlib.Path(__file__).with_name('{name}.toml')))
datasets.register(dataclasses.replace(PROMPT.dataset('{name}'), teacher={teacher}))
'''
_GIN = """\
# {name}: {counts}.
#
#   dss prepare --dataset={name} --module={name} --raw_dir={raw_dir} --data_dir=data
#   dss vocab --module={name} --data_dir=data --task={name}_{method} --output={name}.model
#   dss train --gin_file=models/t5_1_1/tiny.gin --gin_file={name}.gin \\
#     --gin_file=methods/{method}.gin --model_dir=runs/{name}
#
# From released weights instead, without dss vocab: --gin_file=models/pretrained.gin after this file
# and --initial_checkpoint_path=google/t5-v1_1-base --learning_rate=5e-5.

DATASET = '{name}'
MIXTURE_OR_TASK_MODULE = '{name}'
DATA_DIR = 'data'
VOCABULARY = '{name}.model'
# Tokens, estimated from the letters of 99 % of the rows before there is a vocabulary.
TASK_FEATURE_LENGTHS = {{'inputs': {inputs}, 'targets': {targets}}}
MAX_DECODE_LENGTH = {decode}
BATCH_SIZE = 16
LEARNING_RATE = 1e-3  # from random weights
"""
_PROMPT = """\
# What a teacher is asked about {name}. Say in the instruction what the task is.

instruction = {instruction}
question = "Q: {{input}}"
cue = "\\nA:"
completion = "{{rationale}} {marker} {{answer}}."
stop = ["\\nQ:"]
max_tokens = 256

[answer]
marker = "{marker}"
{form}
"""
_EXEMPLAR = """
[[exemplars]]
rationale = {rationale}
answer = {answer}
[exemplars.row]
input = {input}
label = {label}
"""
_NO_EXEMPLAR = """
# Examples make answers better. Write four to ten, with rows that validation and test do not have:
#
# [[exemplars]]
# rationale = "Why it is so."
# answer = {label}
# [exemplars.row]
# input = {input}
# label = {label}
"""


def counts_text(split: Split) -> str:
  """'80 train, 10 validation, 10 test'."""
  return ', '.join(f'{len(records):,} {name}' for name, records in split.records.items())


def module(name: str, split: Split, teacher: str) -> str:
  """The module that registers a data set.

  Args:
    name: of the data set and of its files.
    split: for its counts.
    teacher: who wrote the rationales; '' if unknown.
  """
  return _MODULE.format(name=name, counts=counts_text(split), teacher=repr(teacher))


class Lengths(NamedTuple):
  """Tokens of inputs, targets and answers, estimated from letters, and what is longer."""

  inputs: int
  targets: int
  decode: int
  notes: tuple[str, ...]


def rationales(split: Split) -> int:
  """How many rows of train have a rationale."""
  return sum(any(_several(one.rationale)) for one in split.records['train'])


def has_rationales(split: Split) -> bool:
  """Whether the rows allow step by step, which needs rationales: half of train's have one."""
  return 2 * rationales(split) >= len(split.records['train'])


def method_of(split: Split) -> str:
  """The method that the rows allow."""
  return 'dss' if has_rationales(split) else 'standard'


def lengths(split: Split) -> Lengths:
  """The lengths that hold 99 % of the inputs and rationales, and all labels, as far as they may."""
  records = [one for several in split.records.values() for one in several]
  inputs = [tokens(one.input) + PREFIX_TOKENS for one in records]
  answers = [tokens(one.label) + END_TOKENS for one in records]
  whys = [tokens(text) for one in split.records['train'] for text in _several(one.rationale)]
  longest = -(-max(max(answers), 16) // 8) * 8
  input_length = _length(inputs, INPUT_TOKENS)
  targets = max(_length([one + PREFIX_TOKENS for one in whys], TARGET_TOKENS),
                min(longest, TARGET_TOKENS))  # fmt: skip
  cut = {
    f'inputs, of {input_length} tokens': sum(one > input_length for one in inputs),
    f'labels, of {targets} tokens': sum(one > targets for one in answers),
    f'rationales, of {targets} tokens': sum(one + END_TOKENS > targets for one in whys),
  }
  notes = [f'about {count:,} {what} at most, are longer and will be cut; TASK_FEATURE_LENGTHS '
           'sets it.' for what, count in cut.items() if count]  # fmt: skip
  return Lengths(input_length, targets, min(longest, targets), tuple(notes))


def gin(name: str, split: Split, raw_dir: str) -> str:
  """The gin file.

  Args:
    name: of the data set and of its files.
    split: the rows.
    raw_dir: folder of the raw files.
  """
  found = lengths(split)
  return _GIN.format(
    name=name, counts=counts_text(split), raw_dir=raw_dir, method=method_of(split),
    inputs=found.inputs, targets=found.targets, decode=found.decode,
  )  # fmt: skip


def prompt(name: str, split: Split, compared: Labels) -> str:
  """The prompt file, with exemplars out of train if its rows have rationales.

  Args:
    name: of the data set.
    split: the rows.
    compared: how labels are, which says how a teacher's answer is read.
  """
  choices = compared.choices
  if choices is None:
    form, what = f'metric = {_toml(compared.metric)}', 'the answer alone'
  elif choices.labels:
    form, what = (
      f'choices = [{", ".join(map(_toml, choices.labels))}]',
      f'one of: {", ".join(choices.labels)}',
    )
  else:
    form, what = f'listed = {choices.listed}', "a choice's letter in brackets and its text"
  instruction = (
    f'Give the reason in one to three short sentences, then end with "{MARKER}" and {what}.'
  )
  head = _PROMPT.format(name=name, instruction=_toml(instruction), marker=MARKER, form=form)
  answer = answer_section.read(tomllib.loads(form) | {'marker': MARKER})
  shots = exemplars(split.records['train'], answer)
  if shots:
    return head + ''.join(map(_exemplar_text, shots))
  first = split.records['train'][0]
  return head + _NO_EXEMPLAR.format(input=_toml(first.input), label=_toml(first.label))


def exemplars(records: Sequence[Record], answer: answer_section.Answer) -> list[Record]:
  """Rows of train with short rationales, of as many labels as there are, that can be read back."""
  by_label: dict[str, list[Record]] = {}
  for one in records:
    if _is_exemplar(one, answer):
      by_label.setdefault(one.label if answer.choices and answer.choices.labels else '', []).append(
        one
      )
  found: list[Record] = []
  while by_label and len(found) < MOST_EXEMPLARS:
    for label in list(by_label):
      found.append(by_label[label].pop(0))
      if not by_label[label]:
        del by_label[label]
  return found[:MOST_EXEMPLARS]


def rows_text(records: Sequence[Record]) -> str:
  """The rows of a split as JSON lines, without the fields that no row of it has."""
  optional = [name for name in ('rationale', 'teacher_label')
              if any(getattr(one, name) for one in records)]  # fmt: skip
  lines = []
  for one in records:
    row: Mapping[str, object] = {'input': one.input, 'label': one.label or None}
    row = {**row, **{name: getattr(one, name) or None for name in optional}}
    lines.append(json.dumps(row, ensure_ascii=False))
  return ''.join(f'{line}\n' for line in lines)


def _is_exemplar(record: Record, answer: answer_section.Answer) -> bool:
  """Whether the parser reads from what a teacher would write the row's rationale and label."""
  rationale = record.rationale
  if not isinstance(rationale, str) or not rationale or not record.label:
    return False
  if len(record.input) + len(rationale) > LONGEST_EXEMPLAR:
    return False
  read = answer.parse(f'{rationale} {MARKER} {_answer(record)}.', record._asdict(), (STOP,))
  return read.rationale == rationale and labels.CORRECT[answer.metric](record.label, read.label)


def _answer(record: Record) -> str:
  """The answer as a teacher should write it: a choice that is listed has its letter."""
  for line in record.input.split('\n')[::-1]:
    if line[:1] == '(' and line[4:] == record.label:
      return line
  return record.label


def _exemplar_text(record: Record) -> str:
  return _EXEMPLAR.format(
    rationale=_toml(str(record.rationale)), answer=_toml(_answer(record)),
    input=_toml(record.input), label=_toml(record.label),
  )  # fmt: skip


def _toml(text: str) -> str:
  """A basic string of TOML, which JSON's are but for one control character."""
  return json.dumps(text, ensure_ascii=False).replace('\x7f', '\\u007f')


def _several(value: str | Sequence[str]) -> list[str]:
  return [one for one in ([value] if isinstance(value, str) else value) if one]


def tokens(text: str) -> int:
  """An estimate of the tokens of a text, rather too many than too few."""
  others = sum(not one.isascii() for one in text)
  return int((len(text) - others) / LETTERS_A_TOKEN) + others + 1


def _length(sizes: Sequence[int], most: int) -> int:
  """The tokens that hold 99 % of texts, in steps of 32."""
  ordered = sorted(sizes) or [0]
  held = ordered[-(-99 * len(ordered) // 100) - 1]
  return min(max(-(-held // 32) * 32, 32), most)
