"""Threads of the operators' tests."""

from __future__ import annotations

import pytest

from estimator.operators import THREADS


@pytest.fixture(autouse=True)
def _threads(one_thread: None) -> None:
    """One thread for every test of a rule."""


@pytest.fixture
def reference_threads(_threads: None) -> None:
    """The reference step's threads, with which the flash kernel's workspace grows."""
    import torch

    torch.set_num_threads(THREADS)
