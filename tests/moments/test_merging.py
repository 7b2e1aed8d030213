"""Merging: a real ``merge_and_unload`` on PyTorch's CPU allocator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.moments.merging import merging
from estimator.moments.options import RunOptions
from estimator.moments.weights import weights_of
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases.small_models import TINY, write_config
from tests.helpers.figures import assert_figures

DTYPES = [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")]


@pytest.mark.extra("trace")
@pytest.mark.parametrize("safe_merge", [False, True], ids=["in place", "safe"])
@pytest.mark.parametrize(("dtype", "adapter_dtype"), DTYPES)
def test_merge_and_unload(dtype: str, adapter_dtype: str, safe_merge: bool, tmp_path: Path) -> None:
    """Witness: measurement, within 64 bytes. The only adapter is on the last layer: a copied weight is counted once."""
    from estimator.witnesses.measure import allocator_events, peak_of, without_matmul_scratch
    from estimator.witnesses.reference.model import build_model

    model = write_config(tmp_path, {**TINY, "num_hidden_layers": 1})
    method: dict[str, Any] = {"name": "lora", "r": 5, "target_modules": ["down_proj"], "adapter_dtype": adapter_dtype}
    resolved = resolve(parse_plan({"model": model, "dtype": dtype, "method": method}))
    adapted = build_model(resolved)
    weights = weights_of(resolved)
    before = sum(p.nbytes for p in adapted.parameters())
    events = allocator_events(lambda: adapted.merge_and_unload(safe_merge=safe_merge))
    (moment, _) = merging(resolved, RunOptions(safe_merge=safe_merge), weights)
    seen = before + peak_of(without_matmul_scratch(events))[0]
    assert_figures({"bytes": moment.bytes}, {"bytes": seen}, 64)


def test_a_gpus_host_holds_the_largest_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By hand: the merged model's tensors of a file are copied to the host together."""
    model = write_config(tmp_path, TINY)
    resolved = resolve(parse_plan({"model": model, "dtype": "bfloat16", "method": "lora", "runtime": "torch-cuda"}))
    weights = weights_of(resolved)
    sizes = [weight.nbytes for weight in weights.parameters]
    device, host, _ = merging(resolved, RunOptions(), weights)
    assert (device.where, host.where, host.bytes) == ("device", "host", sum(sizes))
    monkeypatch.setattr("estimator.moments.merging.split", lambda tensors: [[weight] for weight in tensors])
    assert merging(resolved, RunOptions(), weights)[1].bytes == max(sizes) > min(sizes)
