"""Workspaces of CUDA's kernels: reductions and cuBLAS."""
