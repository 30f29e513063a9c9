"""The shape of the code: which module may import which, and the house rules a program can check.

A module imports from its own layer or from below it, and no modules import each other in a circle.
"""

import ast
import functools
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
# From the top of the house to its ground: a room imports from itself and from those below it.
ROOMS = (
  '__main__',
  'cli',
  'launch',
  'commands',
  't5x',
  'planning',
  'serving',
  'experiments',
  'runs',
  'inference',
  'checkpoints',
  'training',
  'models',
  'data',
  'tasks',
  'teacher',
  'datasets',
  'methods',
  'parallel',
  'settings',
)
LEVEL = {name: -number for number, name in enumerate(ROOMS)}
MAX_LINES = 400


def _python_files(*folders: str) -> dict[str, pathlib.Path]:
  """Every Python file below these folders of the repository, by its path there."""
  files = (file for folder in folders for file in (REPOSITORY / folder).rglob('*.py'))
  return {str(file.relative_to(REPOSITORY)): file for file in sorted(files)}


OURS = _python_files('dss_jax', 'tasks', 'launch')
EVERYTHING = {**OURS, **_python_files('tests', 'benchmarks', 'docs')}


@functools.cache
def _tree(path: str) -> ast.Module:
  return ast.parse(EVERYTHING[path].read_text(encoding='utf-8'), filename=path)


def _module(path: str) -> str:
  """The name a file is imported by: tasks/metrics.py is dss_jax.tasks.metrics."""
  parts = pathlib.PurePath(path).with_suffix('').parts
  parts = parts if parts[0] == 'dss_jax' else ('dss_jax', *parts)
  return '.'.join(parts).removesuffix('.__init__')


MODULES = {_module(path): path for path in OURS}


def _imports(path: str) -> set[str]:
  """Every module that a file imports, at the top or within a function, by its full name."""
  found = set()
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      package = _module(path).split('.')
      package = package if path.endswith('__init__.py') else package[:-1]
      start = package[: len(package) - node.level + 1] if node.level else []
      base = '.'.join([*start, *([node.module] if node.module else [])])
      for alias in node.names:
        name = f'{base}.{alias.name}'
        found.add(name if name in MODULES else base)
  return found


def _our_imports(path: str) -> set[str]:
  """As `_imports`, of our own modules only, without the packages around them."""
  return {name for name in _imports(path) if name in MODULES and name != 'dss_jax'}


def _libraries(path: str) -> set[str]:
  return {name.split('.')[0] for name in _imports(path)}


def _part(module: str) -> str | None:
  """The name that stands in the table of layers: `dss_jax.models.t5` is 'models'."""
  parts = module.split('.')
  return parts[1] if len(parts) > 1 else None


def _in(folder: str) -> list[str]:
  return [path for path in OURS if path.startswith(folder)]


# ---------------------------------------------------------------- layers


def test_the_rooms_are_the_folders():
  assert {_part(module) for module in MODULES} - {None} == set(ROOMS)


@pytest.mark.parametrize('path', [path for path in OURS if _part(_module(path))])
def test_imports_do_not_point_upward(path):
  level = LEVEL[_part(_module(path))]
  upward = {name for name in _our_imports(path) if LEVEL[_part(name)] > level}
  assert not upward, f'{path} imports {sorted(upward)}'


def test_no_modules_import_each_other_in_a_circle():
  waiting = {module: _our_imports(path) - {module} for module, path in MODULES.items()}
  while free := {module for module, needed in waiting.items() if not needed & set(waiting)}:
    waiting = {module: needed for module, needed in waiting.items() if module not in free}
  assert not waiting, f'a circle among {sorted(waiting)}'


@pytest.mark.parametrize('path', _in('dss_jax/models'))
def test_the_network_knows_only_jax_and_flax(path):
  allowed = {'jax', 'flax', 'jaxtyping', 'dss_jax', 'dataclasses', 'functools', 'math'}
  assert _libraries(path) <= allowed | {'typing', 'collections'}
  assert all(_part(name) in ('models', 'settings', 'parallel') for name in _our_imports(path))


@pytest.mark.parametrize('path', ['dss_jax/training/losses.py', 'dss_jax/training/optimizers.py'])
def test_losses_and_optimizers_know_nothing_of_the_network_or_the_data(path):
  assert not {_part(name) for name in _our_imports(path)} & {'models', 'tasks'}
  assert not _libraries(path) & {'flax', 'gin', 'orbax', 'seqio', 'tensorflow'}


@pytest.mark.parametrize('path', _in('tasks'))
def test_tasks_need_no_jax(path):
  assert not _libraries(path) & {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'torch', 'gin'}


@pytest.mark.parametrize('path', _in('dss_jax/datasets') + _in('dss_jax/methods'))
def test_data_sets_and_methods_need_no_framework(path):
  """A teacher's worker and a reader of raw files start without TensorFlow, SeqIO and JAX."""
  heavy = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'torch', 'gin', 'tensorflow', 'seqio'}
  reached, waiting = set(), [path]
  while waiting:
    reached.add(one := waiting.pop())
    assert not _libraries(one) & heavy, one
    waiting += {MODULES[name] for name in _our_imports(one)} - reached
  assert {_part(name) for name in _our_imports(path)} <= {'datasets', 'methods', 'settings'}


NAMES_OF_METHODS = {'dss', 'paired', 'standard', 'single_task', 'rationale_input'}


@pytest.mark.parametrize('path', [path for path in OURS if 'methods/' not in path])
def test_no_name_of_a_method_or_task_is_taken_apart(path):
  """What a name stands for is looked up; nobody compares it or cuts it up."""
  called = {'endswith', 'startswith', 'rsplit', 'split', 'partition', 'rpartition', 'removesuffix'}
  for node in ast.walk(_tree(path)):
    texts = []
    if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') in called:
      texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    elif isinstance(node, ast.Compare):
      sides = [node.left, *node.comparators]
      sides += [item for side in sides if isinstance(side, ast.Tuple) for item in side.elts]
      texts = [side.value for side in sides if isinstance(side, ast.Constant)]
    named = [
      text for text in texts if isinstance(text, str) and text.strip('_') in NAMES_OF_METHODS
    ]
    assert not named, f'line {node.lineno} looks at the name {named}'
    assert '_teacher_' not in texts


def test_only_the_configuration_knows_gin():
  users = {path for path in OURS if 'gin' in _libraries(path)}
  assert {path.rpartition('/')[0] for path in users} == {'dss_jax/settings'}


def test_nothing_needs_torch():
  assert not [path for path in OURS if _libraries(path) & {'torch', 'flaxformer'}]


def test_t5x_is_imported_by_one_folder_that_nothing_else_imports():
  room = _in('dss_jax/t5x/')
  others = [path for path in OURS if path not in room]
  assert not [path for path in others if 't5x' in _libraries(path)]
  users = [path for path in others if 't5x' in {_part(name) for name in _our_imports(path)}]
  assert not users, 'gin files alone name it'


# ---------------------------------------------------------------- house rules


def test_gin_is_data_and_never_a_package():
  """A gin/__init__.py would shadow the library `gin` for everything run from the repository."""
  assert not list((REPOSITORY / 'gin').rglob('*.py'))
  assert list((REPOSITORY / 'gin').rglob('*.gin'))


@pytest.mark.parametrize('path', EVERYTHING)
def test_files_are_short_and_say_what_they_own(path):
  lines = EVERYTHING[path].read_text(encoding='utf-8').splitlines()
  assert len(lines) <= MAX_LINES
  assert not lines or ast.get_docstring(_tree(path)), 'no docstring at the top'


@pytest.mark.parametrize('path', OURS)
def test_functions_are_short(path):
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      lines = node.end_lineno - node.lineno + 1
      assert lines <= 60, f'{node.name} has {lines} lines'


@pytest.mark.parametrize('path', EVERYTHING)
def test_no_text_is_executed(path):
  called = {
    node.func.id
    for node in ast.walk(_tree(path))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
  }
  assert not called & {'eval', 'exec'}


@pytest.mark.parametrize('path', OURS)
def test_public_names_have_docstrings(path):
  """Functions and classes of a module, and the methods of classes that inherit from nothing."""
  definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
  public = [node for node in _tree(path).body if isinstance(node, definitions)]
  public = [node for node in public if not node.name.startswith('_')]
  for node in [node for node in public if isinstance(node, ast.ClassDef) and not node.bases]:
    methods = [method for method in node.body if isinstance(method, definitions)]
    public += [method for method in methods if not method.name.startswith('_')]
  missing = [node.name for node in public if not ast.get_docstring(node)]
  assert not missing


@pytest.mark.parametrize('path', OURS)
def test_no_module_is_a_drawer(path):
  """Names such as `utils` say nothing of what a module owns."""
  assert not set(pathlib.PurePath(path).with_suffix('').parts) & {'utils', 'common', 'helpers'}
