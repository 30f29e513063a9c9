"""The extensible tables of methods by name, and of tasks by number.

Owns the values of METHOD, and the number of a task in the rows of SeqIO tasks. To add your own
method, make one call in a module that MIXTURE_OR_TASK_MODULE names:

    from dss_jax import methods

    methods.register(methods.Method('mine', 'what it does', rows=..., loss=..., answer=...))
"""

import difflib

from dss_jax.methods.base import Method, pieces

DEFAULT = 'dss'
_methods: dict[str, Method] = {}
_task_ids: dict[str, int] = {'label': 0, 'rationale': 1}


def register(method: Method) -> Method:
  """Adds a method to the table and returns it; adding it again changes nothing.

  Raises:
    ValueError: another method has its name.
  """
  if _methods.setdefault(method.name, method) != method:
    raise ValueError(f'another method is named {method.name!r}; choose another name.')
  for row in (*method.rows, method.answer):
    task_id(row.task)
  return method


def get(name: str) -> Method:
  """The method of a name.

  Raises:
    ValueError: there is none; the message has similar names.
  """
  if name not in _methods:
    near = difflib.get_close_matches(name, _methods, n=3, cutoff=0.5)
    hint = f'did you mean {" or ".join(near)}?' if near else f'there are {", ".join(_methods)}.'
    raise ValueError(
      f'no method {name!r} (METHOD): {hint} Register your own method in the module that '
      'MIXTURE_OR_TASK_MODULE names.'
    )
  return _methods[name]


def names() -> tuple[str, ...]:
  """The names of all registered methods."""
  return tuple(_methods)


def registered() -> tuple[Method, ...]:
  """All registered methods, in the order in which they were registered."""
  return tuple(_methods.values())


def task_id(task: str) -> int:
  """The number of a task in SeqIO's rows in this process; a new task gets the next number."""
  return _task_ids.setdefault(task, len(_task_ids))


def task_of(number: int) -> str:
  """The task that a number stands for.

  Raises:
    ValueError: there is none.
  """
  for task, known in _task_ids.items():
    if known == number:
      return task
  raise ValueError(f'no task has the task_id {number}; known: {_task_ids}.')


def marks() -> tuple[str, ...]:
  """The texts of all methods' templates, such as `[label]`; each is one piece of a vocabulary."""
  templates = (
    template
    for method in _methods.values()
    for row in (*method.rows, method.answer)
    for template in (row.input, row.target)
  )
  return tuple(
    sorted({text.strip() for template in templates for text, _ in pieces(template)} - {''})
  )
