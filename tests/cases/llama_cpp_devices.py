"""Runs of llama.cpp over several workers of its RPC backend: ``python -m tests.cases.llama_cpp_devices``.

Each worker is a process of its own on the loopback, and each run has another random model, split and context. The
command asks the runs of ``docs/measured/llama_cpp/devices.json`` again. With a number and a seed it prints so many
other runs, a line of JSON each.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

from estimator.answers.estimate import estimate
from estimator.engines.llama_cpp import convert
from estimator.engines.llama_cpp.engine import layout_of
from estimator.plans.models import load
from estimator.plans.plan import Plan
from estimator.witnesses import llama_cpp as engine
from tests.cases.llama_cpp_runs import MEASURED, device_runs

RECORD = MEASURED / "devices.json"
PARTS = ("weights", "cache and states", "compute", "output, in MiB as printed")
MODELS = (
    *("llama-3.2-1b", "mixtral-8x7b", "qwen2.5-1.5b", "qwen3-0.6b", "qwen3-30b-a3b", "gemma-2-2b", "gemma-3-1b"),
    *("deepseek-v3", "gpt-oss-20b", "lfm2-350m", "lfm2-8b-a1b", "granite-4.0-h-micro", "granite-4.0-h-tiny"),
    *("smollm3-3b", "phi-3-mini-4k"),
)
"""Their configs are made small."""
_WORKER = "import sys; from llama_cpp_py_sync.rpc import start_rpc_server as s; s(sys.argv[1], devices=['CPU'])"


def config(model: str, rng: random.Random) -> dict[str, Any]:
    """The config of a model with other, small sizes."""
    raw = dict(load(model).raw)
    kind, layers, heads = raw["model_type"], rng.randint(2, 9), rng.choice([2, 4, 8])
    kv_heads = rng.choice([n for n in (1, 2, 4, 8) if heads % n == 0])
    raw |= {
        "num_hidden_layers": layers,
        "hidden_size": heads * 64,
        "intermediate_size": rng.choice([512, 768, 1024]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": rng.choice([1000, 4096, 8192, 32000]),
        "tie_word_embeddings": rng.random() < 0.5,
    }
    if raw.pop("head_dim", None) is not None:
        raw["head_dim"] = rng.choice([64, 128])
    if raw.pop("layer_types", None) is not None and kind in ("lfm2", "lfm2_moe", "granitemoehybrid"):
        state, whole = ("mamba", "attention") if kind == "granitemoehybrid" else ("conv", "full_attention")
        raw["layer_types"] = [state, *rng.choices([state, whole], k=layers - 2), whole]
    if raw.get("sliding_window"):
        raw["sliding_window"] = rng.choice([64, 128, 512])
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if raw.get(key):
            raw |= {key: 8, "num_experts_per_tok": rng.randint(1, 3), "moe_intermediate_size": 256}
    more: dict[str, dict[str, Any]] = {
        "deepseek_v3": {
            "num_key_value_heads": heads,
            "kv_lora_rank": 128,
            "q_lora_rank": 96,
            "first_k_dense_replace": 1,
            "qk_rope_head_dim": 32,
            "qk_nope_head_dim": 64,
            "v_head_dim": 64,
            "n_group": 2,
            "topk_group": 1,
        },
        "lfm2": {"block_ff_dim": raw["intermediate_size"], "block_auto_adjust_ff_dim": False},
        "lfm2_moe": {"num_dense_layers": 1},
        "granitemoehybrid": {
            "mamba_n_heads": 8,
            "mamba_d_head": heads * 16,
            "mamba_d_state": 64,
            "mamba_n_groups": 1,
            "shared_intermediate_size": 512,
        },
        "gpt_oss": {"tie_word_embeddings": False, "intermediate_size": 256, "head_dim": 64},
        "gemma2": {"tie_word_embeddings": True},
        "gemma3_text": {"tie_word_embeddings": True},
    }
    raw |= more.get(kind, {})
    return raw


def random_run(rng: random.Random) -> dict[str, Any]:
    """A question: a model's config, a recipe, the number of devices and the options."""
    raw = config(rng.choice(MODELS), rng)
    devices, layers, flash = rng.randint(1, 3), raw["num_hidden_layers"], rng.random() < 0.6
    shares = [float(rng.randint(0, 5)) for _ in range(devices)]
    type_k = rng.choice(["f16", "f16", "q8_0", "f32"])
    latent = raw["model_type"].startswith("deepseek")
    options: dict[str, Any] = {
        "build": "b11739",
        "n_gpu_layers": rng.choice([999, layers + 1, rng.randint(0, layers)]),
        "tensor_split": shares if any(shares) else [1.0] * devices,
        "no_kv_offload": rng.random() < 0.2,
        "n_ctx": rng.choice([256, 512, 1000, 4096]),
        "n_batch": rng.choice([16, 64, 512, 2048]),
        "n_ubatch": rng.choice([16, 64, 512]),
        "flash_attn": flash,
        "n_seq_max": rng.choice([1, 1, 2, 3]),
        "kv_unified": rng.random() < 0.3,
        "swa_full": rng.random() < 0.2,
        "type_k": type_k if flash or not latent else "f16",
        "type_v": type_k if latent and flash else rng.choice(["f16", "f16", "q8_0"]) if flash else "f16",
        "use_mmap": rng.random() < 0.5,
        "n_cpu_moe": rng.choice([0, 0, 2]),
    }
    one = devices > 1 and rng.random() < 0.1
    if one:
        options |= {"tensor_split": None, "split_mode": "none", "main_gpu": rng.randrange(devices)}
    elif rng.random() < 0.15:
        weights = rng.choice([r"ffn_(up|down)", r"attn_(q|output)", r"blk\.[01]\.", "exps", "output"])
        place = rng.choice(["CPU", *(f"dev{i}" for i in range(devices))])
        options["override_tensor"] = f"{weights}={place}"
    dtype = rng.choice(["f16", "bf16", "q8_0", "q4_0", "q4_k_m"])
    return {"config": raw, "dtype": dtype, "devices": devices, "llama_cpp": options}


@contextmanager
def workers(count: int) -> Iterator[tuple[str, ...]]:
    """The endpoints of so many workers."""
    ports = []
    for _ in range(count):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([sys.executable, "-c", _WORKER, endpoint], **quiet) for endpoint in endpoints]
    try:
        for port in ports:
            _wait(port)
        yield endpoints
    finally:
        for worker in started:
            worker.kill()
            worker.wait()


def _wait(port: int) -> None:
    """Wait until a worker listens."""
    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"no worker on port {port}")


def measured(run: dict[str, Any], endpoints: tuple[str, ...], folder: Path) -> list[list[Any]]:
    """Bytes of the weights, of the cache and states, and of the compute buffer of each device, then of the host. The
    last is the output's buffer as the engine prints it, in MiB.

    Raises ``EngineError`` where the engine refuses.
    """
    header = convert.header(run["config"], "small", run["dtype"])
    path = folder / "model.gguf"
    engine.write_sparse(header, path)
    plan = Plan(model=str(path), devices=["rpc"] * run["devices"], llama_cpp=run["llama_cpp"])
    options, places = plan.llama_cpp, run["devices"]
    layout = layout_of(plan, run["config"]["num_hidden_layers"])
    overrides = tuple((pattern, places if place == layout.host else place) for pattern, place in layout.overrides)
    one = options.main_gpu if options.split_mode == "none" else None
    split = engine.Workers(
        endpoints[:places], options.n_gpu_layers or 0, options.tensor_split or (), options.no_kv_offload, overrides, one
    )
    p = options.parameters(1, None, 4096)
    report = engine.ask(path, p, use_mmap=options.use_mmap, no_alloc=False, workers=split)
    used = split.endpoints if one is None else split.endpoints[one : one + 1]
    names = [next((name for name in report.buffers if endpoint in name), "") for endpoint in used]
    of_host = [name for name in report.buffers if name not in names]
    found = []
    for group in (*([name] for name in names), of_host):
        parts = [report.buffers[name] for name in group if name]
        found.append([sum(part[key] for part in parts) for key in ("model", "context", "compute")])
    printed = re.findall(r"output buffer size = *([\d.]+) MiB", "".join(report.log))
    return [*([*row, "0.00"] for row in found[:-1]), [*found[-1], *printed]]


def predicted(run: dict[str, Any], folder: Path) -> list[list[Any]]:
    """The same bytes as an estimate has them."""
    path = folder / "config.json"
    path.write_text(json.dumps(run["config"]))
    options = run["llama_cpp"]
    result = estimate(
        model=str(path),
        dtype=run["dtype"],
        devices=["rpc"] * run["devices"],
        llama_cpp={**options, "backend": "cpu-avx512"},
    )
    found = []
    for device in result.devices:
        sizes = device["bytes"]
        cache = sizes["kv_cache"] + sizes["recurrent_state"]
        found.append([sizes["weights"], cache, sizes["compute"], f"{sizes['output'] / 2**20:.2f}"])
    return found


def runs(questions: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Questions with what the engine reported, without those that it refuses."""
    with workers(3) as endpoints, tempfile.TemporaryDirectory() as folder:
        for run in questions:
            with suppress(engine.EngineError):
                yield {**run, "buffers": measured(run, endpoints, Path(folder))}


def main(arguments: list[str]) -> None:
    """Print random runs, or ask the recorded ones again."""
    if arguments:
        rng = random.Random(arguments[1])
        for run in islice(runs(random_run(rng) for _ in count()), int(arguments[0])):
            print(json.dumps(run), flush=True)
        return
    head = {"engine": f"llama-cpp-py-sync, {engine.version()}", "date": datetime.now(UTC).date().isoformat()}
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs(device_runs()))
    RECORD.write_text(f'{json.dumps(head)[:-1]}, "parts": {json.dumps(PARTS)}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
