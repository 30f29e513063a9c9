"""Packaging of dss_jax.

Everything installs below the one import package `dss_jax`. Three top-level folders of the
repository are mapped into it: `tasks/` is imported as `dss_jax.tasks`, `launch/` as
`dss_jax.launch`, and `gin/` ships as package data in `dss_jax/gin`. Nothing else is ever installed
at top level: a wheel that claimed `tasks` or `gin` would break other people's code.
"""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

setuptools.setup(
  name='dss_jax',
  version='0.1.0',
  description='Distilling step by step: small T5 students of large language models, in JAX.',
  long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
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
    'dss_jax': ['py.typed'],
    'dss_jax.gin': ['**/*.gin'],
    'dss_jax.launch': ['*.sh'],
    'dss_jax.datasets': ['*.model'],
    'dss_jax.planning': ['*.json'],
  },
  install_requires=[
    'clu>=0.0.12',
    'etils[epath]>=1.12',
    'flax>=0.12.8,<0.13',
    'gin-config>=0.5.0',
    'google-cloud-storage>=3',  # which orbax asks how a bucket of gs:// paths is laid out
    'huggingface-hub>=1.0',
    'jax>=0.10.2,<0.11',
    'jaxtyping>=0.3',
    'numpy>=2.0',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.11',
    'rich>=13',
    'rouge-score>=0.1.2',
    'sentencepiece>=0.2',
    'seqio>=0.0.20',
    'tensorboard>=2.20',
    'tensorflow>=2.20',
    'tensorflow-datasets>=4.9.9',
    'transformers>=5.0',
  ],
  extras_require={
    'launch': ['google-cloud-tpu>=1.23'],
    'gpu': ['jax[cuda13]>=0.10.2,<0.11'],
    'tpu': ['jax[tpu]>=0.10.2,<0.11'],
    'plan': ["libtpu==0.0.42.*; sys_platform == 'linux'"],  # that of jax 0.10.2
    'test': ['beartype', 'mypy', 'pytest', 'pytest-xdist', 'ruff', 'scipy'],
    'torch': ['torch'],
  },
  entry_points={'console_scripts': ['dss=dss_jax.cli:main']},
)
