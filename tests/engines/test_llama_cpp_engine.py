"""llama.cpp's buffers and graphs against the installed engine."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator import estimate
from estimator.engines.llama_cpp import convert, gguf_file
from estimator.engines.llama_cpp.allocator import _Blocks
from estimator.engines.llama_cpp.builds import BUILDS
from estimator.engines.llama_cpp.context import Parameters
from estimator.engines.llama_cpp.ggml import TYPES
from estimator.engines.llama_cpp.graphs import GRAPHS
from estimator.engines.llama_cpp.header import Header, TensorInfo
from estimator.engines.llama_cpp.options import DEFAULTS
from estimator.engines.llama_cpp.recipes import RECIPES
from estimator.engines.llama_cpp.usage import Usage, _check, usage
from estimator.engines.llama_cpp.weights import weights
from estimator.engines.registry import engine_of
from estimator.errors import InputError
from estimator.plans.models import builtin_names, load, names_for
from estimator.plans.plan import parse_plan
from estimator.witnesses import llama_cpp as engine
from tests.cases.llama_cpp_runs import RECORDED, legacy, real_header
from tests.helpers.installed_engine import Node, graph, quantised_types

INSTALLED = BUILDS["b11739"]
SETTINGS = (
    Parameters(n_ctx=4096),
    Parameters(n_ctx=3000, flash_attn=False, n_ubatch=128),
    Parameters(n_ctx=8192, type_k="q8_0", type_v="q8_0", n_outputs_max=1),
    Parameters(n_ctx=8192, type_k="q4_0", type_v="q4_0", n_seq_max=4, kv_unified=True, n_outputs_max=4),
    Parameters(n_ctx=8192, n_seq_max=4, swa_full=True),
    Parameters(n_ctx=600, n_seq_max=3, n_batch=64, flash_attn=False),
)
ARCHITECTURES = {
    "llama": "llama-3.2-1b",
    "llama, more than one head size": "mistral-nemo-12b",
    "llama, experts": "mixtral-8x7b",
    "qwen2": "qwen2.5-1.5b",
    "qwen3": "qwen3-0.6b",
    "qwen3moe": "qwen3-30b-a3b",
    "smollm3": "smollm3-3b",
    "granite": "granite-3.3-2b",
    "gemma2": "gemma-2-2b",
    "gemma3": "gemma-3-270m",
    "gemma3n": "gemma-3n-e2b",
    "phi3": "phi-3-mini-4k",
    "phi3, long context": "phi-4-mini",
    "gpt-oss": "gpt-oss-20b",
    "deepseek2": "deepseek-v2-lite",
    "deepseek2, groups of experts": "deepseek-v3",
    "lfm2": "lfm2-350m",
    "lfm2moe": "lfm2-8b-a1b",
    "granitehybrid": "granite-4.0-h-micro",
    "granitehybrid, experts": "granite-4.0-h-tiny",
}


def test_free_blocks_are_merged() -> None:
    """By hand, after ``ggml_dyn_tallocr_free_tensor``: with what lies before, behind, and on both sides."""
    blocks = _Blocks()
    assert [blocks.take(size) for size in (10, 20, 5, 7)] == [0, 10, 30, 35]
    blocks.give(30, 5)
    blocks.give(0, 10)
    assert [*zip(blocks.starts, blocks.ends, strict=True)][:2] == [(0, 10), (30, 35)]
    assert (blocks.take(5), blocks.take(6)) == (30, 0)  # the smallest that fits
    blocks.give(0, 6)
    blocks.give(30, 5)
    blocks.give(25, 5)
    assert blocks.starts == [0, 25, 42]
    blocks.give(10, 15)
    assert (blocks.starts, blocks.ends[0]) == ([0, 42], 35)
    blocks.give(35, 7)
    assert (blocks.starts, blocks.highest) == ([0], 42)


def heads_allow(header: Header, p: Parameters) -> bool:
    size = header.metadata["attention.key_length"]
    return size % TYPES[p.type_k][0] == 0


ONLY_IN_FILES = {"gemma-3n-e2b": 22_940_160, "gemma-3n-e4b": 33_754_880}
"""Weights of Gemma 3n that the file has beyond the parameters of transformers' text model."""


KNOWN = [name for name in builtin_names() if load(name).raw["model_type"] in convert.FAMILIES]
"""Built-in models of families that the engine's converter is known for."""


@pytest.mark.parametrize("model", KNOWN)
def test_files_have_the_published_parameters(model: str) -> None:
    """Witness: the specs' parameter counts, and transformers' of the language model that is part of a larger one.

    Frequencies and the experts' biases are buffers in transformers.
    """
    spec = load(model)
    known = spec.parameters if spec.whole is None else estimate(model, batch=1, seq=8).total_parameters
    tensors = {
        name: tensor
        for name, tensor in real_header(model).tensors.items()
        if not name.startswith("rope_") and "exp_probs_b" not in name
    }
    count = sum(prod(tensor.shape) for tensor in tensors.values())
    assert count == (known or 0) + ONLY_IN_FILES.get(model, 0)


@pytest.mark.extra("engine")
def test_every_architecture_is_asked_about() -> None:
    asked = {real_header(model).architecture for model in ARCHITECTURES.values()}
    assert asked == set(GRAPHS) - {"granitemoe"}  # granitemoe has granite's graph with llama's experts
    assert engine.version() == INSTALLED.name


@pytest.mark.share(18)
@pytest.mark.extra("engine")
@pytest.mark.parametrize("model", [*ARCHITECTURES.values(), "deepseek-v2-lite legacy"])
def test_buffers_and_graph_equal_the_engine(model: str, tmp_path: Path) -> None:
    """Witness: the engine."""
    header = real_header(model.removesuffix(" legacy"))
    if model.endswith("legacy"):
        header = legacy(header)
    path = tmp_path / "model.gguf"
    engine.write_sparse(header, path)
    read = gguf_file.read(path)
    assert dict(read.tensors) == dict(header.tensors)
    for p in SETTINGS:
        if not heads_allow(header, p):
            continue
        found: list[Node] = []
        report = engine.ask(path, p, see=lambda raw, context, p=p, found=found: found.extend(graph(raw, context, p)))
        use = usage(read, p, INSTALLED, "cpu-avx512")
        nodes = [(node.op, node.kind, node.ne, node.nb) for node in graph_of(use)]
        engines = [(node.op, node.kind, node.ne, node.nb) for node in found]
        first = next((i for i, (a, b) in enumerate(zip(nodes, engines, strict=False)) if not same(a, b)), None)
        assert first is None, f"node {first}: {nodes[first]}, the engine has {found[first]}"
        assert len(nodes) == len(engines)
        context = use.context
        held = context.kv_bytes + context.recurrent_bytes
        assert (report.total("context"), report.total("compute")) == (held, use.reserved[0]), p
        assert report.total("model") == weights(read, "cpu-avx512", use_mmap=False).total


@pytest.mark.extra("engine")
@pytest.mark.parametrize("use_mmap", [True, False])
def test_a_tied_output_that_is_made_first(use_mmap: bool, tmp_path: Path) -> None:
    """Witness: the engine. Gemma 3n's output gets memory of its own, but where it is a page of the mapped file."""
    small = {"vocab_size": 4096, "vocab_size_per_layer_input": 4096, "hidden_size": 256, "head_dim": 64}
    raw = {**load("gemma-3n-e2b").raw, **small, "intermediate_size": [512] * 30, "num_attention_heads": 4}
    path = tmp_path / "model.gguf"
    engine.write_sparse(convert.header(raw, "small", "f16"), path)
    report = engine.ask(path, Parameters(n_ctx=256), use_mmap=use_mmap, no_alloc=False)
    found = weights(gguf_file.read(path), "cpu-avx512", use_mmap=use_mmap)
    assert report.total("model") == found.total == found.mapped + found.read


@pytest.mark.share(32)
@pytest.mark.parametrize("model", names_for("llama.cpp"))
def test_parts_of_the_peak(model: str) -> None:
    """What is resident holds all weights, and the peak is that and what a batch touches."""
    for dtype, use_mmap in itertools.product(("f16", "q4_0", "q8_0"), (True, False)):
        found = estimate(model, runtime="llama.cpp", dtype=dtype, use_mmap=use_mmap).bytes
        assert found["peak"] == found["resident"] + found["peak_above_resident"]
        assert found["parameters"] <= found["resident"]


def graph_of(use: Usage):
    from estimator.engines.llama_cpp.builder import Builder

    c = use.context
    sequences = c.parameters.n_seq_max
    tokens = -(-c.n_ubatch // sequences) * sequences
    builder = Builder(use.header, c, use.build, tokens, sequences, min(c.n_ubatch, c.n_outputs_max))
    return GRAPHS[use.header.architecture](builder).nodes


@pytest.mark.parametrize(("model", "tied"), [("qwen2.5-7b", False), ("smollm2-135m", True)])
def test_what_decoding_leaves_alone(model: str, tied: bool) -> None:
    """By hand: of an embedding a token reads a row, unless it is the head, too; repacked originals are not read."""
    header = real_header(model)
    embedding = header.tensors["token_embd.weight"].nbytes
    plain, repacked = (weights(header, "cpu-avx512", repack=repack) for repack in (False, True))
    assert (plain.idle, plain.repacked) == (0 if tied else embedding, 0)
    assert 0 < repacked.idle - plain.idle <= repacked.repacked < plain.total
    assert weights(header, use_mmap=False, repack=False).read == plain.total


ALIKE = {"mean": "sum_rows", "gelu": "unary"}


def same(ours: tuple, theirs: tuple) -> bool:
    op = ALIKE.get(theirs[0], theirs[0])
    return ours == (op, *theirs[1:])


@pytest.mark.share(12)
@pytest.mark.extra("engine")
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in ("f32", "f16", "bf16")])
def test_recipes_equal_the_engine(recipe: str) -> None:
    """Witness: the engine."""
    for model in KNOWN:
        if model in ("qwen2-72b", "qwen2.5-72b"):  # the engine's stand-in for a model knows of 70B for Llama alone
            continue
        if load(model).raw["model_type"] not in convert.FAMILIES:
            continue
        header = real_header(model, recipe)
        chosen = quantised_types(header, recipe)
        assert chosen == {name: header.tensors[name].kind for name in chosen}, model
        kept = {tensor.kind for name, tensor in header.tensors.items() if name not in chosen}
        assert kept <= {"f32", "bf16"}


@pytest.mark.extra("engine")
def test_mapped_and_repacked_equal_the_engine(tmp_path: Path) -> None:
    """Witness: the engine."""
    small = {**load("llama-3.2-1b").raw, "num_hidden_layers": 3, "hidden_size": 512, "intermediate_size": 1024}
    small |= {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096}
    for recipe in ("q4_0", "q4_k_m", "q8_0", "bf16"):
        header = convert.header(small, "small", recipe)
        path = tmp_path / f"{recipe}.gguf"
        engine.write_sparse(header, path)
        for mmap in (False, True):
            for repack in (False, True):
                p = Parameters(n_ctx=512)
                report = engine.ask(path, p, use_mmap=mmap, repack=repack, no_alloc=False)
                use = usage(header, p, INSTALLED, "cpu-avx512", use_mmap=mmap, repack=repack)
                assert report.buffers.get("CPU_REPACK", {}).get("model", 0) == use.weights.repacked
                if not mmap:
                    assert report.buffers["CPU"]["model"] == use.weights.read


@pytest.mark.extra("engine")
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("deepseek-v2-lite", Parameters(n_ctx=512, type_k="q8_0")),
        ("qwen3-0.6b", Parameters(n_ctx=512, type_v="q8_0", flash_attn=False)),
        ("phi-3.5-mini", Parameters(n_ctx=512, type_k="iq4_nl", type_v="iq4_nl")),
    ],
)
def test_refusals_are_the_engines(model: str, parameters: Parameters, tmp_path: Path) -> None:
    """Witness: the engine."""
    header = real_header(model)
    path = tmp_path / "model.gguf"
    engine.write_sparse(header, path)
    try:
        engine.ask(path, parameters)
        refused = False
    except engine.EngineError:
        refused = True
    if refused:
        with pytest.raises(InputError):
            usage(header, parameters, INSTALLED)
    else:
        usage(header, parameters, INSTALLED)


CACHES = st.sampled_from(("f16", "q8_0", "q4_0"))


@settings(max_examples=10, deadline=None)
@given(
    model=st.sampled_from(("llama-3.2-1b", "gemma-3-270m", "lfm2-350m", "deepseek-v2-lite")),
    cells=st.integers(1, 60),
    more=st.integers(1, 20),
    cache=CACHES,
    flash=st.booleans(),
    sequences=st.integers(1, 4),
)
def test_monotone_in_context(model: str, cells: int, more: int, cache: str, flash: bool, sequences: int) -> None:
    header = real_header(model)
    kind = cache if flash else "f16"
    p = Parameters(n_ctx=256 * cells * sequences, type_k=kind, type_v=kind, flash_attn=flash, n_seq_max=sequences)
    one, other = (usage(header, one, RECORDED) for one in (p, replace(p, n_ctx=p.n_ctx + 256 * more * sequences)))
    assert one.context.kv_bytes < other.context.kv_bytes
    assert one.context.recurrent_bytes == other.context.recurrent_bytes
    assert one.clean + one.dirty < other.clean + other.dirty
    assert sum(one.touched) <= sum(one.reserved)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "gemma-3-1b", "granite-4.0-h-micro"])
def test_result_adds_up(model: str) -> None:
    result = estimate(model=model, runtime="llama.cpp", llama_cpp={"n_ctx": 4096}, budget="8GiB")
    sizes = result.bytes
    held = sizes["mapped"] + sizes["repacked"] + sizes["kv_cache"] + sizes["recurrent_state"] + sizes["output"]
    assert sizes["resident"] == held
    assert sizes["peak"] == held + sizes["peak_above_resident"]
    assert sizes["process"] == sizes["clean"] + sizes["dirty"]
    assert result.fits is True
    assert result.to_dict()["schema"] == 1


def test_a_tied_output_is_repacked_as_a_second_copy() -> None:
    header = Header(
        "llama",
        {},
        {"token_embd.weight": TensorInfo("q4_0", (64, 320)), "output_norm.weight": TensorInfo("f32", (64,))},
        320,
    )
    from estimator.engines.llama_cpp.weights import weights

    size = 64 * 320 // 32 * 18
    assert weights(header).repacked == size
    assert weights(header, repack=False).repacked == 0


def test_a_block_has_the_engine_s_defaults() -> None:
    """Of what both have but the context, which the plan decides."""
    of_context = {one.name: one.default for one in fields(Parameters) if one.name not in ("n_ctx", "n_seq_max")}
    assert of_context == {name: getattr(DEFAULTS, name) for name in of_context}
    assert (DEFAULTS.use_mmap, DEFAULTS.repack, DEFAULTS.n_ctx, DEFAULTS.n_seq_max) == (True, True, None, None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"llama_cpp": {"n_ctx": 512}, "seq": 64}, "n_ctx 512"),
        ({"batch": 3, "seq": 64}, "n_ctx 192"),
        ({}, "the model's own context"),
    ],
)
def test_a_heading_says_the_context(keys: dict[str, Any], says: str) -> None:
    plan = parse_plan({"model": "qwen3-0.6b", "runtime": "llama.cpp", "dtype": "q8_0", **keys})
    assert engine_of("llama.cpp").heading(plan).startswith(f"qwen3-0.6b, Q8_0, {says}, cache f16")


@pytest.mark.parametrize("key", ["type_k", "type_v"])
def test_blocks_of_a_cache_fill_the_heads(key: str) -> None:
    """By hand: heads of 80 are no whole blocks of 32; keys and values may have different ones."""
    p = replace(Parameters(n_ctx=512), **{key: "q8_0"})
    fitting = (64, 80) if key == "type_k" else (80, 64)
    _check(False, fitting, p)
    with pytest.raises(InputError, match=f"{key} q8_0 packs 32 elements to a block, which heads of 80"):
        _check(False, fitting[::-1], p)


@pytest.mark.parametrize(("asked", "said"), [(1000, "the engine rounds n_ctx to 1,024"), (1024, "")])
def test_a_context_that_is_rounded_is_said(asked: int, said: str) -> None:
    result = estimate("smollm2-135m", runtime="llama.cpp", n_ctx=asked)
    assert "".join(note for note in result.warnings if "rounds n_ctx" in note) == said
