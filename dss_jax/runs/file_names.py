"""The names of the files in a run folder, for RunFolder and for readers that import no JAX.

What the files hold is run_folder.py's.
"""

SETTINGS = 'config.json'
GIN = 'config.gin'
METRICS = 'metrics.jsonl'
CHECKPOINTS = 'checkpoints'
VOCABULARY = 'spiece.model'
