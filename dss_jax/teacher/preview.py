"""What a preview shows: a few questions, how their answers were read, and what the rest would cost.

Owns the text. Does not own: asking (run.py), reading (reading.py), printing (commands/annotate.py).
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import rich.console
import rich.table
import rich.text

from dss_jax.settings.printable import printable
from dss_jax.teacher.annotations import Written, dollars
from dss_jax.teacher.reading import Reading
from dss_jax.teacher.requests import Request

WIDTH = 160
KEPT = 'ok'
"""The status of a completion from which a student learns both tasks."""


class Shown(NamedTuple):
  """One answer of a preview: what was asked, its gold label, and what was read, if anything."""

  question: str
  gold: str
  read: Reading
  is_right: bool | None


def prompt_text(request: Request) -> str:
  """A request as it is sent, message by message."""
  if isinstance(request.prompt, str):
    return printable(request.prompt)
  return printable('\n'.join(f'[{one["role"]}]\n{one["content"]}' for one in request.prompt))


def table(shown: Sequence[Shown]) -> str:
  """Questions, rationales and labels side by side."""
  columns = ('question', 'rationale', 'label', 'gold', 'status')
  grid = rich.table.Table(*columns, show_lines=True, width=WIDTH)
  marks = {None: '', True: ' (right)', False: ' (wrong)'}
  for one in shown:
    status = one.read.status + (marks[one.is_right] if one.read.label else '')
    cells = (one.question, one.read.rationale, one.read.label, one.gold, status)
    grid.add_row(*(rich.text.Text(printable(cell)) for cell in cells))
  out = io.StringIO()
  rich.console.Console(file=out, width=WIDTH, color_system=None).print(grid)
  return out.getvalue()


def summary(total: Written, samples: int, all_requests: int, spent: int | None) -> str:
  """Parse rate, agreement, tokens, and the projected cost of the whole run.

  Args:
    total: of the answers of the preview.
    samples: completions that were looked at.
    all_requests: of the whole run.
    spent: billionths of a dollar that the preview's answers cost; None: there is no price.
  """
  kept = total.statuses.get(KEPT, 0)
  statuses = ', '.join(f'{name} {count}' for name, count in sorted(total.statuses.items()))
  lines = [f'{samples} completions: {statuses}; parsed {_percent(kept, samples)}']
  if total.judged:
    lines.append(f'agreement with gold: {_percent(total.agree, total.judged)} of {total.judged}')
  answers, tokens = max(total.requests, 1), total.tokens
  lines.append(
    f'tokens of an answer: {tokens.input / answers:.0f} input '
    f'({_percent(tokens.cached, tokens.input)} from the prompt cache), '
    f'{tokens.output / answers:.0f} output'
  )
  scale = all_requests / max(samples, 1)
  projected = f'the whole run: {all_requests} questions, about {kept * scale:.0f} kept rationales'
  if spent is None:
    lines.append(
      f'{projected}, {tokens.input * scale:.0f} input and {tokens.output * scale:.0f} '
      'output tokens; --price_file gives the cost in dollars'
    )
  else:
    each = f', ${dollars(spent) / kept:.6f} for each kept rationale' if kept else ''
    lines.append(f'{projected}, about ${dollars(spent) * scale:.2f}{each}')
  return '\n'.join(lines)


def _percent(part: int, whole: int) -> str:
  return f'{100 * part / whole:.1f} %' if whole else '-'
