"""The model card: every fact is there, comes from where it says, and the hub can read it."""

import dataclasses
import json
import os
import pathlib
import re
import time

import huggingface_hub
import markdown_it
import pytest
import run_folders
from run_folders import INPUTS, NAME

from dss_jax import datasets, methods
from dss_jax.checkpoints.hf import tokenizer
from dss_jax.commands import evaluate
from dss_jax.data import pipeline
from dss_jax.datasets import completions, release
from dss_jax.runs import card_facts, model_card, run_config
from dss_jax.runs.run_folder import RunFolder
from dss_jax.tasks import builder, vocabulary
from dss_jax.training import losses, optimizers

AGREEMENT = {tokenizer.PIECES: tokenizer.Agreement(10, 0, None)}
VALIDATION = {
  'step': 1, 'kind': 'validation', 'loss': 2.5, 'label/rows': 5.0, 'accuracy': 0.4,
  'accuracy_low': 0.1176, 'accuracy_high': 0.7693, 'unfinished': 0.2,
}  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A run with a validation, an evaluation of labels and of rationales, and a gin file."""
  folder = pathlib.Path(run_folders.make_run(tmp_path_factory.mktemp('card') / 'run'))
  rows = [VALIDATION, {**VALIDATION, 'step': 2, 'accuracy': 0.9}, {'step': 1, 'kind': 'train'}]
  (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
  (folder / 'config.gin').write_text('TRAIN_STEPS = 2\n')
  for more in ([], [f'--task={NAME}_rationale', '--decoding=beam', '--beams=2']):
    assert evaluate.main([f'--model_dir={folder}', '--batch_size=8', *more]) == 0
  return folder


def facts_of(folder, fingerprint=None) -> card_facts.Facts:
  run = run_config.set_up_tasks(RunFolder(folder).load_settings())
  if fingerprint is None:
    mixture = pipeline.load_mixture(
      run.data.mixture_or_task_name, run.data.split, run.objective.tasks
    )
    fingerprint = pipeline.fingerprint(mixture)
  return card_facts.of_run('student', run, vocabulary.get_vocabulary(), 1, fingerprint)


@pytest.fixture(scope='module')
def facts(folder) -> card_facts.Facts:
  """Of step 1, the best."""
  return facts_of(folder)


def changed(facts: card_facts.Facts, **settings) -> card_facts.Facts:
  """The facts of a run with other settings."""
  return dataclasses.replace(facts, run=dataclasses.replace(facts.run, **settings))


def text_of(facts: card_facts.Facts) -> str:
  return model_card.card(facts, 1234, AGREEMENT)


def row(text: str, name: str) -> str:
  """The value of a line of the card's two-column tables."""
  return re.search(rf'^\| {re.escape(name)} \| (.*) \|$', text, re.MULTILINE)[1]


def test_the_hub_reads_metrics_with_their_intervals(folder, facts):
  card = huggingface_hub.ModelCard(text_of(facts))
  assert card.data.library_name == 'transformers'
  assert card.data.pipeline_tag == 'text2text-generation'
  summary = json.loads((folder / f'{NAME}_label_test_1.json').read_text())['metrics']
  found = {
    (result.dataset_name, result.dataset_split, result.metric_type): result
    for result in card.data.eval_results
  }
  validation = found[f'{NAME}_label', 'validation', 'accuracy']
  assert validation.metric_value == 0.4
  assert validation.metric_args == {'low_95': 0.1176, 'high_95': 0.7693}
  test = found[f'{NAME}_label', 'test', 'accuracy']
  assert test.metric_value == summary['accuracy']
  assert test.metric_args['high_95'] == pytest.approx(summary['accuracy_high'], abs=1e-6)
  rationale = found[f'{NAME}_rationale', 'test', 'rouge_l']
  assert rationale.metric_name == 'rouge_l (beam 2)'
  assert rationale.metric_args['low_95'] <= rationale.metric_value


def test_the_table_has_only_this_step(folder, facts):
  text = text_of(facts)
  assert (
    f'| {NAME}_label | validation | all | greedy | accuracy | 0.4000 | 0.1176 to 0.7693 |' in text
  )
  assert f'| {NAME}_label | test | 5 | greedy | accuracy |' in text
  assert '0.9000' not in text
  second = [*card_facts._validation(facts.run, 2), *card_facts._evaluations(RunFolder(folder), 2)]
  assert [(score.split, score.metrics['accuracy']) for score in second] == [('validation', 0.9)]
  assert 'neither validated nor' in text_of(dataclasses.replace(facts, scores=[]))


@pytest.mark.parametrize('score', ['9' * 400, 'Infinity', 'NaN', '"a"', 'null'])
def test_records_with_other_scores_have_no_interval(tmp_path, score):
  summary = {'task': 'a', 'split': 'test', 'step': 1, 'examples': 2, 'decoding': {}}
  summary['metrics'] = {'rouge_l': 0.5}
  (tmp_path / 'a_test_1.json').write_text(json.dumps(summary))
  (tmp_path / 'a_test_1.jsonl').write_text('{"rouge_l": 0.5}\n{"rouge_l": %s}\n' % score)  # noqa: UP031
  (found,) = card_facts._evaluations(RunFolder(tmp_path), 1)
  assert found.metrics == {'rouge_l': 0.5} and not found.intervals


@pytest.mark.parametrize(
  ('metrics', 'records', 'intervals'),
  [
    ({'accuracy_low': 0.1, 'accuracy_high': 0.2}, '', {}),
    ({'accuracy': 0.5, 'accuracy_low': 0.1}, '', {}),
    ({'rouge_l': 0.5}, '{"rouge_l": Infinity}\n{"rouge_l": 0.5}\n', {}),
    ({'rouge_l': 0.5}, '{"rouge_l": 1e308}\n{"rouge_l": 1e308}\n', {}),
    ({'rouge_l': 0.5}, '[1]\n', {}),
    ({'rouge_l': 0.5}, '', {}),
    ({'rouge_l': 0.5}, '{"rouge_l": 0.5}\n', {'rouge_l': (0.5, 0.5)}),
  ],
)
def test_odd_summaries_and_records_have_no_interval(facts, tmp_path, metrics, records, intervals):
  files = RunFolder(tmp_path).evaluation_files('a', 'test', 1)
  summary = {'task': 'a', 'split': 'test', 'step': 1, 'examples': 2, 'decoding': {}}
  files.summary.write_text(json.dumps({**summary, 'metrics': metrics}))
  files.records.write_text(records)
  (score,) = card_facts._evaluations(RunFolder(tmp_path), 1)
  assert score.intervals == intervals
  assert '## Metrics' in text_of(dataclasses.replace(facts, scores=[score]))


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
  low, high = card_facts._interval([0.0, 1.0, 1.0, 1.0])
  assert (low, high) == pytest.approx((0.75 - 1.959964 * 0.25, 0.75 + 1.959964 * 0.25))
  assert card_facts._interval([0.5]) == (0.5, 0.5)


def test_method_objective_and_settings_are_those_of_the_run(facts):
  text = text_of(changed(facts, loss=losses.LossConfig(rationale_weight=0.5)))
  assert row(text, 'method').startswith('distilling step by step')
  assert row(text, 'objective') == 'L_label + 0.5 L_rationale'
  assert row(text, 'step') == '1 of 2'
  assert row(text, 'optimizer').startswith('adamw, learning rate')
  assert row(text, 'parameters') == '1,234'
  assert '```\nTRAIN_STEPS = 2\n```' in text
  falling = losses.LossConfig(rationale_weight=((0.0, 1.0), (1.0, 0.5)))
  objective = row(text_of(changed(facts, loss=falling)), 'objective')
  assert objective == 'L_label + (1 → 0.5) L_rationale'
  text = text_of(changed(facts, loss=losses.LossConfig(alpha=0.25)))
  assert row(text, 'objective') == '0.25 L_label + 0.75 L_rationale'


def test_the_student_is_asked_by_its_methods_templates(facts):
  text = text_of(facts)
  assert "in {'[label] {input}': 8, '[rationale] {input}': 12}.items()" in text
  assert repr({'input': INPUTS[0]}) in text
  standard = text_of(changed(facts, method=methods.get('standard')))
  assert "in {'{input}': 8}.items()" in standard
  assert 'Asked with `{input}`, it writes `{label}`.' in standard
  assert row(standard, 'objective') == 'token cross-entropy'
  assert row(standard, 'teacher') == 'none: gold labels alone'
  data = facts.data._replace(teacher='PaLM 540B', unlabeled=['asdiv'])
  joined = dataclasses.replace(changed(facts, method=methods.get('standard')), data=data)
  assert row(text_of(joined), 'teacher') == 'for the labels of asdiv: PaLM 540B'


def test_a_teacher_that_nobody_noted_is_not_recorded(facts):
  assert row(text_of(facts), 'teacher') == 'not recorded'


def test_other_data_than_that_of_training_is_not_described(folder):
  text = text_of(facts_of(folder, fingerprint=1))
  assert 'is not the data of training' in text
  assert 'Trained on' not in text
  assert model_card.PLACEHOLDERS['input'] in text


@pytest.mark.parametrize(
  ('path', 'base'),
  [
    ('google/t5-v1_1-base', 'google/t5-v1_1-base'),
    ('imported', None),
    ('gs://bucket/checkpoint_1000', None),
    (None, None),
  ],
)
def test_the_base_model_is_named_where_it_is_one_of_the_hub(
  facts, tmp_path, monkeypatch, path, base
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'imported').mkdir()
  os.mkfifo(RunFolder(tmp_path / 'imported').settings_file)  # nothing there is opened
  text = text_of(dataclasses.replace(facts, source=path and card_facts._origin(path)))
  assert huggingface_hub.ModelCard(text).data.get('base_model') == base
  assert (base or path or 'random parameters, seed 0') in row(text, 'start')


def test_imported_weights_say_where_they_are_from():
  facts = card_facts.Facts(
    'w', run_folders.MODEL, vocabulary.load_vocabulary('bytes'), 0, 'Hugging Face google/byt5-small'
  )
  text = text_of(facts)
  assert huggingface_hub.ModelCard(text).data.base_model == 'google/byt5-small'
  assert 'It was not trained here.' in text and 'Hugging Face google/byt5-small' in text


def test_counts_hashes_and_teacher_of_prepared_data(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  raw = tmp_path / 'raw' / 'svamp'
  (raw / 'llm').mkdir(parents=True)
  lines = [json.dumps({'input': f'2 and {n}.', 'label': f'( 2 + {n} )'}) for n in range(20)]
  (raw / 'svamp_train.json').write_text('\n'.join(lines))
  said = [f'Two and {n}. The answer is (2 + {n + (n == 3)}).' for n in range(20)]
  (raw / 'llm' / 'train_CoT_0.json').write_text(json.dumps(said))
  dataset = datasets.get('svamp')
  splits = {s: release.split_files(dataset, raw.parent, s) for s in ('train', 'validation')}
  provenance = completions.Provenance('Other *model* 7B', {'name': 'svamp', 'version': '0f'})
  builder.prepare(dataset, splits, row_filter='agree', provenance=provenance)

  folder = tmp_path / 'run'
  run = run_config.RunConfig(
    model_dir=str(folder),
    model=run_folders.MODEL,
    data=pipeline.DataConfig('svamp_dss', run_folders.LENGTHS, 8),
    vocabulary='bytes',
    train_steps=2,
    optimizer=optimizers.OptimizerConfig(schedule='constant'),
  )
  RunFolder(folder).save_settings(run)
  facts = facts_of(folder)
  text = text_of(facts)
  counts = {
    split: notes['examples'] for split, notes in facts.data.prepared['svamp']['counts'].items()
  }
  assert counts['train'] + counts['validation'] in (19, 20) and counts['validation'] == 2
  assert f'| train | {counts["train"]} |' in text
  assert f'Trained on {counts["train"]} rows of `svamp_label`' in text
  assert 'filter `agree`' in text
  assert release.file_sha256(raw / 'svamp_train.json') in text
  assert f'{facts.fingerprint:08x}' in text
  assert row(text, 'teacher') == r'Other \*model\* 7B'  # never the one that the data set names
  assert release.TEACHER not in text
  assert row(text, 'prompt') == 'svamp, version 0f'
  assert huggingface_hub.ModelCard(text).data.datasets == ['svamp']


def test_how_the_teacher_was_asked_is_told_as_far_as_it_is_known():
  noted = {
    'teacher': 'm-1', 'prompt': {'name': 'svamp', 'version': 'ab12'}, 'date': '2026-11-26',
    'parameters': {'temperature': 0.7, 'stop': None}, 'tokens': {'input': 10, 'output': 2},
    'usd': 1.5, 'licence_note': 'Ask them.', 'another_field': 1,
  }  # fmt: skip
  assert card_facts.teacher_facts({'provenance': noted}) == [
    ('model', 'm-1'), ('prompt', 'svamp, version ab12'), ('parameters', 'temperature 0.7'),
    ('asked on', '2026-11-26'), ('tokens', 'input 10, output 2'), ('cost', '1.50 US dollars'),
    ('licence of its outputs', 'Ask them.'),
  ]  # fmt: skip
  for strange in ({}, {'teacher': ' '}, {'teacher': 'a', 'usd': 'free'}, {'prompt': {}}):
    assert card_facts.teacher_facts({'provenance': strange}) == []
  assert card_facts.teacher_facts({}) == []


def test_it_says_where_it_loads_and_which_ids_differ(facts):
  different = {**AGREEMENT, tokenizer.HARD: tokenizer.Agreement(100, 3, 'zzz')}
  text = model_card.card(facts, 1234, different)
  assert 'other ids than in training to 3 of 100 hard texts; `spiece.model` is exact' in text
  assert '97 of 100 hard texts' in text
  assert 'other ids' not in text_of(facts)
  assert row(text, 'CTranslate2 4.8').startswith('yes, with the same greedy outputs')
  assert row(text, 'ONNX, by optimum-onnx 0.1').startswith('yes')
  own = dataclasses.replace(facts.model, relative_bias_per_layer=True)
  text = text_of(dataclasses.replace(facts, model=own))
  assert row(text, 'ONNX, by optimum-onnx 0.1') == 'no: it has no export of umT5'


# Texts of others


EVIL = '```\n# Heading\n![i](https://evil/i.png) <img src=x> | \x1b[2J\u202e `'


def rendered(text: str) -> str:
  """The card as HTML, by a Markdown reader with GitHub's tables."""
  body = text.split('---\n', 2)[2]
  return markdown_it.MarkdownIt('gfm-like', {'linkify': False}).render(body)


def test_texts_of_a_run_folder_are_shown_and_do_nothing(facts):
  method = dataclasses.replace(
    facts.run.method, summary=EVIL, answer=methods.Row('label', f'{EVIL} {{input}}', '{label}')
  )
  notes = {
    'filter': EVIL,
    'counts': {EVIL: {'examples': EVIL}},
    'sources': {EVIL: {EVIL: EVIL}},
  }
  data = facts.data._replace(
    rows={EVIL: 1}, prepared={EVIL: notes}, teacher=EVIL, question={'input': EVIL}
  )
  score = card_facts.Score(EVIL, EVIL, 1, EVIL, {EVIL: 0.5}, {})
  hostile = dataclasses.replace(
    changed(facts, method=method), name=EVIL, gin=EVIL, data=data, scores=[score], source=EVIL
  )
  text = text_of(hostile)
  html, good = rendered(text), rendered(text_of(facts))
  for tag in ('<h1', '<h2', '<a', '<details', '<table'):
    extra = 1 if tag in ('<details', '<table') else 0  # of the data set's notes
    assert html.count(tag) - good.count(tag) in (0, extra, 2 * extra), tag
  assert '<img' not in html.replace('&lt;img', '') and '<h1>Heading' not in html
  assert '\x1b' not in text and '\u202e' not in text
  assert 'Heading' in html and 'evil/i.png' in html, 'it is shown all the same'


def test_paths_of_this_machine_are_left_out(facts):
  gin = (
    "MODEL_DIR = '/home/me/runs/a'\nDATA_DIR = \\\n    'data'\nVOCABULARY = '~/x.model'\n"
    "INITIAL_CHECKPOINT_PATH = 'gs://bucket/w'\nvocab.X.file = '/etc/x'\nBATCH_SIZE = 8\n"
    "DATASET = 'svamp'\nrun_config.RunConfig.model_dir = 'runs/secret'\n"
  )
  text = model_card.without_paths(gin)
  assert "BATCH_SIZE = 8\nDATASET = 'svamp'" in text
  for secret in ('/home/me', "'data'", 'x.model', 'bucket', '/etc', 'secret'):
    assert secret not in text
  assert "VOCABULARY = 'bytes'" in model_card.without_paths("VOCABULARY = 'bytes'")
  long = (
    "# import /home/me/secret lib\nX.y = \\\n    ('/home/me/My '\n     \"it's secret\")\n"
    "MODEL_DIR = \\\n    ('my '\n     'secret')\nY.z = '/home/me/secret\n"
    "run_config.RunConfig:\n  model_dir = 'runs/secret'\n  seed = 3\nZ.t = '[a]</s>{b}'\n"
  )
  text = model_card.without_paths(long)
  assert 'secret' not in text and "  seed = 3\nZ.t = '[a]</s>{b}'" in text
  card = text_of(dataclasses.replace(facts, gin=gin))
  assert "MODEL_DIR = '...'" in card and facts.run.model_dir not in card


@pytest.mark.parametrize(
  'gin',
  [
    "MODEL_DIR = 'runs/secret'  # a comment",
    "MODEL_DIR = 'runs/secret'   \n\nBATCH_SIZE = 8",
    "MODEL_DIR='runs/secret",
    "RunConfig:\n  model_dir = 'secret'",
    'VOCABULARY = \\\n\n    "a=b/secret"',
    "MODEL_DIR =\n  'secret'",
    "# MODEL_DIR = 'runs/secret'",
    "data_dir = 'it' 's/secret'",
  ],
)
def test_paths_in_other_forms_are_left_out(gin):
  text = model_card.without_paths(gin)
  assert 'secret' not in text and text.count('\n') == gin.count('\n')


@pytest.mark.parametrize('line', ["MODEL_DIR=' '", "MODEL_DIR='", 'MODEL_DIR ', "'/", "' ", 'a://'])
def test_paths_are_found_in_linear_time(line):
  line *= model_card.LONGEST_LINE // len(line)
  start = time.process_time()
  model_card.without_paths(f"MODEL_DIR='{line[15:]}x\n" * 1500)
  assert time.process_time() - start < 2


def test_no_text_becomes_a_link_to_a_mail_address():
  shown = model_card._inline('write to me@evil.org or www.evil.org')
  assert 'me@evil' not in shown and 'www.evil' not in shown


def test_where_the_weights_come_from_names_no_folder_of_this_machine(tmp_path):
  (tmp_path / 'base').mkdir()
  assert card_facts._origin(str(tmp_path / 'base')) == 'base'
  assert card_facts._origin('google/t5-v1_1-base') == 'google/t5-v1_1-base'


def test_a_score_without_its_tasks_is_named_after_the_mixture(facts):
  data = dataclasses.replace(facts.run.data, mixture_or_task_name='no_such_mixture')
  run = dataclasses.replace(facts.run, data=data)
  assert [score.task for score in card_facts._validation(run, 1)] == ['no_such_mixture']
