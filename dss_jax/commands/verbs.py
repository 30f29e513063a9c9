"""The verbs of `dss`: what each is for, and its module. Imports nothing."""

VERBS = {  # a verb's module has the verb's name, except for those in MODULES
  'new-task': 'a data set of your own, from a table: JSON lines, CSV, TSV or XML',
  'methods': 'list what a student can be trained with',
  'annotate': 'rationales and labels of your inputs, from any large language model',
  'prepare': 'build a data set from raw files and teacher outputs',
  'quality': 'how good the labels and rationales of a teacher are',
  'vocab': 'train a SentencePiece vocabulary',
  'train': 'train a student',
  't5x': "train with T5X's own trainer on the same tasks, method and loss",
  'evaluate': 'score a student on a split',
  'predict': 'label and rationale for your own inputs',
  'serve': 'a student over HTTP in the protocol of its teacher, with a page to try it',
  'compare': 'train and evaluate several methods, side by side',
  'sweep': 'compare at every combination of other settings: data, size, seed',
  'report': 'one HTML page of a sweep: figures, tests, cost, examples',
  'plan': 'whether a run fits on a machine, how fast it is and what it costs',
  'import': 'weights of Hugging Face or T5X, to start from',
  'export': 'a student for Hugging Face or T5X',
  'completion': 'what makes your shell complete verbs, settings and gin files',
  'doctor': 'what is wrong with this machine, or what an error means, and what mends it',
  'launch': 'run any of these on this machine, Cloud TPU, SkyPilot or GKE',
}
MODULES = {  # `import` is a Python keyword
  'new-task': 'new_task', 'import': 'import_weights', 'export': 'export_weights',
}  # fmt: skip
FLAGS = {  # where they are apart from the verb's work, which imports JAX
  'import': 'dss_jax.commands.import_flags', 'export': 'dss_jax.commands.export_flags',
}  # fmt: skip


def module_of(verb: str) -> str:
  """The full name of a verb's module."""
  return 'dss_jax.launch' if verb == 'launch' else f'dss_jax.commands.{MODULES.get(verb, verb)}'
