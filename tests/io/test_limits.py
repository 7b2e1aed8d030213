"""A limit of time, after which the work ends, too."""

from __future__ import annotations

import threading
import time

import pytest

from estimator.io.limits import within


def test_an_answer_within_some_seconds() -> None:
    assert within(9, lambda: {"a": 1}) == {"a": 1}
    assert within(9, dict) == {}
    with pytest.raises(KeyError, match="gone"):
        within(9, lambda: {}["gone"])
    event = threading.Event()
    with pytest.raises(TimeoutError, match=r"^no whole answer in 0\.01 seconds$"):
        within(0.01, lambda: event.wait(5) or {})
    event.set()


def test_work_in_python_ends() -> None:
    ended = threading.Event()

    def work() -> None:
        try:
            while True:
                time.sleep(0.001)
        except Exception:  # no error of the work's own, which it may handle
            time.sleep(60)
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        within(0.05, work)
    assert ended.wait(5)
