"""SGLang's pools and the share of a GPU that it keeps: bytes of published logs, its rules by hand, and what it
refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.serving import serving, smallest_cluster
from estimator.engines.sglang.command_line import GRAMMAR
from estimator.engines.sglang.engine import ENGINE
from estimator.engines.sglang.pools import Pool, Tokens, most_requests, pool_of, slots_of_request
from estimator.engines.sglang.serving_options import ServingOptions
from estimator.engines.sglang.share import chunk_and_graph, static_share
from estimator.errors import InputError
from estimator.show.cli import main

GIB, MIB = 2**30, 2**20
LLAMA = "llama-3.1-8b"


def asked(model: str, device: str = "h100-80gb", **options: Any) -> Any:
    """What SGLang says, without mends."""
    return serving(model, device, [4096], ServingOptions(**options), False)


RATES = (
    ("Qwen/Qwen3-235B-A22B-FP8", 367404, 2 * 8.23, {"tp_size": 4}),
    (LLAMA, 442750, 2 * 27.02, {}),
    ("granite-4.0-h-micro", 399740, 2 * 1.52, {}),
)
"""Published: model, tokens of the pool and its GiB, options. They tell the bytes of a token."""


@pytest.mark.parametrize(("model", "tokens", "size", "options"), RATES, ids=[row[0] for row in RATES])
def test_bytes_of_a_token(model: str, tokens: int, size: float, options: dict[str, Any]) -> None:
    """Witness: published logs, to the digits that they print."""
    found = asked(model, "h200", **options)
    assert tokens * found.bytes["token"] / GIB == pytest.approx(size, abs=0.011)


def test_a_pool_of_windows() -> None:
    """Witness: a published log of Gemma 4 26B: 36.69 GB for 213,761 tokens, and 171,008 of the windows."""
    found = asked("gemma-4-26b-a4b", "h200")
    assert (213761 * found.bytes["token"] + 171008 * found.bytes["window"]) / GIB == pytest.approx(36.69, abs=0.01)
    assert int(213761 * 0.8) == 171008
    tokens = Tokens(20480, windows=204800, seen=1024)
    pool = pool_of(tokens, round(36.69 * GIB), ServingOptions(page_size=1))
    assert pool.tokens == pytest.approx(213761, rel=1e-3)
    assert pool.windows == int(pool.tokens * 0.8)
    assert pool.needed(5000) == 5000
    assert pool.needed(100) == 126  # whose windows take more of their pool
    assert pool_of(replace_full(tokens), 204800 * 8, ServingOptions(page_size=4)).tokens == 8


def replace_full(tokens: Tokens) -> Tokens:
    """A model all of whose layers have a window."""
    return Tokens(0, tokens.windows, tokens.seen)


def test_a_pool_of_states() -> None:
    """Witness: a published log of Granite 4.0 H Micro: 38 states, 0.03 and 2.74 GB."""
    found = asked("granite-4.0-h-micro", "rtx-4080", max_mamba_cache_size=38)
    assert 39 * found.bytes["convolved"] / GIB == pytest.approx(0.03, abs=0.005)
    assert 39 * found.bytes["recurrent"] / GIB == pytest.approx(2.74, abs=0.005)
    assert found.bytes["states"] == 39 * (found.bytes["convolved"] + found.bytes["recurrent"])
    assert found.options.max_running_requests == 38 // 5
    without = asked("granite-4.0-h-micro", "rtx-4080", max_mamba_cache_size=38, disable_overlap_schedule=True)
    assert without.options.max_running_requests == 38 // 4
    alone = asked("granite-4.0-h-micro", "rtx-4080", disable_radix_cache=True, max_running_requests=16)
    assert (alone.options.max_mamba_cache_size, alone.options.max_running_requests) == (16, 16)
    half = asked("granite-4.0-h-micro", "rtx-4080", max_mamba_cache_size=38, mamba_ssm_dtype="bfloat16")
    assert 2 * half.bytes["recurrent"] == found.bytes["recurrent"]
    derived = asked("granite-4.0-h-micro", "rtx-4080")
    rest = derived.bytes["states"] + derived.bytes["available"]
    state = derived.bytes["convolved"] + derived.bytes["recurrent"]
    assert derived.bytes["states"] <= rest * 0.9 / 1.9 < derived.bytes["states"] + state


def test_states_of_drafted_tokens() -> None:
    """Witness: formula, by hand: of as many requests as run, and one more, states after each of the drafted tokens."""
    drafts = {"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 3}
    for more, requests in (({}, 48), ({"max_running_requests": 2}, 2), ({"max_mamba_cache_size": 20}, 4)):
        found = asked("qwen3.5-27b", "h200", **drafts, **more)
        sizes = found.bytes
        state, rest = sizes["convolved"] + sizes["recurrent"], sizes["free"] - sizes["weights"] - sizes["reserve"]
        states = found.options.max_mamba_cache_size
        if "max_mamba_cache_size" not in more:
            assert states == int((rest * 0.9 / 1.9 - state * 4) // (state * (1 + 3 / 5)))
        kept = min(requests, states // 5)
        assert sizes["available"] == rest - state * (kept + 1) * 3 - (states + 1) * state
    plain = asked("qwen3.5-27b", "h200", max_mamba_cache_size=20, enable_dp_attention=True, dp_size=2, tp_size=2)
    assert plain.options.max_mamba_cache_size == 10


@pytest.mark.parametrize(
    ("total", "tp", "expected"),
    [
        (15360, 1, (2048, 8)),
        (24564, 1, (4096, 48)),
        (24564, 4, (4096, 160)),
        (40960, 2, (4096, 32)),
        (81559, 3, (8192, 256)),
        (81559, 4, (8192, 512)),
        (143771, 1, (8192, 256)),
        (183359, 1, (16384, 512)),
    ],
)
def test_chunks_and_graphs(total: int, tp: int, expected: tuple[int, int]) -> None:
    """Witness: the table of release 0.5.23."""
    assert chunk_and_graph(ServingOptions(tp_size=tp), total * MIB) == expected


def test_the_share_of_a_gpu() -> None:
    """Witness: formula, by hand: MiB left out on an H100, with 58 graphs of prompts, and on a card of 24 GB with 50."""

    def left(total: int = 81559, raw: dict[str, Any] | None = None, **options: Any) -> float:
        return total - static_share(ServingOptions(**options), raw or {}, total * MIB) * total

    whole = 512 + 8192 * 1.5 + 128 + 2 * 256 + 8 * 58
    assert left() == pytest.approx(whole, abs=41)  # a share has three digits
    assert left(disable_decode_cuda_graph=True) == pytest.approx(whole - 512, abs=41)
    assert left(disable_prefill_cuda_graph=True) == pytest.approx(whole - 464, abs=41)
    assert left(max_total_tokens=1024) == pytest.approx(whole - 464 + 8 * 38, abs=41)
    assert left(pp_size=2) == pytest.approx(whole - 464 + 128, abs=41)
    assert left(raw={"kv_lora_rank": 512}) == pytest.approx(whole - 464 + 1536, abs=41)
    assert left(chunked_prefill_size=1024, cuda_graph_max_bs_decode=1) == pytest.approx(10240, abs=41)
    assert left(chunked_prefill_size=-1) == pytest.approx(whole + 8192 * 1.5 - 464, abs=41)
    assert left(24564) == pytest.approx(512 + 4096 * 1.5 + 128 + 96 + 8 * 50, abs=13)
    attention = {"enable_dp_attention": True, "dp_size": 8, "tp_size": 8}
    many = 512 + 8192 * 1.5 + 1024 + 2 * 512 + 8 * 58
    assert left(**attention) == pytest.approx(many + 512 * 8 * 4.5, abs=41)
    assert left(**attention, cuda_graph_max_bs_decode=300) == pytest.approx(many - 424 + 300 * 8 * 3, abs=41)
    large = {"vision_config": {"num_hidden_layers": 27, "hidden_size": 1152}}
    assert static_share(ServingOptions(), large, 81559 * MIB) == pytest.approx(
        0.95 * (1 - 0.1 * (27 * 1152**2 / (24 * 1024**2) - 1)) * static_share(ServingOptions(), {}, 81559 * MIB)
    )


def test_requests_at_once() -> None:
    """Witness: formula, by hand: 2048 to 4096, half the tokens, a state for each slot."""

    def most(tokens: int, states: int | None = None, slots: int = 5, **options: Any) -> int:
        return most_requests(tokens, states, slots, ServingOptions(**{"context_length": 131072, **options}))

    assert [most(tokens) for tokens in (3000, 10**5, 768 * 1024, 10**9)] == [1500, 2048, 3072, 4096]
    assert most(10**5, max_running_requests=7) == 7
    assert most(10**5, max_running_requests=16, enable_dp_attention=True, dp_size=4, tp_size=4) == 4
    assert most(10**5, states=101) == 20


def test_what_more_takes() -> None:
    """An 8-bit cache has twice the tokens; what drafts, adapters, pipelines and groups of ranks take."""
    plain = asked(LLAMA)
    assert asked(LLAMA, kv_cache_dtype="fp8").bytes["token"] * 2 == plain.bytes["token"] == 32 * 2 * 8 * 128 * 2
    assert asked(LLAMA, page_size=64).kv_tokens == plain.kv_tokens // 64 * 64
    assert asked(LLAMA, max_total_tokens=1000).kv_tokens == 1000
    slots = asked(LLAMA, enable_lora=True, max_loras_per_batch=4).bytes["weights"] - plain.bytes["weights"]
    per_layer = sum(a + b for a, b in [(4096, 4096)] * 2 + [(4096, 1024)] * 2 + [(4096, 14336)] * 3)
    assert slots == 4 * 16 * 32 * per_layer * 2
    draft = asked(LLAMA, speculative_algorithm="STANDALONE", speculative_draft_model_path="llama-3.2-1b")
    assert draft.bytes["block"] == plain.bytes["token"] * 48 // 32
    assert draft.options.max_running_requests == 48
    stages = asked(LLAMA, pp_size=3)
    assert stages.bytes["token"] * 32 == plain.bytes["token"] * 11  # the last two stages have a layer more
    parts = sum(plain.bytes[key] for key in ("non_torch", "weights", "reserve", "states", "available"))
    assert parts == plain.bytes["total"]
    whole, split = (
        asked("qwen3-30b-a3b", tp_size=4, **more) for more in ({}, {"enable_dp_attention": True, "dp_size": 4})
    )
    assert whole.bytes["token"] * 4 == split.bytes["token"]
    assert split.bytes["weights"] > whole.bytes["weights"]
    assert split.options.chunked_prefill_size * 4 == whole.options.chunked_prefill_size
    placed = asked("qwen1.5-moe-a2.7b", tp_size=8, ep_size=8).bytes["weights"]
    assert placed > asked("qwen1.5-moe-a2.7b", tp_size=8).bytes["weights"]  # 8 of 60 experts, for 7.5


def test_sparse_and_latent_attention() -> None:
    """Witness: formula, by hand: 512 + 64 numbers; 656 bytes in 8 bits; 128 of the index with a scale."""
    latent = asked("deepseek-v3", "b200", tp_size=8, kv_cache_dtype="bfloat16")
    assert latent.bytes["token"] == 61 * 576 * 2
    sparse = asked("deepseek-v3.2", "b200", tp_size=8, kv_cache_dtype="bfloat16")
    assert (sparse.bytes["token"], sparse.options.page_size) == (61 * (576 * 2 + 132), 64)
    packed = asked("deepseek-v3.2", "b200", tp_size=8)
    assert packed.bytes["token"] == 61 * (656 + 132)
    drafted = asked("deepseek-v3", "b200", tp_size=8, speculative_algorithm="EAGLE")
    assert drafted.bytes["block"] // drafted.options.page_size == 62 * 576 * 2
    assert drafted.bytes["weights"] > latent.bytes["weights"]


def test_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Spellings, numbers, switches, lists, and options that have no rule."""
    text = """SGLANG_X=1 python3 -m sglang.launch_server --model-path Qwen/Qwen3-32B --tp 2 --dp-size=2 \\
        --enable-dp-attention --mem-fraction-static 0.8 --context-length 32k --trust-remote-code --port 1 --foo 3
        --cuda-graph-bs 1 2 40 8 --kv-cache-dtype fp8_e5m2 --disable-radix-cache"""
    assert GRAMMAR.server.is_command(text)
    assert not GRAMMAR.server.is_command("vllm serve x")
    found = GRAMMAR.parse(text)
    assert (found.model, found.unknown) == ("Qwen/Qwen3-32B", ["--foo"])
    assert found.options == {
        "tp_size": 2,
        "dp_size": 2,
        "enable_dp_attention": True,
        "mem_fraction_static": 0.8,
        "context_length": 32000,
        "cuda_graph_max_bs_decode": 40,
        "kv_cache_dtype": "fp8_e5m2",
        "disable_radix_cache": True,
    }
    image = "docker run --gpus 1 lmsysorg/sglang:latest python3 -m sglang.launch_server --model-path gpt2 --tp 2"
    assert GRAMMAR.server.is_command(image)
    assert (GRAMMAR.parse(image).model, GRAMMAR.parse(image).options) == ("gpt2", {"tp_size": 2})
    assert GRAMMAR.parse("sglang serve --model gpt2 --chunked-prefill-size -1").options == {"chunked_prefill_size": -1}
    served = GRAMMAR.parse("sglang serve --model gpt2 --disable-cuda-graph")
    assert (served.model, served.options) == (
        "gpt2",
        {"disable_decode_cuda_graph": True, "disable_prefill_cuda_graph": True},
    )
    assert main(["serving", f"sglang serve --model-path {LLAMA} --bar 1", "--device", "h100-80gb"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "Load weight end.",
        "KV Cache is allocated. #tokens: ",
        "max_total_num_tokens=",
        "here: --bar",
        "caching prefixes costs no tokens",
    ):
        assert words in printed.replace("\n", " ")
    assert not any("prefixes" in note for note in ENGINE.notes(ServingOptions(disable_radix_cache=True)))
    assert ENGINE.notes(ServingOptions(disable_radix_cache=True, free="1GiB")) == ()
    assert main(["serving", "qwen3-32b", "--runtime", "sglang", "--device", "rtx-4090", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"].startswith("torch.OutOfMemoryError: CUDA out of memory.")
    assert answer["mends"] == ["--tp-size 8"]


STOPS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("qwen3-32b", "h100-80gb", {"mem_fraction_static": 0.7}, "Loaded weights leave no GPU memory for the KV cache"),
    ("granite-4.0-h-micro", "rtx-4080", {"mem_fraction_static": 0.41}, "Not enough GPU memory for hybrid"),
    ("granite-4.0-h-micro", "rtx-4080", {"max_mamba_cache_size": 4}, "cache is too small to serve any requests"),
    ("gpt-oss-20b", "h100-80gb", {"max_total_tokens": 100}, "SWA pool (80 tokens) cannot hold even one request"),
    ("llama-4-scout", "h200", {"tp_size": 8}, "The table of 2,048 requests of 10,485,760 tokens needs 80.04 GiB"),
)


@pytest.mark.parametrize(("model", "device", "options", "says"), STOPS, ids=range(len(STOPS)))
def test_errors_that_stop_it(model: str, device: str, options: dict[str, Any], says: str) -> None:
    """In its words; what it suggests is asked again."""
    found = asked(model, device, **options)
    assert found.refusal is not None
    assert says in found.refusal
    assert found.refusal in found.log
    if "Raise --mem-fraction-static above" in found.refusal:
        least = float(found.refusal.split("above ")[1].split()[0])
        assert asked(model, device, mem_fraction_static=least + 0.001).refusal is None
        assert asked(model, device, mem_fraction_static=round(least - 0.001, 3)).refusal is not None


WRONG: list[tuple[list[str], str]] = [
    (["--tp-size", "3"], "3 ranks do not divide 32 attention heads"),
    (["--tp-size", "4", "--dp-size", "3", "--enable-dp-attention"], "take a dp_size that divides 4"),
    (["--tp-size", "4", "--ep-size", "3"], "ep_size 3 does not divide tp_size 4"),
    (["--context-length", "200000"], "User-specified context_length (200000) is greater than the derived"),
    (["--quantization", "deepspeedfp"], "Unknown quantization method: deepspeedfp"),
    (["--pp-size", "64"], "take fewer"),
    (["--speculative-algorithm", "EAGLE"], "name a speculative_draft_model_path"),
    (["--mem-fraction-static", "1"], "mem_fraction_static"),
    (["--max-model-len", "8"], "--max-model-len is no option of SGLang"),
    (["--chunked-prefill-size", "60000"], "or a smaller --chunked-prefill-size"),
    (["--device", "v100-32gb"], "compute capability 7.5"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_input(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    assert main(["serving", LLAMA, "--runtime", "sglang", "--device", "a100-80gb", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_server_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """A runtime that does not serve, and one beside another's command line."""
    assert main(["serving", LLAMA, "--runtime", "mlx", "--device", "a100-80gb"]) == 2
    assert "give one of vllm, sglang" in capsys.readouterr().err
    assert main(["serving", "vllm serve gpt2", "--runtime", "sglang", "--device", "a100-80gb"]) == 2
    assert "does not go with a command line of vLLM" in capsys.readouterr().err


def test_inverse_questions() -> None:
    """The answer serves, and the next one does not."""
    options = ServingOptions(context_length=30000)
    found = serving("qwen3-32b", "h100-80gb", [1], options)
    assert found.fits is False
    assert found.longest is not None
    assert found.least_share is not None
    assert f"--context-length {found.longest}" in found.mends
    assert asked("qwen3-32b", context_length=found.longest).fits
    assert not asked("qwen3-32b", context_length=found.longest + 1).fits
    assert asked("qwen3-32b", context_length=30000, mem_fraction_static=found.least_share).fits
    assert "refuses requests of more than" in found.warnings[-1]
    cards = {one.device: one.cards for one in smallest_cluster("qwen3-32b", ["h100-80gb"], options)}
    assert cards == {"h100-80gb": 2}


def test_a_plan_of_a_server() -> None:
    """Consistency: a plan's figures are those of ``serving``; the batch's cache decides."""
    plan = {"model": LLAMA, "runtime": "sglang", "device": "h100-80gb", "seq": 8192, "sglang": {"page_size": 16}}
    one = asked(LLAMA, context_length=8192, page_size=16)
    found = estimate({**plan, "batch": 4})
    assert (found.bytes["weights"], found.bytes["available"]) == (one.bytes["weights"], one.bytes["kv_cache"])
    assert found.bytes["kv_cache"] == 4 * 512 * one.bytes["block"]
    assert (found.to_dict()["kv_tokens"], found.to_dict()["task"]) == (one.kv_tokens, "serve")
    most = int(one.max_concurrency)
    assert [estimate({**plan, "batch": batch}).fits for batch in (most, most + 1)] == [True, False]
    with pytest.raises(InputError, match="runtime: sglang"):
        estimate({**plan, "task": "infer"})


def test_pages() -> None:
    """Witness: formula, by hand. Pages are whole, and a window's pool may be the smaller."""
    assert Pool(1024, page=64).needed(65) == 2
    assert Pool(1000, 500, seen=100).needed(100) == 200
    assert Pool(1000, 500, seen=100).needed(1000) == 1000
    capped = ServingOptions(
        disable_radix_cache=True, max_running_requests=2, chunked_prefill_size=100, page_size=1, max_total_tokens=50
    )
    windows = 2 * (16 + 128 + 2) + 2 * 100 + 1
    assert pool_of(Tokens(10, 10, 16), 10**4, capped) == Pool(50, windows, 16)
    whole = capped.model_copy(update={"max_total_tokens": None})
    assert pool_of(Tokens(10, 10, 16), 10**4, whole) == Pool(1000 - windows, windows, 16)


def test_a_pipeline_has_a_layer_for_each_rank() -> None:
    """As many ranks as layers, and one more, which is refused."""
    assert asked("llama-3.2-1b", pp_size=16).bytes["block"] > 0
    with pytest.raises(InputError, match="pp_size: 17 ranks have no layer each of 16; take fewer"):
        asked("llama-3.2-1b", pp_size=17)


@pytest.mark.parametrize(
    ("family", "options", "slots"),
    [
        ("qwen3_next", {}, 5),
        ("qwen3_next", {"disable_overlap_schedule": True}, 4),
        ("lfm2_moe", {}, 3),
        ("lfm2", {"disable_radix_cache": True}, 1),
    ],
)
def test_states_of_a_request(family: str, options: dict[str, Any], slots: int) -> None:
    """A cache of prefixes keeps states where a prefix ends, and batches that overlap one more."""
    config: Any = SimpleNamespace(family=family)
    assert slots_of_request(config, ServingOptions(**options)) == slots
