"""The README.md of an exported student: what it is, how it was made, how good it is, how to use it.

Owns the text alone; facts are read by card_facts.py. Their texts may be anybody's: they are shown
as they are, and never become headings, links, images or HTML. Paths of this machine are left out.
"""

import functools
import hashlib
import importlib.metadata
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from etils import epath

from dss_jax import methods
from dss_jax.checkpoints.hf import tokenizer
from dss_jax.datasets import release
from dss_jax.methods.base import fields_of, formula
from dss_jax.runs import card_facts, run_config
from dss_jax.runs.card_facts import Data, Facts, Score
from dss_jax.settings import fields
from dss_jax.settings.printable import printable

LONGEST_LINE = 2000  # characters of a gin file's line that is shown
NOT_RECORDED = 'not recorded'
PLACEHOLDERS = {'input': 'A question of the kind that it was trained on.'}
_HUB_ID = re.compile(r'(?:Hugging Face )?([A-Za-z0-9][\w.-]*/[\w.-]+)')


def card(facts: Facts, parameters: int, agreements: Mapping[str, tokenizer.Agreement]) -> str:
  """The README.md.

  Args:
    facts: of the student.
    parameters: number of its parameters.
    agreements: of its tokenizer files with its vocabulary, by kind of text.
  """
  front = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True, width=1000)
  sections = [
    f'---\n{printable(front)}---',
    f'# {_inline(facts.name)}',
    _introduction(facts),
    f'## Use\n\n{_use(facts)}',
    f'## Where this loads\n\n{_loads(facts, agreements)}',
    f'## Metrics\n\n{_metrics(facts.scores)}',
    f'## Training\n\n{_training(facts)}',
    f'## Data\n\n{_data(facts)}',
    f'## Size and vocabulary\n\n{_size(facts, parameters, agreements)}',
  ]
  if facts.gin:
    sections.append(
      '<details><summary>gin configuration</summary>\n\n'
      f'{_block(without_paths(facts.gin).strip())}\n\n</details>'
    )
  return '\n\n'.join(sections) + '\n'


def _front_matter(facts: Facts) -> dict[str, Any]:
  front: dict[str, Any] = {
    'library_name': 'transformers',
    'pipeline_tag': 'text2text-generation',
    'tags': ['t5', 'distilling-step-by-step', 'dss_jax'],
  }
  hub_id = _HUB_ID.fullmatch(facts.source or '')
  if hub_id and not epath.Path(facts.source or '').exists():
    front['base_model'] = hub_id[1]
  if isinstance(facts.data, Data) and facts.data.prepared:
    front['datasets'] = list(facts.data.prepared)
  results = [result for score in facts.scores for result in _results(score)]
  if results:
    front['model-index'] = [{'name': facts.name, 'results': results}]
  return front


def _results(score: Score) -> Iterator[dict[str, Any]]:
  for name, (low, high) in score.intervals.items():
    yield {
      'task': {'type': 'text2text-generation'},
      'dataset': {'name': score.task, 'type': score.task, 'split': score.split},
      'metrics': [
        {
          'type': name,
          'value': round(score.metrics[name], 6),
          'name': f'{name} ({score.decoding})',
          'args': {'low_95': round(low, 6), 'high_95': round(high, 6)},
        }
      ],
    }


def _introduction(facts: Facts) -> str:
  version = importlib.metadata.version('dss_jax')
  text = f'A T5 in float32, written by `dss export` of dss_jax {version}'
  if facts.run is None:
    return f'{text} from weights that it read from {_inline(facts.source or NOT_RECORDED)}.'
  return f'{text}: a student of {code(facts.run.data.mixture_or_task_name)}, step {facts.step}.'


def _use(facts: Facts) -> str:
  method = (facts.run and facts.run.method) or methods.get(methods.DEFAULT)
  rows = card_facts.output_lengths(facts)
  example = (facts.data.question if isinstance(facts.data, Data) else None) or {}
  wanted = sorted(frozenset[str]().union(*(fields_of(row.input) for row in rows)))
  question = {name: example.get(name) or PLACEHOLDERS.get(name, name) for name in wanted}
  sentences = [f'Asked with {code(row.input)}, it writes {code(row.target)}.' for row in rows]
  if facts.run is not None and facts.run.choices is not None:
    sentences.append(
      'Its answer is the choice whose tokens, the end of sequence included, have the highest mean '
      'log probability, not what it writes freely.'
    )
  if method.needs:
    sentences.append(f'Every question needs {" and ".join(sorted(method.needs))} too.')
  if facts.run is None:
    sentences = ['It was not trained on a task of dss_jax; the templates are those of one.']
  if facts.run is not None:
    longest = facts.run.data.task_feature_lengths['inputs']
    sentences.append(f'Inputs were cut at {longest} tokens.')
  tokens = {row.input: length for row, length in rows.items()}
  program = f"""from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

path = '.'  # this folder
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
question = {question!r}
for template, tokens in {tokens!r}.items():
  inputs = tokenizer(template.format(**question), return_tensors='pt', truncation=True)
  outputs = model.generate(**inputs, max_length=1 + tokens, do_sample=False)
  print(tokenizer.decode(outputs[0], skip_special_tokens=True))"""
  return f"""{' '.join(sentences)} `</s>` separates the parts of an input, as in
`premise</s>hypothesis`. Use `AutoTokenizer`; `T5Tokenizer` cannot read all our vocabularies.

{_block(program, 'python')}"""


def _loads(facts: Facts, agreements: Mapping[str, tokenizer.Agreement]) -> str:
  """Which programs were tried on exports of this kind, and what does not work in them, and why."""
  table = _table(
    ('program', 'loads it'), [(name, _Markup(text)) for name, text in _programs(facts).items()]
  )
  text = (
    '`skip_special_tokens=True` leaves out the unknown token, which dss_jax shows as ` \u2047 `.'
  )
  different = [
    f'{agreement.different} of {agreement.texts} {kind}'
    for kind, agreement in agreements.items()
    if agreement.different
  ]
  if different:
    text += (
      f' `tokenizer.json` gives other ids than in training to {" and ".join(different)}; '
      f'`{tokenizer.SENTENCEPIECE}` is exact: with `sentencepiece`, encode each part between '
      '`</s>`, stripped, and end it with id 1.'
    )
  return f'{table}\n\n{text}'


def _programs(facts: Facts) -> dict[str, str]:
  """What `benchmarks/ct2_parity.py` and trials of these versions showed, by program."""
  length = max(card_facts.output_lengths(facts).values())
  scaled = (
    '. For beam search and scores convert with transformers 4: with 5, the converter scales the '
    'logits by d_model^-1/2'
  )
  return {
    'transformers 5.23 and 4.57': (
      f'yes; `generate()` without arguments writes up to {length} tokens. The pipeline '
      '`text2text-generation` works in 4; 5 has none for models of this kind'
    ),
    'CTranslate2 4.8': (
      'yes, with the same greedy outputs (`min_decoding_length=0` where one may be empty): '
      '`ct2-transformers-converter --model . --output_dir ct2`'
      f'{"" if facts.model.logits_via_embedding else scaled}'
    ),
    'ONNX, by optimum-onnx 0.1': (
      'no: it has no export of umT5'
      if facts.model.relative_bias_per_layer
      else 'yes, with the same greedy outputs; it needs transformers 4'
    ),
    'sentence-transformers 6.2': (
      'the encoder alone, and the mean of its outputs, which it was not trained for'
    ),
  }


def _metrics(scores: Sequence[Score]) -> str:
  if not scores:
    return 'None: this step was neither validated nor evaluated with `dss evaluate`.'
  rows = [
    (
      score.task,
      score.split,
      'all' if score.examples is None else score.examples,
      score.decoding,
      name,
      f'{value:.4f}',
      '{:.4f} to {:.4f}'.format(*score.intervals[name]) if name in score.intervals else '',
    )
    for score in scores
    for name, value in score.metrics.items()
  ]
  header = ('task', 'split', 'examples', 'decoding', 'metric', 'value', '95 % interval')
  return _table(header, rows)


def _training(facts: Facts) -> str:
  run = facts.run
  if run is None:
    return f'None here; the weights come from {_inline(facts.source or NOT_RECORDED)}.'
  rows = [
    ('method', run.method.summary if run.method else NOT_RECORDED),
    ('objective', _objective(run)),
    ('teacher', _teacher(facts)),
    ('start', facts.source or f'random parameters, seed {run.seed}'),
    ('step', f'{facts.step} of {run.train_steps}'),
    ('batch', f'{run.data.batch_size} rows{" (packed)" if run.data.pack else ""}'),
    ('tokens of a row', ', '.join(f'{k} {v}' for k, v in run.data.task_feature_lengths.items())),
    ('optimizer', _optimizer(run)),
    ('dropout', run.model.dropout_rate),
    ('activations', run.model.dtype),
    ('seed', run.seed),
  ]
  return _table(('', ''), rows)


def _optimizer(run: run_config.RunConfig) -> str:
  o = run.optimizer
  return (
    f'{o.name}, learning rate {o.learning_rate:g} ({o.schedule}, warmup {o.warmup_steps}), '
    f'clipped at {o.clip_norm}, weight decay {o.weight_decay:g}'
  )


def _objective(run: run_config.RunConfig) -> str:
  """The objective as a formula, `L_label + 0.5 L_rationale`, of mean token cross-entropies."""
  objective = run.objective
  if len(objective.tasks) == 1:
    return 'token cross-entropy'
  return formula(objective.tasks, objective.weights)


def _teacher(facts: Facts) -> str:
  method = facts.run.method if facts.run else None
  data = facts.data if isinstance(facts.data, Data) else None
  if method is not None and not method.uses_teacher:
    if data and data.unlabeled:
      return f'for the labels of {" and ".join(data.unlabeled)}: {data.teacher or NOT_RECORDED}'
    return 'none: gold labels alone'
  return (data.teacher if data else '') or NOT_RECORDED


def _data(facts: Facts) -> str:
  if isinstance(facts.data, str) or facts.run is None:
    return str(facts.data)
  rows = ', '.join(f'{count} rows of {code(task)}' for task, count in facts.data.rows.items())
  parts = [
    f'Trained on {rows} (split {_inline(facts.run.data.split)}); CRC-32 of their tokens '
    f'{facts.fingerprint:08x}, the same when this card was written.'
  ]
  for name, notes in facts.data.prepared.items():
    if not notes:
      continue
    columns = ('examples', 'teacher_accuracy', 'unparsed', 'empty_rationale', 'disagree')
    counts = [
      (split, *('' if (value := entry.get(column)) is None else value for column in columns))
      for split, entry in notes['counts'].items()
    ]
    files = [
      (split, code(file), code(digest))
      for split, digests in notes['sources'].items()
      for file, digest in digests.items()
    ]
    parts += [
      f'{code(name)}, prepared with filter {code(notes["filter"])}{_parser(notes)}; the counts are '
      'those before the filter:',
      _table(('split', *(column.replace('_', ' ') for column in columns)), counts),
      '<details><summary>SHA-256 of the raw files</summary>\n\n'
      f'{_table(("split", "file", "SHA-256"), files)}\n\n</details>',
    ]
    if rows_ := card_facts.teacher_facts(notes):
      parts.append(f'How its teacher was asked:\n\n{_table(("", ""), rows_)}')
  return '\n\n'.join(parts)


def _parser(notes: Mapping[str, Any]) -> str:
  """How the teacher's outputs were read, where that is not our own way."""
  parser = notes.get('parser', release.PARSERS[0])
  return '' if parser == release.PARSERS[0] else f' and parser {code(parser)}'


def _size(facts: Facts, parameters: int, agreements: Mapping[str, tokenizer.Agreement]) -> str:
  model, path = facts.model, tokenizer.sentencepiece_path(facts.vocabulary)
  vocabulary = 'bytes'
  if path is not None:
    digest = hashlib.sha256(epath.Path(path).read_bytes()).hexdigest()
    vocabulary = f'SentencePiece, {tokenizer.SENTENCEPIECE}, SHA-256 {digest}'
  alike = ', '.join(
    f'{agreement.texts - agreement.different} of {agreement.texts} {kind}'
    for kind, agreement in agreements.items()
  )
  rows = [
    ('parameters', f'{parameters:,}'),
    (
      'width',
      f'{model.emb_dim}, feed-forward {model.mlp_dim} ({", ".join(model.mlp_activations)})',
    ),
    ('heads', f'{model.num_heads} of {model.head_dim}'),
    ('layers', f'{model.num_encoder_layers} + {model.num_decoder_layers}'),
    ('embedding', f'{model.vocab_size} rows{", tied" if model.logits_via_embedding else ""}'),
    ('vocabulary', f'{facts.vocabulary.vocab_size} ids; {vocabulary}'),
    (_Markup('same ids from `tokenizer.json`'), alike),
  ]
  return _table(('', ''), rows)


# ---------------------------------------------------------------- texts of others


class _Markup(str):
  """Text that is Markdown already."""


def without_paths(gin: str) -> str:
  """A gin configuration without the folders of this machine, which are nobody else's business."""
  lines, name, is_open, is_path = [], '', False, False  # of the value that goes on in this line
  for line in gin.split('\n'):
    if len(line) > LONGEST_LINE:
      line = '# (a long line)'
    head, equals, value = ('', '', line) if name or is_open else line.partition('=')
    if equals:
      name = re.split(r'\W', head.rstrip())[-1].lower()
    text = value.strip()
    if not is_open and text.startswith(('"', "'", '(')):
      is_open, is_path = text.startswith('('), _begins_path(name, text.lstrip('( '))
    if is_path and text:
      shown = "('...'" if text.startswith('(') else "'...'"
      line = line.removesuffix(value.lstrip()) + shown + ')' * (is_open and text.endswith(')'))
    is_open = is_open and not text.endswith(')')
    is_path = is_path and is_open
    if text.strip('\\'):  # else the value is on the next line
      name = ''
    lines.append(line)
  text = re.sub(r"""(['"])(?:/|~/|\w+://)[^'"\n]*\1""", "'...'", '\n'.join(lines))
  return re.sub(r"""(?m)(^|[\s=:,(\[#'"])(?:~?/|\w+://)\w[^\n]*$""", r'\1...', text)


@functools.cache
def _path_settings() -> frozenset[str]:
  hints = typing.get_type_hints(run_config.RunConfig, include_extras=True)
  return frozenset(name for name, hint in hints.items() if fields.is_path(hint))


def _begins_path(name: str, text: str) -> bool:
  """Whether a quoted value of a setting begins as a path that is not to be shown."""
  path = text[1:]
  if name not in _path_settings():
    return bool(re.match(r'(?:/|~/|\w+://)', path))
  return 'dir' in name or path.startswith(('~', '.')) or '/' in path or '\\' in path


def _inline(text: str) -> str:
  """Text within a line of Markdown, shown letter by letter."""
  text = ' '.join(printable(text).split())
  text = re.sub(r'[\\`*\[\]<>|!#~&$]|(?<![^\W_])_|_(?![^\W_])', r'\\\g<0>', text)
  return re.sub(r'(?i)(?:https?|ftp):(?=//)|www(?=\.)|@', r'\g<0>&#8203;', text)


def code(text: str) -> _Markup:
  """Text as a code span within a line, or within a cell of a table."""
  text = ' '.join(printable(str(text)).split()).replace('|', '\\|')
  marks = '`' * (_longest_marks(text) + 1)
  space = ' ' if '`' in text else ''
  return _Markup(f'{marks}{space}{text}{space}{marks}')


def _block(text: str, language: str = '') -> str:
  """Text as a block of code, whose fence is longer than any in the text."""
  fence = '`' * max(3, _longest_marks(text) + 1)
  return f'{fence}{language}\n{printable(text)}\n{fence}'


def _longest_marks(text: str) -> int:
  return max(map(len, re.findall('`+', text)), default=0)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  cells = [
    [cell if isinstance(cell, _Markup) else _inline(str(cell)) for cell in line]
    for line in (header, *rows)
  ]
  lines = [cells[0], ['---'] * len(header), *cells[1:]]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
