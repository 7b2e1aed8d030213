"""Loggers of libraries that give advice about kernels when they are imported, beside which an answer would get lost."""

from __future__ import annotations

import logging

NAMES = ("torchao", "bitsandbytes", "torch.utils._pytree")


def silence() -> None:
    """Let the libraries say nothing below a critical error."""
    for name in NAMES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
