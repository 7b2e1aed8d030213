"""One file per fine-tuning method: what it does to a linear layer or to the model."""
