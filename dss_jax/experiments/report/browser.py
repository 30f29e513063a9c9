"""The test examples of a report, packed so that a page holds those of hundreds of runs.

Owns the packing, which page.js undoes. For each example, the different answers are listed once,
with whether they are right; a run then is one small integer an example, and runs agree much.
Everything is deflated and base64 coded: browsers inflate it themselves (DecompressionStream).
Rationales, which hardly compress, are one block a run, until a budget of bytes is used up.
"""

import base64
import collections
import datetime
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dss_jax.experiments import results
from dss_jax.experiments.report import records
from dss_jax.experiments.report.folder import Run
from dss_jax.experiments.report.records import Answers
from dss_jax.runs import file_names

LONGEST = 2_000  # letters of an input or a rationale
_KEPT = 0.8  # of the examples, each time they do not fit
_GIN = 20_000  # letters of a configuration


class Sheet(NamedTuple):
  """Runs that answered the same questions.

  Attributes:
    first: whose inputs are shown; methods put different words before them.
    runs: of students, with their answers.
    teacher: its answers, or None.
    by_id: the teacher's rationales that students' evaluations had as targets.
    shown: the places of the two runs that are shown at first.
  """

  first: Answers
  runs: list[tuple[Run, Answers]]
  teacher: Answers | None
  by_id: Mapping[int, str]
  shown: tuple[int, int] = (0, 0)


class Block(NamedTuple):
  """Packed data within the page.

  Attributes:
    name: its element's id.
    text: base64 of deflated bytes.
  """

  name: str
  text: str


class Packed(NamedTuple):
  """What the page holds of the examples.

  Attributes:
    blocks: of it.
    examples: how many examples can be read, over all sheets.
    left_out: examples that did not fit.
    with_rationales: runs whose rationales are there.
    without_rationales: runs whose rationales did not fit.
  """

  blocks: tuple[Block, ...]
  examples: int
  left_out: int
  with_rationales: int
  without_rationales: int


def sheets(answered: Sequence[tuple[Run, Answers]], baseline: str) -> list[Sheet]:
  """Groups runs by their questions: the numbers of the examples and their gold labels.

  Args:
    answered: runs with their answers; those that matter most come first.
    baseline: the method that the first other one is shown beside.
  """
  groups: dict[Any, list[tuple[Run, Answers]]] = {}
  for run, answers in answered:
    groups.setdefault((answers.ids, answers.targets), []).append((run, answers))
  found = []
  for members in groups.values():
    students = [(run, answers) for run, answers in members if not run.is_teacher]
    teachers = [answers for run, answers in members if run.is_teacher]
    if students:
      first = min(students, key=lambda pair: sum(map(len, pair[1].inputs)))[1]
      names = [run.name for run, _ in students]
      others = [place for place, name in enumerate(names) if name != baseline]
      shown = others[0] if others else 0, names.index(baseline) if baseline in names else 0
      found.append(Sheet(first, students, teachers[0] if teachers else None, {}, shown))
  return found


def pack(found: Sequence[Sheet], runs: Sequence[Run], budget: int) -> Packed:
  """Packs examples, configurations and as many rationales as fit.

  Args:
    found: of `sheets`; the runs whose rationales matter most come first.
    runs: whose configurations are shown.
    budget: bytes of all blocks together; where the examples alone need more, fewer are kept.
  """
  configs = _block('configs', _json({run.label: _configuration(run) for run in runs}))
  budget -= len(configs.text)
  found = [sheet._replace(by_id=_teachers(sheet)) for sheet in found]
  count = max((len(sheet.first.ids) for sheet in found), default=0)
  blocks = _examples(found, count)
  while sum(len(block.text) for block in blocks) > budget and count > 1:
    count = int(count * _KEPT)
    blocks = _examples(found, count)
  budget -= sum(len(block.text) for block in blocks)
  rationales, left = _rationales(found, count, budget)
  shown = sum(min(count, len(sheet.first.ids)) for sheet in found)
  left_out = sum(len(sheet.first.ids) for sheet in found) - shown
  return Packed((configs, *blocks, *rationales), shown, left_out, len(rationales), left)


def _teachers(sheet: Sheet) -> Mapping[int, str]:
  """The teacher's rationales, as the first student that was asked for its own had them."""
  found = (
    records.rationales(run).teacher
    for run, _ in sheet.runs
    if run.learns_teachers_text and records.has_rationales(run)
  )
  return next(found, {})


def _examples(found: Sequence[Sheet], count: int) -> tuple[Block, Block]:
  """The block of texts and the block of codes, of the first `count` examples of each sheet.

  The codes of a sheet are its low bytes, then its high ones, which are nearly always 0.
  """
  labels: dict[str, int] = {}
  headers, codes = [], []
  for sheet in found:
    answers, of_sheet = _coded(sheet, count, labels)
    headers.append(_header(sheet, count, labels, answers))
    codes += [part.astype(np.uint8).tobytes() for part in (of_sheet & 0xFF, of_sheet >> 8)]
  texts = {'labels': list(labels), 'sheets': headers}
  return _block('examples', _json(texts)), _block('codes', b''.join(codes))


def _coded(
  sheet: Sheet, count: int, labels: dict[str, int]
) -> tuple[list[list[list[int]]], np.ndarray]:
  """The different answers to each question, and which of them each run gave.

  Returns:
    For each example its answers, [label, 1 if it is right] each, frequent ones first; and uint16
    [examples, runs], places in these lists.
  """
  columns = [
    list(zip(answers.predictions[:count], answers.correct[:count].tolist(), strict=True))
    for _, answers in sheet.runs
  ]
  answers_of, codes = [], np.zeros((min(count, len(sheet.first.ids)), len(columns)), np.uint16)
  for place, given in enumerate(zip(*columns, strict=True)):
    ranked = [answer for answer, _ in collections.Counter(given).most_common()]
    code = {answer: number for number, answer in enumerate(ranked)}
    codes[place] = [code[answer] for answer in given]
    answers_of.append([[_label(text, labels), int(right)] for text, right in ranked])
  return answers_of, codes


def _header(
  sheet: Sheet, count: int, labels: dict[str, int], answers: list[list[list[int]]]
) -> dict[str, Any]:
  first, teacher = sheet.first, sheet.teacher
  of_teacher = None
  if teacher is not None:
    of_teacher = {
      'labels': [_label(text, labels) for text in teacher.predictions[:count]],
      'right': [int(right) for right in teacher.correct[:count]],
    }
  said = [sheet.by_id.get(number, '') for number in first.ids[:count]]
  if teacher is not None:
    said = [a or b for a, b in zip(teacher.rationales[:count], said, strict=True)]
  return {
    'task': first.task,
    'ids': first.ids[:count],
    'inputs': [_cut(text) for text in first.inputs[:count]],
    'golds': [_label(text, labels) for text in first.targets[:count]],
    'answers': answers,
    'teacher': of_teacher,
    'first': list(sheet.shown),
    'rationales': [_cut(text) for text in said] if any(said) else None,
    'runs': [
      {'label': run.label, 'name': run.name, 'accuracy': round(100 * run.score.accuracy, 2)}
      for run, _ in sheet.runs
    ],
  }


def _rationales(found: Sequence[Sheet], count: int, budget: int) -> tuple[list[Block], int]:
  """A block for each run that wrote rationales, until one does not fit; how many are left."""
  blocks: list[Block] = []
  left, is_full = 0, False
  for number, sheet in enumerate(found):
    for place, (run, answers) in enumerate(sheet.runs):
      if not records.has_rationales(run) and not any(answers.rationales):
        continue
      if not is_full:
        asked = records.rationales(run).own
        pairs = zip(answers.ids[:count], answers.rationales, strict=False)
        texts = [_cut(asked.get(one, '') or beside) for one, beside in pairs]
        blocks.append(_block(f'rationales-{number}-{place}', _json(texts)))
        budget -= len(blocks[-1].text)
        is_full = budget < 0
      left += is_full
  return (blocks[:-1] if is_full else blocks), left


def _configuration(run: Run) -> str:
  """The operative configuration of a run, for people; else its settings."""
  if run.path is None:
    return ''
  path = run.path / file_names.GIN
  text = json.dumps(run.settings, indent=2)
  if path.exists():
    text = path.read_bytes()[: 4 * _GIN].decode('utf-8', 'replace')
  return f'{_provenance(run, run.path)}\n\n{text[:_GIN]}'


def _provenance(run: Run, path: epath.Path) -> str:
  """Where a run lies, when it was done, and what it read."""
  when = datetime.datetime.fromtimestamp((path / results.CELL_FILE).stat().mtime, datetime.UTC)
  lines = [
    f'# folder: {path}',
    f'# done: {when.isoformat(" ", "seconds")}',
    f'# step: {run.score.steps}, {run.score.seconds:.0f} s of training steps',
    *(f'# checksum of {name}: {mark}' for name, mark in sorted(run.reads.items())),
  ]
  return '\n'.join(lines)


def _label(text: str, labels: dict[str, int]) -> int:
  return labels.setdefault(_cut(text), len(labels))


def _cut(text: str) -> str:
  return text if len(text) <= LONGEST else f'{text[:LONGEST]}…'


def _json(value: Any) -> bytes:
  return json.dumps(value, ensure_ascii=False, separators=(',', ':')).encode()


def _block(name: str, content: bytes) -> Block:
  """Raw deflate, as browsers' `deflate-raw`, in base64."""
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  packed = packer.compress(content) + packer.flush()
  return Block(name, base64.b64encode(packed).decode('ascii'))
