"""The replay of PyTorch's CUDA caching allocator. There is no GPU here: the witnesses are PyTorch's own allocator,
run over a stand-in for the CUDA runtime and recorded, and numbers that others published from their GPUs."""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.engines.torch_cuda.caching_allocator import MIB, NEWEST, TIES, Block, CachingAllocator, OutOfMemory, Ties
from estimator.errors import InputError
from estimator.plans.plan import Plan, parse_plan
from tests.cases.allocator_sequences import EVERY, RECORD, SEQUENCES, SETTINGS, replay

each_mode = pytest.mark.parametrize("expandable", [False, True], ids=["default", "expandable"])
each_sequence = pytest.mark.parametrize("sequence", SEQUENCES)
each_setting = pytest.mark.parametrize("setting", SETTINGS)
each_ties = pytest.mark.parametrize("ties", ["address", "block", "segment"])


@each_sequence
@each_setting
@each_ties
def test_pytorch_s_own_allocator(sequence: str, setting: str, ties: Ties) -> None:
    """Witness: ``libc10_cuda.so`` of torch 2.5 to 2.14 (2.1 to 2.4 in random sequences), recorded with
    ``benchmarks/c10_allocator/record.py`` over addresses that descend; those that do not go by addresses give the
    same where they ascend, and up to 2.11 with ascending ones the same as 2.14. To the byte, out-of-memory errors
    included."""
    recorded = json.loads(RECORD.read_text())[ties][sequence][setting]
    rows = list(replay(SEQUENCES[sequence], SETTINGS[setting].allocator(ties)))
    assert [list(row) for row in rows[EVERY - 1 :: EVERY]] == recorded


def test_releases_differ_where_blocks_are_equal() -> None:
    """Witness: the same libraries. Whether they agree depends on how often free blocks have the same size."""
    recorded = json.loads(RECORD.read_text())
    differing = {
        sequence
        for sequence in SEQUENCES
        if len({json.dumps(recorded[ties][sequence]["default"]) for ties in ("address", "block", "segment")}) > 1
    }
    assert "few sizes" in differing


@pytest.mark.parametrize(("ties", "first", "later"), [("segment", 0, 0), ("address", 1, 1), ("block", 0, 1)])
def test_which_of_two_equal_blocks(ties: Ties, first: int, later: int) -> None:
    """Witness: by hand, after the three comparators. Two segments each have 8 MiB to give, the older one's ``first``
    as it was made, ``later`` after 4 MiB of it had been cut off and merged again, which makes it the younger block."""
    for cut, expected in ((False, first), (True, later)):
        allocator = CachingAllocator(ties=ties)
        blocks = [allocator.malloc(size * MIB) for size in (8, 12, 8, 12)]
        allocator.free(blocks[0])
        if cut:
            allocator.free(allocator.malloc(4 * MIB))
        allocator.free(blocks[2])
        assert allocator.malloc(8 * MIB).address == blocks[2 * expected].address


def test_the_release_is_a_plan_s() -> None:
    """Witness: what the key means. A patch and a build do not matter, a number is ambiguous, the rest is refused."""
    assert get_args(Plan.model_fields["torch"].annotation) == tuple(TIES)
    plan = {"model": "llama-3.2-1b", "runtime": "torch-cuda"}
    assert parse_plan(plan).torch == NEWEST
    assert [parse_plan({**plan, "torch": text}).torch for text in ("2.10", "2.13.1", "2.14.0+cu130")] == [
        "2.10",
        "2.13",
        "2.14",
    ]
    for release in TIES:
        assert parse_plan({**plan, "torch": release}).torch == release
    for wrong in (2.1, "2.0", "1.13", "2", "2.10 x", "2.15", ""):
        with pytest.raises(InputError, match=r"^torch: .*known are 2\.1, .*, 2\.14$"):
            parse_plan({**plan, "torch": wrong})
    with pytest.raises(InputError, match="torch belongs to runtime: torch-cuda"):
        parse_plan({"model": "llama-3.2-1b", "torch": "2.10"})


def cycles(allocator: CachingAllocator, count: int) -> dict[int, tuple[int, int, int]]:
    """A 64 MiB tensor, then in each cycle 91 MiB, 45.5 MiB and 2 MiB, of which the last stays; MiB after each."""
    allocator.malloc(64 * MIB)
    shown = {}
    for cycle in range(count):
        short = [allocator.malloc(91 * MIB), allocator.malloc(91 * MIB // 2)]
        allocator.malloc(2 * MIB)
        for block in short:
            allocator.free(block)
        shown[cycle] = (allocator.allocated // MIB, allocator.reserved // MIB, allocator.peak_reserved // MIB)
    return shown


def test_expandable_segments_on_a_gpu() -> None:
    """Witness: pytorch/pytorch pull request 193400 and ROCm/legacy-rocm-build issue 6603 (torch 2.12 to 2.14 on a
    16,304 MiB RX 9070 XT, ``max_split_size_mb:128,expandable_segments:True``): allocated and reserved after cycles
    0 to 100, then one retry in cycle 115, which unmaps nearly all."""
    device = 16304 * MIB
    allocator = CachingAllocator(True, 16000 * MIB, 128 * MIB, device)  # 16,000 MiB is the peak they report
    shown = cycles(allocator, 121)
    assert {cycle: shown[cycle][:2] for cycle in range(0, 101, 20)} == {
        0: (66, 220),
        20: (106, 2980),
        40: (146, 5760),
        60: (186, 8520),
        80: (226, 11300),
        100: (266, 14060),
    }
    assert shown[115] == (296, 2680, 16000)
    assert shown[120][0] == 306


@pytest.mark.parametrize("options", [(False, None), (True, None), (False, 128 * MIB)])
def test_either_option_alone_on_a_gpu(options: tuple[bool, int | None]) -> None:
    """Witness: pytorch/pytorch issue 123548 (comment of 2026-08-13): either option alone, and neither, stay under
    500 MiB reserved in the same run."""
    expandable, max_split = options
    allocator = CachingAllocator(expandable, max_split_size=max_split)
    cycles(allocator, 121)
    assert 306 * MIB == allocator.allocated < allocator.peak_reserved < 500 * MIB


def test_convolution_and_pooling_on_a_gpu() -> None:
    """Witness: discuss.pytorch.org topic 138814 (pytorch/pytorch issue 69526): ``memory_reserved`` and
    ``memory_allocated`` in MiB before and after two forwards with ``empty_cache`` between. Conv2d(3, 28, 3) and two
    MaxPool2d(3, 2, 1) on [512, 3, 224, 224] float32; pooling also makes int64 indices and drops them."""
    allocator = CachingAllocator()
    allocator.malloc(28 * 27 * 4)
    allocator.malloc(28 * 4)
    alive: dict[str, Block] = {}
    shown = []

    def keep(name: str, block: Block) -> None:
        """Bind a name: what it held goes after the new value is there."""
        if name in alive:
            allocator.free(alive[name])
        alive[name] = block

    def show() -> None:
        shown.append((allocator.reserved // MIB, allocator.allocated // MIB))

    def pooled(elements: int) -> Block:
        output, indices = allocator.malloc(elements * 4), allocator.malloc(elements * 8)
        allocator.free(indices)
        return output

    for _ in range(2):
        keep("frames", allocator.malloc(512 * 3 * 224 * 224 * 4))
        show()
        keep("x", allocator.malloc(512 * 28 * 222 * 222 * 4))
        keep("x", pooled(512 * 28 * 111 * 111))
        keep("x", pooled(512 * 28 * 56 * 56))
        keep("pred", alive.pop("x"))
        show()
        allocator.empty_cache()
        show()
    assert shown[:3] == [(296, 294), (5014, 465), (1644, 465)]
    assert shown[4] == (5688, 465)


def test_what_pytorch_s_tests_and_docs_say() -> None:
    """Witness: pytorch/pytorch test_cuda.py ``test_memory_stats`` (256 floats are 1024 bytes), the summary in pull
    request 38884 (1024 bytes allocated, 2048 KiB reserved) and pull request 17120 (multiples of 2 MiB; requests of
    1 to 10 MiB split a block of 20 MiB)."""
    allocator = CachingAllocator()
    allocator.malloc(256 * 4)
    assert (allocator.allocated, allocator.reserved) == (1024, 2048 * 1024)
    for nbytes, segment in [(MIB + 1, 20), (10 * MIB - 512, 20), (10 * MIB - 511, 10), (21 * MIB + 1, 22)]:
        fresh = CachingAllocator()
        fresh.malloc(nbytes)
        assert fresh.reserved == segment * MIB


@each_mode
def test_out_of_memory_and_retry(expandable: bool) -> None:
    """Witness: pytorch/pytorch test_cuda.py ``test_out_of_memory_retry``: half of the device, which the context
    leaves less of than all, fits once, not twice, and again after the first half is freed."""
    total = 16384 * MIB
    allocator = CachingAllocator(expandable, total - 300 * MIB, device_memory=total)
    first = allocator.malloc(total // 2)
    with pytest.raises(OutOfMemory) as caught:
        allocator.malloc(total // 2)
    error = caught.value
    assert (error.requested, error.allocated, error.capacity) == (total // 2, total // 2, total - 300 * MIB)
    assert error.reserved == allocator.reserved
    allocator.free(first)
    allocator.malloc(total // 2)
    assert allocator.allocated == total // 2


def test_cached_segments_go_back_for_a_new_one() -> None:
    """Witness: by hand. 30 MiB cached cannot serve 40 MiB and do not fit beside it: they go back, and stay
    so when even that is not enough."""
    allocator = CachingAllocator(capacity=60 * MIB)
    allocator.free(allocator.malloc(30 * MIB))
    allocator.free(allocator.malloc(40 * MIB))
    assert (allocator.reserved, allocator.peak_reserved, allocator.gave_back) == (40 * MIB, 40 * MIB, True)
    with pytest.raises(OutOfMemory):
        allocator.malloc(61 * MIB)
    assert allocator.reserved == 0


def test_a_block_is_freed_once() -> None:
    """Witness: by hand."""
    allocator = CachingAllocator()
    block = allocator.malloc(5)
    allocator.free(block)
    with pytest.raises(ValueError, match="not allocated"):
        allocator.free(block)


@each_mode
def test_segments_of_a_small_sequence(expandable: bool) -> None:
    """Witness: by hand, after ``memory_snapshot``. Expandable granules lie side by side and count as one segment."""
    allocator = CachingAllocator(expandable)
    blocks = [allocator.malloc(size * MIB) for size in (8, 8, 8, 30)]
    allocator.free(blocks[1])
    found = [[(block.size // MIB, block.allocated) for block in segment.blocks] for segment in allocator.segments()]
    if expandable:
        assert found == [[(8, True), (8, False), (8, True), (30, True), (6, False)]]
    else:
        assert found == [[(8, True), (12, False)], [(8, True), (12, False)], [(30, True)]]


def test_peaks_start_again() -> None:
    """Witness: ``torch.cuda.reset_peak_memory_stats``'s documentation."""
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(50 * MIB))
    allocator.malloc(3)
    allocator.reset_peaks()
    assert (allocator.peak_allocated, allocator.peak_reserved) == (512, 52 * MIB)
    assert (allocator.allocated, allocator.reserved) == (512, 52 * MIB)


sizes = st.one_of(
    st.integers(1, 4096), st.integers(1, MIB + 512), st.integers(MIB, 12 * MIB), st.integers(9 * MIB, 80 * MIB)
)
below_own_segment = st.one_of(st.integers(1, MIB + 512), st.integers(MIB, 10 * MIB - 512))
steps = st.lists(st.tuples(st.integers(0, 99), sizes), max_size=60)


def run(allocator: CachingAllocator, chosen: list[tuple[int, int]]) -> list[Block]:
    """Half of the steps allocate, the others free one of the live blocks; blocks that are live at the end."""
    live: list[Block] = []
    for pick, nbytes in chosen:
        if pick < 50 or not live:
            live.append(allocator.malloc(nbytes))
        else:
            allocator.free(live.pop(pick % len(live)))
    return live


@each_mode
@settings(max_examples=150, deadline=None)
@given(chosen=steps)
def test_segments_are_tiled_and_counted(expandable: bool, chosen: list[tuple[int, int]]) -> None:
    """Witness: what the terms mean. Live blocks make up ``allocated``, segments ``reserved``; blocks tile their
    segment, segments do not overlap, free neighbours are merged; once all is freed nothing stays."""
    allocator = CachingAllocator(expandable)
    live = run(allocator, chosen)
    segments = allocator.segments()
    assert allocator.reserved == sum(segment.size for segment in segments) >= allocator.allocated
    states = [state for segment in segments for state in segment.blocks]
    assert allocator.allocated == sum(state.size for state in states if state.allocated)
    assert sorted(block.size for block in live) == sorted(state.size for state in states if state.allocated)
    assert all(before.address + before.size <= after.address for before, after in pairwise(segments))
    for segment in segments:
        ends = [state.offset + state.size for state in segment.blocks]
        assert [state.offset for state in segment.blocks] == [0, *ends[:-1]]
        assert ends[-1] == segment.size
        assert all(before.allocated or after.allocated for before, after in pairwise(segment.blocks))
    for block in live:
        allocator.free(block)
    assert allocator.allocated == 0
    allocator.empty_cache()
    assert (allocator.reserved, allocator.segments()) == (0, [])


def twice(allocator: CachingAllocator, chosen: list[tuple[int, int]]) -> tuple[int, int]:
    """Peak reserved after one pass, and after a second that begins where the first freed all."""
    peaks = []
    for _ in range(2):
        for block in run(allocator, chosen):
            allocator.free(block)
        peaks.append(allocator.peak_reserved)
    return peaks[0], peaks[1]


@settings(max_examples=150, deadline=None)
@given(chosen=steps)
def test_a_second_pass_takes_no_more_with_expandable_segments(chosen: list[tuple[int, int]]) -> None:
    """Witness: the argument that closed gaps come before the end of the range, where a first pass grows."""
    first, second = twice(CachingAllocator(expandable_segments=True), chosen)
    assert first == second


@settings(max_examples=150, deadline=None)
@given(chosen=st.lists(st.tuples(st.integers(0, 99), below_own_segment), max_size=60))
def test_a_second_pass_takes_no_more_while_segments_are_alike(chosen: list[tuple[int, int]]) -> None:
    """Witness: the argument that among whole segments of one size the oldest comes first, as in a first pass."""
    first, second = twice(CachingAllocator(), chosen)
    assert first == second


def test_a_second_pass_can_take_more() -> None:
    """Witness: by hand, the reason to replay more than one step. In the second pass 2 MiB fit best in the
    segment that was made for 14 MiB, which then needs another."""
    allocator = CachingAllocator()
    reserved = []
    for _ in range(3):
        live = [allocator.malloc(size * MIB) for size in (2, 17, 14)]
        for block in reversed(live):
            allocator.free(block)
        reserved.append(allocator.reserved // MIB)
    assert reserved == [20 + 14, 20 + 14 + 14, 20 + 14 + 14]


@each_mode
def test_a_training_step_is_replayed_at_once(expandable: bool) -> None:
    """Witness: the target of 0.3 s for some 10,000 requests, which it meets about twenty times over."""
    allocator = CachingAllocator(expandable)
    requests = SEQUENCES["any size"] + SEQUENCES["few sizes"]
    start = time.process_time()
    for _ in range(4):
        for _ in replay(requests, allocator):
            pass
    assert time.process_time() - start < 0.3 * 4 * len(requests) / 10_000 + 0.3


@pytest.mark.parametrize(
    ("size", "per_segment", "segment"), [(3 * MIB, 6, 20 * MIB), (300_000, 6, 2 * MIB), (9 * MIB, 2, 20 * MIB)], ids=str
)
def test_many_equal_blocks_at_once(size: int, per_segment: int, segment: int) -> None:
    """Witness: the same blocks one by one, in an allocator that has nothing else: as many bytes allocated and reserved,
    also when some segments come back and are taken again, and none after ``empty_cache``."""
    each, at_once = CachingAllocator(), CachingAllocator()
    for count in (5 * per_segment, 5 * per_segment + 1, 7):
        blocks, block = [each.malloc(size) for _ in range(count)], at_once.malloc(size, count)
        assert (at_once.allocated, at_once.reserved) == (each.allocated, each.reserved)
        for one in blocks:
            each.free(one)
        at_once.free(block)
    assert at_once.reserved == 6 * segment
    at_once.empty_cache()
    assert at_once.reserved == 0


def test_many_equal_blocks_of_segments_of_their_own() -> None:
    """Witness: the same blocks one by one. Requests of 10 MiB or more are rounded up to 2 MiB."""
    each, at_once = CachingAllocator(), CachingAllocator()
    blocks, block = [each.malloc(11 * MIB) for _ in range(9)], at_once.malloc(11 * MIB, 9)
    assert at_once.reserved == each.reserved == 9 * 12 * MIB
    assert block.size == sum(one.size for one in blocks)


def test_many_equal_blocks_in_what_is_free() -> None:
    """By hand: a free block with room for all is split, and segments that came back serve single requests, too."""
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(100 * MIB))
    many = allocator.malloc(2 * MIB, 30)
    assert (allocator.reserved, allocator.allocated) == (100 * MIB, 60 * MIB)
    others = allocator.malloc(2 * MIB, 30)
    assert allocator.reserved == 160 * MIB
    allocator.free(others)
    allocator.malloc(9 * MIB), allocator.malloc(50 * MIB)  # one into what is left of the 100 MiB, one beside it
    assert allocator.reserved == 210 * MIB
    allocator.free(many)
    assert allocator.allocated == 59 * MIB


def test_many_equal_blocks_out_of_memory() -> None:
    """By hand: free segments are given back first, then there is no room."""
    allocator = CachingAllocator(capacity=100 * MIB)
    allocator.free(allocator.malloc(50 * MIB))
    assert not allocator.gave_back
    allocator.malloc(3 * MIB, 30)
    assert (allocator.reserved, allocator.gave_back) == (100 * MIB, True)
    with pytest.raises(OutOfMemory):
        allocator.malloc(3 * MIB, 30)


@pytest.mark.consistency
@each_ties
def test_a_copy_goes_on_as_the_allocator_does(ties: Ties) -> None:
    """And neither sees what the other one does."""
    draw = random.Random(7)
    sizes = [draw.choice((700, 90_000, 3 * MIB, 25 * MIB)) * draw.randint(1, 5) for _ in range(400)]
    one = CachingAllocator(ties=ties)
    held = [one.malloc(nbytes) for nbytes in sizes]
    for block in held[::3]:
        one.free(block)
    before = one.segments()
    copied, blocks = one.copied(None)
    for allocator, own in ((copied, [blocks[block] for block in held[1::3]]), (one, held[1::3])):
        assert allocator.segments() == before
        for nbytes, block in zip(sizes, own, strict=False):
            allocator.malloc(nbytes // 2)
            allocator.free(block)
        allocator.empty_cache()
    assert one.segments() == copied.segments() != before
    for name in ("reserved", "allocated", "peak_reserved", "peak_allocated"):
        assert getattr(one, name) == getattr(copied, name), name
