"""Optional libraries: which are installed, what they print, and when they free memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

LOGGERS = ("torchao", "bitsandbytes", "torch.utils._pytree", "matplotlib")
"""Loggers that give advice about kernels or say where fonts are listed, beside which an answer would get lost."""


def is_installed(*packages: str) -> bool:
    """Whether all of these packages can be imported. None is imported to find out."""
    try:
        return all(find_spec(package) is not None for package in packages)
    except ValueError:  # a package that was made unavailable: None in sys.modules
        return False


def silence() -> None:
    """Let the libraries say nothing below a critical error."""
    import logging  # which an answer without these libraries does not need

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def without_collector() -> Iterator[None]:
    """Within it, tensors die when their last reference goes, and not at a moment that earlier work decides.

    Python's collector of reference cycles is off. While many objects are made it would look, again and again, through
    all that belong to the libraries.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the libraries' advice about training, since nothing is trained here, and what they say of an error that
    they raise.
    """
    import warnings

    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
