"""One update: state, losses, optimizers and the step."""
