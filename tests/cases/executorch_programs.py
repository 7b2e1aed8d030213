"""Programs that ``export_llm`` made of small random models, and processes that ran them.

``docs/measured/executorch.json`` has the rows: a model's config.json, the plan's keys, the bytes that the program
plans and that its constants have, and of some by how much a process grew that ran a prompt of the longest length, then
one token. ``python -m tests.cases.executorch_programs`` in an environment with ExecuTorch 1.5.1 exports and runs them
anew; words after the command are names of rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[2] / "docs" / "measured" / "executorch.json"
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "8da4w": "fp32"}


def params_of(config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The exporter's parameters of a model."""
    family = config["model_type"]
    return {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "hidden_dim": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "partial_rotary_factor": config.get("partial_rotary_factor", 1.0),
        "use_hf_rope": options.get("use_hf_rope", family != "llama"),
        "use_qk_norm": family == "qwen3",
        "qk_norm_before_rope": family == "qwen3",
        "attention_qkv_bias": family == "qwen2",
        "ffn_dim_multiplier": config.get("ffn_dim_multiplier", 1),
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }


def export(row: dict[str, Any], folder: Path) -> Path:
    """The program of a row."""
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import DtypeOverride, LlmConfig, ModelType

    dtype, options = row["plan"]["dtype"], row["plan"].get("executorch", {})
    params = folder / "params.json"
    params.write_text(json.dumps(params_of(row["config"], options)))
    config = LlmConfig()
    config.base.model_class, config.base.params = ModelType.llama3_2, str(params)
    config.base.metadata = '{"get_bos_id": 1, "get_eos_ids": [2]}'
    model = config.model
    model.dtype_override = DtypeOverride(DTYPES[dtype])
    model.use_kv_cache = options.get("use_kv_cache", True)
    model.use_sdpa_with_kv_cache = options.get("use_sdpa_with_kv_cache", model.use_kv_cache)
    model.quantize_kv_cache = options.get("quantize_kv_cache", False)
    model.enable_dynamic_shape = options.get("enable_dynamic_shape", True)
    config.debug.generate_full_logits = options.get("generate_full_logits", False)
    config.export.max_context_length = options["max_context_length"]
    config.export.max_seq_length = options.get("max_seq_length", min(128, options["max_context_length"]))
    if options.get("delegate", "xnnpack" if dtype == "8da4w" else "none") == "xnnpack":
        config.backend.xnnpack.enabled = config.backend.xnnpack.extended_ops = True
    if dtype == "8da4w":
        config.quantization.qmode, config.quantization.group_size = dtype, options.get("quantization_group_size", 32)
        config.quantization.embedding_quantize = options.get("embedding_quantize", "4,32")
    path = folder / "model.pte"
    config.export.output_name = str(path)  # a name that ends in .pte is the whole path
    export_llama(config)
    return path


def grown(program: Path, tokens: int) -> dict[str, int]:
    """Bytes by which this process's memory grows when it loads a program, and runs a prompt and one token."""
    import torch
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 # registers attention
    from executorch.extension.pybindings import portable_lib
    from executorch.kernels import quantized  # noqa: F401 # registers quantised embeddings

    def held() -> dict[str, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {name: int(line.split()[1]) * 1024 for line in lines for name in ("RssAnon", "VmRSS") if name in line}

    torch.set_num_threads(2)
    before = held()
    module = portable_lib._load_for_executorch(str(program))
    prompt = torch.ones(1, tokens, dtype=torch.int64)
    module.forward((prompt, torch.tensor([0])))
    module.forward((prompt[:, :1], torch.tensor([tokens])))
    return {name: size - before[name] for name, size in held().items()}


def measured(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row anew."""
    from estimator.engines.executorch import pte_file

    path = export(row, folder)
    program = pte_file.read(path)
    found = {**row, "planned": max(one.planned for one in program.methods), "constants": program.constants}
    if "run" in row:
        options = row["plan"]["executorch"]
        tokens = options.get("max_seq_length", min(128, options["max_context_length"])) - 1
        command = [sys.executable, "-m", "tests.cases.executorch_programs", "run", str(path), str(tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        found["run"] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(words: list[str]) -> None:
    """Write the record anew, or of the rows with these names."""
    if words[:1] == ["run"]:
        print(json.dumps(grown(Path(words[1]), int(words[2]))))
        return
    import tempfile

    data = json.loads(RECORD.read_text())
    for index, row in enumerate(data["programs"]):
        if not words or row["name"] in words:
            with tempfile.TemporaryDirectory() as folder:
                data["programs"][index] = measured(row, Path(folder))
            print(row["name"], data["programs"][index]["planned"], flush=True)
    lines = ",\n".join(json.dumps(row) for row in data["programs"])
    RECORD.write_text(json.dumps({**data, "programs": []}, indent=0)[:-3] + "\n" + lines + "\n]\n}\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main(sys.argv[1:])
