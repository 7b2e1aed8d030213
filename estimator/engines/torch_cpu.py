"""PyTorch on a CPU: from the step's peak to the process's resident set.

On Linux every tensor of 128 KiB or more has a memory mapping of its own, which is returned to the system when the
tensor is freed (``c10::alloc_cpu`` calls ``posix_memalign``). So the resident set is the live bytes and what the
interpreter and the libraries hold. By default glibc raises this threshold up to 32 MiB as blocks are freed, and then
keeps freed blocks in its heap: up to a tenth more for full fine-tuning (``docs/accuracy.md`` has both).
"""

from __future__ import annotations

from collections.abc import Mapping

LIBRARIES_BYTES = 385 * 1024 * 1024
"""The resident set of a process after two steps of a tiny model, less the step's own bytes.

Measured: 368 to 388 MiB over four settings, 383 to 400 MiB beside large models (``estimator measure``; torch 2.13
CPU build, transformers 5.24, peft 0.21, Python 3.11, x86-64 Linux). The imported libraries are 248 MiB of it, and
55 to 90 MiB more with the ``quantised`` extra, which PEFT imports where it is installed. The rest comes with the
first step: the thread pool, buffers of oneDNN and MKL, modules that are imported late."""

UNCERTAINTY = 0.033
"""The largest relative difference between prediction and measurement of the 12 processes in ``docs/accuracy.md`` that
ran with glibc's mmap threshold fixed."""


def process_bytes(sizes: Mapping[str, int]) -> int:
    """The peak resident set in bytes of a process, from the ``peak`` of its step."""
    return sizes["peak"] + LIBRARIES_BYTES
