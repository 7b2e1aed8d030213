"""What has to be done before anything else is imported, where the package is run as a command."""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType, TracebackType

_PLUGINS = ModuleType("pydantic.plugin._loader")
"""Stands for pydantic's search for plugins in all that is installed, which takes 20 ms and finds none to use."""
vars(_PLUGINS)["get_plugins"] = tuple


def _interrupted(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """One line for Ctrl-C while modules are imported. The exit status is that of an interrupted process."""
    if issubclass(kind, KeyboardInterrupt):
        print("estimator: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, where)


def _prepare(program: str, words: list[str]) -> None:
    """``words``: those of the process, from the interpreter's name on. ``program``: what becomes of the script's name.

    ``python -m`` puts the current folder before the standard library, so a file that happens to be called ``string.py``
    or ``torch.py`` would be run. That folder is left out.
    """
    module = "".join(words[-len(sys.argv) :][:1]).removeprefix("-m")
    as_module = program == "-m" and module.partition(".")[0] == __package__
    if as_module and not sys.flags.safe_path:
        del sys.path[0]
    if as_module or os.path.basename(program) in ("estimator", "estimator.exe"):
        sys.excepthook = _interrupted
        gc.disable()  # until the command runs: what is imported stays, and would be looked through again and again
        sys.modules.setdefault(_PLUGINS.__name__, _PLUGINS)


_prepare(sys.argv[0] if sys.argv else "", sys.orig_argv)
