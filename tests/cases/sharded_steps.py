"""Records what real steps of ``fully_shard`` and DDP take: ``python -m tests.cases.sharded_steps``.

All is of the first rank, under PyTorch's fake process group. The tests of ``steps`` hold estimates against the record,
which takes no time; each run measures a share of the same steps anew (``tests/witnesses/test_measured_steps.py``).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.cases.kinds import Case
from tests.cases.sharding import ACCELERATE, BF16, LAYERS, MEASURED, sharded
from tests.cases.small_models import write_config
from tests.helpers.files import DATA, write_record

RECORD = DATA / "sharded_steps.json"
QUANTITIES = ("parameters", "buffers", "gradients", "optimizer", "saved")
TAIL: Case = (
    "last-gradient",
    {**LAYERS, "vocab_size": 3000},
    sharded(BF16, 2, reduce_dtype="float32", **ACCELERATE),
)
"""The head is the last parameter of its group, whose gradient a loop's variable holds to the end of the reduction."""
OF_DDP = ("buffers", "experts", "packed", "unused", "unused-loss-alone", "unused-none", "unused-outputs", "views-lora")
"""Where DDP broadcasts buffers, copies outputs, or has gradients that are views of its buckets."""
CASES = [
    *(case for case in MEASURED if case[2]["sharding"]["name"] == "fsdp2"),
    *(case for case in MEASURED if case[0] in [f"ddp-{name}" for name in OF_DDP]),
    TAIL,
]


def measured(config: dict[str, Any], plan: dict[str, Any]) -> dict[str, int]:
    """The bytes of a real step."""
    from estimator.plans.plan import parse_plan
    from estimator.plans.resolve import resolve
    from estimator.witnesses.measure import run_step

    with TemporaryDirectory() as folder:
        found = run_step(resolve(parse_plan({"model": write_config(Path(folder) / "model", config), **plan})))
    peak = found["peak_without_matmul_scratch"]
    return {**{name: found[name] for name in QUANTITIES}, "peak_above_resident": peak}


def main() -> None:
    """Measure every step and write the record."""
    steps = {name: measured(config, plan) for name, config, plan in CASES}
    write_record(RECORD, ("accelerate", "bitsandbytes", "peft", "torch", "transformers"), steps=steps)


if __name__ == "__main__":
    main()
