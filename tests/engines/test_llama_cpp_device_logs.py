"""llama.cpp on several GPUs, against logs that others published (``docs/measured/llama_cpp/device_logs.json``)."""

from __future__ import annotations

from typing import Any

import pytest

from estimator import estimate
from tests.cases.llama_cpp_runs import device_logs, devices_of_log

LOGS = device_logs()


def test_the_last_gpu_has_room_for_the_logits_of_a_batch() -> None:
    """Witness: mainline builds. ik_llama.cpp keeps a second tensor of the hidden size beside them."""
    within = {True: 0, False: 0}
    for log in LOGS:
        last = max(name for name in log["mib"] if name != "cpu")
        sizes = log["mib"][last]
        if "compute" in sizes and not log["llama_cpp"].get("override_tensor") and "split" not in log:
            ours = devices_of_log(log)[last]["compute"] / 2**20
            within[abs(ours / sizes["compute"] - 1) < 0.04] += 1
    assert within[True] >= 3 > within[False]


def test_rows_of_weights_are_split() -> None:
    """By hand, from the engine's rounding: matrices of 4,096 rows as 3 to 1, at a multiple of 128, each with room for
    a multiple of 512 elements; caches, norms and what is computed are on the main GPU."""
    keys: dict[str, Any] = {"build": "2025", "n_ctx": 512, "split_mode": "row", "tensor_split": [3, 1], "main_gpu": 1}
    shares, whole = (
        {
            one["name"]: one["bytes"]
            for one in estimate("llama-3.1-8b", dtype="q8_0", llama_cpp=block, **devices).devices
        }
        for block, devices in (
            (keys, {"devices": ["rtx-3090", "rtx-3060"]}),
            ({"build": "2025", "n_ctx": 512}, {"device": "rtx-3090", "runtime": "llama.cpp"}),
        )
    )
    assert [shares["CUDA0"][part] for part in ("kv_cache", "compute")] == [0, 0]
    for part in ("kv_cache", "compute"):
        assert shares["CUDA1"][part] == whole["CUDA0"][part]
    assert shares["cpu"] == whole["cpu"]
    assert shares["CUDA0"]["weights"] + shares["CUDA1"]["weights"] == whole["CUDA0"]["weights"]
    matrices = whole["CUDA0"]["weights"] - 4 * 4096 * 65 - 256  # norms and frequencies are whole
    assert shares["CUDA0"]["weights"] == pytest.approx(0.75 * matrices, rel=1e-3)
