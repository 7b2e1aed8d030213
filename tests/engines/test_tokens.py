"""``generate`` on a GPU: the passes that make each token, and the process that makes them all."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from estimator import estimate
from estimator.engines.replay import Timeline
from estimator.engines.snapshot import Snapshot
from estimator.engines.torch_cuda.caching_allocator import Block, CachingAllocator, one_by_one
from estimator.engines.torch_cuda.process import Log, Logs, Process, replay
from estimator.engines.torch_cuda.tokens import Tokens, matched
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.show.cli import main
from tests.cases.small_models import write_config

MODEL = "smollm2-135m"
MISTRAL = {"model_type": "mistral", "sliding_window": 24, "num_hidden_layers": 7}
GEMMA = {"model_type": "gemma2", "sliding_window": 16, "num_hidden_layers": 12, "query_pre_attn_scalar": 16}
LLAMA = {"model_type": "llama", "num_hidden_layers": 6}
MIXTRAL = {"model_type": "mixtral", "num_hidden_layers": 5, "num_key_value_heads": 2, "num_local_experts": 5}
STATIC = {"cache_implementation": "static", "disable_compile": True}
OFFLOADED = {"cache_implementation": "offloaded"}
OFFLOADED_STATIC = {"cache_implementation": "offloaded_static", "disable_compile": True}


def job(config: dict[str, Any], folder: Path, **keys: Any) -> Resolved:
    """A plan of a small model on a GPU."""
    return resolve(parse_plan({"model": str(write_config(folder, config)), "device": "a100-80gb", **keys}))


class Noted(CachingAllocator):
    """The caching allocator, with what it is asked for: the number of each request and its bytes, which are below zero
    where it is freed. Nothing is left out where requests come round.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[int, int]] = []
        self.requests: dict[Block, tuple[int, int]] = {}
        self.streams: dict[int, str] = {}

    def malloc(self, nbytes: int, copies: int = 1, stream: str = "") -> Block:
        block = super().malloc(nbytes, copies, stream)
        self.requests[block] = len(self.log), nbytes
        self.streams[len(self.log)] = stream
        self.log.append(self.requests[block])
        return block

    def free(self, block: Block, until: int | None = None) -> None:
        number, nbytes = self.requests.pop(block)
        self.log.append((number, -nbytes))
        super().free(block, until)

    play = one_by_one

    def small_state(self, blocks: Mapping[int, Block]) -> Hashable:
        return len(self.log)


class Loaded(Process):
    """A process that notes where its loading ends."""

    def _load(self, log: Log) -> None:
        super()._load(log)
        assert isinstance(self.allocator, Noted)
        self.before = len(self.allocator.log)


CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"seq": 9, "generate": {"max_new_tokens": 12}}),
    (LLAMA, {"seq": 9, "dtype": "float32", "generate": {"max_new_tokens": 20}, "sdpa_kernel": "math"}),
    (LLAMA, {"seq": 5, "generate": {"max_new_tokens": 9, **STATIC}}),
    (LLAMA, {"seq": 5, "generate": {"max_new_tokens": 9, "cache_implementation": "quantized"}}),
    (LLAMA, {"seq": 5, "batch": 2, "generate": {"max_new_tokens": 9, "num_beams": 3}}),
    (LLAMA, {"seq": 5, "autocast": "bfloat16", "dtype": "float32", "generate": {"max_new_tokens": 9}}),
    (LLAMA, {"seq": 5, "dtype": "nf4", "method": "lora", "generate": {"max_new_tokens": 5}}),
    (MISTRAL, {"seq": 18, "batch": 3, "generate": {"max_new_tokens": 12}}),
    (MISTRAL, {"seq": 30, "generate": {"max_new_tokens": 5, "num_beams": 2}}),
    (MISTRAL, {"seq": 18, "generate": {"max_new_tokens": 12, **STATIC}}),
    (GEMMA, {"seq": 10, "attention": "eager", "generate": {"max_new_tokens": 12}}),
    (LLAMA, {"seq": 9, "attention_mask": True, "generate": {"max_new_tokens": 12, "num_beams": 2}}),
    (MISTRAL, {"seq": 18, "attention_mask": True, "generate": {"max_new_tokens": 12, **STATIC}}),
    (MIXTRAL, {"seq": 18, "batch": 2, "generate": {"max_new_tokens": 9}}),
    (LLAMA, {"seq": 9, "generate": {"max_new_tokens": 12, **OFFLOADED}}),
    (LLAMA, {"seq": 5, "batch": 2, "generate": {"max_new_tokens": 9, "num_beams": 3, **OFFLOADED_STATIC}}),
    (GEMMA, {"seq": 10, "generate": {"max_new_tokens": 12, "num_beams": 2, **OFFLOADED}}),
]
"""Small models, and calls of them in which windows are short, full, and filled."""


@pytest.mark.consistency
@pytest.mark.share(12)
@pytest.mark.parametrize(("config", "keys"), CALLS, ids=str)
def test_a_pass_with_a_symbol_is_that_of_each_number(config: Any, keys: Any, tmp_path: Path) -> None:
    """Witness: formula, run for one number of tokens: the same allocations in the same order."""
    asked = job(config, tmp_path, **keys)
    tokens = Logs().tokens(asked, asked.plan.batch, asked.plan.seq)
    for number in range(1, asked.step.procedure.tokens):
        one, events = tokens.at(number)
        alone = Tokens(tokens._run)
        alone._passes.append(alone._numbered(number))
        other, expected = alone.at(number)
        assert one.carried == other.carried
        assert one.kept == other.kept
        assert events.order[one.first : one.stop] == expected.order[other.first : other.stop]
        assert events.sizes == expected.sizes
    assert len(tokens._passes) <= 5


@pytest.mark.consistency
@pytest.mark.share(4)
@pytest.mark.parametrize(("config", "keys"), CALLS, ids=str)
def test_every_token_begins_with_what_the_one_before_left(config: Any, keys: Any, tmp_path: Path) -> None:
    """Witness: formula. Names, and the bytes of each tensor of the cache; what is left over is of that pass alone."""
    asked = job(config, tmp_path, **keys)
    logs = Logs()
    log, tokens = logs.of(asked, asked.plan.batch, asked.plan.seq), logs.tokens(asked, asked.plan.batch, asked.plan.seq)
    kept: Mapping[str, int] = log.kept
    sizes = log.events.sizes
    for number in range(1, asked.step.procedure.tokens):
        one, events = tokens.at(number)
        had = {name: sizes[n] for name, n in kept.items() if sizes[n]}
        has = {name: events.sizes[n] for name, n in one.carried.items() if events.sizes[n]}
        caches = [{name: n for name, n in x.items() if name.startswith("cache")} for x in (had, has)]
        assert caches[0] == caches[1]
        assert had.keys() <= has.keys()
        kept, sizes = one.kept, events.sizes


@pytest.mark.consistency
@pytest.mark.share(12)
@pytest.mark.parametrize(("config", "keys"), CALLS, ids=str)
def test_the_process_is_a_replay_of_its_events(config: Any, keys: Any, tmp_path: Path) -> None:
    """Witness: the allocator, given the whole list of allocations and frees of the process, one by one."""
    asked = job(config, tmp_path, **keys)
    process = Process(asked)
    process.allocator = noted = Noted()
    process.step(asked.plan.batch, asked.plan.seq)
    process.leave()
    again, live = CachingAllocator(), dict[int, Block]()
    for number, nbytes in noted.log:
        if nbytes > 0:
            live[number] = again.malloc(nbytes, stream=noted.streams[number])
        else:
            again.free(live.pop(number))
    usage = replay(asked, asked.plan.engine.batches(asked.plan))
    assert usage.allocated_peak == process.allocated_peak == again.peak_allocated
    assert usage.reserved_peak == process.reserved_peak == again.peak_reserved
    timeline, snapshot = Timeline(), Snapshot()
    assert replay(asked, asked.plan.engine.batches(asked.plan), timeline=timeline) == usage
    assert replay(asked, asked.plan.engine.batches(asked.plan), snapshot=snapshot) == usage
    assert [name for _, name in timeline.parts] == ["load", "forward", "decode", "end"]


BEAMS = {"max_new_tokens": 4, "num_beams": 3}
MEASURED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"seq": 140, "generate": {"max_new_tokens": 5}}),
    (MISTRAL, {"seq": 21, "generate": {"max_new_tokens": 6}}),
    (MISTRAL, {"seq": 18, "generate": {"max_new_tokens": 12, **STATIC}}),
    (LLAMA, {"seq": 130, "generate": BEAMS}),
    (LLAMA, {"seq": 140, "generate": {"max_new_tokens": 4, "cache_implementation": "quantized"}}),
    (LLAMA, {"seq": 140, "method": "lora", "generate": {"max_new_tokens": 4}}),
    (LLAMA, {"seq": 33, "attention_mask": True, "generate": BEAMS}),
    (MIXTRAL, {"seq": 50, "generate": {"max_new_tokens": 5}}),
    (LLAMA, {"seq": 140, "generate": {"max_new_tokens": 5, **OFFLOADED}}),
    (LLAMA, {"seq": 33, "generate": {**BEAMS, **OFFLOADED}}),
    (MISTRAL, {"seq": 21, "generate": {"max_new_tokens": 6, **OFFLOADED}}),
    (LLAMA, {"seq": 33, "generate": {**BEAMS, **OFFLOADED_STATIC}}),
]
WIDE = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 800, "vocab_size": 999}


@pytest.mark.share(9)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("config", "keys"), MEASURED, ids=str)
def test_events_are_those_of_a_measured_call(config: Any, keys: Any, tmp_path: Path) -> None:
    """Witness: measurement, on a CPU: all allocations and frees from a kilobyte on, first layer to last logits, and of
    each free which allocation it is of, from which the allocator's reserved bytes follow.

    Experts run as they do on a GPU, where ``generate`` asks the model for its device. Of a cache that is offloaded,
    PyTorch's meta device is the host, and the CPU the GPU.
    """
    from torch._C._profiler import _EventType

    from estimator.witnesses.measure import Profile, _step, without_collector
    from estimator.witnesses.reference.model import build_model

    wide = {**config, **WIDE, "num_hidden_layers": 2}
    keys = {"batch": 3, "dtype": "float32", "attention": "eager", **keys}
    name = keys["generate"].get("cache_implementation", "dynamic")
    offloads = name.startswith("offloaded")
    on_cpu = {**keys, "generate": {**keys["generate"], "cache_implementation": STAYS.get(name, name)}}
    asked = resolve(parse_plan({"model": str(write_config(tmp_path, wide)), **on_cpu}))
    options = asked.plan.generate.model_copy(update={"cache_implementation": name})
    procedure = replace(asked.step.procedure, options=options)
    own = asked.with_step(asked.step._replace(procedure=procedure))
    process = Loaded(job(wide, tmp_path, **keys) if config is MIXTRAL else own)
    process.allocator = noted = Noted()
    process.step(asked.plan.batch, asked.plan.seq)
    live_model = build_model(asked)
    experts = decoding(live_model) if config is MIXTRAL else offloading() if offloads else nullcontext()
    step, profile, found = _step(asked, live_model), Profile(), list[tuple[int, int, int]]()
    step.plan = step.plan.model_copy(update={"generate": options})
    with experts, without_collector():
        step.run()
        profile.start()
        step.run()
        profile.stop()

    def walk(event: Any) -> None:
        if event.typed[0] == _EventType.Allocation:
            found.append((event.start_time_ns, event.typed[1].alloc_size, event.typed[1].ptr))
        for child in event.children:
            walk(child)

    for root in profile._profile.profiler.kineto_results.experimental_event_tree():
        walk(root)
    measured, live = list[tuple[int, int]](), dict[int, int]()
    for number, (_, nbytes, address) in enumerate(sorted(found)):
        if nbytes > 0:
            live[address] = number
        if abs(nbytes) >= 1024 and address in live:
            measured.append((live[address], nbytes))
        if nbytes < 0:
            live.pop(address, None)
    predicted = [(number, nbytes) for number, nbytes in noted.log[process.before :] if abs(nbytes) >= 1024]
    rows = 3 * keys["generate"].get("num_beams", 1)
    embedded, logits = rows * asked.plan.seq * 512 * 4, rows * 999 * 4
    start = logits if config is MIXTRAL else embedded  # a prompt's experts run otherwise on a CPU
    first, begin = ([nbytes for _, nbytes in log].index(start) for log in (predicted, measured))
    end = max(i for i, (_, nbytes) in enumerate(measured) if nbytes == logits)
    there, compared = predicted[first : first + end - begin], measured[begin:end]
    assert [nbytes for _, nbytes in there] == [nbytes for _, nbytes in compared]
    assert len(there) > 100
    numbers = {other: number for (number, nbytes), (other, _) in zip(there, compared, strict=True) if nbytes > 0}
    for (number, nbytes), (other, _) in zip(there, compared, strict=True):
        assert nbytes > 0 or numbers.get(other, number) == number


def decoding(model: Any) -> Any:
    """Within it, ``generate`` switches experts as where the model is on a GPU."""
    import torch

    original = type(model)._optimize_model_for_decode

    @contextmanager
    def switched(self: Any) -> Iterator[None]:
        with patch.object(type(model), "device", torch.device("cuda")):
            inner = original(self)
            inner.__enter__()
        yield
        with patch.object(type(model), "device", torch.device("cuda")):
            inner.__exit__(None, None, None)

    return patch.object(type(model), "_optimize_model_for_decode", switched)


STAYS = {"offloaded": "dynamic", "offloaded_static": "static"}


@contextmanager
def offloading() -> Iterator[None]:
    """Within it, caches are offloaded from the CPU to the meta device, where nothing is allocated. A view of a part is
    copied first, as CUDA does. There are no streams."""
    import torch
    from transformers.cache_utils import CacheLayerMixin

    def offload(self: Any) -> None:
        for kind in ("keys", "values"):
            setattr(self, kind, getattr(self, kind).contiguous().to("meta"))

    def prefetch(self: Any) -> None:
        if self.is_initialized and self.keys.device != self.device:
            for kind in ("keys", "values"):
                setattr(self, kind, torch.zeros_like(getattr(self, kind), device=self.device))

    def reorder(self: Any, beams: Any) -> None:
        for kind in ("keys", "values"):
            setattr(self, kind, getattr(self, kind).index_select(0, beams.to(getattr(self, kind).device)))

    with (
        patch.multiple(CacheLayerMixin, offload=offload, prefetch=prefetch, reorder_cache=reorder),
        patch.object(torch, "Stream", MagicMock()),
        patch.object(torch.cuda, "default_stream", MagicMock()),
    ):
        yield


def test_of_which_layer_a_tensor_is() -> None:
    """By hand: tensors are matched by their names and sizes, then by their sizes in a layer, then in order."""
    kept = {"ids": 8, "cache.0.0": 4, "cache.0.1": 6, "cache.1.0": 4, "cache.1.1": 4, "gone": 3}
    sizes = {"ids": 16, "cache.0.0": 6, "cache.0.1": 4, "cache.1.0": 4, "cache.1.1": 5}
    names = {"cache.0.0": "cache.0.1", "cache.0.1": "cache.0.0", "cache.1.0": "cache.1.0", "cache.1.1": "cache.1.1"}
    assert matched(kept, sizes) == {**names, "ids": "ids"}


@pytest.mark.share(2)
@pytest.mark.parametrize(("model", "seq"), [("llama-3.2-1b", 2100), ("qwen2.5-1.5b", 300)])
def test_tokens_that_come_round_are_not_played_again(model: str, seq: int) -> None:
    """Witness: the same process with a timeline, where each allocation is played. In the first the large pool alone is
    played for most tokens; in the second keys and values are small."""
    asked = resolve(parse_plan({"model": model, "seq": seq, "device": "h200", "generate": {"max_new_tokens": 90}}))
    batches = asked.plan.engine.batches(asked.plan)
    with patch.object(Process, "_play", autospec=True, side_effect=Process._play) as played:
        usage = replay(asked, batches)
    assert (played.call_count < 80) == (model == "llama-3.2-1b")
    assert replay(asked, batches, timeline=Timeline()) == usage
    tight = replay(asked, batches, capacity=usage.reserved_peak - 1)
    assert tight.gave_back
    assert replay(asked, batches, capacity=usage.reserved_peak) == usage


@pytest.mark.share(6)
def test_more_tokens_take_more() -> None:
    """A call of one token is one pass; each further one has a larger cache, and a moment is told where none is left."""
    keys: dict[str, Any] = {"model": MODEL, "seq": 200, "batch": 4, "device": "rtx-4090"}
    found = {new: estimate(**keys, generate={"max_new_tokens": new}) for new in (1, 2, 400)}
    assert found[400].bytes["reserved_peak"] > found[2].bytes["reserved_peak"]
    assert [phase.name for phase in found[1].phases] == ["after load", "forward", "decode", "after step"]
    cache = {new: one.bytes["kv_cache"] for new, one in found.items()}
    decode = {new: next(p.allocated for p in one.phases if p.name == "decode") for new, one in found.items()}
    assert decode[400] - decode[2] >= cache[400] - cache[2]
    tight = estimate(
        **{**keys, "device": None}, runtime="torch-cuda", budget="850MiB", generate={"max_new_tokens": 400}
    )
    assert not tight.fits
    assert "out of memory in step 1 of 1, decode, token " in str(tight.warnings)
    with pytest.raises(InputError, match=r"ask for at most [0-9,]+ tokens"):
        estimate(**keys, generate={"max_new_tokens": 10**7})


@pytest.mark.share(6)
def test_an_offloaded_cache_is_on_the_host() -> None:
    """By hand: 30 layers with 3 heads of 64, keys and values in pinned blocks of powers of two; smaller ones stay."""
    keys: dict[str, Any] = {"model": MODEL, "seq": 200, "batch": 4, "device": "rtx-4090"}
    found = {
        name: estimate(**keys, generate={"max_new_tokens": 400, "cache_implementation": name, "disable_compile": True})
        for name in ("dynamic", "offloaded", "offloaded_static")
    }
    assert len({one.bytes["kv_cache"] for one in found.values()}) == 1
    pinned = {name: one.bytes.get("host_pinned", 0) for name, one in found.items()}
    assert pinned == {"dynamic": 0, "offloaded": 60 * (2**19 + 2**20), "offloaded_static": 60 * 2**20}
    last = {name: next(p.allocated for p in one.phases if p.name == "decode") for name, one in found.items()}
    layer = 2 * 599 * 4 * 3 * 64 * 2
    assert 26 * layer < last["dynamic"] - last["offloaded"] < 30 * layer


def test_refused(tmp_path: Path) -> None:
    """Compiled passes, and what several processes share."""
    keys: dict[str, Any] = {"model": MODEL, "device": "a100-80gb"}
    with pytest.raises(InputError, match="CUDA graphs; set disable_compile: true"):
        estimate(**keys, generate={"cache_implementation": "static"})
    with pytest.raises(InputError, match="generate has no rule with runtime: torch-cuda and sharding"):
        estimate(**keys, generate={}, sharding={"name": "fsdp2", "world_size": 4})


@pytest.mark.share(9)
def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The largest batch of a call fits with its margin."""
    line = [MODEL, "--seq", "200", "--max-new-tokens", "40", "--device", "rtx-4060", "--json"]
    assert main(["max-batch", *line]) == 0
    most = json.loads(capsys.readouterr().out)["answer"]
    assert main(["estimate", *line, "--batch", str(most)]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]
