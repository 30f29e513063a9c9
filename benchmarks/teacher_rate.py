"""How fast `dss annotate` asks, beside the bare `openai` client in a semaphore loop.

    python benchmarks/teacher_rate.py [--requests=2000] [--pairs=5] [--delay=0]

Both ask the same requests (a system message, ten exemplars and a question, 5 KB) of the same server
on this machine, as a process of its own, with the same number at once. The bare loop keeps texts in
memory only; ours reserves, keeps every answer on disk and adapts its pace. Pairs alternate, so that
another load on the machine strikes both; medians are printed. Results: benchmarks/RESULTS.md.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import openai

from dss_jax.teacher import client, pace, prices, prompts, requests, run, store

SERVER = pathlib.Path(__file__).resolve().parent.parent / 'tests' / 'teacher_server.py'
AT_ONCE = 32


def asked(count: int) -> list[requests.Request]:
  """Requests as `dss annotate --dataset=svamp` makes them, with questions of our own."""
  prompt = prompts.load('svamp')
  parameters = {'max_tokens': prompt.max_tokens, 'temperature': 0.0, 'stop': list(prompt.stop)}
  rows = [{'input': f'Ann has {n} apples and gets 2.\nHow many has she?'} for n in range(count)]
  return [requests.Request('m', prompt.chat(prompt.question(row)), parameters) for row in rows]


async def bare(url: str, questions: list[requests.Request]) -> None:
  """What one writes without a library: a semaphore, and all texts in a list."""
  gate = asyncio.Semaphore(AT_ONCE)

  async def one(api: openai.AsyncOpenAI, request: requests.Request) -> str:
    async with gate:
      answer = await api.chat.completions.create(**request.body())
      return answer.choices[0].message.content

  async with openai.AsyncOpenAI(base_url=url, api_key='none') as api:
    await asyncio.gather(*(one(api, request) for request in questions))


async def ours(url: str, questions: list[requests.Request], folder: pathlib.Path) -> None:
  """The loop of `dss annotate`, with a price and a limit."""
  kept, progress = store.Store(folder / 'store.sqlite'), run.Progress()
  plan = run.Plan(prices.Price(1.0, 2.0), store.Limits(spent=10**14))
  async with client.Client(url) as api:
    await run.run(questions, kept, api, pace.Pace(AT_ONCE), plan, progress)
  kept.close()
  assert progress.answered == len(questions), progress


@contextlib.contextmanager
def server(answers: dict[str, str], delay: float):
  """The address of a server in a process of its own."""
  with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder) / 'log.json'
    (pathlib.Path(folder) / 'answers.json').write_text(json.dumps(answers))
    words = [f'--answers={folder}/answers.json', f'--log={log}', f'--delay={delay}']
    process = subprocess.Popen([sys.executable, str(SERVER), *words])
    try:
      while not log.exists():
        time.sleep(0.05)
      yield json.loads(log.read_text())['url']
    finally:
      process.kill()
      process.wait()


def measured(job) -> tuple[float, float]:
  """Wall and processor seconds of a coroutine."""
  wall, cpu = time.perf_counter(), time.process_time()
  asyncio.run(job)
  return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
  """Measures pairs and prints medians."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--requests', type=int, default=2000)
  parser.add_argument('--pairs', type=int, default=5)
  parser.add_argument('--delay', type=float, default=0.0, help='seconds that the server takes')
  given = parser.parse_args()
  questions = asked(given.requests)
  answers = {one.prompt[-1]['content']: 'She has some. The answer is (1 + 2).' for one in questions}
  rows = []
  with server(answers, given.delay) as url:
    for pair in range(given.pairs + 1):
      row = {}
      for name in sorted(('bare', 'ours'), reverse=bool(pair % 2)):
        with tempfile.TemporaryDirectory() as folder:
          is_bare = name == 'bare'
          job = bare(url, questions) if is_bare else ours(url, questions, pathlib.Path(folder))
          row[name] = measured(job)
      if pair:  # the first warms up
        rows.append(row)
        print({name: [round(value, 2) for value in times] for name, times in row.items()})
  for name in ('bare', 'ours'):
    rate = statistics.median(given.requests / row[name][0] for row in rows)
    cpu = statistics.median(row[name][1] for row in rows) * 1000 / given.requests
    print(f'{name}: {rate:.0f} requests/s, {cpu:.2f} s of processor time per 1,000 requests')
  ratio = statistics.median(row['bare'][0] / row['ours'][0] for row in rows)
  cpu = statistics.median(row['ours'][1] / row['bare'][1] for row in rows)
  print(f'ours / bare: {ratio:.2f} of the requests a second, {cpu:.2f} of the processor time')


if __name__ == '__main__':
  main()
