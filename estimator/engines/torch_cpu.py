"""PyTorch on a CPU: from the step's peak to the process's resident set.

On Linux every tensor of 128 KiB or more is a mapping of its own and goes back to the system when it
is freed (``c10::alloc_cpu`` calls ``posix_memalign``), so the resident set follows live bytes, plus
what the interpreter and the libraries hold. glibc left to itself raises that threshold up to 32 MiB
as blocks are freed and then keeps freed blocks in its heap: up to a tenth more for full fine-tuning,
by the history of the process (``docs/accuracy.md`` has both).
"""

from __future__ import annotations

from collections.abc import Mapping

LIBRARIES_BYTES = 385 * 1024 * 1024
"""Resident set of a process after two steps of a tiny model, less the step's own bytes: 368 to 388
MiB over four settings, 383 to 400 MiB beside large models (torch 2.13 CPU build, transformers 5.24,
peft 0.21, Python 3.11, x86-64 Linux; ``estimator measure``). 248 MiB of it are there once the
libraries are imported (PEFT imports bitsandbytes and torchao too where they are installed, the
``quantised`` extra: 55 to 90 MiB more); the rest comes with the first step (thread pool, oneDNN and MKL buffers,
lazily imported modules)."""

UNCERTAINTY = 0.033
"""The largest difference of the 12 measured processes of ``docs/accuracy.md`` with glibc's mmap threshold fixed."""


def process_bytes(sizes: Mapping[str, int]) -> int:
    """Peak resident set in bytes of a process that runs the step whose ``peak`` is given."""
    return sizes["peak"] + LIBRARIES_BYTES
