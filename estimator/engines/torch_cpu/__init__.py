"""PyTorch on a CPU: from the step's peak to the process's resident set."""
