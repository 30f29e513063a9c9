"""Work ahead of a consumer in one background thread.

Owns the thread and the time that the consumer waited for it. The items can be anything.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Prefetch(Iterator[Any]):
  """Makes `put(batch)` ahead of the consumer in one background thread, in order.

  Errors of `batches` and of `put` are raised where the consumer asks for that item. Use as a
  context manager, or call `close`, to stop the thread early.

  Attributes:
    wait_seconds: how long the consumer has waited so far.
  """

  def __init__(self, batches: Iterable[Any], put: Callable[[Any], Any], depth: int = 2):
    iterator = iter(batches)
    self._make = lambda: put(next(iterator))
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='prefetch')
    self._ahead = deque(self._thread.submit(self._make) for _ in range(depth))
    self.wait_seconds = 0.0

  def __next__(self) -> Any:
    if not self._ahead:
      raise StopIteration
    start = time.perf_counter()
    try:
      item = self._ahead.popleft().result()
    except BaseException:
      self.close()
      raise
    self._ahead.append(self._thread.submit(self._make))
    self.wait_seconds += time.perf_counter() - start
    return item

  def close(self) -> None:
    """Stops the thread; what was made ahead is thrown away."""
    self._ahead.clear()
    self._thread.shutdown(wait=True, cancel_futures=True)

  def __enter__(self) -> Prefetch:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()
