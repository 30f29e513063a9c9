"""T5X's checkpoints, in and out, Adafactor's state included."""
