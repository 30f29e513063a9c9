"""A report of one sweep, or of two: its sections in order, its examples, its files.

Owns the order and what is said at the top. Does not own the command line (commands/report.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from dss_jax.experiments.report import (
  accuracy_sections,
  browser,
  folder,
  page,
  records,
  resource_sections,
  samples,
  series,
  two_folders,
)  # fmt: skip
from dss_jax.experiments.report.accuracy_sections import percent
from dss_jax.experiments.report.browser import Packed
from dss_jax.experiments.report.cost import Prices
from dss_jax.experiments.report.document import Section
from dss_jax.experiments.report.folder import Run, Sweep
from dss_jax.experiments.report.records import Answers
from dss_jax.experiments.report.series import Panel

RECORDS_NOTE = 'TASK_SPLIT_STEP.jsonl, which an evaluation leaves in its run folder'


class Made(NamedTuple):
  """What was written.

  Attributes:
    page: the file.
    packed: its examples.
    samples: files of answers.
  """

  page: epath.Path
  packed: Packed
  samples: tuple[epath.Path, ...]


def make(
  sweeps: Sequence[Sweep],
  output: epath.Path,
  prices: Prices | None = None,
  samples_folder: epath.Path | None = None,
) -> Made:
  """Writes the report of a sweep; a second one is compared with it.

  Args:
    sweeps: one or two, read by `folder.read`.
    output: the page.
    prices: of machines, labels and the teacher.
    samples_folder: where per-example answers are written too.

  Raises:
    ConfigError: a file of a run is damaged.
  """
  first, runs = sweeps[0], [run for sweep in sweeps for run in sweep.runs]
  panels = series.panels(first.runs)
  answered = [
    (run, answers) for run in _by_weight(runs) if (answers := records.answers(run)) is not None
  ]
  written = []
  if samples_folder is not None:
    written = [samples.write(samples_folder, run, answers) for run, answers in answered]
  confidences = {
    run.label: answers.confidences for run, answers in answered if answers.confidences is not None
  }
  content = page.Content(
    f'Report of {first.path.name}' + (f' and {sweeps[1].path.name}' if sweeps[1:] else ''),
    _facts(sweeps, panels),
    tuple(_sections(sweeps, panels, prices, confidences)),
    resource_sections.runs_table(runs),
    ' '.join(note for sweep in sweeps if (note := folder.unfinished_note(sweep))),
    lambda packed: _about_examples(packed, runs, answered),
  )
  sheets = browser.sheets(answered, first.baseline)
  packed = page.write(output, content, lambda budget: browser.pack(sheets, runs, budget))
  return Made(output, packed, tuple(written))


def _sections(
  sweeps: Sequence[Sweep],
  panels: Sequence[Panel],
  prices: Prices | None,
  confidences: dict[str, np.ndarray],
) -> list[Section]:
  baseline = sweeps[0].baseline
  compared = series.equal_labels(panels, baseline)
  found = [two_folders.section(*sweeps)] if len(sweeps) > 1 else []
  return [
    *found,
    accuracy_sections.in_short(panels, compared),
    accuracy_sections.by_data(panels),
    accuracy_sections.tests(panels, compared, baseline),
    accuracy_sections.equal_compute(panels, baseline),
    accuracy_sections.matching_fractions(panels, baseline),
    accuracy_sections.by_size(panels),
    accuracy_sections.least_resources(panels),
    resource_sections.costs(panels, baseline, prices),
    resource_sections.deferrals(panels, confidences),
    resource_sections.learning(panels),
  ]


def _by_weight(runs: Sequence[Run]) -> list[Run]:
  """Runs with the most data and the largest student first; one seed of all before the next."""
  seeds = {seed: place for place, seed in enumerate(dict.fromkeys(str(run.seed) for run in runs))}
  return sorted(
    runs,
    key=lambda run: (
      not run.is_equal_labels, -run.fraction, -(run.parameters or 0), seeds[str(run.seed)],
    ),
  )  # fmt: skip


def _facts(sweeps: Sequence[Sweep], panels: Sequence[Panel]) -> str:
  """One line: how much there is, of what, and where it lies."""
  students = sweeps[0].students
  seeds = len({str(run.seed) for run in students})
  names = ', '.join(dict.fromkeys(run.name for run in students))
  items = ' or '.join(f'{n:,}' for n in sorted({len(run.correct) for run in students}))
  data = ', '.join(folder.datasets(students))
  teacher = next((panel.teacher for panel in panels if panel.teacher is not None), None)
  parts = [
    f'{len(students)} students, {seeds} seed{"s" if seeds != 1 else ""}: {names}.',
    f'Data: {data}.' if data else '',
    f'Scored on {items} items of {students[0].split or "an unknown split"}.',
    f'Compared to {sweeps[0].baseline}.',
    f'Teacher: {teacher.score.name}, {percent(teacher.score.accuracy):.2f} %.' if teacher else '',
    ' '.join(f'Folder: {sweep.path}.' for sweep in sweeps),
  ]
  return ' '.join(part for part in parts if part)


def _about_examples(
  packed: Packed, runs: Sequence[Run], answered: Sequence[tuple[Run, Answers]]
) -> list[str]:
  """What the browser holds, what it lacks, and which command adds that."""
  if not answered:
    return [
      f'No run folder has the records of its score ({RECORDS_NOTE}), so there are no examples.'
    ]
  found = [
    'Gold label, teacher and students, side by side; first those that only one of two students has '
    'right. The choices below change both students and the selection.'
  ]
  if missing := len(runs) - len(answered):
    found.append(f'{missing} of {len(runs)} runs have no records of their score ({RECORDS_NOTE}).')
  if packed.left_out:
    found.append(
      f'{packed.left_out:,} examples did not fit into {page.MOST_BYTES / 1e6:g} MB and are left '
      'out; --samples=DIR writes all.'
    )
  if packed.without_rationales:
    found.append(f'Rationales of {packed.without_rationales} runs did not fit and are left out.')
  if not packed.with_rationales and not packed.without_rationales:
    found.append(
      'No student was asked for rationales: `dss evaluate --model_dir=RUN '
      '--task=DATASET_rationale` '
      "of a method that learns them adds its own, and the teacher's beside them."
    )
  if not any(run.is_teacher for run, _ in answered):
    found.append(
      "The teacher's labels are not there: a sweep with few_shot_cot in METHODS adds them."
    )
  return found
