"""Greedy decoding of labels and rationales with a cache on a CPU: ours and transformers', in turn.

    python benchmarks/cpu_decoding.py RUN [--limit=512] [--json=FILE]

RUN is a folder of `dss train`, exported as `dss export --to=hf` does. Both sides decode the same
inputs of the split in batches of 64 on all cores, in float32; the tokens are compared, one by one.
transformers' `generate` gets the inputs as tokens, in the order of the split or, with --sorted,
longest first, as ours sorts them by itself. Exit status 1 if a token differs.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
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
  sides = [pairs.Side(name, [*command, f'--side={name}']) for name in SIDES]
  tables, same = {}, True
  try:
    for task in ('label', 'rationale'):
      answers = pairs.alternate(sides, options.rounds, task=task)
      tables[task] = pairs.summary(answers)
      ours, theirs = ([tuple(row) for row in found[0]['tokens']] for found in answers.values())
      equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
      same &= equal == len(ours)
      longest = np.array([len(row) for row in ours])
      for row in tables[task]:
        row |= {'same outputs': f'{equal} of {len(ours)}', 'tokens an output': longest.mean()}
      print(f'\n{task}, examples a second, batch {BATCH}, median of {options.rounds}:\n')
      print(pairs.table(tables[task]), flush=True)
  finally:
    for side in sides:
      side.close()
  machine = pairs.machine('jax', 'torch', 'transformers')
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
  import tempfile

  import torch
  import transformers

  from dss_jax.commands import export_weights
  from dss_jax.runs import student

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  loaded = student.load(student.StudentConfig(options.run, batch_size=BATCH))
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / 'exported'
    arguments = ['--to=hf', f'--checkpoint={options.run}', f'--output={output}']
    sys.stdout, stdout = sys.stderr, sys.stdout
    export_weights.main(arguments)
    sys.stdout = stdout
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(output).eval()
  inputs = {task: _examples(loaded, task, options) for task in ('label', 'rationale')}

  def answer(task: str) -> dict[str, Any]:
    examples, length = inputs[task], loaded.decoder(_rows(loaded)[task]).decoding.max_length
    limit = loaded.run.data.task_feature_lengths['inputs']
    order = np.arange(len(examples))
    if options.sorted:
      order = np.argsort(-examples.input_lengths, kind='stable')
    cut = examples.truncated({'inputs': limit, 'targets': 1 << 30})
    sequences = np.split(cut.inputs, cut.input_offsets[1:-1])
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


SIDES = {'ours': ours, 'transformers': transformers}


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


def _answer(tokens: np.ndarray, began: tuple[float, float]) -> dict[str, Any]:
  """The rate, and each output up to its EOS."""
  seconds, worked = time.perf_counter() - began[0], time.process_time() - began[1]
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
  parser.add_argument('--sorted', action='store_true', help='longest first, also for transformers')
  parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
  parser.add_argument('--json', help='a file for the figures')
  return parser


if __name__ == '__main__':
  sys.exit(main())
