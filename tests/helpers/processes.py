"""Scripts in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

LIBRARIES = ("torch", "transformers", "peft")


def run_without(libraries: Sequence[str], script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which these libraries cannot be imported. It has ``sys``."""
    absent = f"import sys\nfor name in {tuple(libraries)!r}:\n    sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", absent + script], capture_output=True, text=True)
