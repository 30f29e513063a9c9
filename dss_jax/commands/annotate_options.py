"""The command line of `dss annotate`, and what it asks for.

Owns the options, their checks, and which files they mean. Does not own: what is done (annotate.py).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from dss_jax import datasets
from dss_jax.datasets import release, rows, unpacking
from dss_jax.settings import arguments, plain_files
from dss_jax.settings.errors import ConfigError
from dss_jax.teacher import asking, client, filters, prices, prompts, reading
from dss_jax.teacher.annotations import Read, Source
from dss_jax.teacher.requests import CAP
from dss_jax.teacher.run import Plan
from dss_jax.teacher.store import Limits

OPENAI = 'https://api.openai.com/v1'
MODES = ('chat', 'completions')
REUSES = ('same-request', 'same-prompt')
_OWN = (
  'model', 'messages', 'prompt', 'stream', 'n', CAP, 'temperature', 'stop', 'response_format',
  # Other names of the cap, and what multiplies an answer: its price is reserved before it is sent.
  'max_completion_tokens', 'max_output_tokens', 'max_new_tokens', 'best_of', 'num_return_sequences',
)  # fmt: skip
_DESCRIPTION = """\
Asks a large language model, at any server that speaks OpenAI's protocol, for a rationale and a
label of every input, and prepares the data set from its answers. Every answer is kept at once:
after a crash, a signal or a limit the same command goes on, and nothing is asked twice.
Start with --preview: it asks about 20 inputs and says what all would cost.
"""
_EXAMPLES = """\
dss annotate --dataset=svamp --raw_dir=datasets --data_dir=data --model=gpt-4.1-mini --preview
dss annotate --dataset=svamp --raw_dir=datasets --data_dir=data --model=gpt-4.1-mini \\
  --price_file=prices.json --max_usd=5
dss annotate --dataset=mine --input=mine.csv --prompt=mine.toml --output=out --model=llama3 \\
  --base_url=http://localhost:11434/v1
"""


@dataclasses.dataclass(frozen=True)
class Settings:
  """A checked command line.

  Attributes:
    dataset: how rows and completions read.
    sources: the raw files whose rows are asked about.
    output: folder of what is written.
    store: file of the answers.
    asking: what is asked, and how.
    plan: price and limits.
    flags: as they came.
    prepare: the command that builds the data set from `output`; None: there is none.
  """

  dataset: release.Dataset
  sources: list[Source]
  output: pathlib.Path
  store: pathlib.Path
  asking: asking.Asking
  plan: Plan
  flags: argparse.Namespace
  prepare: list[str] | None


def settings(argv: Sequence[str]) -> Settings:
  """What a command line asks for.

  Raises:
    ValueError: options that do not go together, or files that are missing or malformed.
  """
  given = parser().parse_args(argv)
  arguments.import_modules(given.modules)
  prompt = prompts.load(given.prompt or given.dataset)
  known = given.dataset in datasets.names()
  if not known and given.input is None:
    datasets.get(given.dataset)  # raises
  dataset = datasets.get(given.dataset) if known else prompt.dataset(given.dataset)
  # What follows raises, before money is spent.
  filters.Filter(given.filter, dataset.metric)
  prompt.check(dataset)
  dataset = release.with_parser(dataset, given.parser)
  client.check_address(given.base_url)
  output = _output(given)
  return Settings(
    dataset=dataset,
    sources=_input(given, dataset) if given.input else _raw_files(given, dataset),
    output=output,
    store=_store(given, output),
    asking=_asking(given, prompt),
    plan=_plan(given),
    flags=given,
    prepare=_prepare(given, output),
  )


def _asking(given: argparse.Namespace, prompt: prompts.Prompt) -> asking.Asking:
  if given.samples > 1 and not given.temperature:
    raise ConfigError(
      f'--samples={given.samples} of the same question are all the same unless --temperature is '
      'above 0: add, say, --temperature=0.7.'
    )
  parameters: dict[str, Any] = {CAP: given.max_tokens or prompt.max_tokens}
  parameters['temperature'] = given.temperature
  if prompt.stop:
    parameters['stop'] = list(prompt.stop)
  if given.schema:
    if given.mode != 'chat':
      raise ConfigError('--schema is for --mode=chat: completions have no structured output.')
    parameters['response_format'] = asking.SCHEMA
  return asking.Asking(
    model=given.model,
    prompt=prompt,
    parameters={**parameters, **given.parameters},
    is_chat=given.mode == 'chat',
    samples=given.samples,
    source=given.rationale_from,
    words=given.condense,
  )


def price_of(given: argparse.Namespace, model: str) -> prices.Price | None:
  """What a model costs by the price file, or else by a package of prices.

  Raises:
    ConfigError: the price file cannot be read, or has no price of the model.
  """
  if given.price_file:
    return prices.load(given.price_file, model)
  return prices.known(model, given.base_url)


def _plan(given: argparse.Namespace) -> Plan:
  price = price_of(given, given.model)
  if given.max_usd is not None and price is None:
    raise ConfigError(
      f'--max_usd={given.max_usd:g} needs the price of {given.model!r}: --price_file=FILE, JSON '
      f'such as {{"{given.model}": {{"input": 0.4, "cached_input": 0.1, "output": 1.6}}}}, dollars '
      'per million tokens. Or pip install genai-prices, if it knows the model.'
    )
  spent = None if given.max_usd is None else int(given.max_usd * prices.DOLLAR)
  return Plan(
    price=price,
    limits=Limits(spent, given.max_requests),
    retry_failed=given.retry_failed,
    same_prompt=given.reuse == REUSES[1],
  )


# ---------------------------------------------------------------- files


def _output(given: argparse.Namespace) -> pathlib.Path:
  if given.output:
    output = pathlib.Path(given.output).expanduser()
    if output.exists() and not output.is_dir():
      raise ConfigError(f'--output={output} is a file; expected a folder, or a new name.')
    return output
  if not given.data_dir or '://' in given.data_dir:
    raise ConfigError(
      'expected --data_dir=DIR of this machine, where the prepared data set goes, or '
      '--output=DIR for the answers alone.'
    )
  return pathlib.Path(given.data_dir).expanduser() / 'annotations' / given.dataset


def _store(given: argparse.Namespace, output: pathlib.Path) -> pathlib.Path:
  store = pathlib.Path(given.store).expanduser() if given.store else output / 'answers.sqlite'
  if store.is_dir():
    raise ConfigError(f'{store} is a folder; --store names a file in it, or a new one.')
  return store


def _prepare(given: argparse.Namespace, output: pathlib.Path) -> list[str] | None:
  """The command line of dss prepare; a data set of one file has no raw folder that it reads."""
  if given.input or not given.data_dir:
    return None
  modules = [f'--module={name}' for name in given.modules]
  return [
    f'--dataset={given.dataset}', f'--raw_dir={given.raw_dir}', f'--teacher_outputs={output}',
    f'--data_dir={given.data_dir}', f'--filter={given.filter}', f'--parser={given.parser}',
    *modules,
  ]  # fmt: skip


def _input(given: argparse.Namespace, dataset: release.Dataset) -> list[Source]:
  path = pathlib.Path(given.input).expanduser()
  if given.raw_dir:
    raise ConfigError('expected --input=FILE or --raw_dir=DIR, not both.')
  if what := plain_files.problem(path):
    raise ConfigError(f'--input={path} is {what}; {rows.EXPECTED}.')
  if len(given.split) > 1:
    raise ConfigError('--input is one file, so one --split at most.')
  if given.filter != filters.NONE:
    raise ConfigError('--filter is of dss prepare, which does not read --input: filter the rows.')
  name = given.split[0] if given.split else 'train'
  return [Source(name, path, dataset, given.limit, read=_reader(given))]


def _reader(given: argparse.Namespace) -> Read:
  """How dss prepare reads completions with the same --parser."""
  return reading.read if given.parser == release.PARSERS[0] else reading.read_as_is


def _raw_files(given: argparse.Namespace, dataset: release.Dataset) -> list[Source]:
  """A source for each raw file of the wanted splits."""
  if not given.raw_dir:
    raise ConfigError('expected --raw_dir=DIR, which holds NAME/, or --input=FILE of inputs.')
  folder = release.release_folder(_raw_folder(given), dataset)
  if unknown := [split for split in given.split if split not in dataset.splits]:
    raise ConfigError(f'--split={unknown[0]}: {dataset.name} has {", ".join(dataset.splits)}.')
  sources, wanted = {}, given.split or list(dataset.splits)
  for split in wanted:
    name, paths = dataset.splits[split], release.wanted_files(dataset, folder, split)
    path = next((path for path in paths if path.is_file()), None)
    if path is not None:
      rows = _rows_of(dataset, path, wanted) if name == dataset.splits['train'] else None
      sources[name] = Source(name, path, dataset, given.limit, rows, _reader(given))
    elif given.split:
      raise ConfigError(f'--split={split}: {" or ".join(map(str, paths))} is missing.')
    else:
      print(f'{split} is left out: {paths[0]} is missing.', file=sys.stderr)
  if not sources:
    raise ConfigError(f'no raw file of {dataset.name} is in {folder / dataset.name}.')
  return list(sources.values())


def _rows_of(
  dataset: release.Dataset, path: pathlib.Path, wanted: list[str]
) -> frozenset[int] | None:
  """Which rows of train's file are of the wanted splits; None: all of them."""
  if not dataset.holds_out_validation or {'train', 'validation'} <= set(wanted):
    return None
  count = sum(1 for _ in dataset.read(path))
  held_out = release.held_out_rows(count)
  return held_out if 'validation' in wanted else frozenset(range(count)) - held_out


def _raw_folder(given: argparse.Namespace) -> pathlib.Path:
  raw = pathlib.Path(given.raw_dir).expanduser()
  if raw.is_file():
    return unpacking.extract(raw, _output(given) / 'raw')
  if not raw.is_dir():
    raise ConfigError(f'--raw_dir={raw}: expected a folder of raw files or a zip archive of it.')
  return raw


# ---------------------------------------------------------------- options


def parser() -> argparse.ArgumentParser:
  """The flags."""
  made = arguments.verb_parser('annotate', _DESCRIPTION, _EXAMPLES)
  _add_data(made.add_argument_group('what is asked about'))
  _add_teacher(made.add_argument_group('the teacher'))
  _add_answers(made.add_argument_group('its answers'))
  _add_limits(made.add_argument_group('pace and money'))
  arguments.add_module_flag(made)
  return made


def _add_data(group: Any) -> None:
  add = group.add_argument
  add(
    '--dataset',
    required=True,
    type=arguments.given,
    help=f'{", ".join(datasets.names())}, of --module, or your own',
  )
  add(
    '--raw_dir', type=arguments.given, metavar='DIR', help='folder that holds NAME/, or a zip of it'
  )
  add(
    '--input',
    type=arguments.given,
    metavar='FILE',
    help='rows with `input`, perhaps `label`, instead of --raw_dir',
  )
  add(
    '--data_dir', type=arguments.given, metavar='DIR', help='TFDS folder of the prepared data set'
  )
  add(
    '--output',
    type=arguments.given,
    metavar='DIR',
    help='the answers as files (default: DATA_DIR/annotations/NAME)',
  )
  add(
    '--store',
    type=arguments.given,
    metavar='FILE',
    help='every answer and what was spent (default: in --output)',
  )
  add('--split', action='append', default=[], help='one split, repeatable (default: all)')
  add('--limit', type=arguments.whole(), metavar='N', help='the first N rows of each raw file')
  add('--filter', default=filters.NONE, metavar='RULE,RULE', help='as in dss prepare')
  add('--parser', choices=release.PARSERS, default=release.PARSERS[0], help='as in dss prepare')


def _add_teacher(group: Any) -> None:
  add = group.add_argument
  add('--model', required=True, type=arguments.given, help="the server's name of it")
  base = os.environ.get('OPENAI_BASE_URL') or OPENAI
  add('--base_url', default=base, metavar='URL', help=f'of the API (default: {OPENAI})')
  add('--api_key_env', metavar='NAME', help='variable with the key (default: OPENAI_API_KEY)')
  add('--mode', choices=MODES, default=MODES[0], help='default: chat')
  add(
    '--prompt',
    type=arguments.given,
    metavar='NAME',
    help='one that ships, or a .toml file (default: as --dataset)',
  )
  add(
    '--max_tokens', type=arguments.whole(), metavar='N', help="of an answer (default: the prompt's)"
  )
  add('--temperature', type=arguments.number(0), default=0.0, metavar='T', help='default: 0')
  add('--samples', type=arguments.whole(), default=1, metavar='K', help='answers to each question')
  add('--parameters', type=_parameters, default={}, metavar='JSON', help='more of the API: '
      '\'{"reasoning_effort": "low"}\'')  # fmt: skip


def _add_answers(group: Any) -> None:
  add = group.add_argument
  add('--preview', type=arguments.whole(), nargs='?', const=20, metavar='N',
      help='ask about N inputs (20), show answers and projected cost, and stop')  # fmt: skip
  add('--rationale_from', choices=asking.SOURCES, default=asking.SOURCES[0],
      help='the text of the answer, or what a reasoning model thought before it')  # fmt: skip
  add('--condense', type=arguments.whole(), nargs='?', const=50, metavar='WORDS',
      help='a second request makes rationales of more words (50) short')  # fmt: skip
  add('--schema', action='store_true', help='ask for structured output; some models then stop '
      'thinking')  # fmt: skip
  add('--retry_failed', action='store_true', help='ask again what failed before')
  add('--reuse', choices=REUSES, default=REUSES[0], help='take an answer to the same request, or '
      'to the same prompt and input whatever else changed')  # fmt: skip
  batch = group.add_mutually_exclusive_group()
  batch.add_argument('--write_batch', metavar='DIR', help='ask nothing; write requests as files '
                     'for a batch API or `vllm run-batch`')  # fmt: skip
  batch.add_argument('--read_batch', metavar='DIR', help='ask nothing; read output and error '
                     'files of a batch')  # fmt: skip
  batch.add_argument('--give_up_batch', metavar='DIR', help='its answers will never come: count '
                     'them as charged, so that they can be asked again')  # fmt: skip
  add('--part', type=arguments.whole(), metavar='N', help='requests in a file of --write_batch '
      '(50,000, the most; fewer for machines that may be lost)')  # fmt: skip


def _add_limits(group: Any) -> None:
  add = group.add_argument
  add(
    '--concurrency',
    type=arguments.whole(),
    default=32,
    metavar='N',
    help='most requests at once (32)',
  )
  add('--requests_per_minute', type=_positive, metavar='N', help='of this process')
  add('--tokens_per_minute', type=_positive, metavar='N', help='of this process')
  add('--timeout', type=_positive, default=120.0, metavar='S', help='seconds for an answer (120)')
  add(
    '--price_file',
    type=arguments.given,
    metavar='FILE',
    help='JSON: dollars per million tokens of each model',
  )
  add(
    '--max_usd', type=arguments.number(0), metavar='USD', help='never spend more, all runs together'
  )
  add(
    '--max_requests', type=arguments.whole(), metavar='N', help='never send more, all runs together'
  )


def _positive(text: str) -> float:
  value = arguments.number(0)(text)
  if value == 0:
    raise argparse.ArgumentTypeError(f'expected more than 0, got {text!r}')
  return value


def _parameters(text: str) -> dict[str, Any]:
  try:
    values = json.loads(text)
  except ValueError:
    values = None
  if not isinstance(values, dict):
    raise argparse.ArgumentTypeError(f'expected a JSON object, got {text!r}')
  if taken := sorted(set(values) & set(_OWN)):
    raise argparse.ArgumentTypeError(f'{taken[0]} has an option of its own, or none')
  return values
