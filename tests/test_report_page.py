"""The page of a report and the files beside it: escaped, whole, unpacked as they were packed."""

import base64
import collections
import csv
import hashlib
import html.parser
import io
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pytest
import sweep_folders

from dss_jax import cli
from dss_jax.commands import report
from dss_jax.experiments import results
from dss_jax.experiments.report import browser, document, folder, make, page, records, samples

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>"\'&{{7*7}}'


class Elements(html.parser.HTMLParser):
  """Every element of a page, with its attributes."""

  def __init__(self, text):
    super().__init__()
    self.found = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))


def make_hostile(path):
  """A sweep whose every text is hostile: also names, axes, and the names of metrics."""
  cells = sweep_folders.grid((0.5, 1.0), (1, 2))
  sweep_folders.write(path, cells, items=30, hostile=HOSTILE)
  for file in path.rglob(results.CELL_FILE):
    content = json.loads(file.read_text())
    if content['method'] == 'dss':
      content['name'] = content['method'] = content['score']['name'] = f'dss{HOSTILE}\x01\u202e'
    content['axes'] |= {f'NOTE{HOSTILE}': f'=1+1{HOSTILE}'}
    content['read'] |= {HOSTILE: HOSTILE}
    file.write_text(json.dumps(content))
  for file in path.rglob('metrics.jsonl'):
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [{**row, f'label{HOSTILE}/loss': 1.0, '_a$b$/loss': 2.0} for row in rows]
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
  path = tmp_path_factory.mktemp('hostile')
  make_hostile(path)
  assert report.main([str(path), f'--samples={path}/samples']) == 0
  return path


@pytest.fixture(scope='module')
def text(reported):
  return (reported / 'report.html').read_text()


def inflated(text, name):
  block = re.search(rf'id="data-{name}">([^<]*)<', text).group(1)
  return zlib.decompress(base64.b64decode(block), -15)


def test_hostile_text_makes_no_element_and_no_attribute(text):
  elements = Elements(text)
  counts = collections.Counter(tag for tag, _ in elements.found)
  blocks = [a for t, a in elements.found if t == 'script' and 'type' in a]
  assert counts['script'] == len(blocks) + 1 and counts['img'] == 0
  assert {a['type'] for a in blocks} == {'application/octet-stream'}
  for _, attributes in elements.found:
    assert not [name for name in attributes if name.startswith('on') or name == 'style']
    links = [attributes.get(name) or '' for name in ('href', 'src', 'xlink:href')]
    assert all(not link or link.startswith(('#', 'report_files/')) for link in links)
  assert '&lt;script&gt;document.title' in text and '<script>document.title' not in text
  assert '49' not in re.findall(r'alert\(1\)&gt;[^<]*', text)[0], 'a template within a text'
  assert '\u202e' not in text and '\x01' not in text


def test_the_policy_allows_our_own_style_and_script_alone(text):
  elements = Elements(text)
  metas = [a['content'] for t, a in elements.found if a.get('http-equiv')]
  (policy,) = metas
  directives = dict(part.strip().split(' ', 1) for part in policy.split(';'))
  assert directives.pop('default-src') == "'none'"
  assert directives.pop('base-uri') == directives.pop('form-action') == "'none'"
  for name in ('style', 'script'):
    own = re.search(rf'<{name}>(.*?)</{name}>', text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert directives.pop(f'{name}-src') == f"'sha256-{digest}'"
  assert not directives


def test_ids_are_unique_and_labels_have_their_fields(text):
  found = Elements(text).found
  ids = [a['id'] for _, a in found if 'id' in a]
  assert len(ids) == len(set(ids))
  labels = {a['for'] for tag, a in found if tag == 'label'}
  fields = {a['id'] for tag, a in found if tag in ('select', 'input')}
  assert labels == fields
  anchors = {a['href'][1:] for tag, a in found if tag == 'a' and a['href'].startswith('#')}
  assert anchors <= set(ids)
  named = [a['aria-labelledby'] for tag, a in found if tag in ('svg', 'section')]
  assert len(named) > 10 and set(named) <= set(ids)
  cells = [a for tag, a in found if tag == 'th']
  assert cells and all(a.get('scope') in ('row', 'col') for a in cells)


def test_every_figure_and_table_is_a_file(reported, text):
  files = reported / 'report_files'
  linked = set(re.findall(r'href="report_files/([^"]+)"', text))
  assert linked == {path.name for path in files.iterdir()} - {'report.json'}
  for path in files.glob('*.svg'):
    assert ElementTree.parse(path).getroot().tag.endswith('svg')
    assert (files / f'{path.stem}.png').read_bytes().startswith(b'\x89PNG')
  values = json.loads((files / 'report.json').read_text())
  tests = list(csv.DictReader(io.StringIO((files / 'tests_equal_labels.csv').read_text())))
  assert len(tests) == len(values['tests_equal_labels']) == 2
  for row, value in zip(tests, values['tests_equal_labels'], strict=True):
    assert float(row['gap, points']) == value['gap, points']
  drawn = csv.DictReader(io.StringIO((files / 'gaps_1.csv').read_text()))
  most = max(float(row['training data, %']) for row in tests)
  gaps = {row['series']: float(row['gap to standard, points']) for row in drawn}
  assert gaps == {
    row['method']: pytest.approx(float(row['gap, points']))
    for row in tests
    if float(row['training data, %']) == most
  }


def test_no_cell_of_csv_is_a_formula():
  columns = (document.Column('=a'), document.Column('b', '.1f'))
  table = document.Table('t', 'T', columns, [('+1', -2.0), ('@x', None), ('a', float('inf'))])
  assert table.csv() == "'=a,b\n'+1,-2.0\n'@x,\na,inf\n"
  assert table.values()[2] == {'=a': 'a', 'b': None}
  assert table.shown() == [['+1', '-2.0'], ['@x', '–'], ['a', '–']]  # noqa: RUF001


def test_columns_without_values_are_left_out_of_the_page():
  columns = (document.Column('a'), document.Column('b'), document.Column('p', document.P))
  table = document.Table('t', 'T', columns, [('x', None, 0.5), ('y', '', 0.00001)]).with_values()
  assert [column.title for column in table.columns] == ['a', 'p']
  assert table.shown() == [['x', '0.5000'], ['y', '< 0.0001']]


def test_the_page_holds_every_answer_of_every_run(reported, text):
  data, codes = json.loads(inflated(text, 'examples')), inflated(text, 'codes')
  (sheet,) = data['sheets']
  runs = {run.label: run for run in folder.read(reported).students}
  assert {run['label'] for run in sheet['runs']} == set(runs)
  size = len(sheet['ids']) * len(runs)
  assert len(codes) == 2 * size
  matrix = np.frombuffer(codes[:size], np.uint8).reshape(len(sheet['ids']), len(runs))
  for place, shown in enumerate(sheet['runs']):
    answers = records.answers(runs[shown['label']])
    given = [sheet['answers'][e][matrix[e, place]] for e in range(len(sheet['ids']))]
    assert [data['labels'][label] for label, _ in given] == list(answers.predictions)
    assert [right for _, right in given] == answers.correct.tolist()
  assert [data['labels'][gold] for gold in sheet['golds']] == list(answers.targets)
  teacher = records.answers(next(run for run in folder.read(reported).runs if run.is_teacher))
  assert sheet['teacher']['right'] == teacher.correct.tolist()
  assert sheet['rationales'] == list(teacher.rationales)
  first = sheet['runs'][sheet['first'][0]]
  own = records.rationales(runs[first['label']]).own
  block = json.loads(inflated(text, f'rationales-0-{sheet["first"][0]}'))
  assert block == [own[number] for number in sheet['ids']]
  assert f'# folder: {reported}' in json.loads(inflated(text, 'configs'))[first['label']]


def test_more_than_256_answers_to_a_question_are_kept_apart(tmp_path):
  ids, right = (0,), np.array([False])
  given = [
    (None, records.Answers('t', tmp_path, ids, ('x',), ('g',), (f'{n}',), right, None, ('',)))
    for n in range(300)
  ]
  sheet = browser.Sheet(given[0][1], given, None, {})
  answers, codes = browser._coded(sheet, 1, {})
  assert len(answers[0]) == 300 and sorted(codes[0]) == list(range(300))


def test_a_page_stays_within_its_budget(reported):
  sweep = folder.read(reported)
  answered = [(run, records.answers(run)) for run in sweep.runs]
  sheets = browser.sheets(answered, 'standard')
  whole = browser.pack(sheets, [], 10**6)
  assert (whole.examples, whole.left_out, whole.without_rationales) == (30, 0, 0)
  total = sum(len(block.text) for block in whole.blocks)
  fewer = browser.pack(sheets, [], total - 1)
  assert fewer.without_rationales == 1 and fewer.examples == 30
  assert fewer.with_rationales == whole.with_rationales - 1
  least = browser.pack(sheets, [], 900)
  assert sum(len(block.text) for block in least.blocks) <= 900
  assert 0 < least.examples < 30 and least.left_out == 30 - least.examples


def test_samples_have_the_form_of_lm_evaluation_harness(reported):
  run = next(run for run in folder.read(reported).students if run.name != 'standard')
  answers = records.answers(run)
  (file,) = (reported / 'samples').glob(f'{re.sub(r"[^a-z0-9.=_]", "?", run.label)}/samples_*')
  # <task>_<date>.jsonl, as lm-eval-harness takes the names apart
  assert re.fullmatch(r'samples_esnli_label_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d+\.jsonl', file.name)
  found = [json.loads(line) for line in file.read_text().split('\n')[:-1]]
  assert found == list(samples.samples(answers))
  assert found[0].keys() == {
    'doc_id', 'doc', 'target', 'arguments', 'resps', 'filtered_resps', 'filter', 'metrics',
    'doc_hash', 'prompt_hash', 'target_hash', 'exact_match',
  }  # fmt: skip
  assert np.mean([one['exact_match'] for one in found]) == run.score.accuracy
  assert found[0]['target_hash'] == hashlib.sha256(answers.targets[0].encode()).hexdigest()


def test_two_folders_are_compared_cell_by_cell(tmp_path):
  for name, gain in (('a', 0.0), ('b', 0.2)):
    sweep_folders.write(tmp_path / name, sweep_folders.grid((1.0,), (1, 2), gain=gain), items=60)
  for file in (tmp_path / 'b').rglob('config.json'):
    file.write_text(json.dumps({**json.loads(file.read_text()), 'train_steps': 7}))
  sweeps = [folder.read(tmp_path / name, None, f'{name}: ') for name in 'ab']
  section = make.two_folders.section(*sweeps)
  rows = {row['method']: row for row in section.tables[0].values()}
  assert rows['dss']['B minus A, points'] == pytest.approx(
    rows['dss']['B, %'] - rows['dss']['A, %']
  )
  assert rows['standard']['B minus A, points'] == 0
  assert ('dss', 'train_steps: None -> 7') in section.tables[1].rows


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['A', 'B', 'C'], 'one folder, or two to compare'),
    (['nowhere'], 'does not exist'),
    (['HERE', '--output=report.pdf'], 'ends in .html'),
    (['HERE', '--price_file=nowhere.json'], 'is missing'),
  ],
)
def test_wrong_arguments_are_refused_in_a_sentence(reported, arguments, expected, capsys):
  arguments = [str(reported) if one == 'HERE' else one for one in arguments]
  assert cli.main(['report', *arguments]) == 2
  assert expected in capsys.readouterr().err


def test_a_missing_extra_is_named(reported, monkeypatch, capsys):
  for name in [name for name in sys.modules if name.startswith('dss_jax.experiments.report')]:
    if name.endswith(('make', 'figures', '_sections')):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.delattr('dss_jax.experiments.report.make')
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  assert cli.main(['report', str(reported)]) == 2
  assert "pip install 'dss_jax[report]'" in capsys.readouterr().err


def test_results_alone_make_a_report(reported, tmp_path):
  (tmp_path / 'kept.jsonl').write_text((reported / results.RESULTS).read_text())
  assert report.main([str(tmp_path / 'kept.jsonl'), f'--output={tmp_path}/new/page.html']) == 0
  found = (tmp_path / 'new' / 'page.html').read_text()
  assert 'No run folder has the records of its score' in found
  assert (tmp_path / 'new' / 'page_files' / 'accuracy.csv').exists()
  assert len(found.encode()) < page.MOST_BYTES
