"""Threads of the operators' tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _threads(one_thread: None) -> None:
    """One thread for every test of a rule."""
