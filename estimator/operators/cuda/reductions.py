"""The workspace of CUDA reductions. It depends on how they are launched, so sizes must be numbers, not symbols.

Source: ``aten/src/ATen/native/cuda/Reduce.cuh`` and ``aten/src/ATen/TensorIterator.cpp`` of PyTorch 2.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

THREADS_PER_MULTIPROCESSOR = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (11, 0): 1536}
"""Threads of a multiprocessor by compute capability, if not 2048; from 12.0 on 1536 (CUDA C++ Programming Guide)."""

ACCUMULATOR = 4
"""Bytes of the float32 in which sums, means and norms of 16- and 32-bit numbers are added up (``acc_type``)."""
_MOST_THREADS = 512
_WARP = 32
_VECTOR = 4
"""Elements that a thread loads at once (``vt0``, ``input_vec_size``)."""
_FEWEST_VALUES, _MOST_VALUES = 16, 256
"""How many values a thread should sum, at least and at most."""


class _Dimension(NamedTuple):
    size: int
    stride: int
    out: int
    """Stride in the result; zero for a reduced dimension."""


def resident_threads(capability: tuple[int, int]) -> int:
    """Threads that a multiprocessor of a compute capability can hold."""
    return THREADS_PER_MULTIPROCESSOR.get(capability, 1536 if capability >= (12, 0) else 2048)


def reduction_workspace(
    capability: tuple[int, int],
    shape: Sequence[int],
    strides: Sequence[int],
    reduced: Sequence[bool],
    multiprocessors: int,
) -> tuple[int, int] | None:
    """Bytes of the staging buffer and of the semaphores of a reduction over several thread blocks.

    ``None`` if one block reduces each result alone. ``shape`` and ``strides`` (in elements) are the operand's;
    ``reduced`` marks its reduced dimensions. Source: ``setReduceConfig`` and ``ReduceConfig::global_memory_size``,
    which multiplies the staging buffer by the threads of a block's row and the elements of a vector. An operand of 2
    GiB or more is split first; that is left out.
    """
    gone, kept = _dimensions(shape, strides, reduced)
    inputs = _size(gone)
    outputs = _size(kept)
    if inputs == 1:
        return None
    along = not kept or gone[0].stride < kept[0].stride
    first, second = (inputs, outputs) if along else (outputs, inputs)
    vector = 1
    if (gone if along else kept)[0].stride == 1:
        if along and first >= 128 and len(gone) == 1:
            first //= _VECTOR
        elif not along:
            vector = _output_vector(gone, kept)
            first //= vector
    width, height = _block(first, second, _MOST_THREADS // vector)
    step_input, step_output = (width, 1) if along else (1, width)
    if -(-inputs // step_input) < min(height * 16, _MOST_VALUES):
        return None  # each warp has its own results
    step_input *= height
    values = -(-inputs // step_input)
    grid = -(-(outputs // vector) // step_output)
    room = multiprocessors * (resident_threads(capability) // (width * height))
    if values < _MOST_VALUES or grid > room:
        return None
    blocks = max(min(-(-room // grid), -(-values // _FEWEST_VALUES)), -(-values // _MOST_VALUES))
    if blocks == 1:
        return None
    staging = ACCUMULATOR * outputs * blocks * (1 if along else width * vector)
    return staging, 4 * grid


def _dimensions(
    shape: Sequence[int], strides: Sequence[int], reduced: Sequence[bool]
) -> tuple[list[_Dimension], list[_Dimension]]:
    """The reduced and the kept dimensions, smallest stride first (``TensorIteratorBase::reorder_dimensions``),
    neighbours in memory joined (``coalesce_dimensions``).
    """
    rows: list[_Dimension] = []
    step = 1
    for size, stride, goes in reversed(list(zip(shape, strides, reduced, strict=True))):
        if size != 1:
            rows.append(_Dimension(size, stride, 0 if goes else step))
            step *= 1 if goes else size
    found: tuple[list[_Dimension], list[_Dimension]] = ([], [])
    for goes, group in zip((True, False), found, strict=True):
        for row in sorted((row for row in rows if (row.out == 0) == goes), key=lambda row: row.out or row.stride):
            last = group[-1] if group else None
            if last and row.stride == last.size * last.stride and row.out == last.size * last.out:
                group[-1] = last._replace(size=last.size * row.size)
            else:
                group.append(row)
    return found


def _size(dimensions: Sequence[_Dimension]) -> int:
    total = 1
    for dimension in dimensions:
        total *= dimension.size
    return total


def _output_vector(gone: Sequence[_Dimension], kept: Sequence[_Dimension]) -> int:
    """``get_output_vec_size``, for an operand that starts at an aligned address."""
    vector = _VECTOR
    for number in (kept[0].size, *(row.stride for row in (*gone, *kept[1:]))):
        while number % vector:
            vector //= 2
    return vector


def _block(first: int, second: int, most: int) -> tuple[int, int]:
    """``set_block_dimension``: width and height of a thread block, in threads."""
    first, second = _power_of_two(min(first, most)), _power_of_two(min(second, most))
    width = min(first, _WARP)
    height = min(second, most // width)
    return min(first, most // height), height


def _power_of_two(number: int) -> int:
    """The largest power of two up to ``number``."""
    return 1 << max(number.bit_length() - 1, 0)
