"""The real model, its optimizers and its memory savings, as PyTorch and PEFT run them. Needs the ``trace`` extra."""
