"""The table of data sets that `dss prepare` builds: open, by name."""

import difflib

from dss_jax.datasets.release import Dataset

_datasets: dict[str, Dataset] = {}


def register(dataset: Dataset) -> Dataset:
  """Adds a data set to the table and returns it.

  Raises:
    ValueError: another one has its name.
  """
  if _datasets.setdefault(dataset.name, dataset) is not dataset:
    raise ValueError(f'another data set is named {dataset.name!r}; choose another name.')
  return dataset


def get(name: str) -> Dataset:
  """The data set of a name.

  Raises:
    ValueError: there is none; the message has similar names.
  """
  if name not in _datasets:
    near = difflib.get_close_matches(name, _datasets, n=3, cutoff=0.5) or names()
    raise ValueError(
      f'no data set {name!r}; there are {", ".join(near)}. Register your own in the module '
      'that --module names.'
    )
  return _datasets[name]


def names() -> tuple[str, ...]:
  """The names of all data sets, sorted."""
  return tuple(sorted(_datasets))
