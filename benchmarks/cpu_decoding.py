"""Greedy decoding of labels and rationales with a cache on a CPU: ours and two peers', in turn.

    python benchmarks/cpu_decoding.py RUN [--limit=512] [--peers=transformers] [--json=FILE]

RUN is a folder of `dss train`, exported as `dss export --to=hf` does. All sides decode the same
inputs of the split in batches of 64 on all cores, in float32; the tokens are compared, one by one.
transformers' `generate` gets the inputs as tokens, in the order of the split or, with --sorted,
longest first, as ours and CTranslate2 sort them by themselves. CTranslate2 is timed with all cores
on one batch (its default) and, as `ctranslate2_batches`, with a batch for each core. Exit status 1
if a token differs.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pairs

BATCH = 64


def main() -> int:
  """Runs the comparison and prints it."""
  options = _parser().parse_args()
  if options.side:
    pairs.serve(SIDES[options.side](options))
    return 0
  command = [sys.executable, str(pathlib.Path(__file__).resolve()), *sys.argv[1:]]
  names = ['ours', *options.peers.split(',')]
  names += ['ctranslate2_batches'] * ('ctranslate2' in names)
  sides = [pairs.Side(name, [*command, f'--side={name}']) for name in names]
  tables, same = {}, True
  try:
    for task in ('label', 'rationale'):
      answers = pairs.alternate(sides, options.rounds, task=task)
      tables[task] = pairs.summary(answers)
      ours = answers['ours'][0]['tokens']
      length = np.mean([len(row) for row in ours])
      for row in tables[task]:
        theirs = answers[row['side']][0]['tokens']
        equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
        same &= equal == len(ours)
        row |= {'same outputs': f'{equal} of {len(ours)}', 'tokens an output': length}
      print(f'\n{task}, examples a second, batch {BATCH}, median of {options.rounds}:\n')
      print(pairs.table(tables[task]), flush=True)
  finally:
    for side in sides:
      side.close()
  machine = pairs.machine('jax', *names[1:3])
  print(f'\n{machine}')
  pairs.write_json(options.json, {'machine': machine, 'examples_per_second': tables})
  return int(not same)


def ours(options: argparse.Namespace):
  """Our decoder, as `dss predict` uses it."""
  from dss_jax.runs import student

  loaded = student.load(student.StudentConfig(options.run, batch_size=BATCH))
  model = dataclasses.replace(loaded.run.model, dtype='float32')
  loaded = dataclasses.replace(loaded, run=dataclasses.replace(loaded.run, model=model))
  inputs = {task: _examples(loaded, task, options) for task in ('label', 'rationale')}

  def answer(task: str) -> dict[str, Any]:
    decoder = loaded.decoder(_rows(loaded)[task])
    began = time.perf_counter(), time.process_time()
    tokens = decoder(loaded.params, inputs[task]).tokens
    return _answer(tokens, began)

  return answer


def transformers(options: argparse.Namespace):
  """`generate` of the exported student."""
  import torch
  import transformers

  torch.set_num_threads(_cores())
  with _exported(options) as (loaded, output):
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(output).eval()
  inputs = {task: _examples(loaded, task, options) for task in ('label', 'rationale')}

  def answer(task: str) -> dict[str, Any]:
    examples, length = inputs[task], loaded.decoder(_rows(loaded)[task]).decoding.max_length
    order = np.arange(len(examples))
    if options.sorted:
      order = np.argsort(-examples.input_lengths, kind='stable')
    sequences = _sequences(loaded, examples)
    tokens = np.zeros((len(examples), length), np.int64)
    began = time.perf_counter(), time.process_time()
    for start in range(0, len(order), BATCH):
      rows = order[start : start + BATCH]
      longest = max(len(sequences[row]) for row in rows)
      padded = [np.pad(sequences[row], (0, longest - len(sequences[row]))) for row in rows]
      batch = torch.tensor(np.stack(padded), dtype=torch.long)
      with torch.inference_mode():
        found = model.generate(
          input_ids=batch, attention_mask=(batch > 0).long(), max_new_tokens=length,
          do_sample=False, num_beams=1,
        ).numpy()[:, 1:]  # fmt: skip
      tokens[rows, : found.shape[1]] = found
    return _answer(tokens, began)

  return answer


def ctranslate2(options: argparse.Namespace, batches: int = 1):
  """CTranslate2's translator of the exported student; `batches` at once share the cores."""
  import ctranslate2
  import transformers

  with _exported(options) as (loaded, output):
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    converted = str(output.parent / 'ctranslate2')
    ctranslate2.converters.TransformersConverter(str(output)).convert(converted)
    translator = ctranslate2.Translator(
      converted, device='cpu', compute_type='float32',
      inter_threads=batches, intra_threads=_cores() // batches,
    )  # fmt: skip
  inputs = {task: _examples(loaded, task, options) for task in ('label', 'rationale')}

  def answer(task: str) -> dict[str, Any]:
    length = loaded.decoder(_rows(loaded)[task]).decoding.max_length
    asked = [tokenizer.convert_ids_to_tokens(row) for row in _sequences(loaded, inputs[task])]
    began = time.perf_counter(), time.process_time()
    found = translator.translate_batch(
      asked, max_batch_size=BATCH, beam_size=1, max_decoding_length=length,
      min_decoding_length=0, return_end_token=True,
    )  # fmt: skip
    ended = time.perf_counter(), time.process_time()
    tokens = np.zeros((len(asked), length), np.int64)
    for row, each in zip(tokens, found, strict=True):
      ids = tokenizer.convert_tokens_to_ids(each.hypotheses[0])[:length]
      row[: len(ids)] = ids
    return _answer(tokens, began, ended)

  return answer


SIDES = {
  'ours': ours,
  'transformers': transformers,
  'ctranslate2': ctranslate2,
  'ctranslate2_batches': lambda options: ctranslate2(options, _cores()),
}


@contextlib.contextmanager
def _exported(options: argparse.Namespace):
  """The student, and the folder of its export in Hugging Face's form, while it is needed."""
  from dss_jax.commands import export_weights
  from dss_jax.runs import student

  loaded = student.load(student.StudentConfig(options.run, batch_size=BATCH))
  with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
    output = pathlib.Path(folder) / 'exported'
    export_weights.main(['--to=hf', f'--checkpoint={options.run}', f'--output={output}'])
    yield loaded, output


def _cores() -> int:
  return len(os.sched_getaffinity(0))


def _sequences(loaded, examples) -> list[np.ndarray]:
  """The tokens of each input, cut as ours are."""
  limit = loaded.run.data.task_feature_lengths['inputs']
  cut = examples.truncated({'inputs': limit, 'targets': 1 << 30})
  return np.split(cut.inputs, cut.input_offsets[1:-1])


def _rows(loaded) -> dict:
  """What is asked: the label, and the rationale of a student that was trained to write one."""
  return {'label': loaded.method.answer, 'rationale': loaded.method.other_rows[0]}


def _examples(loaded, task: str, options: argparse.Namespace):
  from dss_jax.inference import evaluator
  from dss_jax.runs import run_config
  from dss_jax.tasks import dataset_of, registration

  run = run_config.set_up_tasks(loaded.run)
  name = dataset_of(run.data.mixture_or_task_name).name
  row_task = registration.row_task(name, _rows(loaded)[task])
  return evaluator.load_examples(row_task, options.split, options.limit)


def _answer(
  tokens: np.ndarray, began: tuple[float, float], ended: tuple[float, float] | None = None
) -> dict[str, Any]:
  """The rate, and each output up to its EOS; times are of the wall and of processors."""
  ended = ended or (time.perf_counter(), time.process_time())
  seconds, worked = ended[0] - began[0], ended[1] - began[1]
  ends = (tokens == 1).argmax(axis=1)
  ends = np.where((tokens == 1).any(axis=1), ends + 1, tokens.shape[1])
  outputs = [row[:end].tolist() for row, end in zip(tokens, ends, strict=True)]
  return {
    'rate': len(tokens) / seconds,
    'unit': 'examples',
    'processor_seconds': worked / len(tokens),
    'tokens': outputs,
  }


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('run', metavar='RUN', help='a folder of `dss train`')
  parser.add_argument('--split', default='test')
  parser.add_argument('--limit', type=int, default=512, help='the first so many inputs')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--peers', default='transformers,ctranslate2', help='or one of them')
  parser.add_argument('--sorted', action='store_true', help='longest first, also for transformers')
  parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
  parser.add_argument('--json', help='a file for the figures')
  return parser


if __name__ == '__main__':
  sys.exit(main())
