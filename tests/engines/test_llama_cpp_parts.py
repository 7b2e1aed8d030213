"""llama.cpp: the parts of a context, by device, beside a draft or a projector, and by the defaults of Ollama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.errors import InputError
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


DEVICES: dict[str, Any] = {"devices": ["rtx-3090", "rtx-3060"], "dtype": "q4_k_m"}


def buffers(model: str, **keys: Any) -> list[list[int]]:
    return [list(one["bytes"].values()) for one in estimate(model, **DEVICES, **keys).devices]


def test_a_draft_model_is_beside_the_main_one() -> None:
    """By hand: each place holds both models' buffers, in the same context."""
    alone, draft = (buffers(model, n_ctx=4096) for model in ("qwen2.5-7b", "qwen2.5-0.5b"))
    both = buffers("qwen2.5-7b", n_ctx=4096, model_draft="qwen2.5-0.5b")
    assert both == [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(alone, draft, strict=True)]
    on_host = buffers("qwen2.5-7b", n_ctx=4096, model_draft="qwen2.5-0.5b", n_gpu_layers_draft=0)
    assert on_host[0][1] == alone[0][1]
    assert on_host[2][1] > both[2][1]
    one, two = (estimate("qwen2.5-7b", dtype="q4_k_m", n_ctx=512, model_draft=m).bytes for m in (None, "qwen2.5-0.5b"))
    assert two["process"] == one["process"] + two["beside"] == two["clean"] + two["dirty"]
    with pytest.raises(InputError, match="a draft needs the same vocabulary"):
        estimate("qwen2.5-7b", dtype="q4_k_m", n_ctx=512, model_draft="llama-3.2-1b")


@pytest.mark.extra("engine")
def test_a_projector_is_on_the_first_device(tmp_path: Path) -> None:
    """By hand: its weights are counted, and a file that is no projector is refused."""
    import gguf
    import numpy

    path = tmp_path / "mmproj-model.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_tensor("v.patch_embd.weight", numpy.zeros((64, 100), dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    alone, beside = buffers("qwen2.5-7b", n_ctx=512), buffers("qwen2.5-7b", n_ctx=512, mmproj=str(path))
    assert beside[0][0] == alone[0][0] + 4 * 6400
    assert (beside[1:], beside[0][1:]) == (alone[1:], alone[0][1:])
    on_cpu, without = (estimate("qwen2.5-7b", dtype="q4_0", n_ctx=512, mmproj=m).bytes for m in (str(path), None))
    assert on_cpu["dirty"] == without["dirty"] + on_cpu["beside"] == without["dirty"] + 4 * 6400
    engine.write_sparse(real_header("smollm2-135m"), path)
    with pytest.raises(InputError, match="is no multimodal projector"):
        estimate("qwen2.5-7b", dtype="q4_0", mmproj=str(path))


@pytest.mark.parametrize(
    ("devices", "context"), [(["rtx-3060"], 4096), (["rtx-3090", "rtx-3060"], 32768), (["h100-80gb"], 131072)]
)
def test_the_defaults_of_ollama(devices: list[str], context: int) -> None:
    """By hand, from Ollama's documentation: 4k below 24 GiB, 32k below 48, else 256k, here the model's own 128k."""
    keys: dict[str, Any] = {"devices": devices, "dtype": "q4_k_m"}
    found = estimate("llama-3.1-8b", preset="ollama", **keys)
    same = estimate("llama-3.1-8b", n_ctx=context, n_batch=512, **keys)
    assert found.devices == same.devices
    assert found.bytes["CUDA0"] >= same.bytes["CUDA0"]
    assert any(f"n_ctx {context:,}, n_batch 512" in warning for warning in found.warnings)
    given = estimate("llama-3.1-8b", preset="ollama", n_ctx=2048, **keys)
    assert given.bytes["kv_cache"] == 2 * 2 * 32 * 1024 * 2048


@pytest.mark.parametrize("devices", [["iphone-15", "rtx-3090"], ["rtx-3090", "apple-16gb"]])
def test_a_machine_is_no_card(devices: list[str]) -> None:
    """Beside a worker of RPC it is one of several places, beside a card it is not."""
    with pytest.raises(InputError, match="is a machine of its own; ask it alone, with device: "):
        estimate(model="llama-3.2-1b", devices=devices)
    beside = estimate(model="llama-3.2-1b", devices=["apple-16gb", "rpc"], llama_cpp={"tensor_split": [3, 1]})
    assert [one["name"] for one in beside.to_dict()["devices"]] == ["MTL0", "dev0", "cpu"]


def test_where_the_cache_is_said_to_be() -> None:
    """By hand: of 16 layers, each with 8 MiB of keys and values, the last eight are on devices, four on each."""
    split: dict[str, Any] = {"n_ctx": 4096, "tensor_split": [1.0, 1.0]}
    for keys, said in (
        ({"n_gpu_layers": 9}, "where their layers are: 64.00 MiB on devices, 64.00 MiB on the host"),
        ({"n_gpu_layers": 17}, "where their layers are"),
        ({"n_gpu_layers": 9, "no_kv_offload": True}, "on the host, since no_kv_offload is set"),
    ):
        found = estimate("llama-3.2-1b", **DEVICES, **split, **keys)
        assert f"KV cache and states are {said}" in found.warnings
        assert any(warning.startswith("prefix caching: ") for warning in found.warnings)
    alone = estimate("llama-3.2-1b", device="rtx-3090", runtime="llama.cpp", n_ctx=4096)
    assert not any("KV cache and states" in warning for warning in alone.warnings)
