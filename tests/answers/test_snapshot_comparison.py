"""How recorded and predicted allocations are paired; ``show/test_compare_snapshot.py`` has whole snapshots."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.snapshot_comparison import aligned


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=60))
def test_any_alignment(recorded: list[int], predicted: list[int]) -> None:
    """Both sides come once and in order, and pairs are of equal sizes."""
    found = aligned(recorded, predicted)
    assert all(recorded[i] == predicted[j] for i, j in found.pairs)
    everything = [*found.pairs, *found.differences]
    for side, stop in ((0, found.stop), (1, found.predicted_stop)):
        assert sorted(one[side] for one in everything if one[side] is not None) == list(range(stop))
    assert found.pairs == sorted(found.pairs)
    assert found.stop == len(recorded) or found.predicted_stop == len(predicted)
