"""Workspace that PyTorch hands to cuBLAS, from the caching allocator like any tensor.

``aten/src/ATen/cuda/CublasHandlePool.cpp``: a workspace belongs to a handle and a stream, is allocated when
the thread's first product runs on that stream (after its result is), and stays to the process's end
(``torch._C._cuda_clearCublasWorkspaces`` apart). Handles belong to threads (``DeviceThreadHandles.h``), and
backward runs on a thread of its own for each device (``torch/csrc/autograd/engine.cpp``), so a process that
trains has two: one from the first product of its first forward on, one from the first of its first backward.
Published steps show both, with PyTorch 2.10 (``tests/operators/test_cuda_kernels.py: PUBLISHED_STEPS``) and 2.14.1
(``docs/measured/published/vramcalc-a6000.yaml``).

By release, all of it for default environment variables (pull requests of pytorch/pytorch):

- 2.11 on: cuBLASLt, which runs products with a bias, shares the workspace (#168175).
- 2.9 and 2.10: cuBLASLt has one of its own per handle and stream, of 1 MiB, kept likewise (#156495); before
  2.9 it takes 1 MiB within each call. Published Qwen rows of 2.10, whose products have a bias, show two of them
  (2 MiB, ``docs/measured/published/fitcheck-t4.yaml``), which the replay leaves out.
- from #175344 (February 2026) on Blackwell has 32 MiB too; before, 10.x and 12.x have what Ampere has.
- after 2.14.0 (#194311, August 2026): a workspace is taken within each call and given back, none is kept.
"""

from __future__ import annotations

WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
"""cuBLAS's own default ``:4096:2:16:8``, also measured: pytorch/pytorch issue #95668 leaks 8,519,680 bytes."""
LARGE_WORKSPACE_BYTES = 32 * 1024 * 1024
_LARGE = (9, 10, 12)
"""Major compute capabilities that have the large workspace."""


def workspaces(procedure: str) -> int:
    """How many are alive in a process: two where it runs backward (``backpropagation``), else one."""
    return 2 if procedure == "backpropagation" else 1


def workspace_bytes(capability: tuple[int, int]) -> int:
    """Bytes of one workspace in PyTorch 2.13, where ``CUBLAS_WORKSPACE_CONFIG`` is not set."""
    return LARGE_WORKSPACE_BYTES if capability[0] in _LARGE else WORKSPACE_BYTES
