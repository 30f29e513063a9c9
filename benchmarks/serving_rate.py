"""Requests a second of `dss serve`'s batches, beside transformers and CTranslate2 behind its queue.

    python benchmarks/serving_rate.py RUN [--inputs=512] [--rounds=5] [--clients=64]

All three decode the same exported float32 weights greedily, on the same cores and behind the same
micro-batcher: 64 requests are always on their way, and each answer is followed by the next request.
Labels and rationales are asked apart, one row a request. Rounds alternate, so that another load on
the machine strikes all; medians over rounds are printed, with processor seconds, and how many texts
differ from ours. Inputs are tokens before the clock starts, for all; outputs become text within it.
HTTP is left out: its cost is the same for all. So are the scores of candidate labels, which the
peers do not give and `dss serve` computes unless a request says `"scores": false`. Results:
benchmarks/RESULTS.md.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import threading
import time

import numpy as np
import torch
import transformers
from ct2_parity import convert

from dss_jax.commands import export_weights
from dss_jax.runs import student
from dss_jax.serving.batcher import Batcher, Job
from dss_jax.serving.engine import End, Engine, Work
from dss_jax.tasks import registration, sources


class Whole:
  """A batch that is decoded at once by `texts`: inputs as tokens, most tokens -> outputs."""

  def __init__(self, texts, jobs):
    self._texts, self._jobs = texts, jobs

  def advance(self) -> bool:
    inputs, limit = [job.work[0] for job in self._jobs], self._jobs[0].work[1]
    for job, text in zip(self._jobs, self._texts(inputs, limit), strict=True):
      job.end(text)
    return False


def of_transformers(exported: pathlib.Path):
  """Inputs and outputs of transformers' generate, as long as the longest of the batch."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
  model = transformers.AutoModelForSeq2SeqLM.from_pretrained(exported).eval()

  def texts(inputs: list[list[int]], limit: int) -> list[str]:
    asked = tokenizer.pad({'input_ids': inputs}, return_tensors='pt')
    with torch.inference_mode():
      found = model.generate(**asked, do_sample=False, num_beams=1, max_new_tokens=limit)
    return tokenizer.batch_decode(found, skip_special_tokens=True)

  return lambda text: tokenizer(text).input_ids, texts


def of_ctranslate2(exported: pathlib.Path, folder: pathlib.Path):
  """Inputs and outputs of CTranslate2, which drops rows that have ended from its batch."""
  translator = convert(exported, folder)
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)

  def texts(inputs: list[list[str]], limit: int) -> list[str]:
    found = translator.translate_batch(
      inputs, beam_size=1, min_decoding_length=0, max_decoding_length=limit, max_batch_size=1024
    )
    ids = [tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found]
    return tokenizer.batch_decode(ids, skip_special_tokens=True)

  return lambda text: tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids), texts


def closed_loop(begin, works: list, clients: int, rows: int) -> dict:
  """Asks all works with `clients` on their way at any time; rate, percentiles and texts."""
  texts: list[str | None] = [None] * len(works)
  seconds, lock, done = [0.0] * len(works), threading.Lock(), threading.Event()
  waiting = iter(range(len(works)))
  left = len(works)

  def ask() -> None:
    with lock:
      number = next(waiting, None)
    if number is None:
      return
    started = time.perf_counter()

    def send(event) -> None:
      nonlocal left
      if not isinstance(event, str | End):
        answers[number] = getattr(event, 'label', answers.get(number))
        return
      texts[number] = event if isinstance(event, str) else event.rationale or answers.get(number)
      seconds[number] = time.perf_counter() - started
      left -= 1
      if not left:
        done.set()
      ask()

    queue.submit(Job(works[number], 1, send))

  answers: dict[int, str | None] = {}
  with Batcher(begin, rows, 10**6) as queue:
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(clients):
      ask()
    done.wait()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
  p50, p99 = np.percentile(seconds, [50, 99])
  return {
    'rate': len(works) / wall, 'processor_s': processor / len(works), 'p50': p50, 'p99': p99,
    'texts': texts,
  }  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0], allow_abbrev=False)
  parser.add_argument('run')
  parser.add_argument('--inputs', type=int, default=512)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--clients', type=int, default=64)
  parser.add_argument('--rows', type=int, default=64, help='most rows of a batch')
  given = parser.parse_args()
  torch.set_num_threads(2)
  predictor = student.load(student.StudentConfig(given.run, batch_size=given.rows)).predictor()
  sources.add_prepared_datasets()
  task = json.loads((pathlib.Path(given.run) / 'config.json').read_text())['data']
  rows = registration.first_examples(task['mixture_or_task_name'], 'test', given.inputs)
  engine = Engine(predictor, given.rows, None)
  engine.compile()
  asked = {'label': predictor.method.answer, 'rationale': engine.rationale_row}
  with tempfile.TemporaryDirectory() as folder:
    exported = pathlib.Path(folder) / 'exported'
    export_weights.main(['--to=hf', f'--checkpoint={given.run}', f'--output={exported}'])
    peers = {
      'transformers': of_transformers(exported),
      'ctranslate2': of_ctranslate2(exported, pathlib.Path(folder) / 'ct2'),
    }
    for name, row in asked.items():
      inputs = [example['input'] for example in rows]
      limit = engine.limits[row.task]
      tokens = [predictor.encode(row, [text]).inputs for text in inputs]
      ours = [Work((row,), (ids,), (), (), False) for ids in tokens]
      prefixed = [row.input.replace('{input}', text) for text in inputs]
      sides = {'dss serve': (engine.begin, ours)}
      for peer, (encode, texts) in peers.items():
        works = [(encode(text), limit) for text in prefixed]
        sides[peer] = (lambda jobs, texts=texts: Whole(texts, jobs), works)
      print(name, json.dumps(compare(sides, given)), flush=True)


def compare(sides: dict, given: argparse.Namespace) -> dict:
  """Medians over alternating rounds; the first round warms up and is not counted."""
  found: dict[str, list[dict]] = {name: [] for name in sides}
  for _ in range(given.rounds + 1):
    for name, (begin, works) in sides.items():
      found[name].append(closed_loop(begin, works, given.clients, given.rows))
  own = found['dss serve'][-1]['texts']
  result = {}
  for name, rounds in found.items():
    figures = {
      key: round(statistics.median(one[key] for one in rounds[1:]), 5)
      for key in ('rate', 'processor_s', 'p50', 'p99')
    }
    ratios = [a['rate'] / b['rate'] for a, b in zip(found['dss serve'], rounds, strict=True)][1:]
    texts = rounds[-1]['texts']
    different = sum(a != b for a, b in zip(own, texts, strict=True))
    result[name] = {
      **figures, 'ours_over_it': round(statistics.median(ratios), 3), 'different': different
    }  # fmt: skip
  return result


if __name__ == '__main__':
  main()
