"""Scores of rationales: the student's log probabilities, and training on the best of them."""

import dataclasses
import json

import numpy as np
import pytest
import run_folders
from run_folders import NAME, ROWS

from dss_jax.commands import evaluate
from dss_jax.runs import rationale_scores, run_config, student

SCORES = (-0.5, -3.0, -0.1, -2.0, -1.0)


def write(path, scores=SCORES) -> str:
  lines = [{'example_id': n, 'sample': 0, 'score': score} for n, score in enumerate(scores)]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return str(path)


def mixture_of(method: str, scores: str, kept: float):
  """(task, target texts) of a run's training examples."""
  run_folders.register()
  run = run_folders.run_config_of('unused', method)
  data = dataclasses.replace(run.data, rationale_scores=scores, rationales_kept=kept)
  run = run_config.set_up_tasks(dataclasses.replace(run, data=data))
  parts = rationale_scores.training_mixture(run)
  return {part.name.removeprefix(f'{NAME}_'): texts_of(part.examples) for part in parts}


def texts_of(examples) -> list[tuple[int, str]]:
  from dss_jax.tasks import get_vocabulary

  at = examples.target_offsets
  texts = [
    get_vocabulary().decode(examples.targets[at[n] : at[n + 1] - 1].tolist())
    for n in range(len(examples))
  ]
  return list(zip(examples.example_ids.tolist(), texts, strict=True))


def test_the_scores_are_the_students_of_every_rationale(tmp_path, capsys):
  run = run_folders.make_run(tmp_path / 'run', 'rationale_input', steps=(1,))
  path = tmp_path / 'scores.jsonl'
  assert evaluate.main([f'--model_dir={run}', '--split=train', f'--rationale_scores={path}']) == 0
  summary = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert (summary['rationales'], summary['split']) == (5, 'train')
  found = rationale_scores.read(str(path))
  assert list(found) == [(n, 0) for n in range(5)]
  predictor = student.load(student.StudentConfig(run)).predictor()
  for number in range(5):
    question = {name: ROWS[name][number] for name in ('input', 'rationale')}
    expected = predictor.label_scores([question], [ROWS['label'][number]])[0, 0]
    assert found[number, 0] == pytest.approx(float(expected), rel=1e-4)
  assert summary['mean_score'] == pytest.approx(np.mean(list(found.values())), rel=1e-4)


def test_a_student_that_reads_no_rationale_is_refused(tmp_path):
  run = run_folders.make_run(tmp_path / 'run', 'dss', steps=(1,))
  with pytest.raises(ValueError, match='is of METHOD dss; rationales are scored by a student that'):
    evaluate.main([f'--model_dir={run}', f'--rationale_scores={tmp_path}/s.jsonl'])
  with pytest.raises(ValueError, match='scores all rationales of SPLIT: leave NUM_EXAMPLES out'):
    evaluate.main([f'--model_dir={run}', '--rationale_scores=s.jsonl', '--num_examples=2'])


def test_the_best_rationales_are_kept_and_every_label(tmp_path):
  path = write(tmp_path / 'scores.jsonl')
  labels = list(enumerate(ROWS['label']))
  kept = [(n, ROWS['rationale'][n]) for n in (0, 2, 4)]
  assert mixture_of('dss', path, 0.5) == {'label': labels, 'rationale': kept}
  assert mixture_of('dss', path, 1.0)['rationale'] == list(enumerate(ROWS['rationale']))
  paired = mixture_of('paired', path, 0.2)['paired']
  assert sorted(paired) == sorted([*labels, (2, ROWS['rationale'][2])])


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"example_id": 1, "sample": 0}', "line 2: the row has no field 'score'"),
    ('{"example_id": 1, "sample": 0, "score": "x"}', 'line 2: expected a finite number as score'),
    ('{"example_id": 1, "sample": 0, "score": NaN}', 'line 2'),
    ('{"example_id": true, "sample": 0, "score": 1}', 'line 2: expected numbers from 0'),
    ('{"example_id": 0, "sample": 0, "score": 1}', 'example 0 has two scores for its rationale 0'),
    ('[]', 'line 2'),
  ],
)
def test_a_file_that_holds_no_scores_is_refused(tmp_path, line, message):
  path = tmp_path / 'scores.jsonl'
  path.write_text('{"example_id": 0, "sample": 0, "score": -1}\n' + line + '\n')
  with pytest.raises(ValueError, match=message) as caught:
    rationale_scores.read(str(path))
  assert 'scores.jsonl' in str(caught.value)


def test_scores_that_do_not_fit_the_run_are_refused(tmp_path):
  path = write(tmp_path / 'scores.jsonl', SCORES[:4])
  with pytest.raises(
    ValueError, match=r'holds 4 scores for 5 rationales.*rationale 0 of example 4'
  ):
    mixture_of('dss', path, 0.5)
  for method, message in [('standard', 'learns from no'), ('mutual_information', 'needs all rows')]:
    with pytest.raises(ValueError, match=f'METHOD {method} {message}'):
      mixture_of(method, path, 0.5)
  run = run_folders.run_config_of('unused', 'dss')
  with pytest.raises(ValueError, match='RATIONALES_KEPT selects rationales by RATIONALE_SCORES'):
    dataclasses.replace(run.data, rationales_kept=0.5)
  with pytest.raises(ValueError, match='above 0 and at most 1, not 0'):
    dataclasses.replace(run.data, rationale_scores=path, rationales_kept=0.0)
