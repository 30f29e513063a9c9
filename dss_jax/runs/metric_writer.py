"""Where a run's numbers go: metrics.jsonl, TensorBoard, and lines or a bar for people.

Owns the files and the screen, which of several processes the main one has. Knows nothing of what
the numbers mean.
"""

import json
import sys
import time
from collections.abc import Mapping

from etils import epath
from rich import console, progress

from dss_jax.parallel import distributed

FILE = 'metrics.jsonl'


class MetricWriter:
  """Appends metrics to metrics.jsonl and TensorBoard events of a run folder.

  Args:
    folder: the run folder.
    step: the step training continues from; lines of later steps, which a killed process left, are
      taken out, so that a resumed run's file equals an uninterrupted one's.
  """

  def __init__(self, folder: str, step: int = 0):
    self._events = None
    if not distributed.is_main():
      return
    from clu import metric_writers  # TensorFlow: slow to import, needed by training alone

    self._path = epath.Path(folder) / FILE
    kept = [line for line in _lines(self._path) if json.loads(line)['step'] <= step]
    temporary = self._path.with_name(f'.{FILE}.tmp')
    temporary.write_text(''.join(f'{line}\n' for line in kept))
    temporary.replace(self._path)
    self._events = metric_writers.SummaryWriter(folder)

  def write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
    """One line {"step": .., "kind": .., <metrics>} and one point a metric in TensorBoard.

    Args:
      step: updates made.
      kind: 'train' or 'validation'.
      metrics: numbers by name.
    """
    if self._events is None:
      return
    row = {'step': step, 'kind': kind, **metrics}
    with self._path.open('a') as file:
      file.write(json.dumps(row) + '\n')
    self._events.write_scalars(step, {f'{kind}/{name}': v for name, v in metrics.items()})

  def close(self) -> None:
    """Flushes what is buffered."""
    if self._events is not None:
      self._events.flush()
      self._events.close()


def read_metrics(folder: str) -> list[dict]:
  """All whole lines of a run's metrics.jsonl, in order."""
  return [json.loads(line) for line in _lines(epath.Path(folder) / FILE)]


class Progress:
  """A bar with the time left on a terminal, plain lines elsewhere.

  Args:
    total: steps in all.
    start: steps already done.
  """

  def __init__(self, total: int, start: int = 0):
    self._total = total
    self._first: tuple[int, float] | None = None
    self._bar = None
    self._silent = not distributed.is_main()
    if sys.stderr.isatty() and not self._silent:
      self._bar = progress.Progress(
        progress.TextColumn('{task.description}'),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn('{task.fields[note]}'),
        console=console.Console(stderr=True),
      )
      self._task = self._bar.add_task('train', total=total, completed=start, note='')
      self._bar.start()

  def advance(self, step: int) -> None:
    """`step` steps are done."""
    if self._bar:
      self._bar.update(self._task, completed=step)

  def line(self, step: int, text: str) -> None:
    """Says something about a step: under the bar, or as a line with the time left."""
    if self._bar:
      self._bar.update(self._task, completed=step, note=text)
      return
    if self._silent:
      return
    if self._first is None:  # what came before is compilation, which says nothing of what is left
      self._first = step, time.monotonic()
    done, seconds = step - self._first[0], time.monotonic() - self._first[1]
    eta = f'  eta {_clock((self._total - step) * seconds / done)}' if done else ''
    print(f'step {step}/{self._total}  {text}{eta}', file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """A line that stays."""
    if self._bar:
      self._bar.console.print(text, highlight=False, markup=False)
    else:
      distributed.log(text)

  def close(self) -> None:
    """Takes the bar away."""
    if self._bar:
      self._bar.stop()


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def _lines(path: epath.Path) -> list[str]:
  """The lines of the file that end in a newline: a killed process may leave half a line."""
  return path.read_text().split('\n')[:-1] if path.exists() else []
