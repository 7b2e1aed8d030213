"""Checkpoints that FSDP's own keys ask for. The witness is a real step of accelerate's wrapper under FSDP2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.measured_steps import assert_step

pytestmark = pytest.mark.extra("trace")
SMALL = {"num_hidden_layers": 4, "vocab_size": 300}
KEYS = {"batch": 2, "seq": 33, "dtype": "float32", "checkpointing": "layer", "use_reentrant": False}


@pytest.mark.share(9)
@pytest.mark.parametrize("options", [{}, {"groups": "accelerate"}, {"reshard_after_forward": False}], ids=str)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_activation_checkpointing_is_checkpointing_of_each_layer(
    method: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``fsdp2_apply_ac`` wraps a layer that FSDP2 shards, so each layer is gathered inside of its checkpoint.

    It also keeps no state of random numbers (``preserve_rng_state=False``), which ``checkpointing: layer`` has. So the
    answer is larger, by the state of each layer at most; a layer that is gathered elsewhere would be ten times that.
    """
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    from estimator.witnesses.reference import sharding

    plain, wrapped = sharding.shard, []

    def shard(model: Any, resolved: Any) -> Any:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.gradient_checkpointing_disable()
        model = plain(model, resolved)
        for path in resolved.sizes().program.paths:
            inner.set_submodule(path, checkpoint_wrapper(inner.get_submodule(path), preserve_rng_state=False))
            wrapped.append(path)
        return model

    monkeypatch.setattr(sharding, "shard", shard)
    plan = {**KEYS, "method": method, "sharding": {"name": "fsdp2", "world_size": 4, **options}}
    assert_step(SMALL, plan, tmp_path, tolerance=SMALL["num_hidden_layers"] * torch.get_rng_state().nbytes)
    assert wrapped
