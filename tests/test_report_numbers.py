"""The numbers of a report, against values by hand: matching fractions, deferral, cost."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import sweep_folders
from sweep_folders import Cell

from dss_jax.experiments import statistics
from dss_jax.experiments.report import (
  accuracy_sections,
  cost,
  curves,
  deferral,
  folder,
  matching,
  series,
)
from dss_jax.settings.errors import ConfigError

FRACTIONS = (0.25, 0.5, 1.0)


def panel_of(path, cells, items=400, **settings):
  sweep_folders.write(path, cells, items, **settings)
  (panel,) = series.panels(folder.read(path).runs)
  return panel


# ---------------------------------------------------------------- points and tests


def test_a_mean_over_seeds_has_students_interval(tmp_path):
  point = panel_of(tmp_path, sweep_folders.grid((1.0,), (1, 2, 3))).points[0]
  values = [run.score.accuracy for run in point.runs]
  expected = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
  assert point.mean == pytest.approx(np.mean(values))
  assert point.interval == pytest.approx(expected)


def test_one_seed_has_the_interval_of_its_items(tmp_path):
  point = panel_of(tmp_path, sweep_folders.grid((1.0,), (1,))).points[0]
  score = point.runs[0].score
  assert point.interval == (score.accuracy_low, score.accuracy_high)


def test_gaps_are_paired_and_corrected_over_their_table(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid())
  found = series.equal_labels([panel], 'standard')
  assert [(one.point.name, one.point.fraction) for one in found] == [
    ('dss', fraction) for fraction in FRACTIONS
  ]
  own, base = (
    np.array([run.correct for run in point.runs]) for point in (found[0].point, found[0].baseline)
  )
  assert found[0].gap == statistics.two_level_bootstrap(own, base)
  assert found[0].accuracies == (own.mean(), base.mean())
  assert found[0].flips == (int((own & ~base).sum()), int((base & ~own).sum()))
  assert [one.holm for one in found] == statistics.holm([one.gap.p for one in found])
  pairs = zip(own, base, strict=True)
  p_values = [
    scipy.stats.binomtest(int((a & ~b).sum()), int((a != b).sum()), 0.5).pvalue for a, b in pairs
  ]
  assert found[0].mcnemar == pytest.approx(np.median(p_values))


def test_equal_compute_is_a_table_of_its_own(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid())
  found = series.equal_compute([panel], 'standard')
  assert {one.baseline.name for one in found} == {'standard, equal compute'}
  assert {one.point.name for one in found} == {'dss'}


def test_runs_of_other_questions_are_not_paired(tmp_path):
  cells = [Cell('standard', 'standard', {'RANDOM_SEED': 1}, 0.5)]
  sweep_folders.write(tmp_path / 'a', cells, items=10)
  sweep_folders.write(tmp_path / 'b', cells, items=11)
  points = [series.panels(folder.read(tmp_path / name).runs)[0].points[0] for name in 'ab']
  assert series.against([(points[0], points[1])]) == []


def test_a_seed_that_only_one_has_is_left_out_of_both(tmp_path):
  panel = panel_of(tmp_path, [one for one in sweep_folders.grid((1.0,)) if one.name != 'dss'])
  more = panel_of(tmp_path, sweep_folders.grid((1.0,), (1, 2)))
  point, base = more.at('dss', 1.0, more.sizes[0]), panel.at('standard', 1.0, panel.sizes[0])
  (found,) = series.against([(point, base)])
  assert found.seeds == 2 and len(base.runs) == 3
  shared = np.mean([base.by_seed[seed].score.accuracy for seed in (1, 2)])
  assert found.accuracies == pytest.approx((point.mean, shared))
  assert found.gap.mean == pytest.approx(point.mean - shared)


def test_the_papers_number_stands_beside_ours(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid((1.0,), (1,)))
  point = panel.at('dss', 1.0, panel.sizes[0])
  score = dataclasses.replace(point.runs[0].score, published=89.51, published_error=0.31)
  runs = {1: dataclasses.replace(point.runs[0], score=score)}
  beside = panel._replace(points=(dataclasses.replace(point, by_seed=runs),))
  section = accuracy_sections.by_data([beside])
  row = section.tables[0].values()[0]
  assert (row['paper, %'], row["paper's error"]) == (89.51, 0.31)
  assert row['ours minus paper'] == pytest.approx(100 * point.mean - 89.51)
  assert [shown[:3] for shown in section.figures[0].table.rows][1] == ('paper: dss', 100.0, 89.51)
  assert section.figures[0].table.rows[2][0] == 'teacher: few_shot_cot (own parser)'


# ---------------------------------------------------------------- matching fractions


@pytest.mark.parametrize(
  ('accuracies', 'expected'),
  [
    ([0.4, 0.5, 0.6], 0.75),  # half way between 0.5 and 1.0
    ([0.4, 0.55, 0.6], 0.5),
    ([0.55, 0.5, 0.6], -math.inf),
    ([0.1, 0.2, 0.3], math.inf),
    ([0.4, 0.6, 0.5], 0.4375),  # first: it falls again
  ],
)
def test_the_fraction_where_a_goal_is_first_reached(accuracies, expected):
  found = matching.first_reached(FRACTIONS, np.array([accuracies]), np.array([0.55]))
  assert found[0] == pytest.approx(expected)


def test_a_matching_fraction_by_hand():
  items = 100
  correct = np.zeros((5, 3, items), bool)
  for place, right in enumerate((40, 60, 80)):
    correct[:, place, :right] = True
  full = np.zeros((5, items), bool)
  full[:, :70] = True
  found = matching.matching_fraction(FRACTIONS, correct, full)
  assert found.fraction == pytest.approx(0.75)
  assert 0.5 < found.low < 0.75 < found.high < 1.0


def test_seeds_that_disagree_widen_the_matching_fraction():
  rng = np.random.default_rng(0)

  def width(spread):
    levels = np.array([0.4, 0.6, 0.8])[None, :, None] + spread * np.array([-1, 0, 1])[:, None, None]
    correct = rng.random((3, 3, 2000)) < levels
    found = matching.matching_fraction(FRACTIONS, correct, rng.random((3, 2000)) < 0.7)
    return found.high - found.low

  assert width(0.08) > 1.5 * width(0.0)


def test_the_interval_covers_the_true_fraction():
  rng = np.random.default_rng(3)
  hits = 0
  for _ in range(40):
    seed_effect = rng.normal(0, 0.01, (8, 1, 1))
    levels = np.array([0.4, 0.6, 0.8])[None, :, None] + seed_effect
    ease = rng.random(500)
    correct, full = ease < levels, ease < 0.7 + rng.normal(0, 0.01, (8, 1))
    found = matching.matching_fraction(FRACTIONS, correct, full, draws=400)
    hits += found.low <= 0.75 <= found.high
  assert hits >= 34


def test_matches_of_a_sweep(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid())
  found = {one.name: one for one in matching.matches(panel, 'standard')}
  assert found['standard'].crossing.fraction == pytest.approx(1.0)
  assert found['dss'].crossing.fraction < 1.0 and found['dss'].seeds == 3
  assert found['dss'].goal == pytest.approx(panel.points[6].mean)


def test_least_resources_take_the_smallest_student_then_the_least_data(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid(widths=(16, 32)))
  least = {one.name: one for one in matching.least_resources(panel, 0.66)}
  points = [p for p in panel.points if p.name == 'dss' and p.mean >= 0.66]
  smallest = min(p.parameters for p in points)
  assert least['dss'].parameters == smallest
  assert least['dss'].fraction == min(p.fraction for p in points if p.parameters == smallest)
  beyond = matching.least_resources(panel, 1.1)
  assert {one.fraction for one in beyond} == {None}


# ---------------------------------------------------------------- deferral


def test_deferral_by_hand():
  correct = np.array([True, False, True, False])
  teacher = np.array([True, True, False, False])
  curve = deferral.accuracies(correct, np.array([0.9, 0.1, 0.8, 0.2]), teacher)
  # handed over in the order 1, 3, 2, 0: gains +1, 0, -1, 0
  assert curve.tolist() == [0.5, 0.75, 0.75, 0.5, 0.5]
  assert deferral.kept_share(curve, 0.75) == 0.75
  assert deferral.kept_share(curve, 0.5) == 1.0
  assert deferral.kept_share(curve, 0.9) == 0.0


def test_deferral_is_over_seeds_and_needs_the_teachers_questions(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid((1.0,)))
  rng = np.random.default_rng(0)
  confidences = {run.label: rng.random(400) for point in panel.points for run in point.runs}
  found = deferral.of_panel(panel, confidences)[0]
  assert found.alone == pytest.approx(found.point.mean)
  assert found.mean[-1] == pytest.approx(panel.teacher.score.accuracy)
  assert found.shares[0] == 0 and found.shares[-1] == 1
  assert found.interval[0] <= found.kept <= found.interval[1]
  other = dataclasses.replace(panel.teacher, correct=panel.teacher.correct[:-1])
  assert deferral.of_panel(panel._replace(teacher=other), confidences) == []
  assert deferral.of_panel(panel._replace(teacher=None), confidences) == []


# ---------------------------------------------------------------- cost


def test_what_a_student_costs(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid((0.5,), (1,)))
  prices = cost.Prices(2.0, 0.1, 0.01, 1000)
  standard, dss = (cost.cost(panel.at(n, 0.5, panel.sizes[0]), prices) for n in ('standard', 'dss'))
  assert standard == pytest.approx((0.01, 500, 0, 0.02 + 50))
  assert dss == pytest.approx((0.02, 500, 500, 0.04 + 50 + 5))
  assert cost.cost(panel.points[0], None) == pytest.approx((0.01, None, None, None))
  (step,) = cost.steps(panel, 'standard', prices)
  assert step.what == 'rationales' and step.cost.dollars == pytest.approx(5.02)
  gain = 100 * (step.after.mean - step.before.mean)
  assert step.per_point('dollars') == pytest.approx(5.02 / gain)


def test_cost_to_reach_is_linear_between_fractions(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid(FRACTIONS, (1,)))
  points = panel.along_fractions('standard', panel.sizes[0])
  half_way = (points[0].mean + points[1].mean) / 2
  assert cost.cost_to_reach(points, [1.0, 3.0, 9.0], half_way) == pytest.approx(2.0)
  assert cost.cost_to_reach(points, [1.0, 3.0, 9.0], 0.0) == 1.0
  assert cost.cost_to_reach(points, [1.0, 3.0, 9.0], 1.1) is None


def test_more_labels_rationales_and_parameters_are_single_steps(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid((0.5, 1.0), (1,), (16, 32)))
  steps = cost.steps(panel, 'standard', None)
  assert [one.what for one in steps].count('labels') == 4  # two methods at two sizes
  assert [one.what for one in steps].count('rationales') == 4
  assert [one.what for one in steps].count('a larger student') == 4
  for one in steps:
    places = [(p.name, p.fraction, p.parameters) for p in (one.before, one.after)]
    assert sum(a != b for a, b in zip(*places, strict=True)) == 1


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('{"processor_hours": 1}', 'did you mean processor_hour?'),
    ('{"processor_hour": -1}', 'at least 0'),
    ('{"processor_hour": "1"}', 'of type float'),
    ('{"label": 1}', 'training_examples is needed'),
    ('[1]', 'expected a JSON object'),
    ('{"processor_hour": NaN}', 'a finite number'),
  ],
)
def test_a_price_file_that_is_none_is_refused(tmp_path, text, expected):
  path = tmp_path / 'prices.json'
  path.write_text(text)
  with pytest.raises(ConfigError, match=expected.replace('?', r'\?')):
    cost.read_prices(path)


# ---------------------------------------------------------------- curves


def test_curves_are_the_mean_over_seeds(tmp_path):
  panel = panel_of(tmp_path, sweep_folders.grid((1.0,), (1, 2)))
  found = {(one.point.name, one.quantity): one for one in curves.of_panel(panel)}
  loss = found['dss', 'rationale/loss']
  assert loss.seeds == 2 and loss.steps.tolist() == list(range(0, 101, 10))
  assert loss.mean[0] == pytest.approx(3.2)
  assert ('standard', 'rationale/loss') not in found
  assert found['dss', 'validation accuracy'].steps.tolist() == [100]
