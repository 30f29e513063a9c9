"""A training run: its settings, folder, start, validation, metrics and model card."""
