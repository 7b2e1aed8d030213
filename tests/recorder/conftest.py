"""Threads of the tests of recorded functions."""

from __future__ import annotations

import pytest


@pytest.fixture
def reference_threads() -> None:
    """The reference step's threads, with which the workspace of some kernels grows."""
    import torch

    from estimator.operators import THREADS

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
