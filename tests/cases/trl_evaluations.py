"""Evaluations of TRL's ``SFTTrainer`` on the CPU, with the losses of its releases.

``python -m tests.cases.trl_evaluations`` writes the installed release's part of ``tests/data/trl_evaluations.json``
anew, where TRL is installed; ``make witness`` does so for two releases.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.cases.kinds import Case
from tests.cases.small_models import METHODS, write_config
from tests.cases.trl_steps import LOSSES, TRL_SFT, UNMIXED
from tests.helpers.files import DATA, write_record

RECORD = DATA / "trl_evaluations.json"
RUN: dict[str, Any] = {"eval_samples": 20, "per_device_eval_batch_size": 4}
CASES: list[Case] = [
    ("defaults", {}, TRL_SFT),
    ("defaults-lora", {"vocab_size": 40000}, {**TRL_SFT, "method": METHODS["lora"]}),
    ("float32", {"model_type": "qwen2"}, {**UNMIXED, "dtype": "float32"}),
    ("wide", {"vocab_size": 70000, "num_hidden_layers": 1}, {**UNMIXED, "dtype": "bfloat16"}),
    ("many-chunks", {"vocab_size": 9000}, {**TRL_SFT, "seq": 401}),
]


def plan_of(config: dict[str, Any], plan: dict[str, Any], loss: str, folder: Path) -> dict[str, Any]:
    """A case as a plan, with its config.json in a folder."""
    return {"model": write_config(folder, config), "batch": 2, "seq": 33, **plan, "loss": loss}


def main() -> None:
    """Measure the cases with the installed release."""
    from estimator.plans.plan import parse_plan
    from estimator.plans.resolve import resolve
    from tests.helpers.evaluation_loop import measured_trl_evaluation

    release = ".".join(version("trl").split(".")[:2])
    found = {}
    for name, config, plan in CASES:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            resolved = resolve(parse_plan(plan_of(config, plan, LOSSES[release], folder / "model")))
            found[name] = measured_trl_evaluation(resolved, RUN, folder)
        print(name, found[name], flush=True)
    write_record(RECORD, ("trl", "transformers", "accelerate", "peft", "torch"), release, peaks=found)


if __name__ == "__main__":
    main()
