"""Which lengths a run meets, and how likely. Witnesses: enumeration of all draws, exact binomials,
transformers' sampler, TRL's packing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations, count, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.errors import InputError
from estimator.plans.lengths import (
    MOST_SAMPLES,
    Distribution,
    Lengths,
    _fullest,
    _log_none_drawn,
    _mean_batches,
    length_options,
    packed,
    quantile,
)

SAMPLES = (3, 3, 5, 8, 8, 9, 12)


def lengths(samples: Iterable[int], **block: Any) -> Lengths:
    return length_options({"histogram": Counter(samples), **block}).read()


def shares(found: Iterable[int]) -> dict[int, float]:
    counts = Counter(found)
    return {length: number / counts.total() for length, number in sorted(counts.items())}


def up(length: int, multiple: int) -> int:
    return next(size for size in count(length) if size % multiple == 0)


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("batch", range(1, 8))
def test_one_batch(batch: int, multiple: int) -> None:
    """Asks an enumeration of all batches that can be drawn."""
    every = (up(max(drawn), multiple) for drawn in combinations(SAMPLES, batch))
    found = dict(lengths(SAMPLES, pad_to_multiple_of=multiple).batch_distribution(batch))
    assert found == pytest.approx(shares(every), abs=1e-15)


@pytest.mark.parametrize(("batch", "batches"), [(1, 1), (1, 3), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (1, 50)])
def test_a_run(batch: int, batches: int) -> None:
    """Asks an enumeration of the samples that a run's batches can hold; a whole epoch holds them all."""
    data = lengths(SAMPLES)
    every = [max(drawn) for drawn in combinations(SAMPLES, min(batch * batches, len(SAMPLES)))]
    assert dict(data.run_distribution(batch, batches)) == pytest.approx(shares(every), abs=1e-15)
    for length in range(14):
        share = sum(one > length for one in every) / len(every)
        assert data.probability_of_exceeding(length, batch, batches) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_batch_grouped_by_length(batch: int) -> None:
    """Asks an enumeration of the mega-batches, each sorted and cut into batches."""
    samples = [2, 2, 3, 3, 3, 4, 5, 5, 7, 7, 8, 9, 9, 9, 11, 20][: 8 * batch]
    together = batch * min(len(samples) // (4 * batch), 50)
    assert together > batch
    every = [
        max(ordered[start : start + batch])
        for drawn in combinations(samples, together)
        for ordered in [sorted(drawn, reverse=True)]
        for start in range(0, together, batch)
    ]
    found = lengths(samples, group_by_length=True)
    assert dict(found.batch_distribution(batch)) == pytest.approx(shares(every), abs=1e-14)
    assert found.run_distribution(batch, 1) == [(max(samples), 1.0)]
    assert found.probability_of_exceeding(max(samples) - 1, batch, 1) == 1


@pytest.mark.extra("trace")
def test_the_sampler_that_groups_by_length() -> None:
    """Asks transformers' sampler: its first batch has the longest sample, and batches have the mean length."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    samples = np.random.default_rng(0).geometric(0.01, 640).tolist()
    batch, mega_batch, means = 4, 160, []
    for seed in range(300):
        order = get_length_grouped_indices(samples, batch, generator=torch.Generator().manual_seed(seed))
        batches = [[samples[i] for i in order[start : start + batch]] for start in range(0, 640, batch)]
        assert max(batches[0]) == max(samples)
        shuffled = torch.randperm(640, generator=torch.Generator().manual_seed(seed)).tolist()
        if samples.index(max(samples)) in shuffled[:mega_batch]:  # it was first, none was swapped
            means.append(np.mean([max(one) for one in batches]))
    found = mean(lengths(samples, group_by_length=True).batch_distribution(batch))
    assert len(means) > 50
    assert found == pytest.approx(np.mean(means), abs=4 * np.std(means) / len(means) ** 0.5)
    assert 4 * np.std(means) / len(means) ** 0.5 < 0.01 * found


@pytest.mark.parametrize(
    ("samples", "marked", "draws"),
    [(10, 3, 4), (10, 1, 9), (10**7, 1, 1), (10**7, 40, 8), (10**7, 1, 8000), (10**6, 900, 1100), (10**9, 7, 10**6)],
)
def test_none_is_drawn(samples: int, marked: int, draws: int) -> None:
    """Asks exact binomials, also where a difference of log-gammas would have lost all digits."""
    few, many = sorted((marked, draws))
    exact = 1 - Fraction(math.comb(samples - many, few), math.comb(samples, few))  # symmetric in the two
    assert -math.expm1(_log_none_drawn(samples, marked, draws)) == pytest.approx(float(exact), rel=1e-12)
    if samples == 10:
        assert exact == 1 - Fraction(math.comb(samples - marked, draws), math.comb(samples, draws))


@pytest.mark.parametrize(
    ("samples", "marked", "draws", "batch"),
    [(20, 7, 8, 2), (20, 20, 8, 2), (20, 13, 12, 3), (5000, 3, 400, 8), (5000, 4990, 400, 8), (5000, 2500, 400, 8)],
)
def test_batches_that_marked_samples_fill(samples: int, marked: int, draws: int, batch: int) -> None:
    """Asks the hypergeometric distribution in exact fractions."""
    ways = {
        x: math.comb(marked, x) * math.comb(samples - marked, draws - x)
        for x in range(max(0, draws + marked - samples), min(marked, draws) + 1)
    }
    exact = sum(Fraction(way * -(-x // batch), math.comb(samples, draws)) for x, way in ways.items())
    assert _mean_batches(samples, marked, draws, batch) == pytest.approx(float(exact), rel=1e-12)


def mean(distribution: Distribution) -> float:
    return math.fsum(length * chance for length, chance in distribution)


data = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@settings(deadline=None)
@given(
    samples=data, batch=st.integers(1, 60), steps=st.integers(1, 9), multiple=st.integers(1, 9), grouped=st.booleans()
)
def test_properties(samples: list[int], batch: int, steps: int, multiple: int, grouped: bool) -> None:
    """Asks the laws of probability: sums of one, monotone in length, steps and batch; bounds."""
    found = lengths(samples, pad_to_multiple_of=multiple, group_by_length=grouped)
    batch = min(batch, len(samples))
    one, run = found.batch_distribution(batch), found.run_distribution(batch, steps)
    for distribution in (one, run):
        assert math.fsum(chance for _, chance in distribution) == pytest.approx(1, abs=1e-12)
        assert all(chance >= 0 for _, chance in distribution)
        assert [length for length, _ in distribution] == sorted({length for length, _ in distribution})
        assert distribution[0][0] - 1e-9 <= mean(distribution) <= distribution[-1][0] + 1e-9
        levels = [quantile(distribution, share / 10) for share in range(11)]
        assert levels == sorted(levels)
    assert one[-1][0] <= run[-1][0] == found.padded(found.longest)
    exceeding = [found.probability_of_exceeding(length, batch, steps) for length in range(70)]
    assert all(before >= after - 1e-12 for before, after in pairwise(exceeding))
    assert (exceeding[0], exceeding[-1]) == (pytest.approx(1), 0)
    for length in range(0, 70, 7):
        assert found.probability_of_exceeding(length, batch, steps + 1) >= exceeding[length] - 1e-12
    chosen = found.representative_batches(batch, steps)
    assert len(chosen) == steps
    assert max(chosen) == chosen[0 if grouped else -1] == found.padded(found.longest)
    assert set(chosen[1:] if grouped else chosen[:-1]) <= {length for length, _ in one}


@pytest.mark.parametrize(("samples", "batch", "accumulation"), product([1, 7, 12], [1, 2, 5], [1, 3]))
def test_batches_of_a_run(samples: int, batch: int, accumulation: int) -> None:
    """Asks a loop written out: steps of some batches, none over the end of an epoch."""
    batch = min(samples, batch)

    def loop(steps: int) -> int:
        batches = position = 0
        for _ in range(steps):
            for _ in range(accumulation):
                batches, position = batches + 1, position + batch
                if position >= samples:
                    position = 0
                    break
        return batches

    epoch = -(-samples // batch)
    for steps in range(1, 12):
        assert lengths([4] * samples, steps=steps).batches(batch, accumulation) == loop(steps)
    for epochs in (1, 2, 3.0):
        assert lengths([4] * samples, epochs=epochs).batches(batch, accumulation) == epochs * epoch
    assert lengths([4] * samples, epochs=100, steps=1).batches(batch, accumulation) == min(accumulation, epoch)


def test_a_number_is_every_length() -> None:
    """Asks the rule: of one length there is one batch, whatever the run."""
    for value in (689, np.int64(689), {"length": 689}):
        found = length_options(value).read()
        assert found.counts == ((689, MOST_SAMPLES),)
        assert found.batch_distribution(10**6) == found.run_distribution(4, 10) == [(689, 1.0)]
        assert [found.probability_of_exceeding(n, 4, 10) for n in (688, 689)] == [1, 0]
        assert found.representative_batches(4, 3) == [689] * 3
    assert length_options({"length": 689, "pad_to_multiple_of": 64}).read().batch_distribution(4) == [(704, 1.0)]


def test_truncation_comes_before_padding() -> None:
    """Asks the order in transformers: the tokenizer truncates, the collator pads, past the truncation too."""
    found = lengths(SAMPLES, truncate=9, pad_to_multiple_of=4)
    assert found.counts == ((3, 2), (5, 1), (8, 2), (9, 2))
    assert found.run_distribution(7, 1) == [(12, 1.0)]


def test_packing_as_trl_packs() -> None:
    """Asks TRL's documented example (``pack_dataset``): samples of 5, 2, 3 and 1 tokens in rows of 4."""
    samples = Counter([5, 2, 3, 1])
    assert packed(samples, 4, "bfd") == {4: 3}  # [4], [3, 1], [2]
    assert packed(samples, 4, "bfd_split") == {4: 3}  # [4], [3, 1], [2, 1]
    assert packed(samples, 4, "wrapped") == {3: 1, 4: 2}


@pytest.mark.parametrize(
    ("samples", "room"), [([5, 5, 5], 12), ([7], 9), ([4, 6, 9], 14), ([11, 3], 9), ([3] * 9, 20), ([2, 4, 8], 9)]
)
def test_the_fullest_row(samples: list[int], room: int) -> None:
    """Asks an enumeration of all sets of samples that fit into a row."""
    cut = [min(length, room) for length in samples]
    every = {sum(some) for n in range(1, len(cut) + 1) for some in combinations(cut, n)}
    fullest = max(size for size in every if size <= room)
    assert _fullest(Counter(cut), room) == fullest
    assert packed(Counter(samples), room, "bfd") == {fullest: -(-sum(cut) // fullest)}


def test_packed_batches() -> None:
    """Asks TRL's collator: rows of bfd are as full as whole samples make them; wrapped's last row is shorter."""
    whole = lengths([600] * 100, truncate=1024, packing="bfd", pad_to_multiple_of=64)
    assert whole.batch_distribution(4) == [(640, 1.0)]  # rows of 600, padded
    assert whole.probability_of_exceeding(639, 4, 1) == 1
    wrapped = lengths([600] * 100, truncate=1024, packing="wrapped")
    assert wrapped.counts == ((608, 1), (1024, 58))
    assert dict(wrapped.batch_distribution(1)) == pytest.approx({608: 1 / 59, 1024: 58 / 59})


def test_a_batch_of_more_than_there_is() -> None:
    """Asks the contract: no answer about batches that the data cannot fill."""
    found = lengths(SAMPLES)
    for ask in (
        lambda: found.batch_distribution(8),
        lambda: found.run_distribution(8, 1),
        lambda: found.probability_of_exceeding(3, 8, 1),
        lambda: found.representative_batches(8, 3),
        lambda: found.batches(8),
    ):
        with pytest.raises(InputError, match="batch 8 is more than the 7 samples"):
            ask()
    assert found.probability_of_exceeding(3, 7, 1) == 1  # a batch of all samples has the longest
