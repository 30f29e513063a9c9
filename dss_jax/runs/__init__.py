"""A training run as a thing: its settings, folder, start, validation, metrics and model card."""
