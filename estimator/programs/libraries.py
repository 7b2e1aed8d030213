"""Which optional libraries are installed, and what they say when they are imported."""

from __future__ import annotations

import logging
from importlib.util import find_spec

LOGGERS = ("torchao", "bitsandbytes", "torch.utils._pytree")
"""Loggers that give advice about kernels, beside which an answer would get lost."""


def is_installed(*packages: str) -> bool:
    """Whether all of these packages can be imported. None is imported to find out."""
    try:
        return all(find_spec(package) is not None for package in packages)
    except ValueError:  # a package that was made unavailable: None in sys.modules
        return False


def silence() -> None:
    """Let the libraries say nothing below a critical error."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
