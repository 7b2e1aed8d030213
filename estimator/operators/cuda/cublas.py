"""The workspace that PyTorch allocates for cuBLAS, from the caching allocator like any tensor.

A workspace belongs to a handle and a stream. It is allocated after the result of the thread's first matrix product on
that stream, and stays until the process ends or calls ``torch._C._cuda_clearCublasWorkspaces``
(``aten/src/ATen/cuda/CublasHandlePool.cpp``). Each thread has its own handle (``DeviceThreadHandles.h``), and backward
runs on a thread of its own (``torch/csrc/autograd/engine.cpp``). So a process that trains has two workspaces: one from
the first product of its first forward pass on, one from the first product of its first backward pass on.
Published steps show both, with PyTorch 2.10 (``tests/operators/test_cuda_kernels.py: PUBLISHED_STEPS``) and 2.14.1
(``docs/measured/published/vramcalc-a6000.yaml``).

By release, with default environment variables (numbers are pull requests of pytorch/pytorch):

- Before 2.9, cuBLASLt, which runs products with a bias, takes 1 MiB within each call.
- In 2.9 and 2.10 cuBLASLt keeps 1 MiB per handle and stream (#156495). Published steps of Qwen, which has biases, show
  two of these with 2.10 (``docs/measured/published/fitcheck-t4.yaml``). The replay leaves them out.
- From 2.11 on cuBLASLt shares cuBLAS's workspace (#168175).
- Since #175344 (February 2026) Blackwell has 32 MiB too. Before, capabilities 10.x and 12.x have what Ampere has.
- After 2.14.0 (#194311, August 2026) a workspace is allocated within each call, and none is kept.
"""

from __future__ import annotations

WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
"""cuBLAS's own default ``:4096:2:16:8``, also measured: pytorch/pytorch issue #95668 leaks 8,519,680 bytes."""
LARGE_WORKSPACE_BYTES = 32 * 1024 * 1024
_LARGE = (9, 10, 12)
"""Major compute capabilities with the large workspace."""


def workspaces(runs_backward: bool) -> int:
    """How many workspaces a process has: two if it runs a backward pass, else one."""
    return 2 if runs_backward else 1


def workspace_bytes(capability: tuple[int, int]) -> int:
    """Bytes of one workspace in PyTorch 2.13, if ``CUBLAS_WORKSPACE_CONFIG`` is not set."""
    return LARGE_WORKSPACE_BYTES if capability[0] in _LARGE else WORKSPACE_BYTES
