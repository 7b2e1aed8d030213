"""What is said of a result: verdicts, runs over several lengths, what binds. The witness is its own figures."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.answers.comparison import Comparison, _unquantised, label, label_of
from estimator.answers.estimate import estimate
from estimator.answers.sentences import breakdown, run_summary, verdict, what_binds
from estimator.plans.plan import parse_plan

SMALL: dict[str, Any] = {"model": "smollm2-135m", "method": "lora"}


def test_two_limits_of_a_phone() -> None:
    """By hand: 3 GiB of dirty memory, and 4 GiB of the 6 GiB of RAM."""
    result = estimate("qwen2.5-0.5b", runtime="llama.cpp", dtype="q4_0", n_ctx=512, device="iphone-15")
    assert result.limits == {"dirty": 3 << 30, "used": 4 << 30}
    sizes = {**result.bytes, "dirty": 1 << 30, "used": (4 << 30) - (256 << 20)}
    said = verdict(replace(result, bytes=sizes))
    assert said.startswith("Fits in 3.00 GiB of dirty memory: 2.00 GiB to spare (")
    assert said.endswith("). Of 4.00 GiB of RAM in use 256.00 MiB are left.")
    other = verdict(replace(result, bytes={**sizes, "used": 5 << 30}), how="with these changes")
    assert other.startswith("Fits in 3.00 GiB of dirty memory with these changes: 2.00 GiB to spare (")
    assert other.endswith(" Of 4.00 GiB of RAM in use 1.00 GiB are missing.")
    of_process = verdict(replace(result, limits={"dirty": 3 << 30, "process": 1 << 30}, bytes=sizes | {"process": 0}))
    assert of_process.endswith(" Of 1.00 GiB for the process 1.00 GiB are left.")
    keys = [key for key, _ in breakdown(result)]
    assert ("saved" in keys, "repacked" in keys, "weights" in keys) == (False, False, True)


def test_a_run_over_several_lengths() -> None:
    """By hand: two of eight samples, two of which are too long: 1 - (6 x 5) / (8 x 7)."""
    lengths = {"histogram": {64: 3, 128: 3, 256: 2}, "steps": 2}
    middle, long = (estimate({**SMALL, "seq": seq}).bytes["process"] for seq in (128, 256))
    for budget, fitting, chance in (
        (middle, 128, 13 / 28),
        (middle - 1, 64, 1 - 3 / 28),
        (1 << 20, 0, 1.0),
        (long, 256, 0.0),
    ):
        run = estimate({**SMALL, "lengths": lengths, "budget": f"{budget}B"}).run
        assert run is not None
        assert (run["batches"], run["longest_seq"], run["longest_seq_that_fits"]) == (2, 256, fitting)
        assert run["oom_probability"] == pytest.approx(chance)
    result = estimate({**SMALL, "lengths": lengths})
    assert run_summary(result) == "The longest of the run's 2 batches has 256 tokens a row."
    sure = {"longest_seq_that_fits": 2048, "oom_probability": 0.125, "reserved_quantiles": {"0.5": 1 << 30}}
    assert run_summary(replace(result, run={"batches": 1200, "longest_seq": 4096, **sure})) == (
        "The longest of the run's 1,200 batches has 4,096 tokens a row. Batches of up to 2,048 tokens fit: the run "
        "dies with a probability of 12.5 %. 50 % of the batches reserve up to 1.00 GiB."
    )
    assert run_summary(replace(result, run=None)) == ""


def test_what_binds_in_a_run() -> None:
    """The step, with the live bytes of its peak, or another moment."""
    plan = {**SMALL, "seq": 64, "device": "rtx-4090"}
    alone = estimate(plan)
    assert alone.binds == "loss backward"
    live = f"what binds is: loss backward ({alone.bytes['peak'] / 2**20:.2f} MiB live)"
    assert what_binds(alone) == live
    step = estimate({**plan, "run": {"per_device_eval_batch_size": 1, "eval_samples": 4}})
    assert (step.largest and step.largest.moment, what_binds(step)) == ("step", live)
    many = estimate({**plan, "run": {"per_device_eval_batch_size": 64, "eval_samples": 64, "moment": "evaluation"}})
    assert [one.moment for one in many.run_moments] == ["evaluation"]
    assert what_binds(many) == "what binds is: evaluation"
    assert many.warnings == ()


def test_methods_in_a_few_words() -> None:
    """Names, options that are given, and the plain weights that full fine-tuning is compared with."""
    assert label({"name": "toy", "r": 4, "alpha": 8}) == "toy r=4 alpha=8"
    assert label_of(parse_plan({"model": "smollm2-135m", "task": "infer"})) == "inference"
    assert label_of(parse_plan({**SMALL, "task": "infer"})).startswith("LoRA")
    quantised = {"model": "a", "dtype": "nf4", "rest_dtype": "float16", "double_quant": True}
    assert _unquantised(quantised) == {"model": "a", "dtype": "float16"}
    assert _unquantised({"model": "a", "dtype": "float32", "rest_dtype": "x"})["rest_dtype"] == "x"


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("fits", "fits", "fits"), "to 2048 tokens"),
        (("fits", "tight", "does not fit"), "to 512, tight to 1024 tokens"),
        (("tight", "tight", "does not fit"), "tight to 1024 tokens"),
        (("fits", "does not fit", "does not fit"), "to 512 tokens"),
        (("does not fit",) * 3, "at no length"),
    ],
    ids=str,
)
def test_how_far_a_method_reaches(verdicts: tuple[str, ...], said: str) -> None:
    seqs = (512, 1024, 2048)
    on = {seq: SimpleNamespace(verdict=verdict) for seq, verdict in zip(seqs, verdicts, strict=True)}
    of: Any = SimpleNamespace(seqs=seqs)
    row: Any = SimpleNamespace(on={"a card": on})
    assert Comparison.reach(of, row, "a card") == said
