"""The paper's numbers beside ours: which runs have one, and what is compatible with it."""

import dataclasses

import pytest
from small_runs import config_of

from dss_jax import (
  methods,
  tasks,  # noqa: F401  registers the data sets
)
from dss_jax.experiments import paper

ERRORS = {
  'esnli': 0.32,
  'anli1': 1.57,
  'cqa': 1.39,
  'svamp': 3.42,
}  # recomputed


def run(method='standard', dataset='svamp', start='google/t5-v1_1-base', fraction=1.0):
  found = config_of('unused', method=methods.get(method), initial_checkpoint_path=start)
  data = dataclasses.replace(
    found.data, mixture_or_task_name=f'{dataset}_{method}', fraction=fraction
  )
  return dataclasses.replace(found, data=data)


@pytest.mark.parametrize('dataset', ERRORS)
def test_the_error_is_that_of_the_test_items(dataset):
  assert paper.published(run(dataset=dataset)).error == pytest.approx(ERRORS[dataset], abs=0.02)


def test_the_methods_of_the_paper():
  found = [paper.published(run(name)).percent for name in ('standard', 'single_task', 'dss')]
  assert found == [62.63, 63.00, 65.50]
  assert paper.published(run('paired')).percent == 65.50


@pytest.mark.parametrize(
  'changes',
  [
    {'fraction': 0.5},
    {'start': 'google/t5-v1_1-large'},
    {'start': None},
    {'dataset': 'embedded'},
    {'method': 'teacher_dss'},
  ],
)
def test_other_runs_have_no_published_number(changes):
  assert paper.published(run(**changes)) is None


def test_compatible_within_both_errors():
  published = paper.Published(60.0, 3.0)
  assert published.is_compatible(67.0, 2.0)
  assert not published.is_compatible(67.1, 2.0)
