"""CUDA only: the workspaces of reductions and of cuBLAS."""
