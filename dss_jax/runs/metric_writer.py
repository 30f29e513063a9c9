"""Where a run's numbers go: metrics.jsonl, TensorBoard, and lines or a bar for people.

Owns when rows are written and what the screen shows, both in the main process only. The file of the
rows is run_folder.py's; what the numbers mean is training_log.py's.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax.parallel import distributed
from dss_jax.runs.run_folder import RunFolder
from dss_jax.settings import progress


class MetricWriter:
  """Appends metrics to a run's metrics.jsonl and TensorBoard events.

  Args:
    folder: of the run.
    step: the step that training continues from. Rows of later steps, which a killed process left,
      are removed, so that a resumed run's file equals that of an uninterrupted run.
  """

  def __init__(self, folder: RunFolder, step: int = 0):
    self._folder = folder
    self._events = None
    self._is_main = distributed.is_main()
    if not self._is_main:
      return
    from clu import metric_writers  # TensorFlow: slow to import, needed by training alone

    folder.drop_metric_rows_after(step)
    self._events = metric_writers.SummaryWriter(str(folder.events_folder))

  def write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
    """Writes a row {"step": .., "kind": .., <metrics>}, and a point of each metric for TensorBoard.

    Args:
      step: updates made.
      kind: 'train' or 'validation'.
      metrics: numbers by name.

    Raises:
      OSError: metrics.jsonl cannot be written.
    """
    if not self._is_main:
      return
    self._folder.append_metric_row({'step': step, 'kind': kind, **metrics})
    points = {f'{kind}/{name}': value for name, value in metrics.items()}
    self._tell_tensorboard(lambda events: events.write_scalars(step, points))

  def close(self) -> None:
    """Flushes and closes the events."""
    self._tell_tensorboard(lambda events: (events.flush(), events.close()))

  def _tell_tensorboard(self, tell: Callable[[Any], Any]) -> None:
    """Writes events; where that fails they end, and the run goes on: metrics.jsonl has the same."""
    if self._events is None:
      return
    try:
      tell(self._events)
    except Exception as error:  # TensorFlow's
      self._events = None
      reason = str(error).splitlines()[0][-200:]
      distributed.log(f'warning: no more events for TensorBoard are written: {reason}')


class Progress:
  """A progress bar with the remaining time on a terminal, plain lines elsewhere.

  Args:
    total: steps in all.
    start: steps already done.
  """

  def __init__(self, total: int, start: int = 0):
    self._total = total
    self._first: tuple[int, float] | None = None
    self._silent = not distributed.is_main()
    self._has_bar = sys.stderr.isatty() and not self._silent
    self._shown = contextlib.ExitStack()
    bar = progress.bar('train', total, is_shown=self._has_bar, start=start)
    self._advance = self._shown.enter_context(bar)

  def advance(self, step: int) -> None:
    """Moves the bar to `step` steps done."""
    self._advance(step)

  def line(self, step: int, text: str) -> None:
    """Shows a text about a step: beside the bar, or as a line with the remaining time."""
    if self._has_bar:
      self._advance(step, name=f'train  {text}')
      return
    if self._silent:
      return
    if self._first is None:  # the time before was compilation, which happens once
      self._first = step, time.monotonic()
    done, seconds = step - self._first[0], time.monotonic() - self._first[1]
    eta = f'  eta {_clock((self._total - step) * seconds / done)}' if done else ''
    print(f'step {step}/{self._total}  {text}{eta}', file=sys.stderr, flush=True)

  def log(self, text: str) -> None:
    """Prints a line above the bar, which takes what is written to standard error."""
    distributed.log(text)

  def close(self) -> None:
    """Removes the bar."""
    self._shown.close()


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
