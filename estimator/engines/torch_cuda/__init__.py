"""PyTorch on a CUDA GPU: its caching allocator, and the replay of a process's allocations."""
