"""Parts of gin files as T5X's users write them, for the tests that read such files."""

RUN_FILE = 'runs/train.gin'
IMPORTS = """from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
import optax
from t5x import adafactor
from t5x import models
from t5x import optimizers
from t5x import partitioning
from t5x import trainer
from t5x import utils
from t5x.examples.t5 import network
"""
SCHEDULED = 'trainer.Trainer.learning_rate_fn = @utils.create_learning_rate_scheduler()'
NO_VALIDATION = """train_script.train:
  train_eval_dataset_cfg = None
  infer_eval_dataset_cfg = None
"""
FINETUNE = """include 't5x/examples/t5/t5_1_1/small.gin'
include 't5x/configs/runs/finetune.gin'
MIXTURE_OR_TASK_NAME = 'my_task'
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 32}
INITIAL_CHECKPOINT_PATH = None
TRAIN_STEPS = 500
MODEL_DIR = 'a'
"""
