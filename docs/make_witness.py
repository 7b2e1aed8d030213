"""Ask what takes too long for every run, and say what changed: ``make witness``.

It runs for hours, unattended: a step that fails, or that takes longer than ``LIMIT`` seconds, does not stop those after
it. At the end it names the steps that failed and the committed results that are others than before, in more than their
dates. Exit status 1 if a step failed. ``--list`` prints the steps. Words after the command ask only the steps whose
name has one of them: ``python docs/make_witness.py trl coverage``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
PYTEST = [PYTHON, "-m", "pytest", "-n", "2"]
LIMIT = 6 * 3600
RESULTS = ("tests/data", "docs", "model_specs", ":!docs/*.py")
"""What the steps write."""
DATE = re.compile(rb"20\d\d-[01]\d-[0-3]\d")
TRL, TRANSFORMERS, VLLM = ("1.9", "1.14", "1.16"), ("4.45", "4.48", "4.57"), ("0.11.0", "0.33.0")
SGLANG = "0.5.23"
LITGPT = ("tests/programs/test_litgpt.py", "tests/recorder/test_litgpt.py")

STEPS: dict[str, list[str]] = {
    "tests that `make test` leaves out": [*PYTEST, "-m", "witness"],
    "all recorded bytes": ["env", "SHARE=all", *PYTEST, "tests", "-k", "bytes_are_those_recorded"],
    "coverage of transformers' classes": [PYTHON, "docs/make_coverage.py"],
    "trainers' defaults": [PYTHON, "docs/make_trainer_defaults.py"],
    "trainers' runs": [PYTHON, "docs/make_trainer_runs.py"],
    "install spark": [PYTHON, "-m", "pip", "install", "--quiet", "--editable", ".[spark]"],
    "exports": [PYTHON, "docs/make_exports.py"],
    "the page in two browsers": [PYTHON, "-m", "tests.cases.page_plans"],
}
for release in TRL:
    STEPS[f"install trl {release}"] = ["make", f".venv-trl-{release}/made"]
    for what in ("loops",) if release == "1.9" else ("steps", "evaluations", "loops"):
        STEPS[f"trl {release}: {what}"] = [f".venv-trl-{release}/bin/python", "-m", f"tests.cases.trl_{what}"]
    STEPS[f"trl {release}: steps of its trainers"] = [
        f".venv-trl-{release}/bin/python",
        "-m",
        "docs.making.trainer_steps",
    ]
STEPS["install litgpt"] = ["make", ".venv-litgpt/made"]
STEPS["litgpt: programs"] = [".venv-litgpt/bin/python", "-m", "docs.making.programs"]
STEPS["litgpt: steps"] = [".venv-litgpt/bin/python", "-m", "tests.cases.litgpt_steps"]
STEPS["litgpt: tests"] = [".venv-litgpt/bin/python", "-m", "pytest", *LITGPT]
STEPS["install deepspeed"] = ["make", ".venv-deepspeed/made"]
STEPS["deepspeed: steps"] = [".venv-deepspeed/bin/python", "-m", "tests.cases.zero_steps"]
FACTORY = ".venv-llama-factory/bin/python"
STEPS["install llama-factory"] = ["make", ".venv-llama-factory/made"]
STEPS["llama-factory: loops"] = [FACTORY, "-m", "tests.cases.trl_loops"]
STEPS["llama-factory: steps of its trainers"] = [FACTORY, "-m", "docs.making.trainer_steps"]
EMBEDDING = ".venv-sentence-transformers/bin/python"
STEPS["install sentence-transformers"] = ["make", ".venv-sentence-transformers/made"]
STEPS["sentence-transformers: loops"] = [EMBEDDING, "-m", "tests.cases.embedding_loops"]
STEPS["sentence-transformers: steps of its trainer"] = [EMBEDDING, "-m", "docs.making.trainer_steps"]
STEPS["sentence-transformers: tests"] = [EMBEDDING, "-m", "pytest", "-q", "tests/answers/test_embedding_trainers.py"]
STEPS["install mlx"] = ["make", ".venv-mlx/made"]
STEPS["mlx: steps and calls"] = [".venv-mlx/bin/python", "-m", "tests.cases.mlx_steps"]
for release in VLLM:
    STEPS[f"install vllm {release}"] = ["make", f".venv-vllm-{release}/made"]
    STEPS[f"vllm {release}: models"] = [f".venv-vllm-{release}/bin/python", "-m", "tests.cases.vllm_models"]
STEPS[f"install sglang {SGLANG}"] = ["make", f".venv-sglang-{SGLANG}/made"]
STEPS[f"sglang {SGLANG}: models"] = [f".venv-sglang-{SGLANG}/bin/python", "-m", "tests.cases.sglang_models"]
STEPS["llama.cpp: projectors"] = [PYTHON, "-m", "tests.cases.llama_cpp_projectors", "100", "1"]
STEPS["published runs of servers"] = [PYTHON, "-m", "tests.cases.public_serving"]
STEPS["published runs at home and on phones"] = [PYTHON, "-m", "tests.cases.public_home"]
STEPS["install executorch"] = ["make", ".venv-executorch/made"]
STEPS["executorch: programs"] = [".venv-executorch/bin/python", "-m", "tests.cases.executorch_programs"]
for release in TRANSFORMERS:
    STEPS[f"install transformers {release}"] = ["make", f".venv-{release}/made"]
    STEPS[f"transformers {release}: steps"] = [f".venv-{release}/bin/python", "-m", "tests.cases.release_steps"]


def git(*arguments: str) -> str:
    """What a command of git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.rstrip()


def run(command: list[str], limit: float = LIMIT) -> str:
    """Run a step, which is asked nothing. Returns why it failed; empty if it did not."""
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        return str(error)
    try:
        status = process.wait(limit)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        if isinstance(error, subprocess.TimeoutExpired):
            return f"no end after {limit:,.0f} s"
        raise
    return f"exit status {status}" if status else ""


def untracked() -> set[str]:
    """Results that git does not know."""
    return {*git("ls-files", "--others", "--exclude-standard", "--", *RESULTS).splitlines()}


def differs(before: str, name: str) -> bool:
    """Whether a file is another one than in a commit, in more than its dates."""
    show = subprocess.run(["git", "show", f"{before}:{name}"], cwd=ROOT, capture_output=True)
    path = ROOT / name
    return not path.exists() or DATE.sub(b"", show.stdout) != DATE.sub(b"", path.read_bytes())


def asked(steps: dict[str, list[str]], limit: float = LIMIT) -> int:
    """Run steps and print what failed and what changed. Returns the exit status."""
    before, new = git("stash", "create") or "HEAD", untracked()  # what is not committed yet is no change of this run
    failed: dict[str, str] = {}
    for number, (name, command) in enumerate(steps.items(), 1):
        print(f"== {number} of {len(steps)}: {name}", flush=True)
        start = time.monotonic()
        if why := run(command, limit):
            failed[name] = why
        print(f"== {name}: {why or 'done'}, {time.monotonic() - start:,.0f} s", flush=True)
    changed = [
        name for name in git("diff", "--name-only", before, "--", *RESULTS).splitlines() if differs(before, name)
    ]
    print("== results that changed:")
    print(git("diff", "--stat", before, "--", *changed) if changed else "none that git knew")
    for name in sorted(untracked() - new):
        print(f" {name} | new")
    print(
        f"== {len(failed)} of {len(steps)} steps failed", *(f"{name}: {why}" for name, why in failed.items()), sep="\n"
    )
    return 1 if failed else 0


def main(words: list[str]) -> int:
    """Run the steps that were asked for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C, so that the step that runs ends, too
    chosen = {name: step for name, step in STEPS.items() if not words or any(word in name for word in words)}
    if words == ["--list"]:
        print(*(f"{name}: {' '.join(step)}" for name, step in STEPS.items()), sep="\n")
        return 0
    if not chosen:
        print(f"no step has one of these words: {' '.join(words)}; --list prints them", file=sys.stderr)
        return 2
    return asked(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
