"""Methods as data: templates, what an output reads as, the table, and one of a user's own."""

import dataclasses
import json
import pathlib

import pytest
import run_folders

from dss_jax import methods
from dss_jax.commands import export_weights, predict
from dss_jax.methods import Row, Term, base, registry
from dss_jax.runs import evaluation
from dss_jax.runs.run_config import RunConfig
from dss_jax.settings import json_form

LABEL, RATIONALE = methods.dss.LABEL_ROW, methods.dss.RATIONALE_ROW


# Templates


def test_a_template_is_filled_with_fields():
  assert base.fill('[label] {input}', {'input': 'a {b}', 'label': 'x'}) == '[label] a {b}'
  assert base.fill('{a}{b} end', {'a': '1', 'b': '2'}) == '12 end'
  with pytest.raises(ValueError, match="needs the field 'rationale'"):
    base.fill('{input} {rationale}', {'input': 'x'})


@pytest.mark.parametrize(
  'template',
  ['{input', 'input}', '{input.__class__}', '{input[0]}', '{input!r}', '{input:>9}', '{}'],
)
def test_a_template_that_is_more_than_names_is_refused(template):
  with pytest.raises(ValueError, match='template'):
    Row('label', template, '{label}')


@pytest.mark.parametrize(
  ('target', 'output', 'fields'),
  [
    ('{label}', ' yes ', {'label': ' yes '}),
    (
      '{rationale} [label] {label}',
      'so it is. [label] a b',
      {'rationale': 'so it is.', 'label': 'a b'},
    ),
    ('{rationale} [label] {label}', 'it never ends', {'rationale': 'it never ends', 'label': ''}),
    ('{rationale} [label] {label}', '[label] yes', {'rationale': '', 'label': 'yes'}),
    (
      '{label} since {rationale}',
      'yes since a since b',
      {'label': 'yes', 'rationale': 'a since b'},
    ),
    ('Answer: {label}.', 'Answer: 5.', {'label': '5'}),
    ('{rationale} [label] {label}', '', {'rationale': '', 'label': ''}),
  ],
)
def test_an_output_is_taken_apart_by_the_targets_own_text(target, output, fields):
  assert Row('x', '{input}', target).parse(output) == fields


def test_reading_takes_back_what_filling_made():
  fields = {'rationale': 'A nun is a woman.', 'label': 'entailment'}
  for row in (methods.single_task.ROW, Row('x', '{input}', '{label} because {rationale}')):
    assert row.parse(base.fill(row.target, fields)) == fields


def test_a_target_whose_fields_cannot_be_told_apart_is_refused():
  with pytest.raises(ValueError, match='needs text between its fields'):
    Row('x', '{input}', '{rationale} {label}')


# Methods


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'name': 'a b'}, 'letters, digits and underscores'),
    ({'label_source': 'human'}, r"\('gold', 'teacher'\), not 'human'"),
    ({'rows': ()}, 'one task each'),
    ({'rows': (LABEL, LABEL)}, 'one task each'),
    ({'loss': (Term('label'),)}, 'no loss term for the rows of rationale'),
    ({'answer': RATIONALE}, r'no \{label\}'),
  ],
)
def test_what_cannot_be_a_method_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(methods.dss.DSS, **changes)


def test_a_negative_weight_is_refused():
  with pytest.raises(ValueError, match='is at least 0, not -1'):
    Term('label', -1)


@pytest.mark.parametrize(
  'points',
  [
    ((0.5, 1.0), (0.2, 0.0)),
    ((0.0, 1.0), (2.0, 0.0)),
    ((-1.0, 1.0), (0.0, 0.0)),
    ((0.0, 1.0, 2.0),),
    ((0.0,),),
    (),
  ],
)
def test_points_that_make_no_schedule_are_refused(points):
  with pytest.raises(ValueError, match=r"weight of 'label' is a number, or points .* not \("):
    Term('label', points)
  with pytest.raises(ValueError, match='is at least 0'):
    Term('label', ((0.0, 1.0), (1.0, -1.0)))


def test_what_a_method_needs_of_the_teacher():
  uses = {name: methods.get(name).uses_teacher for name in methods.names()}
  assert not uses['standard'] and not uses['label']
  assert all(uses[name] for name in ('dss', 'teacher_standard', 'single_task', 'rationale_input'))
  assert uses['weighted_rationales'] and uses['other_rationale'] and not uses['span_corruption']
  assert methods.get('rationale_input').needs == {'rationale'}
  assert not methods.get('dss').needs and not methods.get('single_task').needs


@pytest.mark.parametrize('name', methods.names())
def test_a_method_survives_the_json_of_a_run(name):
  run = run_folders.run_config_of('', name)
  values = json.loads(json.dumps(json_form.to_dict(run)))
  assert json_form.from_dict(RunConfig, values) == run


def test_unknown_names_get_near_ones():
  with pytest.raises(ValueError, match=r'no method .standrad.*did you mean standard'):
    methods.get('standrad')


def test_a_name_stands_for_one_method():
  assert methods.register(methods.dss.DSS) is methods.dss.DSS
  with pytest.raises(ValueError, match="another method is named 'dss'"):
    methods.register(dataclasses.replace(methods.dss.DSS, paired=True))


def test_the_prose_of_a_method_may_be_mended():
  assert methods.register(dataclasses.replace(methods.dss.DSS, summary='other words'))
  assert methods.get('dss').summary == methods.dss.DSS.summary


def test_task_numbers_are_an_open_table():
  assert [registry.task_id(task) for task in ('label', 'rationale')] == [0, 1]
  new = registry.task_id('test_methods')
  assert registry.task_id('test_methods') == new and registry.task_of(new) == 'test_methods'
  with pytest.raises(ValueError, match='no task has the task_id 999'):
    registry.task_of(999)


# From registration to the model card

# The whole of a method of a user's own: label first, then the reason.
OWN = """
from dss_jax import methods

ROW = methods.Row('label_reason', 'Q: {input}', '{label} [since] {rationale}')
methods.register(methods.Method(
  name='label_since', summary='label, then why', rows=(ROW,),
  loss=(methods.Term('label_reason'),), answer=ROW,
))
"""


def _register_own(tmp_path, monkeypatch) -> str:
  (tmp_path / 'own_method.py').write_text(OWN)
  monkeypatch.syspath_prepend(str(tmp_path))
  if 'label_since' not in methods.names():
    import own_method  # noqa: F401
  return 'label_since'


def _answers(run: str, lines: list[dict], capsys) -> list[dict]:
  path = pathlib.Path(run) / 'questions.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  capsys.readouterr()
  assert predict.main([f'--model_dir={run}', f'--input={path}']) == 0
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize('name', ['single_task', 'rationale_input', 'label_since', 'pinto'])
def test_evaluation_prediction_and_card_of_every_kind_of_method(
  name, tmp_path, monkeypatch, capsys
):
  if name == 'label_since':
    assert len(OWN.splitlines()) < 30
    _register_own(tmp_path, monkeypatch)
  method = methods.get(name)
  run = run_folders.make_run(tmp_path / 'run', name)
  # Evaluation: every example, the label read out of what is written, against the gold label.
  summary, _ = evaluation.evaluate(evaluation.EvaluateConfig(run))
  assert (summary['task'], summary['examples']) == (f'{run_folders.NAME}_{name}_answer', 5)
  with open(f'{run}/{summary["task"]}_test_1.jsonl', encoding='utf-8') as lines:
    records = [json.loads(line) for line in lines]
  assert [record['target'] for record in records] == run_folders.ROWS['label']
  if not method.needs:
    for record in records:
      assert record['prediction'] == method.answer.parse(record['output'])['label']
  if name == 'pinto':
    assert {record['prediction'] for record in records} <= {'no', 'entailment', 'yes'}
  # Prediction: the same answers, with all that the method needs.
  keys = ('input', *method.needs)
  rows = zip(*(run_folders.ROWS[key] for key in keys), strict=True)
  answers = _answers(run, [dict(zip(keys, row, strict=True)) for row in rows], capsys)
  assert [answer['label'] for answer in answers] == [record['prediction'] for record in records]
  has_rationale = not method.needs
  assert all(isinstance(answer['rationale'], str) == has_rationale for answer in answers)
  # The model card says what it is and how to ask.
  export_weights.main(['--to=hf', f'--checkpoint={run}', f'--output={tmp_path}/out'])
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert method.summary in card
  assert f'Asked with `{method.answer.input}`, it writes `{method.answer.target}`.' in card
  assert repr(method.answer.input) in card


def test_a_question_without_what_the_method_needs_is_refused(tmp_path):
  run = run_folders.make_run(tmp_path / 'run', 'rationale_input')
  with pytest.raises(ValueError, match=r"every question needs the field 'rationale'.*JSON lines"):
    predict.main([f'--model_dir={run}', '--input=Is rain wet?'])


def test_a_run_folder_alone_suffices_for_prediction(tmp_path, monkeypatch, capsys):
  """Neither the data set's module nor the method's is there any more."""
  run = run_folders.make_run(tmp_path / 'run', 'dss')
  path = pathlib.Path(run) / 'config.json'
  values = json.loads(path.read_text())
  values['module'] = 'no_such_module'
  values['data']['mixture_or_task_name'] = 'no_such_mixture'
  values['method']['name'] = 'no_such_method'
  path.write_text(json.dumps(values))
  (answer,) = _answers(run, [{'input': 'Is rain wet?'}], capsys)
  assert set(answer) == {'input', 'label', 'rationale'}
