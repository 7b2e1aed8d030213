"""Kernels of CUDA devices: attention, what reductions take, cuBLAS' workspace."""
