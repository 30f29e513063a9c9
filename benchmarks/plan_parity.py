"""Compares what planning reads off a compiled program with what another reader of HLO reads.

Owns nothing but the comparison. The other reader is a script with a function `analyze(text)` that
returns `cycles` and `collectives` ({'kind/group': [count, bytes]}, '*' after the kind of those that
are overlapped). Texts are files that `compiled.as_text()` was written to.

  python benchmarks/plan_parity.py hlo_stats.py program.hlo ...
"""

import argparse
import collections
import importlib.util
import sys

from dss_jax.planning import hlo


def main() -> int:
  """Prints a line for each text; returns 1 if any differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('reader')
  parser.add_argument('texts', nargs='+')
  arguments = parser.parse_args()
  spec = importlib.util.spec_from_file_location('reader', arguments.reader)
  assert spec and spec.loader
  reader = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(reader)
  different = 0
  for path in arguments.texts:
    with open(path) as file:
      text = file.read()
    found, others = hlo.costs(text), reader.analyze(text)
    ours, theirs = _by_kind(found.collectives), _others_by_kind(others['collectives'])
    same = found.cycles == others['cycles'] and ours == theirs
    different += not same
    print(f'{path}: {"same" if same else "DIFFERENT"}; cycles {found.cycles} {others["cycles"]}')
    for kind in sorted(ours | theirs):
      print(f'  {kind}: (count, bytes) {ours.get(kind)} {theirs.get(kind)}')
  return 1 if different else 0


def _by_kind(collectives) -> dict[tuple[str, bool], tuple[int, int]]:
  """Of each kind, overlapped or not: count and bytes, of all groups."""
  totals: dict = collections.defaultdict(lambda: (0, 0))
  for one in collectives:
    count, size = totals[one.kind, one.overlapped]
    totals[one.kind, one.overlapped] = count + one.count, size + one.bytes
  return dict(totals)


def _others_by_kind(collectives) -> dict[tuple[str, bool], tuple[int, int]]:
  return _by_kind(
    hlo.Collective(key.split('/')[0].rstrip('*'), 0, '*' in key, count, size)
    for key, (count, size) in collectives.items()
  )


if __name__ == '__main__':
  sys.exit(main())
