"""What an estimate imports, and how much memory its process takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import run_without


def test_an_estimate_imports_nothing_heavy() -> None:
    """Asks the contract: ``import estimator`` and every estimate work without torch; sympy and NumPy cost time."""
    script = (
        "import sys, estimator, estimator.show.cli\n"
        "estimator.estimate(model='smollm-135m', method='lora', budget='8GiB')\n"
        "assert estimator.show.cli.main(['estimate', 'smollm-135m', '--json']) == 0\n"
        "heavy = 'torch transformers peft sympy numpy matplotlib huggingface_hub'.split()\n"
        "assert not [name for name in heavy if name in sys.modules]"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_estimate_imports_what_it_needs() -> None:
    """No completion, no tables of other methods, no YAML, no library for progress bars: they would cost time at every
    start. Python's collector, which would look through all that is imported, is on again when the command runs.
    """
    script = (
        "import gc, sys\nfrom estimator.startup import _prepare\n_prepare('estimator', [])\nassert not gc.isenabled()\n"
        "from estimator.show.cli import main\n"
        "assert main('estimate smollm-135m --method lora --seq 64 --device rtx-4090'.split()) == 0 and gc.isenabled()\n"
        "heavy = 'argcomplete rich sympy numpy matplotlib yaml logging estimator.methods.oft '\n"
        "heavy += 'estimator.show.completion'\n"
        "sys.exit(str([name for name in heavy.split() if name in sys.modules] or 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


@pytest.mark.parametrize("command", ["validate", "measure"])
def test_a_command_says_how_to_install_what_it_runs(command: str) -> None:
    """One line where PyTorch is missing, which is simulated: no attempt, no traceback."""
    script = f"from estimator.show.cli import main\nsys.exit(main(['{command}', 'smollm-135m', '--seq', '16']))"
    done = run_without(["torch"], script)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("estimator: this command runs PyTorch, which is not installed; install it with: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.share(2)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("where", [[], ["--device", "rtx-4060"], ["--runtime", "llama.cpp"]])
def test_an_estimate_is_small(where: list[str]) -> None:
    """A whole process with its table takes at most 45 MiB of memory; importing sympy alone takes 48 MiB."""
    arguments = ["estimate", "llama-3.2-1b", "--seq", "2048", *where]
    script = (
        "import re\nfrom estimator.show.cli import main\n"
        f"assert main({arguments}) != 2\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    kept = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # compiling the package takes memory, once
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=kept)
    assert done.stderr == ""
    assert int(done.stdout.splitlines()[-1]) <= 45 * 1024
