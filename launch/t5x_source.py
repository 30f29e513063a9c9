"""Installing T5X, which is on no package index: `python -m dss_jax.launch.t5x_source`.

Owns the commits that dss_jax was tried with, and the one command that `make t5x` and the hosts of a
launch run. T5X, AirIO and JEstimator come without what they ask for, whose versions contradict each
other; what is needed of it is the extra `t5x`. Git fetches the commits, and so checks that they are
those. With T5X_SRC, a folder that holds checkouts `t5x`,
`airio` and `jestimator`, nothing is downloaded of them.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from dss_jax.settings.errors import ConfigError

SOURCE = 'T5X_SRC'
COMMITS = {  # of repositories on GitHub
  'google-research/t5x': 'cc342d419ec3e3e9c4bf1df33c82330cafdc1e16',
  'google/airio': '69897df7d9a427b947a9f7bb4164c7782b43e601',
  'google-research/jestimator': '326824a477feef6d92e6f44175000907a72899ca',
}
GITHUB = 'https://github.com'


def main(argv: Sequence[str]) -> int:
  """Installs the three beside this dss_jax; returns pip's exit code. More arguments are pip's."""
  with tempfile.TemporaryDirectory() as folder:
    pip = [sys.executable, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-deps']
    line = [*pip, *argv, *sources(os.environ.get(SOURCE, ''), pathlib.Path(folder))]
    return subprocess.run(line).returncode


def sources(given: str, copies: pathlib.Path) -> list[str]:
  """What pip installs.

  Args:
    given: the folder of checkouts; '' for the commits on GitHub.
    copies: an empty folder. Checkouts are copied there, since a build leaves files in its folder.

  Raises:
    ConfigError: a checkout is missing.
  """
  if not given:
    return [f'git+{GITHUB}/{name}@{commit}' for name, commit in COMMITS.items()]
  made = []
  for name in (repository.rpartition('/')[2] for repository in COMMITS):
    checkout = pathlib.Path(given).expanduser() / name
    if not checkout.is_dir():
      raise ConfigError(
        f'{SOURCE}={given}: expected a folder with checkouts of t5x, airio and jestimator, and '
        f'there is no {checkout}. Without {SOURCE} they come from GitHub.'
      )
    kept = shutil.ignore_patterns('.git', 'build', '*.egg-info')
    made.append(str(shutil.copytree(checkout, copies / name, ignore=kept)))
  return made


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except ConfigError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
