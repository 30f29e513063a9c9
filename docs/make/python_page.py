"""The Python reference: which modules are for users, and in which order.

Owns that list. mkdocstrings reads their docstrings from the source, without importing anything.
"""

import pathlib

MODULES = {
  'A student, loaded once and asked many times': (
    'dss_jax.runs.student',
    'dss_jax.inference.predictor',
  ),
  'Data sets of your own': (
    'dss_jax.tasks.registration',
    'dss_jax.tasks.files',
    'dss_jax.datasets.registry',
    'dss_jax.datasets.release',
    'dss_jax.datasets.teacher_outputs',
  ),
  'Methods of your own': (
    'dss_jax.methods.base',
    'dss_jax.methods.choices',
    'dss_jax.methods.registry',
    'dss_jax.methods.derived',
  ),
  'Losses and optimizers': ('dss_jax.training.losses', 'dss_jax.training.optimizers'),
  'The network': ('dss_jax.models.t5',),
  'A run and its folder': ('dss_jax.runs.run_config', 'dss_jax.runs.run_folder'),
  'The teacher': ('dss_jax.teacher.prompts', 'dss_jax.teacher.store'),
  'Statistics': ('dss_jax.experiments.statistics',),
}


def text() -> str:
  """The page, on which mkdocstrings puts each module."""
  parts = [
    '# Python',
    'Modules that are meant to be called from outside. All others may change in any version.',
  ]
  for title, modules in MODULES.items():
    parts += [f'## {title}', *(f'::: {module}' for module in modules)]
  return '\n\n'.join(parts) + '\n'


def link_package(root: pathlib.Path, folder: pathlib.Path) -> None:
  """Links the folders of the repository in the form in which they install: one package."""
  package = folder / 'dss_jax'
  package.mkdir(parents=True)
  for path in [*(root / 'dss_jax').iterdir(), root / 'tasks', root / 'launch']:
    if path.name != '__pycache__' and not (package / path.name).exists():
      (package / path.name).symlink_to(path.resolve())
