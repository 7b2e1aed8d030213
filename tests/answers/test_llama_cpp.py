"""The parts of a context on llama.cpp, in an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator import estimate
from estimator.witnesses import llama_cpp as engine
from tests.cases.llama_cpp_runs import real_header


@pytest.mark.parametrize("device", [None, "rtx-4090"])
def test_the_parts_of_a_context(device: str | None) -> None:
    """By hand: keys and values in 16 bits, [16 layers, 8 heads, 64, 4,096 tokens]; logits of a batch of 512 tokens,
    which the compute buffer has room for, and little else."""
    found = estimate("llama-3.2-1b", runtime="llama.cpp", n_ctx=4096, device=device).bytes
    logits = 4 * 512 * 128256
    assert found["kv_cache"] == 2 * 2 * 16 * 8 * 64 * 4096
    assert found["recurrent_state"] == 0
    assert logits < found["compute"] < 1.1 * logits
    assert found["output"] == 4 * 128256
    held = found["resident"] + found["peak_above_resident"]
    assert found["peak"] == held < found["process"] < held + 100e6
    if device is None:
        assert found["weights"] <= found["mapped"] + found["repacked"]
        assert found["dirty"] + found["clean"] == found["process"]


@pytest.mark.extra("engine")
def test_a_file_without_a_tokenizer_takes_none(tmp_path: Path) -> None:
    """A model that is made from a config has the tokenizer that its published file has."""
    path = tmp_path / "model.gguf"
    engine.write_sparse(real_header("smollm2-135m"), path)
    file, made = estimate(str(path), n_ctx=512).bytes, estimate("smollm2-135m", runtime="llama.cpp", n_ctx=512).bytes
    assert file["weights"] == made["weights"]
    assert made["process"] - file["process"] > 1e6
