"""What a measurement says of the process and of the machine: its largest resident set, and the libraries' releases."""

from __future__ import annotations

import contextlib
import platform
import sys


def status() -> dict[str, int]:
    """What the process's memory is, in bytes, by the names of ``/proc/self/status``: ``VmRSS``, ``RssAnon``, ...

    Raises ``OSError`` where the system is not Linux.
    """
    with open("/proc/self/status", encoding="utf-8") as lines:
        rows = [line.split() for line in lines if line.endswith(" kB\n")]
    return {name.rstrip(":"): int(number) * 1024 for name, number, _ in rows}


def peak_rss() -> int:
    """The process's largest resident set so far, in bytes."""
    with contextlib.suppress(OSError, KeyError):
        return status()["VmHWM"]  # ru_maxrss would also count the parent process before exec
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> None:
    """Reset the peak of the resident set (Linux, if the process has the right)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as control:
        control.write("5")


def versions(*packages: str) -> dict[str, str]:
    """The releases of Python and of those packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
