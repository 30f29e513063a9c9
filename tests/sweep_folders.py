"""Folders of a sweep that were never trained: cells, metrics and records, as a sweep leaves them.

Owns their content, made up from a seed. Cells and records are written in the form of the real
writers (tests/test_report_folder.py compares it), so that tests of reports train nothing.
"""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dss_jax import methods
from dss_jax.experiments import results
from dss_jax.experiments.results import Score

MODEL = {
  'vocab_size': 384, 'emb_dim': 16, 'num_heads': 2, 'head_dim': 8, 'mlp_dim': 32,
  'num_encoder_layers': 2, 'num_decoder_layers': 2, 'mlp_activations': ['gelu', 'linear'],
}  # fmt: skip
LABELS = ('entailment', 'neutral', 'contradiction')


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a made-up cell is.

  Attributes:
    name: of its line.
    method: a registered method, or the teacher.
    axes: of the grid.
    accuracy: about its share of right answers.
    compute: as a multiple.
    width: of the network.
  """

  name: str
  method: str
  axes: Mapping[str, Any]
  accuracy: float
  compute: float = 1.0
  width: int = 16

  @property
  def folder(self) -> str:
    """Of its run."""
    values = ''.join(f',{name.lower()}={value}' for name, value in self.axes.items())
    return self.name.replace(', ', '_').replace(' ', '_') + values.replace('/', '_')


def write(
  folder: pathlib.Path,
  cells: Sequence[Cell],
  items: int = 40,
  hostile: str = '',
  rationales: bool = True,
  text: Callable[..., str] = lambda *key: ' '.join(map(str, key)),
) -> None:
  """Writes a sweep's folder.

  Args:
    folder: of the sweep.
    cells: of it, in the order of its table.
    items: of the test split.
    hostile: put into every text of it.
    rationales: whether students of rationales were asked for them.
    text: makes inputs and rationales out of what they are of.
  """
  rng = np.random.default_rng(0)
  asked = [text('pair', number) + hostile for number in range(items)]
  said = [text('teacher of', number) + hostile for number in range(items)]
  golds = [LABELS[at] + hostile for at in rng.integers(0, 3, items)]
  ease = rng.random(items)  # the same for all students: they agree much
  lines = []
  for cell in cells:
    is_teacher = cell.method == results.TEACHER  # whose answers are the same in every cell
    rng = np.random.default_rng(zlib.crc32(b'' if is_teacher else cell.folder.encode()))
    correct = (ease + rng.random(items)) / 2 < cell.accuracy
    folder_of = folder / cell.folder
    folder_of.mkdir(parents=True, exist_ok=True)
    line = _write_cell(folder_of, cell, correct)
    lines.append(json.dumps(line) + '\n')
    _write_records(folder_of, cell, asked, golds, said, correct, rng)
    if rationales and cell.method not in ('standard', results.TEACHER):
      own = [text(folder_of.name, 'of', number) + hostile for number in range(items)]
      _write_rationales(folder_of, asked, said, own)
    if cell.method != results.TEACHER:
      _write_metrics(folder_of, cell)
      gin = f"# Macros:\nBATCH_SIZE = 16\nMETHOD = '{cell.method}'\n# {hostile}\n"
      (folder_of / 'config.gin').write_text(gin)
  (folder / results.RESULTS).write_text(''.join(lines))


def settings_of(cell: Cell) -> dict[str, Any]:
  """A run's settings, as far as a report reads them."""
  method = {} if cell.method == results.TEACHER else dataclasses.asdict(methods.get(cell.method))
  return {
    'model': {**MODEL, 'emb_dim': cell.width},
    'data': {'fraction': cell.axes.get('TRAIN_FRACTION', 1.0)},
    'method': json.loads(json.dumps(method)),
    'seed': cell.axes.get(results.SEED, 0),
  }


def _write_cell(folder: pathlib.Path, cell: Cell, correct: np.ndarray) -> dict[str, Any]:
  bits = ''.join('01'[bool(right)] for right in correct)
  accuracy = float(correct.mean())
  is_teacher = cell.method == results.TEACHER
  name = f'{cell.name} (own parser)' if is_teacher else cell.name
  score = Score(
    name, folder.name, accuracy, max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1), len(correct),
    0.0 if is_teacher else 16.0, 0 if is_teacher else 100, cell.compute,
    0.0 if is_teacher else 36.0 * cell.compute,
  )  # fmt: skip
  common = {'method': cell.method, 'axes': dict(cell.axes)}
  content = {
    'name': cell.name, **common, 'macros': {}, 'compute': cell.compute, 'split': 'test',
    'settings': settings_of(cell), 'read': {'vocabulary': '00000000', 'esnli': '11111111'},
    'score': vars(score), 'correct': bits,
  }  # fmt: skip
  (folder / results.CELL_FILE).write_text(json.dumps(content) + '\n')
  if not is_teacher:
    (folder / 'config.json').write_text(json.dumps(settings_of(cell)) + '\n')
  return {**vars(score), **common, 'correct': bits}


def _write_records(
  folder: pathlib.Path,
  cell: Cell,
  asked: Sequence[str],
  golds: Sequence[str],
  said: Sequence[str],
  correct: np.ndarray,
  rng: np.random.Generator,
) -> None:
  """The records of the labels; a student is surer where it is right."""
  is_teacher = cell.method == results.TEACHER
  records = []
  for number, (gold, right) in enumerate(zip(golds, correct.tolist(), strict=True)):
    others = sorted(set(golds) - {gold})
    record = {'id': number, 'input': asked[number], 'target': gold}
    record |= {'prediction': gold if right else others[rng.integers(len(others))]}
    if is_teacher:
      record |= {'rationale': said[number]}
    else:
      record |= {'score': float(-rng.exponential(0.2 if right else 0.6))}
    records.append({**record, 'correct': right})
  accuracy = {'accuracy': float(correct.mean())}
  _write_evaluation(folder, cell.method if is_teacher else 'esnli_label', records, accuracy)


def _write_rationales(
  folder: pathlib.Path, asked: Sequence[str], said: Sequence[str], own: Sequence[str]
) -> None:
  records = [
    {
      'id': number, 'input': f'[rationale] {question}', 'target': target, 'prediction': written,
      'score': -0.5, 'rouge_l': 0.5,
    }
    for number, (question, target, written) in enumerate(zip(asked, said, own, strict=True))
  ]  # fmt: skip
  _write_evaluation(folder, 'esnli_rationale', records, {'rouge_l': 0.5})


def _write_evaluation(
  folder: pathlib.Path,
  task: str,
  records: Sequence[Mapping[str, Any]],
  metrics: Mapping[str, float],
) -> None:
  step = 100
  lines = [json.dumps(record) + '\n' for record in records]
  (folder / f'{task}_test_{step}.jsonl').write_text(''.join(lines))
  summary = {'task': task, 'split': 'test', 'examples': len(records), 'metrics': dict(metrics)}
  (folder / f'{task}_test_{step}.json').write_text(json.dumps({**summary, 'step': step}) + '\n')


def _write_metrics(folder: pathlib.Path, cell: Cell) -> None:
  tasks = ('label',) if cell.method == 'standard' else ('label', 'rationale')
  rows = []
  for step in range(0, 101, 10):
    row: dict[str, Any] = {'step': step, 'kind': 'train', 'loss': 1.0}
    for task in tasks:
      loss = 3 / (1 + step / 10) + cell.compute / 10
      row |= {f'{task}/loss': loss, f'{task}/accuracy': step / 200, f'{task}/rows': 16.0}
    rows.append(row)
  rows.append({'step': 100, 'kind': 'validation', 'accuracy': cell.accuracy})
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def grid(
  fractions: Sequence[float] = (0.25, 0.5, 1.0),
  seeds: Sequence[int] = (1, 2, 3),
  widths: Sequence[int] = (16,),
  gain: float = 0.08,
) -> list[Cell]:
  """Standard finetuning, step by step, the first for longer, and the teacher, at each place."""
  found = []
  for width in widths:
    for fraction in fractions:
      for seed in seeds:
        axes: dict[str, Any] = {'TRAIN_FRACTION': fraction, results.SEED: seed}
        if len(widths) > 1:
          axes = {'GIN_FILE': f'models/w{width}.gin', **axes}
        base = 0.45 + 0.2 * fraction + width / 400
        found += [
          Cell('standard', 'standard', axes, base, 1.0, width),
          Cell('dss', 'dss', axes, base + gain, 2.0, width),
          Cell('standard, equal compute', 'standard', axes, base + 0.02, 2.0, width),
          Cell(results.TEACHER, results.TEACHER, axes, 0.7, 0.0, width),
        ]
  return found
