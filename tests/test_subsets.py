"""Samples of a data set: sizes, classes, nesting, and the same examples for every method."""

import collections
import contextlib
import dataclasses

import numpy as np
import pytest
from small_runs import config_of, small_data  # noqa: F401  a fixture

from dss_jax import methods
from dss_jax.data import pipeline, subsets
from dss_jax.runs import training_setup

FRACTIONS = (0.001, 0.1, 0.125, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize('shares', [(1, 1, 1), (90, 9, 1)])
def test_a_smaller_sample_lies_within_a_larger_one_and_each_has_the_classes_of_the_whole(shares):
  labels = np.random.default_rng(0).permutation(np.repeat([*'abc'], [20 * s for s in shares]))
  inside = np.zeros(len(labels), bool)
  for fraction in FRACTIONS:
    kept = subsets.chosen(labels.tolist(), fraction, seed=3)
    assert kept.sum() == max(1, round(fraction * len(labels)))
    assert (kept >= inside).all()
    inside = kept
    counts = collections.Counter(labels[kept])
    for label, share in zip('abc', shares, strict=True):
      assert abs(counts[label] - fraction * 20 * share) <= 1
  assert kept.all()


def test_labels_that_occur_once_are_drawn_evenly():
  drawn = sum(subsets.chosen(range(40), 0.25, seed).astype(int) for seed in range(400))
  assert abs(drawn / 400 - 0.25).max() < 0.1  # 4.6 standard deviations
  assert (subsets.chosen(range(40), 0.25, 0) != subsets.chosen(range(40), 0.25, 1)).any()


@pytest.mark.parametrize('fraction', [0.0, -0.5, 1.5])
def test_a_fraction_out_of_range_is_refused(fraction):
  with pytest.raises(ValueError, match='TRAIN_FRACTION'):
    pipeline.DataConfig('svamp_dss', {'inputs': 8, 'targets': 8}, fraction=fraction)


def test_every_method_learns_from_the_same_examples(tmp_path, small_data):  # noqa: F811
  found = {}
  for name in ('standard', 'dss', 'paired'):
    run = config_of(tmp_path / name, method=methods.get(name))
    data = dataclasses.replace(
      run.data, mixture_or_task_name=f'embedded_arithmetic_{name}', fraction=0.25
    )
    run = dataclasses.replace(run, data=data)
    with contextlib.ExitStack() as stack:
      batches = training_setup.set_up(run, stack).batches
    found[name] = set(batches.examples.example_ids.tolist())
  assert found['standard'] == found['dss'] == found['paired']
