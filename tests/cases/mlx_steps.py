"""Steps and calls of mlx-lm on MLX's CPU backend, of small random models: what ``mx.get_peak_memory`` says of them.

``python -m tests.cases.mlx_steps`` writes ``docs/measured/mlx/runs.json`` anew, where mlx-lm is installed (``make
.venv-mlx/made``). Names of cases as arguments: only theirs. The first step of a process makes kernels, and is left out.
Of the others all peaks are recorded: the thread that frees runs beside the one that allocates, so that they differ.
"""

from __future__ import annotations

import datetime
import importlib
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[2] / "docs" / "measured" / "mlx" / "runs.json"
STEPS, CALLS = 6, 4
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "intermediate_size": 640,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "max_position_embeddings": 4096,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
QWEN2 = {
    **LLAMA,
    "model_type": "qwen2",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
GEMMA2 = {
    **LLAMA,
    "model_type": "gemma2",
    "query_pre_attn_scalar": 64,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
GEMMA3 = {
    **LLAMA,
    "model_type": "gemma3_text",
    "query_pre_attn_scalar": 64,
    "sliding_window": 64,
    "sliding_window_pattern": 2,
}
PHI3 = {**LLAMA, "model_type": "phi3", "num_key_value_heads": 4, "tie_word_embeddings": False}
QWEN3_MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 192,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
MIXTRAL = {
    **LLAMA,
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
LORA, DORA = {"name": "lora"}, {"name": "lora", "use_dora": True}
ALL, LAYER = {"num_layers": -1}, {"checkpointing": "layer"}
BF16, FP16, FP32 = ({"dtype": dtype} for dtype in ("bfloat16", "float16", "float32"))
Q4, Q8 = {"dtype": "mlx-4bit"}, {"dtype": "mlx-8bit"}
SMALL, LONG = {"batch": 2, "seq": 64}, {"batch": 1, "seq": 200}


def infer(seq: int, **options: Any) -> dict[str, Any]:
    return {"task": "infer", "seq": seq, "mlx": options}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama-lora": (LLAMA, {**BF16, **SMALL, "method": LORA, "mlx": ALL}),
    "llama-full": (LLAMA, {**BF16, **SMALL, "mlx": {"num_layers": 2}}),
    "llama-lora-4bit-layer": (LLAMA, {**Q4, **SMALL, "method": LORA, "mlx": ALL, **LAYER}),
    "mistral-dora": (MISTRAL, {**BF16, **LONG, "method": DORA, "mlx": {"num_layers": 2}}),
    "qwen2-full": (QWEN2, {**BF16, "batch": 4, "seq": 32, "mlx": ALL}),
    "qwen2-lora-8bit": (QWEN2, {**Q8, **SMALL, "method": {"name": "lora", "r": 16}, "mlx": ALL}),
    "qwen3-dora": (QWEN3, {**BF16, "batch": 3, "seq": 64, "method": DORA, "mlx": {"num_layers": 2}}),
    "qwen3-lora-layer": (QWEN3, {**FP32, **LONG, "method": LORA, "mlx": ALL, **LAYER}),
    "gemma2-lora-layer": (GEMMA2, {**BF16, **SMALL, "method": LORA, "mlx": ALL, **LAYER}),
    "gemma3-lora": (GEMMA3, {**FP16, "batch": 2, "seq": 96, "method": LORA, "mlx": ALL}),
    "gemma3-full": (GEMMA3, {**BF16, **SMALL, "mlx": {"num_layers": 1}}),
    "phi3-lora": (PHI3, {**BF16, **LONG, "method": LORA, "mlx": ALL}),
    "qwen3-moe-lora": (QWEN3_MOE, {**FP32, **SMALL, "method": LORA, "mlx": ALL}),
    "qwen3-moe-full-layer": (QWEN3_MOE, {**FP32, **SMALL, "mlx": {"num_layers": 2}, **LAYER}),
    "mixtral-lora-4bit": (MIXTRAL, {**Q4, **SMALL, "method": LORA, "mlx": ALL}),
    "llama-generate": (LLAMA, {**BF16, **infer(513, max_tokens=3)}),
    "qwen3-generate": (QWEN3, {**BF16, **infer(300, max_tokens=2)}),
    "qwen2-generate-8bit": (QWEN2, {**Q8, **infer(200, max_tokens=2, prefill_step_size=64)}),
    "gemma3-generate": (GEMMA3, {**BF16, **infer(400, max_tokens=4, prefill_step_size=150)}),
    "qwen3-generate-rotating": (QWEN3, {**BF16, **infer(500, max_tokens=2, prefill_step_size=128, max_kv_size=300)}),
    "llama-generate-8bit-cache": (LLAMA, {**BF16, **infer(300, kv_bits=8, quantized_kv_start=0)}),
    "llama-generate-4bit-cache": (
        LLAMA, {**BF16, **infer(300, kv_bits=4, quantized_kv_start=100, prefill_step_size=128)},
    ),
}  # fmt: skip
"""A config and a plan by name."""


def build(config: dict[str, Any], dtype: str) -> Any:
    """The model, as ``mlx_lm.load`` makes it of a config."""
    import mlx.core as mx
    import mlx.nn as nn

    names = {"mistral": "llama"}
    module = importlib.import_module(f"mlx_lm.models.{names.get(config['model_type'], config['model_type'])}")
    model = module.Model(module.ModelArgs.from_dict(config))
    if hasattr(model, "tie_word_embeddings"):
        model.sanitize({})
    model.set_dtype(getattr(mx, "bfloat16" if dtype.startswith("mlx") else dtype))
    if dtype.startswith("mlx"):
        own = getattr(model, "quant_predicate", None) or (lambda path, module: True)
        nn.quantize(model, 64, int(dtype[4]), class_predicate=lambda p, m: hasattr(m, "to_quantized") and own(p, m))
    mx.eval(model.state)
    return model


def train(model: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """Steps as ``tuner/trainer.py: train`` makes them."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers
    import numpy
    from mlx.utils import tree_flatten
    from mlx_lm.tuner import trainer
    from mlx_lm.tuner.utils import linear_to_lora_layers

    method, layers = plan.get("method", {"name": "full"}), plan["mlx"]["num_layers"]
    model.freeze()
    if method["name"] == "full":
        for layer in model.layers[-max(layers, 0) :]:
            layer.unfreeze()
    else:
        options = {"rank": method.get("r", 8), "dropout": 0.0, "scale": 20.0}
        linear_to_lora_layers(model, layers, options, use_dora=method.get("use_dora", False))
    block = type(model.layers[0])
    call = block.__call__
    if plan.get("checkpointing") == "layer":
        trainer.grad_checkpoint(model.layers[0])
    optimizer = mlx.optimizers.AdamW(learning_rate=1e-5)
    gradients = nn.value_and_grad(model, trainer.default_loss)
    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(batch: Any) -> Any:
        (loss, tokens), gradient = gradients(model, *batch)
        optimizer.update(model, gradient)
        return loss, tokens

    model.train()
    losses: Any = 0
    seen: Any = 0
    peaks = []
    rows, words = plan["batch"], model.args.vocab_size
    for _ in range(STEPS):
        ids = numpy.random.randint(0, words, (rows, plan["seq"] + 1)).astype(numpy.int32)
        batch = mx.array(ids), mx.array([[0, plan["seq"] + 1]] * rows)
        mx.eval(batch)
        before = ready()
        loss, tokens = step(batch)
        losses += loss
        seen += tokens
        mx.eval(state, losses, seen)
        del loss, tokens
        mx.synchronize()
        peaks.append(mx.get_peak_memory() - before)
    block.__call__ = call

    def nbytes(tree: Any) -> int:
        return sum(array.nbytes for _, array in tree_flatten(tree))

    return {
        "parameters": nbytes(model.parameters()),
        "gradients": nbytes(model.trainable_parameters()),
        "optimizer": nbytes(optimizer.state),
        "peaks_above_resident": peaks[1:],
    }


def ready() -> int:
    """The active memory, once nothing is cached or under way."""
    import mlx.core as mx

    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    active: int = mx.get_active_memory()
    return active


def generate(model: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """Calls of ``generate_step``."""
    import mlx.core as mx
    import numpy
    from mlx.utils import tree_flatten
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    model.eval()
    options = {"max_tokens": 1, **plan["mlx"]}
    size = options.pop("max_kv_size", None)
    peaks, cached = [], 0
    for _ in range(CALLS):
        before = ready()
        caches = make_prompt_cache(model, size)
        prompt = mx.array(numpy.random.randint(0, model.args.vocab_size, (plan["seq"],)).astype(numpy.int32))
        for _ in generate_step(prompt, model, prompt_cache=caches, **options):
            pass
        mx.synchronize()
        peaks.append(mx.get_peak_memory() - before)
        cached = sum(cache.nbytes for cache in caches)
        del caches, prompt
    parameters = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    return {"parameters": parameters, "kv_cache": cached, "peaks_above_resident": peaks[1:]}


def measured(name: str) -> dict[str, Any]:
    """What MLX says of a case."""
    config, plan = CASES[name]
    model = build(config, plan["dtype"])
    return generate(model, plan) if plan.get("task") == "infer" else train(model, plan)


def main(names: list[str]) -> None:
    """Measure cases and write them."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {"runs": {}}
    for name in names or CASES:
        known["runs"][name] = measured(name)
        print(name, known["runs"][name], flush=True)
        versions = {package: version(package) for package in ("mlx", "mlx-lm")}
        runs = {case: known["runs"][case] for case in CASES if case in known["runs"]}
        known = {"versions": versions, "date": datetime.date.today().isoformat(), "runs": runs}
        lines = ",\n".join(f"  {json.dumps(case)}: {json.dumps(run)}" for case, run in runs.items())
        head = f' "versions": {json.dumps(versions)},\n "date": "{known["date"]}",\n'
        RECORD.write_text(f'{{\n{head} "runs": {{\n{lines}\n }}\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
