"""Writes ``model_specs/trainers``: steps of trainers that are answered without PyTorch. Needs TRL.

Give names of trainers to write those alone: ``python model_specs/make_trainer_steps.py trl-dpo``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

from estimator.errors import InputError
from estimator.programs.program import Program
from estimator.programs.trainer_calls import Key
from estimator.programs.trainer_programs import folder, written
from estimator.recorder.trainer_family import record_family

DPO = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
OF_REFERENCE = ("copy", "adapter-off", "precomputed")
TRAINERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trl-dpo": (DPO, OF_REFERENCE),
    "trl-kto": (("kto", "apo_zero_unpaired"), OF_REFERENCE),
    "trl-reward": (("",), ("none",)),
    "trl-orpo": (("",), ("none",)),
    "trl-cpo": (("sigmoid", "hinge", "ipo", "simpo", "alphapo"), ("none",)),
    "trl-grpo": (("dapo", "grpo", "bnpo", "dr_grpo"), ("none", "copy", "adapter-off")),
    "trl-rloo": (("",), ("none", "copy", "adapter-off")),
}
"""For each trainer, its losses and what its reference may be."""
PACKAGES = ("trl", "transformers", "accelerate", "peft", "torch")


def keys(trainer: str) -> Iterator[Key]:
    """The steps of a trainer."""
    losses, references = TRAINERS[trainer]
    fused = trainer not in ("trl-reward", "trl-orpo", "trl-cpo")
    for loss_type in losses:
        for reference in references:
            for autocast in (False, True):
                for wide in (None,) if fused else (True, False):
                    for compact in (False, True) if fused else (False,):
                        yield Key(loss_type, reference, autocast, wide, compact)
                        if trainer == "trl-grpo" and reference == "none":
                            yield Key(loss_type, reference, autocast, wide, compact, several=True)


def main(only: list[str]) -> None:
    """Record and write."""
    release = ".".join(version("trl").split(".")[:2])
    for trainer in only or TRAINERS:
        started, found = time.monotonic(), dict[Key, Program]()
        for key in keys(trainer):
            try:
                found[key] = record_family(trainer, key)
            except (InputError, ValueError) as error:
                print(f"{trainer} {key}: {error}", flush=True)
        path = folder() / f"{trainer}-{release}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(written(release, {name: version(name) for name in PACKAGES}, found), encoding="utf-8")
        seconds = time.monotonic() - started
        print(f"{path.name}: {len(found)} steps, {path.stat().st_size:,} bytes, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    main(sys.argv[1:])
