"""Two or more sides timed in turn, each in a process of its own that rests while others work.

Owns the processes, the order (ours, peer, ours, peer ...), medians and ratios, and what is said of
the machine. What a side does is the benchmark's.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MARK = 'ANSWER '


class Side:
  """A side: a Python program that calls `serve`.

  Args:
    name: for people.
    command: the program and its arguments.
    path: more folders for its PYTHONPATH.
    platform: where JAX computes.
  """

  def __init__(self, name: str, command: Sequence[str], path: str = '', platform: str = 'cpu'):
    self.name = name
    paths = [path, os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
    environment |= {'JAX_PLATFORMS': platform, 'TF_CPP_MIN_LOG_LEVEL': '3'}
    self._process = subprocess.Popen(
      list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

  def ask(self, **request: Any) -> dict[str, Any]:
    """Sends a request and waits for the answer; ends this program if the side has died."""
    assert self._process.stdin and self._process.stdout
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(request), file=self._process.stdin, flush=True)
    for line in self._process.stdout:
      if line.startswith(MARK):
        return json.loads(line[len(MARK) :])
    raise SystemExit(f'{self.name} ended with exit code {self._process.wait()}.')

  def close(self) -> None:
    """Lets the side end."""
    assert self._process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has died
      self._process.stdin.close()
    self._process.wait()


def serve(answer: Callable[..., Mapping[str, Any]]) -> None:
  """The loop of a side: calls `answer(**request)` for each request of `Side.ask`."""
  for line in sys.stdin:
    print(MARK + json.dumps(answer(**json.loads(line))), flush=True)


def alternate(
  sides: Sequence[Side], rounds: int, **request: Any
) -> dict[str, list[dict[str, Any]]]:
  """The answers of every side to the same request, asked in turn; a first one is not counted."""
  answers: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
  for number in range(rounds + 1):
    for side in sides:
      answer = side.ask(**request)
      rate = f'{answer["rate"]:.2f} {answer["unit"]}/s'
      print(f'round {number} {side.name}: {rate}', file=sys.stderr, flush=True)
      if number:
        answers[side.name].append(answer)
  return answers


def summary(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
  """Median rate of each side, its least and largest, and the median over rounds of ours / its.

  Processor seconds count all cores; where others use the machine they say more than the rate.
  """
  ours = [answer['rate'] for answer in next(iter(answers.values()))]
  rows = []
  for name, found in answers.items():
    rates = [answer['rate'] for answer in found]
    ratios = [one / other for one, other in zip(ours, rates, strict=True)]
    rows.append(
      {
        'side': name,
        'median': statistics.median(rates),
        'least': min(rates),
        'largest': max(rates),
        'ours / it': statistics.median(ratios),
        'processor s each': statistics.median(answer['processor_seconds'] for answer in found),
      }
    )
  return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows of equal keys as a Markdown table; floats with three digits that count, or more."""

  def cell(value: Any) -> str:
    if not isinstance(value, float):
      return str(value)
    return f'{value:.3g}' if abs(value) < 1000 else f'{value:.0f}'

  names = list(rows[0])
  lines = [names, ['---'] * len(names), *([cell(row[name]) for name in names] for row in rows)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def machine(*packages: str) -> dict[str, Any]:
  """What the figures are of: the CPU, its cores, the day and the versions of packages."""
  cpu = platform.processor() or platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    names = [line.split(':')[1].strip() for line in info.open() if line.startswith('model name')]
    cpu = names[0] if names else cpu
  return {
    'cpu': cpu,
    'cores': len(os.sched_getaffinity(0)),
    'date': datetime.date.today().isoformat(),
    'load': round(os.getloadavg()[0], 1),
    **{name: importlib.metadata.version(name) for name in packages},
  }


def write_json(path: str | None, content: Any) -> None:
  """Writes the figures where --json says, if it does."""
  if path:
    pathlib.Path(path).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
