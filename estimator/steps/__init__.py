"""The training step: loss, checkpointing, precision, optimizers."""
