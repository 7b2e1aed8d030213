"""Recorded runs of llama.cpp, and headers to ask the engine about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from estimator.answers.estimate import estimate
from estimator.engines.llama_cpp import convert
from estimator.engines.llama_cpp.builds import BUILDS
from estimator.engines.llama_cpp.header import Header, TensorInfo
from estimator.engines.llama_cpp.options import LlamaCppOptions
from estimator.engines.llama_cpp.placement import BACKENDS, Device, Layout, share_out
from estimator.engines.llama_cpp.usage import Usage, usage
from estimator.plans.models import load
from tests.helpers.files import DOCS

MEASURED = DOCS / "measured" / "llama_cpp"


@dataclass(frozen=True)
class Run:
    name: str
    quantised: str
    header: Header
    llama_cpp: dict[str, Any]
    bytes: dict[str, int] | None
    """What the engine reported; ``None`` where it refused."""
    no_alloc: bool


def real_header(model: str, recipe: str = "q4_k_m") -> Header:
    """The header of a built-in model's GGUF file."""
    return convert.header(load(model).raw, model, recipe)


@cache
def runs() -> list[Run]:
    data = json.loads((MEASURED / "runs.json").read_text())
    headers = [_header(row) for row in data["headers"]]
    return [
        Run(
            data["headers"][row["header"]]["name"],
            row["quantised"],
            headers[row["header"]],
            row["llama_cpp"],
            row.get("bytes"),
            row.get("no_alloc", False),
        )
        for row in data["runs"]
    ]


def _header(row: dict[str, Any]) -> Header:
    tensors = {name: TensorInfo(kind, tuple(shape)) for name, kind, shape in row["tensors"]}
    for layer, block in enumerate(row["layers"]):
        tensors |= {f"blk.{layer}.{name}": TensorInfo(kind, tuple(shape)) for name, kind, shape in row["blocks"][block]}
    return Header(row["architecture"], row["metadata"], tensors, row["n_vocab"])


def logs() -> list[dict[str, Any]]:
    return json.loads((MEASURED / "logs.json").read_text())["logs"]


def legacy(header: Header) -> Header:
    """A latent-attention model as older converters wrote it: one weight for keys and values, full heads cached."""
    metadata = dict(header.metadata)
    head_k, head_v = metadata.pop("attention.key_length_mla"), metadata.pop("attention.value_length_mla")
    heads, rope = metadata["attention.head_count"], metadata["rope.dimension_count"]
    metadata |= {
        "attention.head_count_kv": heads,
        "attention.key_length": head_k,
        "attention.value_length": head_v,
    }
    tensors = {}
    for name, tensor in header.tensors.items():
        if name.endswith("attn_k_b.weight"):
            rank = tensor.shape[1]
            whole = (rank, heads * (head_k - rope + head_v))
            tensors[name.replace("attn_k_b", "attn_kv_b")] = TensorInfo(tensor.kind, whole)
        elif not name.endswith("attn_v_b.weight"):
            tensors[name] = tensor
    return Header(header.architecture, metadata, tensors, header.n_vocab)


RECORDED = BUILDS["0c1e57098"]


def predicted(run: Run) -> Usage:
    """The buffers of a recorded run."""
    options = LlamaCppOptions.model_validate(run.llama_cpp)
    return usage(
        run.header,
        options.parameters(1, None, 4096),
        RECORDED,
        "cpu-avx512",
        use_mmap=options.use_mmap,
        repack=options.repack,
        tokenizer=False,
    )


def usage_of_log(log: dict[str, Any]) -> Usage:
    """The buffers of a run whose log is public."""
    options = LlamaCppOptions.model_validate(log["llama_cpp"])
    if options.type_v != "f16":
        options = options.model_copy(update={"flash_attn": True})
    header = convert.header(load(log["model"]).raw, log["model"], "q4_k_m")
    if log.get("legacy"):
        header = legacy(header)
    assert options.backend is not None
    parameters, backend = options.parameters(1, None, 4096), BACKENDS.get(options.backend)
    if backend is None:
        return usage(header, parameters, BUILDS["2025"], options.backend)
    device = Device(f"{backend.prefix}0", backend)
    return usage(
        header, parameters, BUILDS["2025"], "cpu", lambda layers: Layout((device,), share_out(layers, layers + 1, [1]))
    )


PADDED = 0.06
"""MiB by which a quantised cache of ik_llama.cpp is larger, in whose buffers each row is padded."""


def device_runs() -> list[dict[str, Any]]:
    """Recorded runs over workers of the engine's RPC backend."""
    found: list[dict[str, Any]] = json.loads((MEASURED / "devices.json").read_text())["runs"]
    return found


def device_logs() -> list[dict[str, Any]]:
    """Public logs of several devices, or of a part of the layers on one."""
    found: list[dict[str, Any]] = json.loads((MEASURED / "device_logs.json").read_text())["logs"]
    return found


@cache
def _estimated(log: str) -> dict[str, Mapping[str, int]]:
    asked = json.loads(log)
    devices = ["rtx-4090"] * asked["devices"]
    found = estimate(asked["model"], dtype=asked["dtype"], devices=devices, llama_cpp=asked["llama_cpp"])
    return {one["name"]: one["bytes"] for one in found.devices}


def devices_of_log(log: dict[str, Any]) -> dict[str, Mapping[str, int]]:
    """The bytes of each device and of the host in a log's run, on equal cards where nothing says how it was shared."""
    return _estimated(json.dumps(log))
