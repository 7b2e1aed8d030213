"""How recorded and predicted allocations are paired; ``test_compare_snapshot.py`` has whole snapshots."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.answers.snapshot_comparison import Allocation, aligned


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


def test_the_stack_of_an_allocation_is_pythons() -> None:
    """The innermost frames, of bounded length and number; all frames where none is Python's, and no malformed one."""
    python = {"filename": "x" * 300 + "/model.py", "line": 7, "name": "f" * 300}
    shell = {"filename": "<stdin>", "line": 1, "name": "<module>"}
    other = {"filename": "libtorch.so", "line": 0, "name": "at::empty"}
    wrong = [3, {"filename": None, "line": 1, "name": "x"}, {"filename": "x.py", "line": "1", "name": "x"}]
    wrong += [{"filename": "x.py", "line": 1, "name": 2}, {"line": 1, "name": "x"}]
    found = Allocation(0, 8, None, [other, python, *wrong, shell]).stack
    assert found == [{"filename": python["filename"][-200:], "line": 7, "name": "f" * 200}, shell]
    assert Allocation(0, 8, None, [other, *wrong]).stack == [other]
    assert Allocation(0, 8, None, "model.py").stack == []
    assert len(Allocation(0, 8, None, [python] * 20).stack) == 16
    assert Allocation(0, 8, None, [other] * 1000 + [python]).stack == [other] * 16
    assert Allocation(0, 8, None, [other] * 999 + [shell]).stack == [shell]
