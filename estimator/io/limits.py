"""A limit of time for what may take long."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class _Ended(BaseException):
    """Raised in a thread that nobody waits for any longer."""


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What ``ask`` returns or raises, in a thread of its own. Raises ``TimeoutError`` where it takes longer.

    The thread then ends at its next instruction of Python; where it waits for the system, nothing waits for it.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:  # raised below, in the thread that asks
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Ended))
        thread.join(min(seconds, 1))
    elif raised:
        raise raised[0]
    elif found:
        return found[0]
    raise TimeoutError(f"no whole answer in {seconds:g} seconds")
