"""Questions about engines whose whole answers are recorded (``tests/helpers/whole_answers.py``): small models of sizes
that are all different, under the options of an engine in turn.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from estimator.engines.devices import assumptions, catalogue, context_bytes, limit_of
from estimator.engines.engine import Engine
from estimator.engines.executorch import plan as executorch_plan
from estimator.engines.executorch import pte_file, xnnpack
from estimator.engines.executorch.shapes import shape_of
from estimator.engines.llama_cpp import convert, gguf_file, hparams, projector, usage
from estimator.engines.llama_cpp.builds import BUILDS
from estimator.engines.llama_cpp.context import Parameters
from estimator.engines.llama_cpp.ggml import TYPES, Graph
from estimator.engines.llama_cpp.placement import BACKENDS, EXPERTS, ON_HOST, Device, Layout, share_out
from estimator.engines.llama_cpp.recipes import RECIPES
from estimator.engines.mlx.arrays import Array
from estimator.engines.mlx.engine import _generated, _trained
from estimator.engines.mlx.evaluation import Evaluator
from estimator.engines.mlx.layers import Setting
from estimator.engines.registry import KEYS, engine_of
from estimator.engines.replay import Timeline
from estimator.engines.served.checkpoint import checkpoint
from estimator.engines.served.engine import Served
from estimator.engines.snapshot import Snapshot
from estimator.engines.torch_cuda.caching_allocator import MIB, TIES
from estimator.errors import InputError
from estimator.plans.flat import nested
from estimator.plans.models import builtin_names, load
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from tests.cases.allocator_sequences import SETTINGS, make_requests
from tests.cases.executorch_programs import RECORD
from tests.cases.llama_cpp_devices import MODELS, config
from tests.cases.llama_cpp_projectors import KINDS, random_file
from tests.cases.random_questions import CARDS, EXECUTORCH, SGLANG, VLLM, drawn
from tests.cases.small_models import FAMILIES, METHODS, write_config
from tests.helpers.whole_answers import Each, Parts, parts_of

Question = tuple[str, Callable[[], Parts]]

# ---- llama.cpp ---------------------------------------------------------------------------------

SHAPES = (
    Parameters(n_ctx=700),
    Parameters(n_ctx=3000, flash_attn=False, n_ubatch=128, n_seq_max=3),
    Parameters(n_ctx=1500, type_k="q8_0", type_v="q8_0", n_outputs_max=1),
    Parameters(n_ctx=2100, n_batch=90, n_seq_max=4, kv_unified=True, n_outputs_max=5, type_k="f32", type_v="f32"),
    Parameters(n_ctx=1800, n_seq_max=2, swa_full=True, n_ubatch=40),
)


def _devices(*kinds: str) -> tuple[Device, ...]:
    return tuple(Device(f"{BACKENDS[kind].prefix}{i}", BACKENDS[kind]) for i, kind in enumerate(kinds))


def _on_two(layers: int) -> Layout:
    return Layout(_devices("cuda", "cuda"), share_out(layers, layers + 1, [2, 1]), pipelines=True)


LAYOUTS: tuple[Callable[[int], Layout], ...] = (
    lambda layers: ON_HOST,
    lambda layers: Layout(_devices("cuda"), share_out(layers, layers - 1, [1])),
    _on_two,
    lambda layers: Layout(_devices("metal"), share_out(layers, layers + 1, [1]), kv_on_host=True),
    lambda layers: Layout(
        _devices("vulkan", "rpc"), share_out(layers, layers, [1, 2], False), overrides=((rf"blk\.1{EXPERTS}", 2),)
    ),
    lambda layers: ON_HOST,
    lambda layers: Layout(_devices("cuda", "cuda"), (1,) * (layers + 1), rows=(3.0, 1.0)),
)
GEMMA_3N = {
    "vocab_size": 4096, "vocab_size_per_layer_input": 4096, "hidden_size": 256, "head_dim": 64,
    "intermediate_size": [512] * 30, "num_attention_heads": 4,
}  # fmt: skip
ASKED = (
    *MODELS,
    "gemma-3n-e2b",
    "phi-4-mini",
    "granite-3.3-2b",
    "mistral-nemo-12b",
    "deepseek-v2-lite",
    "gemma-3-270m",
)


def _graph(graph: Graph, layout: Layout) -> list[Any]:
    """Each tensor: what makes it of which others, where it is, and its place in a buffer."""
    order = {id(one): i for i, one in enumerate([*graph.leafs, *graph.nodes])}
    return [
        (
            one.op,
            one.kind,
            one.ne,
            one.nb,
            one.name,
            one.place,
            one.address,
            [order.get(id(s), -1) for s in one.sources],
        )
        for one in (*graph.leafs, *graph.nodes)
    ]


def _llama_cpp(
    raw: dict[str, Any], recipe: str, p: Parameters, build: str, layout: Any, cpu: str, number: int
) -> Parts:
    header = convert.header(raw, "small", recipe)
    mmap, repack = number % 3 > 0, number % 4 > 0
    use = usage.usage(header, p, BUILDS[build], cpu, layout, use_mmap=mmap, repack=repack, tokenizer=number % 2 > 0)
    graphs: list[Any] = []

    def allocated(graph: Graph, layout: Layout) -> Any:
        found = _real(graph, layout)
        graphs.append([found, _graph(graph, layout)])
        return found

    with patch.object(usage, "buffer_bytes", allocated):
        reserved, touched = use.reserved, use.touched
    context = use.context
    return {
        "header": Each([header.metadata, [(n, t.kind, t.shape, t.nbytes) for n, t in header.tensors.items()]]),
        "context": Each([context.hparams, replace(context, hparams=None), use.weights]),
        "caches": (context.kv_bytes, context.recurrent_bytes, context.output_bytes),
        "compute": Each([reserved, touched]), "places": use.layout.devices and (use.caches, use.places),
        "process": (use.overhead, use.clean, use.used, use.dirty),
        "graphs": Each(graphs),
    }  # fmt: skip


_real = usage.buffer_bytes


def llama_cpp() -> Iterator[Question]:
    """Small models of every architecture in five contexts each: headers, graphs, where tensors are, all buffers."""
    recipes, builds, cpus = (
        itertools.cycle(x) for x in (RECIPES, BUILDS, ("cpu", "cpu-avx512", "cpu-arm", "cpu-plain"))
    )
    layouts = itertools.cycle(LAYOUTS)
    for number, (model, (i, p)) in enumerate(itertools.product(ASKED, enumerate(SHAPES))):
        if model == "gemma-3n-e2b" and i > 2:  # its graphs are long
            continue
        chance = random.Random(f"{model} {i}")
        raw = {**load(model).raw, **GEMMA_3N} if model == "gemma-3n-e2b" else config(model, chance)
        if "mamba_n_groups" in raw and i % 2:
            raw |= {"mamba_n_groups": 2}
        if p.type_k == "q8_0" and raw["model_type"].startswith("phi"):
            p = replace(p, type_k="f16", type_v="f16")
        asked = partial(_llama_cpp, raw, next(recipes), p, next(builds), next(layouts), next(cpus), number)
        yield f"{model} {i}", asked
    for number, model in enumerate(builtin_names()):
        raw = load(model).raw
        if raw["model_type"] in convert.FAMILIES:
            yield f"{model}, file", partial(_file, raw, [*RECIPES][number % len(RECIPES)])


def _file(raw: dict[str, Any], recipe: str) -> Parts:
    header = convert.header(raw, "published", recipe)
    return {**parts_of(header), "tensors": [(n, t.kind, t.shape) for n, t in header.tensors.items()]}


# ---- files -------------------------------------------------------------------------------------

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's types of numbers, as ``struct`` has them."""


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _gguf_file() -> tuple[bytes, int]:
    """A small model's header with a key of every type, and the size of its file."""
    header = convert.header(config("llama-3.2-1b", random.Random(5)), "small", "f16")
    words = [f"word {i}" * (i % 4) for i in range(400)]
    keys = [_text("general.architecture") + struct.pack("<I", 8) + _text(header.architecture)]
    for name, value in header.metadata.items():
        kind = 6 if isinstance(value, float) else 4
        keys.append(_text(f"{header.architecture}.{name}") + struct.pack(f"<I{SCALARS[kind]}", kind, value))
    keys.append(_text("tokenizer.ggml.model") + struct.pack("<I", 8) + _text("gpt2"))
    for name, many in (("tokens", words), ("merges", words[:99])):
        keys.append(_text(f"tokenizer.ggml.{name}") + struct.pack("<IIQ", 9, 8, len(many)) + b"".join(map(_text, many)))
    for kind, code in SCALARS.items():
        keys.append(_text(f"one {kind}") + struct.pack(f"<I{code}", kind, kind % 2))
        keys.append(_text(f"list {kind}") + struct.pack(f"<IIQ3{code}", 9, kind, 3, 1, 0, 1))
    keys.append(_text("long") + struct.pack("<I", 8) + _text("x" * 70_000))
    keys.append(_text("many") + struct.pack("<IIQ", 9, 0, 70_000) + bytes(70_000))
    tensors, at = b"", 0
    for name, one in header.tensors.items():
        kind = {"f32": 0, "f16": 1}[one.kind]
        tensors += _text(name) + struct.pack(f"<I{len(one.shape)}QIQ", len(one.shape), *one.shape, kind, at)
        at += -(-one.nbytes // 32) * 32
    content = b"GGUF" + struct.pack("<IQQ", 3, len(header.tensors), len(keys)) + b"".join(keys) + tensors
    return content, -(-len(content) // 32) * 32 + at


def _damaged(read: Callable[[Path], Any], path: Path, content: bytes, size: int, places: Iterable[int]) -> Parts:
    """A file, and what is said where it is cut off or has another byte at each of some places."""

    def said(data: bytes, nbytes: int) -> Any:
        path.write_bytes(data)
        with path.open("rb+") as file:
            file.truncate(nbytes)
        try:
            return read(path)
        except InputError as error:
            return str(error).replace(str(path), "a file")

    path.parent.mkdir(parents=True, exist_ok=True)
    changed = [content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :] for at in places]
    return {
        "whole": Each([said(content, size), said(content, size - 1), said(content, size + 64)]),
        "cut off": Each([said(content[:at], at) for at in places]),
        "changed": Each([said(data, size) for data in changed]),
    }  # fmt: skip


def _projector(seed: int, kind: str) -> Parts:
    keys, tensors = random_file(random.Random(f"{kind} {seed}"), kind)
    seen: list[Any] = []

    def allocated(graph: Graph) -> Any:
        seen.append([_real(graph), _graph(graph, ON_HOST)])
        return seen[-1][0]

    def tables(path: Path) -> Any:
        return {"general.architecture": "clip", **keys}, tensors

    with patch.object(projector.gguf_file, "tables", tables), patch.object(projector, "buffer_bytes", allocated):
        return {"projector": projector.read(Path("mmproj.gguf")), "graph": seen}


def files(folder: Path) -> Iterator[Question]:
    """Headers of GGUF files and programs of ExecuTorch, whole, cut off and damaged; and projectors."""
    content, size = _gguf_file()
    start = content.index(b"tokenizer.ggml.model") + 900
    places = [*range(0, start, 11), *range(content.index(b"one 0"), content.index(b"long") + 12, 5)]
    places += range(content.index(b"many"), content.index(b"many") + 24, 3)
    places += range(content.rindex(b"token_embd"), len(content), 13)
    yield "gguf", lambda: _damaged(gguf_file.read, folder / "a.gguf", content, size, places)
    pte = base64.b64decode(json.loads(RECORD.read_text(encoding="utf-8"))["file"])
    yield "pte", lambda: _damaged(pte_file.read, folder / "a.pte", pte, len(pte), range(0, len(pte), 7))
    for seed, kind in enumerate([*KINDS] * 4):
        yield f"projector {kind} {seed}", partial(_projector, seed, kind)


# ---- MLX ---------------------------------------------------------------------------------------

MLX_MODEL: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 3, "intermediate_size": 320, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 211, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "max_position_embeddings": 999,
}  # fmt: skip
MLX_MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "qwen2": {"num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "norm_topk_prob": True,
        "decoder_sparse_step": 2, "mlp_only_layers": [2], "tie_word_embeddings": False,
    },
    "mixtral": {"num_attention_heads": 3, "num_key_value_heads": 1, "num_local_experts": 5, "num_experts_per_tok": 3},
    "phi3": {"num_attention_heads": 3, "num_key_value_heads": 1},
    "gemma2": {"query_pre_attn_scalar": 64, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {"query_pre_attn_scalar": 64, "sliding_window": 6, "sliding_window_pattern": 2},
}  # fmt: skip
TRAINED: tuple[dict[str, Any], ...] = (
    {"dtype": "float32", "method": {"name": "lora", "r": 5}, "batch": 3, "seq": 13, "mlx": {"num_layers": -1}},
    {"dtype": "mlx-4bit", "method": "full", "batch": 1, "seq": 9, "mlx": {"num_layers": 2, "q_group_size": 32}},
    {
        "dtype": "float32", "method": {"name": "lora", "r": 3, "use_dora": True}, "batch": 2, "seq": 7,
        "optimizer": "sgd", "checkpointing": "layer", "mlx": {"num_layers": 1}, "gradient_accumulation_steps": 3,
    },
    {"dtype": "mlx-8bit", "method": {"name": "lora", "r": 4}, "batch": 2, "seq": 11, "device": "apple-16gb"},
    {"dtype": "float16", "batch": 3, "seq": 15, "checkpointing": "layer", "device": "apple-m3-ultra-256gb"},
)  # fmt: skip
GENERATED: tuple[dict[str, Any], ...] = (
    {"dtype": "float32", "seq": 21, "mlx": {"max_tokens": 3, "prefill_step_size": 8}},
    {"dtype": "mlx-6bit", "seq": 19,
     "mlx": {"max_tokens": 2, "kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 9, "prefill_step_size": 8}},
    {"dtype": "float32", "seq": 23, "mlx": {"max_tokens": 4, "max_kv_size": 12, "prefill_step_size": 10}},
    {"dtype": "bfloat16", "seq": 300, "mlx": {"max_tokens": 2, "prefill_step_size": 256}, "device": "iphone-15"},
    {"dtype": "float32", "seq": 17, "mlx": {"max_tokens": 2, "kv_bits": 8, "quantized_kv_start": 0}},
)  # fmt: skip


def _mlx(raw: dict[str, Any], keys: dict[str, Any]) -> Parts:
    """Every node that is evaluated, and the allocator after it."""
    plan = parse_plan({"model": "llama-3.2-1b", "runtime": "mlx", **keys})
    bits = int(plan.dtype[4]) if plan.dtype.endswith("bit") else None
    trains, layers = plan.task == "train", plan.checkpointing == "layer"
    dtype = "bfloat16" if bits else plan.dtype
    setting = Setting(dtype, bits, plan.device is not None, plan.mlx.q_group_size, layers, trains)
    seen: list[Any] = []
    ran = Evaluator._run

    def run(self: Evaluator, a: Array) -> None:
        given = [(x.dtype, x.shape, x.strides, x.data_size, x.contiguous, x.refs, x.data.holders) for x in a.inputs]
        name, outputs = a.name, a.outputs
        attributes = () if name == "CustomTransforms" else a.attributes  # which tells them apart by an id
        ran(self, a)
        made = [(x.dtype, x.shape, x.strides, x.data_size, x.contiguous, x.data.nbytes) for x in outputs]
        memory, stream = self.allocator, self.stream
        seen.append((name, attributes, given, made, memory.active, memory.peak, memory.cached, stream.tasks))

    with patch.object(Evaluator, "_run", run):
        found = (_trained if trains else _generated)(plan, raw, setting)
    return {"figures": found[:7], "counts": found[8:], "moments": found.moments, "nodes": Each(_runs_of(seen, 200))}


def _runs_of(rows: list[Any], length: int) -> list[list[Any]]:
    return [rows[i : i + length] for i in range(0, len(rows), length)]


def mlx() -> Iterator[Question]:
    """A step and a call of every family: the graph as it is evaluated, node by node."""
    for number, (family, more) in enumerate(MLX_MODELS.items()):
        raw = {**MLX_MODEL, "model_type": family, **more}
        for i in range(3):
            keys = TRAINED[(2 * number + i) % len(TRAINED)]
            yield f"{family}, step {i}", partial(_mlx, raw, keys)
        yield f"{family}, call", partial(_mlx, raw, {"task": "infer", **GENERATED[number % len(GENERATED)]})


# ---- servers -----------------------------------------------------------------------------------

SERVED = (
    "mistral-7b-v0.1", "mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", "qwen3-30b-a3b", "gemma-3-27b",
    "gemma-2-2b",
    "granite-4.0-micro", "phi-4-mini", "nemotron-nano-9b-v2", "falcon-7b", "qwen3.5-27b", "gpt2", "lfm2-700m",
    "bloom-560m",
)  # fmt: skip


SPREAD = ("llama-4-scout", "gemma-4-26b-a4b", "gemma-3n-e2b", "deepseek-v3.2", "command-r7b", "granite-4.0-h-micro",
          "olmo-3-32b", "minimax-m2.5", "glm-5")  # fmt: skip
"""Models with caches of their own, on eight cards."""


RARELY = ("seqs", "num-speculative-tokens", "decode-context-parallel-size", "enable-expert-parallel", "ep-size")
"""Options that most models refuse."""


def _served(engine: Served, model: str, words: list[str], card: str) -> Parts:
    command = engine.grammar.parse(" ".join([engine.grammar.commands[0], model, *words]))
    device = next(one for one in catalogue() if one.name == card)
    given = engine.options(**command.options)
    found: dict[str, Any] = {"command": parts_of(command)}
    asked = checkpoint(model, load, getattr(given, engine.draft))
    try:
        resolved = engine.resolved(given, asked.spec, device)
        found["options"] = resolved.model_dump()
        found["said"] = [engine.notes(resolved), engine.remedies(resolved), engine.on_host(resolved)]
        engine.check(resolved, device)
        start = engine.start(asked, resolved, device)
    except InputError as error:
        return {**found, "refused": error}
    more = {key: one for key, one in parts_of(start).items() if key not in ("options", "cache", "bytes")}
    return {**found, "bytes": start.bytes, "cache": start.cache, "start": more, "serves": start.serves}


def servers() -> Iterator[Question]:
    """What vLLM and SGLang say at their start, of command lines at random."""
    chance = random.Random("servers")
    for name, choices in (("vllm", VLLM), ("sglang", SGLANG)):
        engine: Any = engine_of(name)
        for number, model in enumerate([*SERVED] * 6):
            values: dict[str, Any] = drawn(
                chance, {key: one for key, one in choices.items() if key not in RARELY or number > 75}, 4
            )
            values.pop("seqs", None)
            words = [f"--{key}={value}" if value else f"--{key}" for key, value in values.items()]
            card = chance.choice([*CARDS[2:], "a100-80gb"])
            yield f"{name} {number} {model} {card}", partial(_served, engine, model, words, card)
        ranks, length = ("tensor-parallel-size", "max-model-len") if name == "vllm" else ("tp-size", "context-length")
        words = [f"--{ranks}=8", f"--{length}=9000"]
        yield from ((f"{name} {model}", partial(_served, engine, model, words, "h200")) for model in SPREAD)
    for words in (["--speculative-config.model=opt-125m", "--speculative-config.num_speculative_tokens=3"],
                  ["--pipeline-parallel-size=3", "--tensor-parallel-size=2"]):  # fmt: skip
        yield f"vllm {' '.join(words)}", partial(_served, engine_of("vllm"), "gpt2", words, "l40s")
    for algorithm in ("NGRAM", "EAGLE"):
        words = [f"--speculative-algorithm={algorithm}"]
        yield f"sglang {algorithm}", partial(_served, engine, "mistral-7b-v0.1", words, "h200")


# ---- PyTorch on a card -------------------------------------------------------------------------

PROCESSES: tuple[dict[str, Any], ...] = (
    {}, {"method": METHODS["lora"], "checkpointing": "layer"}, {"optimizer": "adamw-8bit", "dtype": "bfloat16"},
    {"expandable_segments": True, "gradient_accumulation_steps": 2}, {"torch": "2.4", "gradient_clipping": True},
    {"method": METHODS["ia3"], "dtype": "int8", "autocast": "bfloat16"}, {"task": "infer", "use_cache": True},
    {"task": "infer", "generate": {"max_new_tokens": 7}}, {"lengths": {"histogram": {9: 5, 21: 3, 64: 1}}},
    {"lengths": {"histogram": {9: 5, 64: 1}}, "empty_cache": True, "optimizer": "sgd-momentum"},
    {"loss": "chunked", "loss_chunk": 7, "mlp_chunks": 3, "autocast": "bfloat16"}, {"optimizer": "adamw-fused"},
    {"sharding": {"name": "fsdp2", "world_size": 2}}, {"sharding": {"name": "ddp", "world_size": 4},
    "method": METHODS["lora"]},
    {"sharding": {"name": "zero2", "world_size": 2}, "dtype": "bfloat16"}, {"saved_activations": "int8"},
    {"sharding": {"name": "zero3", "world_size": 4}, "expandable_segments": True},
    {"dtype": "int8", "saved_activations": "int8", "method": METHODS["lora"]},
    {"task": "infer", "generate": {"max_new_tokens": 5, "num_beams": 2}, "attention": "eager"},
    {"previous_seq": 9, "budget": "900MiB"},
    {"expandable_segments": True, "task": "infer", "batch": 5}, {"trainer": "trl-sft"},
)  # fmt: skip


def _process(model: str, keys: dict[str, Any]) -> Parts:
    sizes = {"batch": 3} if "lengths" in keys else {"batch": 3, "seq": 41}
    plan = parse_plan({"model": model, "runtime": "torch-cuda", **sizes, **keys})
    engine, job = plan.engine, resolve(plan)
    timeline, snapshot = Timeline(), Snapshot()
    used = engine.replay(job, engine.batches(plan), None, timeline, snapshot)
    logs = engine.logs()
    peaks = used.allocated_peak
    within = [engine.usage(job, peaks, True, logs)]
    tight = job.plan.model_copy(update={"budget": f"{(engine.beside(plan) + peaks * 9 // 10) // 1024}KiB"})
    within.append(engine.usage(job._replace(plan=tight), peaks * 8 // 10, True, logs))
    shown = snapshot.to_dict(plan.expandable_segments)
    return {
        "usage": used._replace(phases=()), "phases": used.phases, "within": Each(within),
        "trace": Each(_runs_of([[*one.values()] for one in snapshot.trace], 100)),
        "segments": [shown["segments"], shown["allocator_settings"]],
        "timeline": Each([timeline.live, timeline.reserved, timeline.parts]),
        "floors": [engine.floors(job), engine.beside(plan), engine.batches(plan)],
    }  # fmt: skip


def _allocator(name: str, seed: int) -> Parts:
    """Random requests of several streams: the address and size of each block, and what the device was asked for."""
    chance, rows, seen = random.Random(seed), list[Any](), list[Any]()
    setting = SETTINGS[name]
    allocator = setting.allocator(TIES[[*TIES][seed % len(TIES)]])
    allocator.watch = lambda *what: seen.append(what)
    held: dict[int, Any] = {}
    sizes = (1, 700, 5000, MIB // 2, MIB + 1, 3 * MIB, 11 * MIB, 21 * MIB + 5, 70 * MIB)
    for number, (kind, what, _) in enumerate(make_requests(seed, lambda below: 1, 300)):
        try:
            if kind == "m":
                copies, stream = chance.choice([1, 1, 1, 3]), chance.choice(["", "", "side"])
                held[what] = allocator.malloc(chance.choice(sizes), copies, stream)
                rows.append((number, held[what].address, held[what].size))
            elif kind == "f" and what in held:
                allocator.free(held.pop(what), chance.choice([None, None, None, number + 9]))
            elif kind == "e":
                allocator.empty_cache()
            allocator.reached(number)
        except Exception as error:  # out of memory
            rows.append((number, type(error).__name__, [*vars(error).values()]))
        peaks = (allocator.allocated, allocator.reserved, allocator.peak_allocated, allocator.peak_reserved)
        rows.append((peaks, allocator.gave_back))
    return {"blocks": Each(_runs_of(rows, 150)), "device": seen, "segments": allocator.segments()}


def torch_cuda(folder: Path) -> Iterator[Question]:
    """Processes from their start: every event with its address, all segments, and within a budget."""
    families = itertools.cycle(FAMILIES)
    for number, keys in enumerate(PROCESSES):
        family = next(families)
        raw = {"model_type": family, "num_hidden_layers": 3, "vocab_size": 611, **FAMILIES[family]}
        yield f"{number} {family} {' '.join(keys)}", partial(_process, write_config(folder / str(number), raw), keys)
    for seed, name in enumerate([*SETTINGS] * 2):
        yield f"allocator, {name}, {seed}", partial(_allocator, name, seed)


# ---- ExecuTorch --------------------------------------------------------------------------------


def _executorch(row: dict[str, Any]) -> Parts:
    plan = parse_plan({"model": "llama-3.2-1b", "runtime": "executorch", **row["plan"]})
    options = plan.executorch
    shape = shape_of(row["config"], "small", options, plan.dtype, plan.seq)
    graphs = [executorch_plan._Model(shape), executorch_plan._Delegated(shape)]
    tensors = [[(one.size, one.start, one.end) for one in graph.write()] for graph in graphs]
    group, table = options.quantization_group_size, options.embedding_quantize
    return {
        "shape": shape, "tensors": Each(tensors), "workspaces": xnnpack.workspaces(shape),
        "arena": [executorch_plan.planned_bytes(shape, delegated) for delegated in (False, True)],
        "parts": Each([xnnpack.parts_of(shape, quantised, group, table) for quantised in (False, True)]),
        "constants": [getattr(executorch_plan, one)(shape) for one in ("constant_bytes", "unread_bytes",
        "cache_bytes")],
    }  # fmt: skip


def executorch() -> Iterator[Question]:
    """Every tensor that the exporter plans, of the programs that were exported and of models of odd sizes."""
    chance = random.Random("executorch")
    for row in json.loads(RECORD.read_text(encoding="utf-8"))["programs"]:
        yield row["name"], partial(_executorch, row)
    for number, (family, raw) in enumerate([*EXPORTED.items()] * 6):
        options = drawn(chance, {key: one for key, one in EXECUTORCH.items() if key != "max_seq_length"}, 3)
        plan = {"dtype": ("float32", "8da4w", "bfloat16")[number % 3], "seq": 90 + 7 * number, "executorch": options}
        yield f"odd {number} {family}", partial(_executorch, {"config": {**raw, "model_type": family}, "plan": plan})


EXPORTED: dict[str, dict[str, Any]] = {
    family: {
        "hidden_size": 96 * n, "num_hidden_layers": n + 1, "intermediate_size": 160 * n, "num_attention_heads": 6,
        "num_key_value_heads": n, "head_dim": 32, "vocab_size": 611, "tie_word_embeddings": n == 2, "rope_theta": 1e4,
    }
    for n, family in enumerate(("llama", "qwen2", "qwen3"), 1)
}  # fmt: skip

# ---- what every engine says --------------------------------------------------------------------

PLANS: tuple[dict[str, Any], ...] = (
    {"model": "llama-3.2-1b", "runtime": "torch-cpu", "seq": 65, "method": "lora"},
    {"model": "qwen3-0.6b", "runtime": "torch-cpu", "seq": 65, "task": "infer", "generate": {"max_new_tokens": 9}},
    {"model": "llama-3.2-1b", "runtime": "torch-cuda", "device": "t4", "seq": 65, "task": "infer"},
    {"model": "llama-3.2-1b", "runtime": "torch-cuda", "device": "h100-80gb", "seq": 65, "sharding": {"name": "ddp",
    "world_size": 8}},
    *({"model": "llama-3.2-1b", "runtime": "llama.cpp", **keys} for keys in (
        {}, {"seq": 700, "batch": 3}, {"device": "iphone-15", "n_ctx": 1000}, {"device": "iphone-15",
        "budget": "5500MiB"},
        {"device": "pixel-8", "dtype": "q8_0"}, {"device": "apple-16gb", "use_mmap": False},
        {"device": "raspberry-pi-4", "n_ctx": 300}, {"device": "rtx-4090", "n_ctx": 9000, "type_k": "q8_0"},
        {"device": "rtx-3090", "backend": "vulkan", "n_gpu_layers": 7, "no_kv_offload": True}, {"backend": "cuda"},
        {"device": "rtx-4090", "preset": "ollama"}, {"device": "t4", "preset": "ollama", "seq": 900, "n_batch": 100},
        {"devices": ["rtx-3090", "rtx-3060", "gtx-1080-ti"], "tensor_split": [3, 1], "n_ctx": 3000},
        {"devices": ["rtx-3090", "rtx-3060"], "split_mode": "row", "main_gpu": 1, "build": "2025"},
        {"devices": ["rtx-3090", "rtx-3060"], "split_mode": "none", "main_gpu": 1, "budget": "2GiB"},
        {"devices": ["rpc", "rpc=3GiB"], "tensor_split": [1, 2], "override_tensor": "blk\\.1\\.ffn_up=CPU"},
        {"devices": ["cuda", "metal"], "tensor_split": [1, 2], "model_draft": "llama-3.2-3b", "n_ctx": 512},
        {"device": "jetson-nano"}, {"n_ctx": 200000}, {"device": "rtx-4090", "model_draft": "llama-3.2-1b",
        "n_ctx": 700},
    )),
    {"model": "qwen3-30b-a3b", "runtime": "llama.cpp", "device": "rtx-4090", "n_cpu_moe": 30, "n_ctx": 4096},
    {"model": "lfm2-700m", "runtime": "llama.cpp", "devices": ["rtx-4090", "rtx-3060"], "n_gpu_layers": 9, "seq": 99},
    *({"runtime": "mlx", "seq": 33, **keys} for keys in (
        {}, {"device": "apple-16gb", "method": "lora", "batch": 2}, {"dtype": "mlx-4bit", "budget": "3GiB"},
        {"task": "infer", "device": "apple-m4-pro-48gb", "iogpu_wired_limit_mb": 9000},
    )),
    *({"model": "llama-3.2-1b", "runtime": "executorch", **keys} for keys in (
        {"seq": 300}, {"device": "iphone-15", "max_context_length": 500}, {"device": "pixel-8", "dtype": "float32"},
        {"device": "iphone-15", "budget": "5500MiB"}, {"delegate": "none", "dtype": "bfloat16", "seq": 200000},
        {"dtype": "float32", "quantize_kv_cache": True, "device": "apple-16gb"},
    )),
    *({"model": "llama-3.1-8b", "runtime": runtime, "device": "a100-80gb", "seq": 3000, "batch": 7, **keys}
      for runtime in ("vllm", "sglang") for keys in ({}, {"dtype": "float16", "batch": 900}, {"device": "l4"})),
    {"model": "llama-3.1-8b", "runtime": "vllm", "device": "l40s", "seq": 900, "kv_offloading_size": 3},
    *({"model": "gemma-3-1b", "runtime": "litert", **keys} for keys in (
        {}, {"device": "pixel-8"}, {"device": "iphone-15"}, {"seq": 2000}, {"seq": 9999}, {"model": "qwen3-0.6b"},
    )),
)  # fmt: skip
SIZES = {name: 1000 + 7**i for i, name in enumerate((
    "weights", "parameters", "buffers", "optimizer", "gradients", "saved", "resident", "kv_cache", "recurrent_state",
    "output", "peak_above_resident", "planned", "activation", "cudagraph", "non_torch", "states",
))}  # fmt: skip


def _plan(keys: dict[str, Any], small: str) -> Parts:
    """What an engine says of a plan, method by method of its protocol; a method that it has not is refused."""
    plan = parse_plan(nested({}, keys))
    engine = plan.engine
    devices = {None, plan.device and engine.device_of(plan)}
    found: dict[str, Any] = {
        "heading": engine.heading(plan).replace(small, "a small model"), "asked": engine.asked(plan),
        "release": engine.release(plan),
        "against": [engine.against(plan, device) for device in devices if device or not plan.device],
        "alike": "".join(str(int(engine.runs_alike(plan, device))) for device in catalogue()),
        "keys": [engine.recipe_of(plan), engine.dtype("bfloat16")],
    }  # fmt: skip
    for peak_at in ("loss backward", "optimizer step", "forward"):
        with suppress(KeyError):
            found[f"parts at {peak_at}"] = [engine.parts(SIZES, peak_at, alive) for alive in (False, True)]
    if engine.runs_steps:
        return {
            **found,
            "beside": [engine.beside(plan), engine.process(plan, 77), engine.batches(plan), engine.kernels(plan)],
        }
    model = engine.model(plan, load)
    figures = engine.figures(plan, model)
    found |= {f"figures.{name}": value for name, value in parts_of(figures).items()}
    found["left"] = [one.budget and one.left for one in figures.limits]
    for name, ask in _questions(engine, plan, model).items():
        with suppress(NotImplementedError, AttributeError):
            try:
                found[name] = ask()
            except InputError as error:
                found[name] = error
    return found


def _questions(engine: Engine, plan: Plan, model: Any) -> dict[str, Callable[[], Any]]:
    keys = {"model": "a model", "llama_cpp": {"n_batch": 9}, "dtype": plan.dtype}
    return {
        "limits": lambda: engine.limits(plan, model), "sequences": lambda: engine.sequences(plan),
        "contexts": lambda: engine.contexts(plan, model), "stored": lambda: engine.stored(model),
        "compared": lambda: [engine.compared(keys, r, [("f16", "q8_0")]) for r in ([], ["q8_0", "f16"])],
        "cache": lambda: [engine.cache_of(plan), engine.cache_types(plan)], "layers": lambda: engine.layers(model),
        "at a context": lambda: engine.figures(engine.at_context(plan, 777), model).bytes,
        "shared out": lambda: [engine.places(plan), *(engine.shared_out(plan, n) for n in (3, engine.layers(model)))],
    }  # fmt: skip


def _says(name: str) -> Parts:
    engine, own = engine_of(name), KEYS[name]
    said = {
        key: getattr(engine, key) for key in dir(Engine) if key[0] != "_" and not callable(getattr(Engine, key, None))
    }
    fields = {key: (one.default, one.description) for key, one in own.fields.model_fields.items()}
    blocks = [one.annotation for one in own.fields.model_fields.values() if hasattr(one.annotation, "model_fields")]
    options = {key: (one.default, one.metadata, one.description) for b in blocks for key, one in b.model_fields.items()}
    rest = {
        k: [*v] if k.startswith("refused") else v for k, v in own._asdict().items() if k not in ("fields", "claims")
    }
    return {
        "engine": Each([*said.items()]),
        "keys": Each([*rest.items(), *fields.items()]),
        "options": Each([*options.items()]),
    }


def engines(folder: Path) -> Iterator[Question]:
    """What every engine says of plans, and of itself; and every device."""
    small = write_config(folder / "small", {**MLX_MODEL, "model_type": "llama"})
    for number, keys in enumerate(PLANS):
        asked = {**keys, "model": small} if keys["runtime"] == "mlx" else keys
        yield f"{keys['runtime']} {number}", partial(_plan, asked, small)
    for name in KEYS:
        yield name, partial(_says, name)
    yield "devices", _devices_said
    yield "headers", _headers_said


def _devices_said() -> Parts:
    cards = [one for one in catalogue() if one.capability is not None]
    return {
        "devices": Each([*catalogue()]), "contexts": Each([context_bytes(one) for one in cards]),
        "limits": Each([[limit_of(one, e) for e in (False, one.entitled_bytes is not None)] for one in catalogue()]),
        "assumed": Each([[assumptions(one, e, b) for e, b in ((False, False), (False, True),
        (one.entitled_bytes is not None, False))] for one in catalogue()]),
        "said": Each([[one.maker, one.is_card, one.is_apple, one.is_phone, one.ram] for one in catalogue()]),
    }  # fmt: skip


def _headers_said() -> Parts:
    """What is accepted in a GGUF header, and the types that tensors have."""
    return {
        "numbers": Each([*hparams.RANGES.items()]), "factors": Each([*hparams.FACTORS.items()]),
        "types": Each([(number, kind, TYPES[kind]) for number, kind in gguf_file.TENSOR_TYPES.items()]),
    }  # fmt: skip


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "llama_cpp": lambda folder: llama_cpp(), "mlx": lambda folder: mlx(), "executorch": lambda folder: executorch(),
    "servers": lambda folder: servers(), "torch_cuda": torch_cuda, "engines": engines, "files": files,
}  # fmt: skip
"""By the name of a table, its questions; a folder is for files that are asked about."""
