"""vLLM on GPUs: the memory that it measures at its start, and the blocks of its paged KV cache."""
