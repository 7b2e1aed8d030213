"""PyTorch on a CUDA GPU: the caching allocator, and the process that is replayed through it."""
