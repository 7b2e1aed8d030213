"""From allocations to a process: PyTorch on a CPU and on a GPU, llama.cpp, vLLM."""
