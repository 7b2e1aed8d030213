"""What the device ``this`` is: the GPU, or the RAM, of this machine, and what of it is free now.

Sources: NVML (``nvidia-ml-py``), psutil, the control group of a container, and ``sysctl`` on a Mac.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError

_MISSING = "device this: {} is not installed, which says what is free here; pip install '.[this]', or name a device"

GROUP = Path("/sys/fs/cgroup")
"""The control group (version 2) of a container's processes, as they see it."""


class Found(NamedTuple):
    """A GPU or the RAM. Sizes are bytes."""

    label: str
    kind: str
    """As in the catalogue of devices."""
    total: int
    free: int
    """What no process holds now."""
    source: str
    capability: tuple[int, int] | None = None
    limit: int | None = None
    """On a Mac what its user lets the GPU have."""


def look() -> Found:
    """The GPU with the most free memory, else the RAM. Raises ``InputError`` without the libraries that know."""
    return max(_gpus(), key=lambda one: one.free, default=None) or ram()


def _gpus() -> list[Found]:
    """The GPUs of the NVIDIA driver; none where there is no such driver."""
    if sys.platform == "darwin":
        return []
    try:
        import pynvml
    except ImportError:
        raise InputError(_MISSING.format("nvidia-ml-py")) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise InputError(f"device this: the NVIDIA driver says '{error}'; name a device") from None
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, number: int) -> Found:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    name, memory = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    label = name.decode() if isinstance(name, bytes) else name
    return Found(f"{label} (GPU {number} here)", "GPU", memory.total, memory.free, "NVML", (major, minor))


def ram() -> Found:
    """The RAM of this machine or container. Raises ``InputError`` without the library that knows."""
    try:
        import psutil
    except ImportError:
        raise InputError(_MISSING.format("psutil")) from None
    memory = psutil.virtual_memory()
    if sys.platform != "darwin":
        total, left = _container() or (memory.total, memory.available)
        if total < memory.total:
            return Found("the RAM of this container", "laptop", total, min(left, memory.available), "cgroup v2")
        return Found("the RAM here", "laptop", memory.total, memory.available, "psutil")
    source = "psutil and sysctl iogpu.wired_limit_mb"
    return Found(
        "the unified memory here", "Apple silicon", memory.total, memory.available, source, limit=_wired_limit()
    )


def _container() -> tuple[int, int] | None:
    """The RAM that a container may hold, and what of it is left, where there is a limit.

    Cached pages of files that nobody uses count as left: the kernel gives them back before it ends a process.
    """
    try:
        limit, held = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return limit, max(limit - held + int(stat["inactive_file"]), 0)
    except (OSError, ValueError, KeyError):  # no such group, or one whose limit is "max"
        return None


def _wired_limit() -> int | None:
    """What the user let the GPU have of a Mac's memory with sysctl; ``None`` for what the system lets it have."""
    import subprocess

    command = ["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(text) << 20 if text.isdecimal() and int(text) else None
