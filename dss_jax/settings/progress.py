"""Progress of long work: a bar on a terminal's standard error, nothing elsewhere.

Owns how it looks. Does not own: lines for logs, which long jobs print themselves.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')
Advance = Callable[..., None]
"""Takes how much is done, and by name: the `total`, or a new `name`; None leaves both."""


@contextlib.contextmanager
def bar(
  name: str, total: int | None = None, is_shown: bool = True, start: int = 0
) -> Iterator[Advance]:
  """A bar with the remaining time, or a moving one if the total is not known; removed at the end.

  Args:
    name: what is done.
    total: of what there is to do.
    is_shown: False in processes that say nothing.
    start: how much was done before, which took no time now.
  """
  if not (is_shown and sys.stderr.isatty()):
    yield lambda done, total=None, name=None: None
    return
  import rich.console
  import rich.progress

  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    console=rich.console.Console(stderr=True),
    transient=True,
  ) as shown:
    task = shown.add_task(name, total=total, completed=start)

    def advance(done: int, total: int | None = None, name: str | None = None) -> None:
      shown.update(task, completed=done, total=total, description=name)

    yield advance


def counted(items: Iterable[T], advance: Advance, every: int = 100) -> Iterator[T]:
  """Yields the items, and says after every hundredth how many there were."""
  for number, item in enumerate(items, start=1):
    yield item
    if number % every == 0:
      advance(number)
