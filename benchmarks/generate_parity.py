"""Counts on how many inputs of a split transformers' `generate` says what our decoder says.

    python benchmarks/generate_parity.py RUN [--split=test] [--limit=N] [--batch_size=20]

RUN is a folder of `dss train`. It is exported as `dss export --to=hf` does, loaded with
AutoModelForSeq2SeqLM and AutoTokenizer (torch, on a CPU, in float32), and both decode the labels
and the rationales of the split greedily and by beam search. The last line is JSON: for each task
and method the number of inputs, of identical token sequences and of identical texts, the first
difference, and of how many that differ transformers says what we say once it computes in float64:
there its float32 rounded a choice between two hypotheses the other way. Exit status 1 if there is
any difference.

Activations are float32 on both sides, whatever DTYPE the run had; inputs are texts to transformers.
"""

import argparse
import copy
import dataclasses
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch
import transformers

from dss_jax.commands import export_weights
from dss_jax.inference import evaluator
from dss_jax.inference.decoding import EOS_ID, Decoding
from dss_jax.runs import run_config, student
from dss_jax.tasks import dataset_of, registration

METHODS = {
  'greedy': (Decoding('greedy'), {'num_beams': 1}),
  'beam4': (Decoding('beam', beams=4, length_penalty=1.0), {'num_beams': 4}),
}


def main() -> int:
  """Runs the comparison; returns the exit code."""
  options = parser(__doc__.split('\n\n')[0], 20).parse_args()
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / 'exported'
    arguments = [f'--checkpoint={options.run}', f'--output={output}', f'--step={options.step}']
    export_weights.main(['--to=hf', *arguments])
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(output).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
  found = {}
  for name, (decoding, settings) in METHODS.items():
    step = int(options.step) if options.step.isdigit() else options.step
    loaded = student.load(student.StudentConfig(options.run, step, decoding, batch_size=64))
    loaded = in_float32(loaded)
    for task in tasks_of(loaded):
      started = time.monotonic()
      result = compare(loaded, task, options, model, tokenizer, settings)
      found[f'{task} {name}'] = result
      print(f'{task} {name}: {result} ({time.monotonic() - started:.0f} s)', file=sys.stderr)
  print(json.dumps(found))
  return int(any(result['ids'] < result['inputs'] for result in found.values()))


def in_float32(loaded: student.Student) -> student.Student:
  """The same student with float32 activations."""
  model = dataclasses.replace(loaded.run.model, dtype='float32')
  return dataclasses.replace(loaded, run=dataclasses.replace(loaded.run, model=model))


def tasks_of(loaded: student.Student) -> list[str]:
  """The task of labels, and of rationales where the student learned to write them."""
  run = run_config.set_up_tasks(loaded.run)
  name = dataset_of(run.data.mixture_or_task_name).name
  others = [registration.row_task(name, row) for row in loaded.method.other_rows]
  return [run_config.evaluation_task(run), *others]


def compare(loaded, task: str, options, model, tokenizer, settings) -> dict:
  """How many outputs of a task are identical."""
  examples = evaluator.load_examples(task, options.split, options.limit)
  decoder = loaded.decoder(registration.row_of(task))
  ours = decoder(loaded.params, examples).tokens
  our_texts = [evaluator.to_text(row, loaded.vocabulary) for row in ours]
  inputs = list(examples.texts['inputs_pretokenized'])
  length = decoder.decoding.max_length
  theirs, their_texts = generate(model, tokenizer, inputs, length, options.batch_size, settings)
  same_ids = (ours == theirs).all(axis=1)
  differ = np.flatnonzero(~same_ids)
  as_in_float64 = 0
  if differ.size:
    asked = [inputs[row] for row in differ]
    double = copy.deepcopy(model).double()
    exact, _ = generate(double, tokenizer, asked, length, options.batch_size, settings)
    as_in_float64 = int((ours[differ] == exact).all(axis=1).sum())
  counts = counted(inputs, same_ids, our_texts, their_texts)
  return {**counts, 'differ_but_as_in_float64': as_in_float64}


def counted(inputs: list[str], same_ids: np.ndarray, ours: list[str], theirs: list[str]) -> dict:
  """How many outputs are identical, as tokens and as texts, and the first that is not."""
  first = int(np.argmin(same_ids)) if not same_ids.all() else None
  return {
    'inputs': len(inputs),
    'ids': int(same_ids.sum()),
    'texts': sum(one == other for one, other in zip(ours, theirs, strict=True)),
    'first_difference': first
    if first is None
    else {'input': inputs[first], 'ours': ours[first], 'theirs': theirs[first]},
  }


def generate(model, tokenizer, inputs, length: int, batch_size: int, settings):
  """transformers' outputs: tokens [n, length] with 0 after the EOS, and texts."""
  rows, texts = np.zeros((len(inputs), length), np.int32), []
  for start in range(0, len(inputs), batch_size):
    part = inputs[start : start + batch_size]
    batch = tokenizer(part, return_tensors='pt', padding=True, truncation=True)
    with torch.no_grad():
      output = model.generate(**batch, max_new_tokens=length, do_sample=False, **settings)
    tokens = output.numpy()[:, 1:]  # without the start token
    ended = np.cumsum(tokens == EOS_ID, axis=1) > (tokens == EOS_ID)
    rows[start : start + len(part), : tokens.shape[1]] = np.where(ended, 0, tokens)
    texts += tokenizer.batch_decode(output, skip_special_tokens=True)
  return rows, texts


def parser(description: str, batch_size: int) -> argparse.ArgumentParser:
  """The arguments of a comparison of a run's outputs on a split."""
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument('run', metavar='RUN', help='a folder of `dss train`')
  parser.add_argument('--step', default='best')
  parser.add_argument('--split', default='test')
  parser.add_argument('--limit', type=int, help='the first so many inputs')
  parser.add_argument('--batch_size', type=int, default=batch_size)
  return parser


if __name__ == '__main__':
  sys.exit(main())
