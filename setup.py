"""What pyproject.toml cannot say simply: which folders are which packages.

Metadata is in pyproject.toml. Everything installs below the one import package `dss_jax`. Three
top-level folders of the repository are mapped into it: `tasks/` is imported as `dss_jax.tasks`,
`launch/` as `dss_jax.launch`, and `gin/` ships as package data in `dss_jax/gin`. Nothing else is
ever installed at top level: a wheel that claimed `tasks` or `gin` would break other people's code.
"""

import setuptools

setuptools.setup(
  packages=[
    *setuptools.find_packages(include=['dss_jax', 'dss_jax.*']),
    'dss_jax.gin',
    'dss_jax.launch',
    'dss_jax.tasks',
  ],
  package_dir={
    'dss_jax': 'dss_jax',
    'dss_jax.gin': 'gin',
    'dss_jax.launch': 'launch',
    'dss_jax.tasks': 'tasks',
  },
  package_data={
    'dss_jax': ['llms.txt', 'py.typed'],
    'dss_jax.gin': ['**/*.gin'],
    'dss_jax.launch': ['local.sh', 'startup.sh'],
    'dss_jax.datasets': ['embedded.model', 'embedded_arithmetic.model'],
    'dss_jax.experiments.report': ['page.html.j2', 'page.css', 'page.js'],
    'dss_jax.planning': ['table.json'],
    'dss_jax.serving': ['page.html'],
    'dss_jax.settings': ['troubles.toml'],
    'dss_jax.teacher': ['prompts/*.toml'],
  },
)
