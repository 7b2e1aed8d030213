"""Imports the libraries that witnesses run, or says in one line how to install them."""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import InputError
from ...programs.libraries import silence

try:
    import torch as torch
    import transformers as transformers
except ImportError:
    raise InputError(
        "this command runs PyTorch, which is not installed; install it with: pip install '.[trace]' in a clone"
    ) from None

silence()


def require(package: str) -> None:
    """Raise ``InputError`` where a package of the ``quantised`` extra is not installed."""
    if find_spec(package) is None:
        raise InputError(
            f"this plan runs {package}, which is not installed; install it with: pip install '.[quantised]' in a clone"
        )
