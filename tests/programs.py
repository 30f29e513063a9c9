"""Where tests keep compiled programs: for all workers, for processes that they start, for later.

Owns the folder and the variables of JAX that name it. Tests of the cache itself use others.
"""

import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'build' / 'test-programs'
WORTH_KEEPING_S = 0.05  # of compilation
VARIABLES = {
  'JAX_COMPILATION_CACHE_DIR': str(FOLDER),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': str(WORTH_KEEPING_S),
}
