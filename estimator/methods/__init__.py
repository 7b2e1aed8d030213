"""One file per fine-tuning method: what it changes in a linear layer or in the model."""
