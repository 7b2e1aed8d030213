"""llama.cpp on several GPUs, against logs that others published (``docs/measured/llama_cpp/device_logs.json``)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cases.llama_cpp_runs import PADDED, device_logs, devices_of_log

LOGS = device_logs()


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log["id"])
def test_caches_and_weights_are_as_printed(log: dict[str, Any]) -> None:
    """Witness: published logs. Where the split is by free memory and that was not printed, the sums are compared."""
    found = devices_of_log(log)
    for part in ("kv_cache", "weights"):
        printed = {name: sizes[part] for name, sizes in log["mib"].items() if part in sizes}
        ours = {name: found[name][part] / 2**20 for name in printed}
        assert sum(ours.values()) == pytest.approx(sum(printed.values()), abs=2 * PADDED)
        layer = max(ours.values(), default=0.0) / 8 if "split" in log else PADDED
        for name, size in printed.items():
            assert ours[name] == pytest.approx(size, abs=layer) or "split" in log, (name, part)


def test_the_last_gpu_has_room_for_the_logits_of_a_batch() -> None:
    """Witness: mainline builds. ik_llama.cpp keeps a second tensor of the hidden size beside them."""
    within = {True: 0, False: 0}
    for log in LOGS:
        sizes = log["mib"][f"CUDA{log['devices'] - 1}"]
        if "compute" in sizes and not log["llama_cpp"].get("override_tensor") and "split" not in log:
            ours = devices_of_log(log)[f"CUDA{log['devices'] - 1}"]["compute"] / 2**20
            within[abs(ours / sizes["compute"] - 1) < 0.04] += 1
    assert within[True] >= 3 > within[False]
