"""Reading the raw release: layout, joining with completions, held-out rows, and malformed files."""

import json

import pytest

from dss_jax.datasets import anli1, asdiv, cqa, esnli, release, svamp


def write_rows(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows), encoding='utf-8')


def write_completions(folder, split, *batches):
  (folder / 'llm').mkdir(parents=True, exist_ok=True)
  for number, batch in enumerate(batches):
    path = folder / 'llm' / f'{split}_CoT_{number}.json'
    path.write_text(json.dumps(batch), encoding='utf-8')


def svamp_rows(count):
  return [{'input': f'There are {n}.\nHow many?', 'label': f'( {n} + 1 )'} for n in range(count)]


def svamp_completions(numbers):
  return [f'It is {n}. The answer is ({n} + 1).\n\nQ: X' for n in numbers]


def read(dataset, folder, split):
  return list(release.read_examples(dataset, release.split_files(dataset, folder, split), split))


def test_completions_belong_to_rows_in_order_of_their_batch_number(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(23))
  batches = [svamp_completions(range(2 * k, 2 * k + 2)) for k in range(11)]  # _10 sorts after _9
  write_completions(tmp_path / 'svamp', 'test', *batches, svamp_completions([22]))
  examples = read(svamp.DATASET, tmp_path, 'test')
  assert [example.teacher_label for example in examples] == [(f'({n} + 1)',) for n in range(23)]
  assert examples[22] == release.Example(
    'There are 22.\nHow many?', '( 22 + 1 )', ('It is 22.',), ('(22 + 1)',)
  )


def test_without_completions_rationale_and_teacher_label_are_empty(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(1))
  assert read(svamp.DATASET, tmp_path, 'test') == [
    release.Example('There are 0.\nHow many?', '( 0 + 1 )')
  ]


def test_held_out_rows_are_fixed():
  # numpy promises no fixed stream, so the rows are pinned: prepared data must not change silently.
  svamp_rows, cqa_rows = release.held_out_rows(800), release.held_out_rows(9741)
  assert (len(svamp_rows), len(cqa_rows)) == (80, 975)
  assert sorted(svamp_rows)[:6] == [2, 8, 13, 19, 23, 26]
  assert sorted(cqa_rows)[:6] == [1, 27, 36, 38, 40, 47]


def test_train_and_validation_share_the_rows_without_overlap(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_train.json', svamp_rows(25))
  write_completions(tmp_path / 'svamp', 'train', svamp_completions(range(25)))
  train = [example.label for example in read(svamp.DATASET, tmp_path, 'train')]
  validation = [example.label for example in read(svamp.DATASET, tmp_path, 'validation')]
  assert (len(train), len(validation)) == (22, 3)
  assert sorted(train + validation) == sorted(row['label'] for row in svamp_rows(25))
  assert all(example.teacher_label for example in read(svamp.DATASET, tmp_path, 'validation'))


def test_more_rows_than_completions_is_an_error_that_names_both_files(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(3))
  write_completions(tmp_path / 'svamp', 'test', svamp_completions([0]), svamp_completions([1]))
  with pytest.raises(ValueError, match=r'svamp_test\.json has 3 rows .*test_CoT_0.* 2 completions'):
    read(svamp.DATASET, tmp_path, 'test')


def test_more_completions_than_rows_is_an_error(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(1))
  write_completions(tmp_path / 'svamp', 'test', svamp_completions([0, 1, 2]))
  with pytest.raises(ValueError, match=r'has 1 rows and .* hold 3 completions'):
    read(svamp.DATASET, tmp_path, 'test')


def test_a_missing_batch_is_an_error(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(3))
  write_completions(tmp_path / 'svamp', 'test', *(svamp_completions([n]) for n in range(3)))
  (tmp_path / 'svamp' / 'llm' / 'test_CoT_1.json').unlink()
  with pytest.raises(ValueError, match=r'test_CoT_1\.json is missing'):
    release.split_files(svamp.DATASET, tmp_path, 'test')


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"input": "x", ', ' is not JSON: Expecting property name'),
    ('["x"]', ': expected a JSON object'),
    ('{"input": "x"}', ": expected a text in field 'label', but the row has only 'input'"),
    ('{"input": 3, "label": "x"}', ": expected a text in field 'input', got 3"),
  ],
)
def test_a_malformed_row_is_an_error_that_names_file_and_line(tmp_path, line, message):
  path = tmp_path / 'svamp' / 'svamp_test.json'
  write_rows(path, svamp_rows(1))
  path.write_text(f'{path.read_text()}\n{line}\n')
  with pytest.raises(ValueError) as error:
    read(svamp.DATASET, tmp_path, 'test')
  assert str(error.value).startswith(f'{path}, line 3{message}')


@pytest.mark.parametrize('content', ['[1, 2]', '{"a": "b"}', '["x"', '\x00'])
def test_malformed_completions_are_an_error_that_names_the_file(tmp_path, content):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(2))
  write_completions(tmp_path / 'svamp', 'test', [])
  path = tmp_path / 'svamp' / 'llm' / 'test_CoT_0.json'
  path.write_text(content)
  with pytest.raises(ValueError, match=r'test_CoT_0\.json( is not JSON)?: '):
    read(svamp.DATASET, tmp_path, 'test')


def test_the_folder_may_be_the_release_its_parent_or_the_data_sets_own(tmp_path):
  (tmp_path / 'datasets' / 'svamp').mkdir(parents=True)
  for given in (tmp_path, tmp_path / 'datasets', tmp_path / 'datasets' / 'svamp'):
    assert release.release_folder(given, svamp.DATASET) == tmp_path / 'datasets'
  with pytest.raises(ValueError, match='--raw_dir'):
    release.release_folder(tmp_path, cqa.DATASET)


def test_cqa_input_lists_the_choices():
  row = {'question': 'Where?', 'choices': ['a b', 'c ', 'd', 'e', 'f'], 'answer': 'c '}
  assert cqa.DATASET.fields(row) == (
    'Where?\nAnswer Choices:\n(a) a b\n(b) c \n(c) d\n(d) e\n(e) f',
    'c',
  )
  with pytest.raises(ValueError, match='5 texts'):
    cqa.DATASET.fields({**row, 'choices': ['a']})


@pytest.mark.parametrize('module', [esnli, anli1])
def test_nli_input_has_exactly_one_separator(module):
  row = {'premise': 'A</s>B.', 'hypothesis': '</s>C.', 'label': 2}
  input_text, label = module.DATASET.fields(row)
  assert input_text == 'A B.</s> C.'
  assert label == 'contradiction'
  with pytest.raises(ValueError, match='label 0, 1 or 2'):
    module.DATASET.fields({**row, 'label': -1})


def test_a_literal_separator_in_a_completion_is_not_kept(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(1))
  write_completions(tmp_path / 'svamp', 'test', ['One</s>two. The answer is (1).'])
  assert read(svamp.DATASET, tmp_path, 'test')[0].rationale == ('One two.',)


@pytest.mark.parametrize(
  ('formula', 'expected'),
  [
    ('7+2=9', '( 7 + 2 )'),
    ('(3+4)*2=14', '( (3 + 4) * 2 )'),
    ('17/7=2 r3', ''),
    ('10/3=3.333', ''),
    ('3+5=8; 8-2=6', ''),
    ('2 parts(Blue) < 3 parts(Purple)', ''),
    ('7+2=8', ''),
    ('', ''),
  ],
)
def test_asdiv_label_is_the_formula_if_it_is_one_equation_that_holds(formula, expected):
  assert asdiv.gold_equation(formula) == expected


def test_asdiv_reads_xml(tmp_path):
  path = tmp_path / 'asdiv' / 'ASDiv.xml'
  path.parent.mkdir()
  problem = (
    '<Problem><Body>T<b>wo</b>.</Body><Question>How? </Question><Formula>1+1=2</Formula></Problem>'
  )
  path.write_text(f'<Corpus><ProblemSet>{problem}</ProblemSet></Corpus>')
  assert read(asdiv.DATASET, tmp_path, 'train') == [release.Example('Two.\nHow?', '( 1 + 1 )')]
  for text in ('<Corpus>', f'<?xml version="1.0" encoding="u{"9" * 5000}"?><a/>'):
    path.write_text(text)
    with pytest.raises(ValueError, match=r'ASDiv\.xml: not valid XML.{,300}$'):
      read(asdiv.DATASET, tmp_path, 'train')
  path.write_text('<!DOCTYPE x [<!ENTITY a "b">]><Corpus>&a;</Corpus>')
  with pytest.raises(ValueError, match='document type'):
    read(asdiv.DATASET, tmp_path, 'train')


def test_a_row_may_have_several_completions(tmp_path):
  write_rows(tmp_path / 'svamp' / 'svamp_test.json', svamp_rows(2))
  path = tmp_path / 'svamp' / 'llm' / 'test_CoT_0.json'
  path.parent.mkdir()
  first = ['One. The answer is (0 + 1).', 'Two. The answer is (1 + 1).']
  path.write_text(json.dumps([first, 'Three. The answer is (1 + 1).']))
  found = read(svamp.DATASET, tmp_path, 'test')
  assert [example.rationale for example in found] == [('One.', 'Two.'), ('Three.',)]
  assert [example.teacher_label for example in found] == [('(0 + 1)', '(1 + 1)'), ('(1 + 1)',)]
  path.write_text(json.dumps([first, 5]))
  with pytest.raises(ValueError, match=r'test_CoT_0\.json: expected a JSON list of texts'):
    read(svamp.DATASET, tmp_path, 'test')
