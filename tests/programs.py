"""How tests compile: quickly, and once for all workers, processes that they start, and later runs.

Owns the folder of compiled programs and the variables that say all this to JAX and XLA. Tests of
the cache itself use other folders.
"""

import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'build' / 'test-programs'
WORTH_KEEPING_S = 0.05  # of compilation
VARIABLES = {
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'JAX_COMPILATION_CACHE_DIR': str(FOLDER),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': str(WORTH_KEEPING_S),
}
# Tests compile more than they compute. XLA's older code generator compiles an update in half the
# time of the default one, to slower programs with the same numbers up to rounding.
XLA_FLAGS = '--xla_cpu_use_fusion_emitters=false'
