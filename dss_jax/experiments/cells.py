"""One cell of a comparison or sweep: training it, scoring it, and its file.

Owns `cell.json` in a cell's run folder: the settings that were asked for, and when it is done, its
score and which answers are right. A cell whose settings changed is not done, and its old run is
moved aside. Claims keep two sweeps of one folder from training the same cell.
"""

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from dss_jax.experiments import few_shot_cot, paper
from dss_jax.experiments.comparison import Cell
from dss_jax.experiments.results import CELL_FILE, TEACHER, Score
from dss_jax.parallel import devices, distributed
from dss_jax.runs import evaluation, run_config, training_loop
from dss_jax.runs.run_folder import InUseError, RunFolder
from dss_jax.settings import json_form, whole_files
from dss_jax.tasks import metrics, prepared, registration

CLAIMS = '.claims'
# What may change when a run is continued, but changes what a cell is.
_MATTERS = ('train_steps', 'initial_checkpoint_path', 'vocabulary')
_IGNORED = sorted(set(run_config.MAY_CHANGE_ON_RESUME) - set(_MATTERS))


class Outcome(NamedTuple):
  """A cell that is done.

  Attributes:
    cell: what was trained.
    score: its line.
    correct: which answers are right, bool [items], in the order of the split.
  """

  cell: Cell
  score: Score
  correct: np.ndarray


def done(
  cell: Cell, run: run_config.RunConfig, split: str, folder: epath.Path | None = None
) -> Outcome | None:
  """The outcome of a cell that was trained and scored as it is asked for now; else None.

  Args:
    cell: it.
    run: its settings.
    split: what it is scored on.
    folder: of its run, where that is another one than the cell's.
  """
  folder = folder or cell.folder
  found = _read(folder)
  if found is None or 'score' not in found or _changes(found, run, split):
    return None
  correct = np.array([*str(found.get('correct', ''))]) == '1'
  score: Score = json_form.from_dict(Score, found['score'], str(folder / CELL_FILE))
  if cell.method != TEACHER:  # a multiple of the first method's, which may be another one by now
    score = dataclasses.replace(score, compute=cell.compute * score.steps / run.train_steps)
  return Outcome(cell, score, correct)


def train(cell: Cell, run: run_config.RunConfig, split: str) -> tuple[Outcome | None, bool]:
  """Trains and scores a cell, continuing what its folder holds.

  Returns:
    The outcome, None where a signal ended the training early; and whether a signal came.

  Raises:
    ValueError: as training and evaluation do.
  """
  known = {'split': split, 'settings': _settings(run), 'read': _read_by(run)}
  asked = {**cell._asdict(), **known, 'identity': identity(run, split)}
  processors = (_read(cell.folder) or {}).get('processors', _processors())
  asked['processors'] = processors  # that train it, not those that score it again
  if distributed.is_main():
    cell.folder.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(cell.folder / CELL_FILE, json.dumps(asked, default=dict) + '\n')
  stops = False
  if cell.method == TEACHER:
    outcome = _teacher(cell, run, split)
  else:
    distributed.log(f'{cell.name}: training on {run.data.mixture_or_task_name}')
    result = training_loop.train(run)
    if not result.finished:
      distributed.log(f'stopped in {run.model_dir}; the same command continues it')
      return None, True
    stops = result.is_stop_requested
    outcome = _scored(cell, run, result.step, result.seconds, split, processors)
  if distributed.is_main():
    content = {**asked, 'score': vars(outcome.score), 'correct': record(outcome)['correct']}
    whole_files.write_text(cell.folder / CELL_FILE, json.dumps(content, default=dict) + '\n')
  distributed.barrier()  # before any process looks for that file
  return outcome, stops


def identity(run: run_config.RunConfig, split: str) -> str:
  """A checksum of what decides whether a cell is the one that is asked for; see `done`."""
  matter = {name: value for name, value in _settings(run).items() if name not in _IGNORED}
  values = [matter, _read_by(run), split]
  return _sum(json.dumps(values, sort_keys=True, default=dict).encode())


def set_aside(cell: Cell, run: run_config.RunConfig, split: str) -> None:
  """Moves the run of a cell whose settings changed to another name beside it, `NAME.before_1`.

  If a run that was moved so before has the settings that are asked for now, it is moved back.
  """
  folder = cell.folder
  found = _read(folder)
  changed = [] if found is None else _changes(found, run, split)
  if not changed or changed == ['split']:  # the student is the same, it is scored again
    return
  distributed.barrier()  # all processes have seen the same
  if distributed.is_main():
    _move_aside(folder, changed[0], lambda path: _has_settings(path, run, split))
  distributed.barrier()


def _has_settings(folder: epath.Path, run: run_config.RunConfig, split: str) -> bool:
  found = _read(folder)
  return found is not None and _changes(found, run, split) in ([], ['split'])


def _move_aside(folder: epath.Path, change: str, is_wanted: Callable[[epath.Path], bool]) -> None:
  start = f'{folder.name}.before_'
  ends = (path.name.removeprefix(start) for path in folder.parent.iterdir()
          if path.name.startswith(start))  # fmt: skip
  numbers = sorted(int(end) for end in ends if end.isdecimal())
  before = [folder.parent / f'{start}{number}' for number in numbers]
  target = folder.parent / f'{start}{max(numbers, default=0) + 1}'
  folder.rename(target)
  distributed.log(f'{folder.name} has other settings, its run is now in {target}: {change}')
  for path in before:
    if is_wanted(path):
      path.rename(folder)
      distributed.log(f'{path} has the settings of {folder.name}, and is that run again')
      return


def record(outcome: Outcome) -> dict[str, Any]:
  """An outcome as JSON values, with the answers as a text of 0 and 1: all that statistics need."""
  bits = ''.join('01'[bool(right)] for right in outcome.correct)
  axes = dict(outcome.cell.axes)
  return {**vars(outcome.score), 'method': outcome.cell.method, 'axes': axes, 'correct': bits}


@contextlib.contextmanager
def claim(cell: Cell) -> Iterator[bool]:
  """Whether this process may train a cell; while it does, no other may.

  Processes that train one cell together claim nothing: the run's lock refuses a second training.
  """
  if distributed.is_multiprocess():
    yield True
    return
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(RunFolder(cell.folder.parent / CLAIMS / cell.folder.name).lock())
    except InUseError:
      yield False
    else:
      yield True


def _read(folder: epath.Path) -> dict[str, Any] | None:
  """What the `cell.json` of a folder holds; None where there is none."""
  path = folder / CELL_FILE
  if not path.exists():
    return None
  return json_form.parse_object(json_form.read_text(path), str(path))


def _settings(run: run_config.RunConfig) -> dict[str, Any]:
  values = json_form.to_dict(run)
  return {name: value for name, value in values.items() if name not in ('model_dir', 'data_dir')}


def _read_by(run: run_config.RunConfig) -> dict[str, str]:
  """What a run reads besides its settings, by its identity: prepared data, vocabulary, scores.

  Users' own sources are not known: their data may change unseen.
  """
  scores = str(run.data.rationale_scores or '')
  key = (run.data.mixture_or_task_name, str(run.vocabulary), str(run.data_dir), run.module, scores)
  if key not in _identities:
    run = run_config.set_up_tasks(run)
    found = {'vocabulary': _sum(run_config.sentencepiece_model())}
    for dataset in registration.datasets_of(run.data.mixture_or_task_name):
      for part in dataset.parts:
        notes = dict(prepared.read_metadata(prepared.newest(part)))
        notes.pop('counts', None)
        found[part] = _sum(json.dumps(notes, sort_keys=True).encode())
    if scores:
      found['rationale_scores'] = _sum(epath.Path(scores).read_bytes())
    _identities[key] = found
  return _identities[key]


_identities: dict[tuple[Any, ...], dict[str, str]] = {}  # a sweep looks at each of its cells often


def _sum(content: bytes) -> str:
  return f'{zlib.crc32(content):08x}'


def _changes(found: dict[str, Any], run: run_config.RunConfig, split: str) -> list[str]:
  """How the settings of a cell's file differ from those that are asked for."""
  changed = json_form.differences(
    {**found.get('settings', {}), 'read': found.get('read', {})},
    {**_settings(run), 'read': _read_by(run)},
    _IGNORED,
  )
  return changed or (['split'] if found.get('split') != split else [])


def _scored(
  cell: Cell, run: run_config.RunConfig, steps: int, seconds: float, split: str, processors: int
) -> Outcome:
  """Scores the best checkpoint of a cell's run."""
  summary, records = evaluation.evaluate(_evaluation(run, split))
  found = summary['metrics']
  is_papers = split == 'test' and cell.name == cell.method  # not a line of equal compute
  percent, error = (paper.published(run) if is_papers else None) or (None, None)
  score = Score(
    cell.name,
    cell.folder.name,
    found['accuracy'],
    found['accuracy_low'],
    found['accuracy_high'],
    summary['examples'],
    _labels_per_step(run),
    steps,
    cell.compute * steps / run.train_steps,  # fewer where PATIENCE stopped it
    seconds,
    percent,
    error,
    processors,
  )
  return Outcome(cell, score, np.array([record['correct'] for record in records], bool))


def _evaluation(
  run: run_config.RunConfig, split: str, **settings: Any
) -> evaluation.EvaluateConfig:
  return evaluation.EvaluateConfig(
    model_dir=run.model_dir,
    split=split,
    mesh=run.mesh,
    batch_size=run.eval.batch_size,
    module=run.module,
    **settings,
  )


def write_rationales(run: run_config.RunConfig, split: str, count: int) -> None:
  """Evaluates the first rationales of a student, where its method has a row for them.

  Does nothing where an evaluation of as many is there.

  Args:
    run: of the student.
    split: on which it was scored.
    count: at most the examples of that split.
  """
  run = run_config.set_up_tasks(run)
  assert run.method is not None
  dataset = registration.dataset_of(run.data.mixture_or_task_name).name
  there = [found.summary for found in RunFolder(run.model_dir).evaluations()]
  for row in run.method.other_rows:
    if row.task != 'rationale':
      continue
    task = registration.row_task(dataset, row)
    written = (one.get('examples', 0) for one in there
               if (one['task'], one['split']) == (task, split))  # fmt: skip
    if max(written, default=0) < count:
      evaluation.evaluate(_evaluation(run, split, task=task, num_examples=count))


def _teacher(cell: Cell, run: run_config.RunConfig, split: str) -> Outcome:
  """Scores the teacher's stored answers on the data set of a run."""
  run = run_config.set_up_tasks(run)
  dataset = registration.dataset_of(run.data.mixture_or_task_name).name
  answers = few_shot_cot.teacher_answers(dataset, split)
  if distributed.is_main():
    answers.write(RunFolder(cell.folder))
  count = len(answers.correct)
  low, high = metrics.wilson_interval(int(answers.correct.sum()), count)
  reading = f'{cell.name} ({answers.parser} parser)' if answers.parser else cell.name
  score = Score(reading, cell.folder.name, answers.accuracy, low, high, count, 0.0, 0, 0.0, 0.0)
  return Outcome(cell, score, answers.correct)


def _processors() -> int:
  """The cores of this process on a CPU, else the devices of all processes."""
  return devices.cores() if jax.default_backend() == 'cpu' else jax.device_count()


def _labels_per_step(run: run_config.RunConfig) -> float:
  """Rows of the answer's task in a training batch, on average over those that were logged."""
  assert run.method is not None
  name = f'{run.method.answer.task}/rows'
  rows = [row for row in RunFolder(run.model_dir).metric_rows() if row['kind'] == 'train']
  counts = [row[name] for row in rows if name in row]
  return sum(counts) / len(counts) if counts else 0.0
