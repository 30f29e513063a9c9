"""A store used by many tasks at once: what they ask of it is done together, in one transaction.

A commit waits for the disk. So one thread takes whatever has gathered while it waited: each change
is on disk before its task goes on, and hundreds of them a second need only as many commits as the
disk can do.
"""

import asyncio
import concurrent.futures
import functools
import sqlite3
from collections.abc import Callable
from typing import Any

from dss_jax.teacher.store import Store

Change = Callable[[], Any]


class Commits:
  """Use with `async with`; `await commits(change)` returns what the change returned."""

  def __init__(self, store: Store):
    """Args: the store that changes are made in."""
    self._store = store
    self._waiting: list[tuple[Change, asyncio.Future[Any]]] = []
    self._came = asyncio.Event()
    self._ended = False
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'teacher-store')

  async def __aenter__(self) -> 'Commits':
    self._task = asyncio.create_task(self._serve())
    return self

  async def __aexit__(self, *error: object) -> None:
    """Ends after all that was asked before."""
    self._ended = True
    self._came.set()
    await asyncio.wait([self._task])
    self._thread.shutdown()

  async def __call__(self, change: Callable[..., Any], *arguments: Any) -> Any:
    """Makes a change, which calls methods of the store; returns when it is on disk."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    self._waiting.append((functools.partial(change, *arguments), done))
    self._came.set()
    return await done

  async def _serve(self) -> None:
    loop = asyncio.get_running_loop()
    while self._waiting or not self._ended:
      await self._came.wait()
      self._came.clear()
      batch, self._waiting = self._waiting, []
      try:
        results = await loop.run_in_executor(self._thread, self._together, batch)
      except Exception as error:  # of the disk: every change of the transaction failed
        for _, done in batch:
          if not done.done():
            done.set_exception(error)
        continue
      for (_, done), result in zip(batch, results, strict=True):
        if done.done():  # its task was cancelled
          continue
        if isinstance(result, Exception):
          done.set_exception(result)
        else:
          done.set_result(result)

  def _together(self, batch: list[tuple[Change, asyncio.Future[Any]]]) -> list[Any]:
    with self._store.transaction():
      return [self._outcome(change) for change, _ in batch]

  def _outcome(self, change: Change) -> Any:
    """What a change returns, or its error, which leaves the other changes as they are."""
    try:
      with self._store.part():
        return change()
    except sqlite3.Error:
      raise
    except Exception as error:
      return error
