"""What is run with a model: a training step, a forward pass over prompts, a call of ``generate``."""
