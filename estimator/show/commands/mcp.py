"""``estimator mcp``: the questions as tools for assistants."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...errors import InputError


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """There are no options."""


def execute(args: argparse.Namespace) -> int:
    """Answer on standard input and output until they are closed. Raises ``InputError`` without the SDK."""
    try:
        from ..assistants import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise InputError("the SDK of the Model Context Protocol is not installed; pip install '.[mcp]'") from None
    serve()
    return 0
