"""Steps of DeepSpeed's ZeRO on the CPU, of one rank at a time (``estimator/witnesses/reference/zero.py``).

``python -m tests.cases.zero_steps`` writes ``tests/data/zero_steps.json`` anew, where DeepSpeed is installed. Names of
cases as arguments: only theirs. With few tokens and a small vocabulary the peak is where gradients are reduced or the
optimizer steps. Of each case that rank is recorded which has the largest peak of those that are asked.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
from importlib.metadata import version
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from tests.cases.kinds import Case
from tests.cases.small_models import METHODS, write_config
from tests.helpers.files import DATA

RECORD = DATA / "zero_steps.json"
FEW = {"num_hidden_layers": 3, "vocab_size": 100, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 72}
WIDE = {**FEW, "vocab_size": 3000}
PARALLEL = {**FEW, "model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 40}
TINY = {"batch": 1, "seq": 2, "dtype": "float32"}
MANY = {"batch": 2, "seq": 33, "dtype": "float32"}
BF16 = {"dtype": "bfloat16"}
NF4 = {"dtype": "nf4", "method": "lora"}
INT8 = {"dtype": "int8", "method": "lora"}
LORA, LAYER = {"method": "lora"}, {"checkpointing": "layer"}
APART = {"contiguous_gradients": False}
OVERLAP = {"overlap_comm": True}
HOST = {"offload_optimizer": "cpu"}
ACCUMULATED = {**TINY, "gradient_accumulation_steps": 3}
EIGHT = {**TINY, "seq": 8}
QUANTITIES = ("parameters", "buffers", "gradients", "optimizer", "communication", "saved", "trainable_parameters")


def bucket(elements: int) -> dict[str, Any]:
    """Buckets of so many elements."""
    return {"reduce_bucket_size": elements}


def gathered(elements: int = 10_000, ahead: int = 5_000, persistent: int = 100) -> dict[str, Any]:
    """Buckets of so many elements, gathers of so many ahead, and whole parameters of so many at most."""
    keys = {"stage3_prefetch_bucket_size": ahead, "stage3_param_persistence_threshold": persistent}
    return {**bucket(elements), **keys}


CASES: list[Case] = [
    (f"{stage}-{name}", config, {**keys, "sharding": {"name": stage, "world_size": world, **options}})
    for stage, name, world, config, keys, options in (
        ("zero1", "uneven", 3, FEW, TINY, bucket(10_000)),
        ("zero1", "many-ranks", 64, FEW, {**TINY, **BF16}, bucket(10_000)),
        ("zero1", "larger-than-a-bucket", 8, {**FEW, "vocab_size": 5000}, TINY, bucket(500)),
        ("zero1", "activations", 4, WIDE, MANY, bucket(100_000)),
        ("zero1", "overlap", 3, FEW, MANY, {**bucket(9_000), **OVERLAP}),
        ("zero1", "apart", 3, FEW, TINY, {**bucket(9_000), **APART}),
        ("zero1", "apart-overlap", 3, FEW, TINY, {**bucket(9_000), **APART, **OVERLAP}),
        ("zero1", "accumulated", 3, FEW, {**MANY, "gradient_accumulation_steps": 3}, bucket(10_000)),
        ("zero1", "lora", 5, FEW, {**MANY, **LORA}, bucket(700)),
        ("zero2", "one", 1, FEW, TINY, bucket(10_000)),
        ("zero2", "two", 2, {**FEW, "num_hidden_layers": 7}, TINY, bucket(10_000)),
        ("zero2", "bfloat16", 3, FEW, {**TINY, **BF16}, bucket(10_000)),
        ("zero2", "many-ranks", 64, FEW, TINY, bucket(10_000)),
        ("zero2", "small-buckets", 200, FEW, TINY, bucket(500)),
        ("zero2", "more-ranks-than-rows", 1024, FEW, {**TINY, **BF16}, bucket(10_000)),
        ("zero2", "larger-than-a-bucket", 8, {**FEW, "vocab_size": 5000}, TINY, bucket(500)),
        ("zero2", "larger-bfloat16", 8, {**FEW, "vocab_size": 5000}, {**MANY, **BF16}, bucket(5_000)),
        ("zero2", "default-buckets", 3, FEW, TINY, {}),
        ("zero2", "activations", 4, WIDE, MANY, bucket(10_000)),
        ("zero2", "overlap", 3, FEW, MANY, {**bucket(9_000), **OVERLAP}),
        ("zero2", "apart", 3, FEW, TINY, {**bucket(9_000), **APART}),
        ("zero2", "apart-overlap", 3, FEW, MANY, {**bucket(9_000), **APART, **OVERLAP}),
        ("zero2", "accumulated", 3, FEW, {**MANY, "gradient_accumulation_steps": 2}, bucket(10_000)),
        ("zero2", "accumulated-apart", 3, FEW, {**MANY, "gradient_accumulation_steps": 3}, {**bucket(10_000), **APART}),
        ("zero1", "offload", 3, FEW, {**TINY, **BF16}, {**bucket(10_000), **HOST}),
        ("zero2", "offload", 3, FEW, TINY, {**bucket(10_000), **HOST}),
        ("zero2", "offload-bfloat16", 8, {**FEW, "vocab_size": 5000}, {**TINY, **BF16}, {**bucket(5_000), **HOST}),
        ("zero2", "offload-accumulated", 3, FEW, {**ACCUMULATED, **BF16}, {**bucket(10_000), **HOST}),
        ("zero2", "tied", 3, {**FEW, "tie_word_embeddings": True}, TINY, bucket(10_000)),
        ("zero2", "conv1d", 5, {**FEW, "model_type": "gpt2"}, EIGHT, bucket(10_000)),
        ("zero2", "windows", 2, {**FEW, "model_type": "gemma3_text"}, EIGHT, bucket(10_000)),
        ("zero2", "biases", 5, {**FEW, "model_type": "qwen2"}, EIGHT, bucket(3_000)),
        ("zero2", "experts", 5, {**FEW, "model_type": "mixtral"}, EIGHT, bucket(10_000)),
        ("zero2", "layer", 3, WIDE, {**MANY, **LAYER}, bucket(10_000)),
        ("zero2", "lora", 3, FEW, {**MANY, **LORA}, bucket(3_000)),
        ("zero2", "lora-bfloat16", 3, FEW, {**MANY, **LORA, **BF16}, bucket(3_000)),
        ("zero2", "lora-layer", 7, FEW, {**MANY, **LORA, **LAYER}, bucket(1_000)),
        ("zero2", "momentum", 7, FEW, {**TINY, "optimizer": "sgd-momentum"}, bucket(1_000)),
        ("zero2", "eager", 7, FEW, {**MANY, "attention": "eager", "keep_logits": False}, bucket(1_000)),
        ("zero2", "nf4", 3, FEW, {**MANY, **NF4}, bucket(3_000)),
        ("zero2", "int8", 3, FEW, {**MANY, **INT8}, bucket(3_000)),
        ("zero1", "int8-layer", 5, FEW, {**TINY, **INT8, "rest_dtype": "bfloat16", **LAYER}, bucket(1_000)),
        ("zero2", "clipped", 3, FEW, {**TINY, **BF16, "gradient_clipping": True}, bucket(10_000)),
        ("zero2", "float16", 3, FEW, {**TINY, "dtype": "float16"}, bucket(10_000)),
        ("zero2", "fused", 3, FEW, {**TINY, "optimizer": "adamw-fused"}, bucket(10_000)),
        ("zero2", "chunked-loss", 3, WIDE, {**MANY, "loss": "chunked"}, bucket(10_000)),
        ("zero2", "liger", 3, WIDE, {**MANY, "loss": "liger"}, bucket(10_000)),
        ("zero2", "packing", 3, FEW, {**MANY, "packing": True}, bucket(10_000)),
        ("zero2", "ia3", 3, FEW, {**MANY, **BF16, "method": "ia3"}, bucket(3_000)),
        ("zero2", "attention", 3, FEW, {**MANY, "checkpointing": "attention"}, bucket(10_000)),
        ("zero2", "lion", 3, FEW, {**TINY, "optimizer": "lion"}, bucket(10_000)),
        ("zero2", "foreach", 3, FEW, {**TINY, "optimizer": "adamw-foreach"}, bucket(10_000)),
        ("zero3", "one", 1, FEW, TINY, gathered()),
        ("zero3", "two", 2, {**FEW, "num_hidden_layers": 7}, TINY, gathered()),
        ("zero3", "uneven", 3, FEW, TINY, gathered()),
        ("zero3", "bfloat16", 3, FEW, {**TINY, **BF16}, gathered()),
        ("zero3", "nothing-persists", 5, FEW, TINY, gathered(persistent=1)),
        ("zero3", "one-ahead", 5, FEW, MANY, gathered(ahead=1)),
        ("zero3", "default-buckets", 4, FEW, MANY, {}),
        ("zero3", "activations-bfloat16", 7, WIDE, {**MANY, **BF16}, gathered()),
        ("zero3", "many-ranks", 300, FEW, {**EIGHT, **BF16}, gathered()),
        ("zero3", "accumulated", 3, FEW, {**MANY, "gradient_accumulation_steps": 3}, gathered()),
        ("zero3", "offload", 3, FEW, {**MANY, **BF16}, {**gathered(), **HOST}),
        ("zero3", "offload-all", 3, FEW, ACCUMULATED, {**gathered(), **HOST, "offload_param": "cpu"}),
        ("zero3", "offload-parameters", 3, FEW, {**MANY, **BF16}, {**gathered(), "offload_param": "cpu"}),
        ("zero3", "offload-lora", 3, FEW, {**MANY, **LORA}, {**gathered(), **HOST, "offload_param": "cpu"}),
        ("zero3", "tied", 3, {**FEW, "tie_word_embeddings": True}, TINY, gathered()),
        ("zero3", "conv1d", 5, {**FEW, "model_type": "gpt2"}, EIGHT, gathered()),
        ("zero3", "windows", 2, {**FEW, "model_type": "gemma3_text"}, EIGHT, gathered()),
        (
            "zero3",
            "norms-of-heads",
            4,
            {**FEW, "model_type": "qwen3", "num_key_value_heads": 2},
            EIGHT,
            gathered(4_000, ahead=900),
        ),
        ("zero3", "layer", 3, WIDE, {**MANY, **LAYER}, gathered()),
        ("zero3", "parallel-layer", 3, PARALLEL, {**TINY, "seq": 17, **LORA, **LAYER}, {}),
        ("zero3", "nf4", 3, FEW, {**TINY, **NF4}, gathered()),
        ("zero3", "nf4-layer", 3, FEW, {**MANY, **NF4, **LAYER}, gathered()),
        ("zero3", "clipped", 3, FEW, {**TINY, **BF16, "gradient_clipping": True}, gathered()),
        ("zero3", "float16", 3, FEW, {**TINY, "dtype": "float16"}, gathered()),
        ("zero3", "fused", 3, FEW, {**TINY, "optimizer": "adamw-fused"}, gathered()),
        ("zero3", "packing", 3, FEW, {**MANY, "packing": True}, gathered()),
        ("zero3", "lion", 3, FEW, {**TINY, "optimizer": "lion"}, gathered()),
        ("zero3", "foreach", 3, FEW, {**TINY, "optimizer": "adamw-foreach"}, gathered()),
        ("zero3", "lora-tiny", 3, FEW, {**TINY, **LORA}, gathered()),
        ("zero3", "lora-bfloat16", 3, FEW, {**MANY, **LORA, **BF16}, gathered()),
        ("zero3", "lora-layer", 3, FEW, {**MANY, **LORA, **LAYER}, gathered()),
        ("zero3", "lora-all-dropout", 3, FEW, {**EIGHT, "method": METHODS["lora-all-dropout"]}, gathered()),
    )
]


def measured(plan: dict[str, Any], rank: int) -> dict[str, Any]:
    """A rank's step in a child process, since a process is of one world alone."""
    ours, theirs = Pipe()
    child = os.fork()
    if not child:
        try:
            theirs.send(_in_child(plan, rank))
        finally:
            os._exit(0)
    theirs.close()
    found: dict[str, Any] = ours.recv()
    os.waitpid(child, 0)
    return found


def _in_child(plan: dict[str, Any], rank: int) -> dict[str, Any]:
    from estimator.plans.plan import parse_plan
    from estimator.plans.resolve import resolve
    from estimator.witnesses.measure import run_step

    found = run_step(resolve(parse_plan(plan)), rank=rank)
    return {
        **{name: found.get(name, 0) for name in QUANTITIES},
        "peak_above_resident": found["peak_without_matmul_scratch"],
    }


def ranks_of(plan: dict[str, Any]) -> list[int]:
    """The ranks that are asked: the first and the last, one between them, and the one that the ledger finds largest."""
    from estimator.plans.plan import parse_plan
    from estimator.plans.resolve import resolve
    from estimator.steps.step import run

    resolved = resolve(parse_plan(plan))
    totals = run(resolved.step, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq)
    world = plan["sharding"]["world_size"]
    if plan["sharding"]["name"] == "zero3":
        return [0]  # all are equal
    return sorted({0, world // 2, world - 1, totals.rank})


def write(names: list[str]) -> None:
    """Measure cases, all of them by default, and write their rows."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    from estimator.witnesses.reference.zero import prepare

    prepare()  # loaded once, before the children are forked
    record = json.loads(RECORD.read_text(encoding="utf-8")) if names and RECORD.exists() else {"steps": {}}
    for name, config, keys in CASES:
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            plan = {"model": str(write_config(Path(folder), config)), **keys}
            rows = [{"rank": rank, **measured(plan, rank)} for rank in ranks_of(plan)]
        record["steps"][name] = max(rows, key=lambda row: row["parameters"] + row["peak_above_resident"])
        print(name, record["steps"][name], flush=True)
    record["date"] = str(datetime.date.today())
    record["versions"] = {package: version(package) for package in ("deepspeed", "torch", "transformers", "peft")}
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1:])
