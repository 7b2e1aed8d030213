"""From tensors to the memory of a process: PyTorch on a CPU and on a GPU, llama.cpp, vLLM."""
