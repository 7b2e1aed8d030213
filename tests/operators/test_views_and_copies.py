"""Rules of operators that view or copy: permute, repeat, split, stack, pad, index.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.ledger import Ledger, Tensor, backward
from estimator.operators import CPU
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F32,
    MIXED,
    PAIRS,
    Cases,
    Given,
    agree,
    ours,
    real,
    varied,
)

unary = varied([((4, 6, 40),), ((1, 200),), ((200, 1),)])
plain = varied([((4, 6, 40),), ((1, 200),), ((200, 1),)], swaps=[None])


@unary
def test_transpose(given: Cases) -> None:
    agree(lambda x: ops.transpose(x, 0, -1), lambda x: x.transpose(0, -1), *given)


@varied([((4, 6, 40),), ((1, 6, 40),), ((4, 1, 40),), ((4, 6, 1),)], swaps=[None])
def test_view(given: Cases) -> None:
    agree(lambda x: ops.view(x, (x.numel,)), lambda x: x.view(x.numel()), *given)


@varied([((4, 6, 40),), ((1, 6, 40),), ((4, 1, 40),), ((4, 6, 1),)], swaps=[(0, 1)])
def test_view_of_a_transposed_tensor(given: Cases) -> None:
    shape = (*given[0].shape[:2], 2, max(given[0].shape[2] // 2, 1)) if given[0].shape[2] > 1 else given[0].shape
    agree(lambda x: ops.view(x, shape), lambda x: x.view(shape), *given)


@varied([((4, 6, 40),), ((1, 6, 40),), ((4, 1, 40),), ((4, 6, 1),)], swaps=[(0, 1)])
def test_reshape(given: Cases) -> None:
    last = given[0].shape[-1]
    agree(lambda x: ops.reshape(x, (x.numel // last, last)), lambda x: x.reshape(-1, last), *given)


@unary
def test_reshape_flat(given: Cases) -> None:
    agree(lambda x: ops.reshape(x, (x.numel,)), lambda x: x.reshape(-1), *given)


@unary
def test_contiguous(given: Cases) -> None:
    agree(ops.contiguous, lambda x: x.contiguous(), *given)


@unary
def test_clone_contiguous(given: Cases) -> None:
    agree(ops.clone, lambda x: x.clone(memory_format=torch.contiguous_format), *given)


@pytest.mark.parametrize("dim", [0, 1, -1])
@unary
def test_unsqueeze(given: Cases, dim: int) -> None:
    agree(lambda x: ops.unsqueeze(x, dim), lambda x: x.unsqueeze(dim), *given)


@varied([((1, 6, 40),), ((4, 1, 40),), ((1, 1, 40),), ((4, 6, 40),), ((40,),)])
def test_expand(given: Cases) -> None:
    agree(lambda x: ops.expand(x, (4, 6, 40)), lambda x: x.expand(4, 6, 40), *given)


@pytest.mark.parametrize("stop", [39, 40])
@plain
def test_slice(given: Cases, stop: int) -> None:
    """One of all elements is the tensor itself, and none of its gradients is copied for it."""
    stop = min(stop, given[0].shape[-1])
    agree(lambda x: ops.silu(ops.slice(x, -1, stop)), lambda x: functional.silu(x[..., :stop]), *given)


@varied([((4, 6, 40),), ((1, 200),)])
def test_narrow(given: Cases) -> None:
    agree(lambda x: ops.narrow(x, -1, 17), lambda x: x[..., :17], *given)


@varied([((4, 6, 40), (4, 6, 24)), ((1, 200), (1, 100)), ((200, 1), (200, 1))], PAIRS)
def test_cat(given: Cases) -> None:
    shape = (*given[0].shape[:-1], given[0].shape[-1] + given[1].shape[-1])
    agree(lambda *parts: ops.cat(parts, shape), lambda *parts: torch.cat(parts, -1), *given)


@varied([((2, 4, 6, 40),), ((1, 1, 6, 40),), ((2, 4, 1, 40),)], swaps=[(1, 2)])
def test_cat_growing(given: Cases) -> None:
    empty = torch.empty(0, dtype=getattr(torch, given[0].dtype))
    agree(lambda x: ops.cat((x,), x.shape), lambda x: torch.cat([empty, x], -2), *given)


@varied(
    [((4, 6), (50, 24)), ((1, 1), (50, 24)), ((4, 6), (50, 1))], [("int64", d) for d, _ in PAIRS], swaps=[None, (0, 1)]
)
def test_embedding(given: Cases) -> None:
    agree(ops.embedding, functional.embedding, *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shape", [(3, 1, 20, 20), (1, 1, 1, 1)])
def test_select_mask(shape: tuple[int, ...], dtype: str) -> None:
    """Of a mask whose batch is expanded, as ``eager_mask`` in transformers writes it."""
    torch_dtype = getattr(torch, dtype)
    agree(
        lambda mask: ops.where(ops.expand(mask, shape), ops.SCALAR, ops.SCALAR, dtype),
        lambda mask: torch.where(mask.expand(shape), torch.zeros((), dtype=torch_dtype), torch.finfo(torch_dtype).min),
        Given((1, *shape[1:]), "bool", grad=False),
    )


@plain
@pytest.mark.parametrize("dim", [0, -1])
def test_select(given: Cases, dim: int) -> None:
    agree(lambda x: ops.select(x, dim), lambda x: x.select(dim, 0), *given)


@varied([((4, 6, 40),), ((1, 6, 40),)], swaps=[(0, 1)])
def test_permute_last_first(given: Cases) -> None:
    agree(lambda x: ops.permute(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_index_put_of_triangles(dtype: str) -> None:
    rows, cols = torch.triu_indices(8, 8, 1)

    def function(values: torch.Tensor) -> torch.Tensor:
        matrix = torch.zeros(12, 8, 8, dtype=values.dtype)
        matrix[:, rows, cols] = values
        return matrix

    def rule(values: Any) -> Any:
        return ops.index_put_(values.ledger.empty((12, 8, 8), dtype), (), values)

    a, b = ours(rule, [Given((12, 28), dtype)]), real(function, [Given((12, 28), dtype)])
    indices = 2 * 28 * 8  # buffers in the model, which do not count
    assert (a.saved, a.shape, a.peak, a.left) == (b.saved - indices, b.shape, b.peak, b.left)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_repeat_first(dtype: str) -> None:
    # the kernel's own shapes and strides, 96 bytes, are taken while the result is the only tensor
    agree(lambda x: ops.repeat(x, 9, 1, 1), lambda x: x.repeat(9, 1, 1), Given((1, 8, 8), dtype))


@varied([((4, 6, 40),), ((1, 6, 40),), ((1, 1, 8),)])
def test_permute_first_last(given: Any) -> None:
    agree(lambda x: ops.permute(x, (1, 2, 0)), lambda x: x.permute(1, 2, 0), *given)


@varied([((4, 6, 40),), ((1, 1, 8),)])
def test_pad_last(given: Any) -> None:
    agree(lambda x: ops.pad(x, (*x.shape[:-1], x.shape[-1] + 3)), lambda x: functional.pad(x, (0, 3)), *given)


@pytest.mark.parametrize("count", [1, 5])
@varied([((30, 40),), ((1, 40),)], swaps=[None])
def test_repeat_last(given: Any, count: int) -> None:
    agree(lambda x: ops.repeat(x, 1, count), lambda x: x.repeat(1, count), *given)


@pytest.mark.parametrize("needed", [True, False])
def test_index_put_of_places(needed: bool) -> None:
    def rule(values: Tensor, places: Tensor) -> Tensor:
        return ops.index_put_(values.ledger.empty((30, 40), F32), (places,), values)

    def function(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        dense = torch.zeros(30, 40)
        dense[places[0, :], places[1, :]] = values
        return dense

    agree(rule, function, Given((200,), grad=needed), Given((2, 200), "int64", grad=False))


@varied([((40, 30), (5, 30))], PAIRS)
def test_index_copy(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(
        lambda x, rows: ops.index_copy(x, x.ledger.empty((5,), "int64"), rows),
        lambda x, rows: x.index_copy(0, torch.tensor([1, 3, 5, 7, 9]), rows),
        *given,
    )


@varied([((20, 30), (20, 30))], MIXED)
def test_stack(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(lambda a, b: ops.stack((a, b), 1), lambda a, b: torch.stack((a, b), dim=1), *given)


Rule = Callable[..., Any]
OPERATORS: list[tuple[str, Rule, Rule, tuple[Given, ...]]] = [
    ("permute", lambda x: ops.permute(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), (Given((2, 3, 5)),)),
    ("repeat", lambda x: ops.repeat(x, 3, 1, 1), lambda x: x.repeat(3, 1, 1), (Given((1, 4, 5)),)),
    ("repeat-once", lambda x: ops.repeat(x, 1, 1, 1), lambda x: x.repeat(1, 1, 1), (Given((1, 4, 5)),)),
    (
        "repeat-interleave",
        lambda x: ops.repeat_interleave(x, 3, 1),
        lambda x: torch.repeat_interleave(x, repeats=3, dim=1),
        (Given((2, 4, 5, 6)),),
    ),
    (
        "unbind",
        lambda x: ops.add(*(ops.exp(part) for part in ops.unbind(x))),
        lambda x: torch.add(*(torch.exp(part) for part in x.unbind(0))),
        (Given((2, 4, 5)),),
    ),
    (
        "split",
        lambda x: ops.add(*(ops.exp(part) for part in ops.split(x, 3, count=2))),
        lambda x: torch.add(*(torch.exp(part) for part in x.split(3))),
        (Given((6, 4, 5)),),
    ),
    (
        "split-permuted",
        lambda x: ops.add(*(ops.exp(part) for part in ops.split(ops.permute(x, (2, 0, 1)), 3, count=2))),
        lambda x: torch.add(*(torch.exp(part) for part in x.permute(2, 0, 1).split(3))),
        (Given((4, 5, 6)),),
    ),
]


@pytest.mark.parametrize(("rule", "function", "given"), [row[1:] for row in OPERATORS], ids=[r[0] for r in OPERATORS])
def test_views_and_copies(rule: Rule, function: Rule, given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the real allocator."""
    assert ours(rule, given) == real(function, given)


@pytest.mark.parametrize("batch", [1, 3])
def test_embedding_of_expanded_ids(batch: int) -> None:
    """Witness: autograd's saved tensors and the real allocator. The ids' one row is what is saved."""
    row = torch.zeros(7, dtype=torch.int64)

    def rule(weight: Tensor) -> Tensor:
        ids = ops.expand(ops.unsqueeze(weight.ledger.attribute((7,), "int64"), 0), (batch, 7))
        return ops.embedding(ids, weight)

    given = (Given((11, 300)),)
    assert ours(rule, given) == real(lambda w: torch.nn.functional.embedding(row[None].expand(batch, -1), w), given)


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "bfloat16")])
def test_cat_under_autocast(dtypes: tuple[str, str]) -> None:
    """Witness: autograd's saved tensors and the real allocator. Autocast promotes to the widest dtype."""
    given = tuple(Given((2, 3, 40), dtype) for dtype in dtypes)
    found = ours(lambda a, b: ops.cat((a, b), (2, 6, 40)), given, "bfloat16")
    assert found == real(lambda a, b: torch.cat((a, b), dim=1), given, "bfloat16")


@pytest.mark.consistency
def test_gathered_gradients_of_counted_parts() -> None:
    """A split whose parts run in a counted part: the running total is that of the parts written out."""

    def run(copies: tuple[int, ...]) -> tuple[Any, ...]:
        """Live bytes after forward and after backward, and the peak."""
        ledger = Ledger(CPU)
        x = ledger.empty((sum(copies), 1000), "float32")
        x.requires_grad = True
        out = None
        for part, count in ops.split_counted(x, 0, [(1, count) for count in copies]):
            with ledger.counted(count):
                y = ops.exp(part)
                out = y if out is None else ops.add(out, y)
        assert out is not None
        live = ledger.live
        backward(ledger, out)
        return live, ledger.live, max(ledger.peaks.values())

    assert run((1, 1, 4, 1)) == run((1,) * 7)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_split(dtype: str) -> None:
    """Witness: autograd. Parts of unequal length, one of them used twice."""
    table = SimpleNamespace(silu=functional.silu, mul=torch.mul, cat=lambda parts, shape: torch.cat(parts))

    def expression(parts: list[Any], op: Any) -> Any:
        done = [op.silu(part) for part in parts[:-1]] + [op.mul(parts[-1], parts[-1])]
        return op.cat(tuple(done), (11, 24))

    agree(
        lambda x: expression([part for part, _ in ops.split_counted(x, 0, [(4, 1), (4, 1), (3, 1)])], ops),
        lambda x: expression(list(x.split(4)), table),
        Given((11, 24), dtype),
    )


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("used", [(0, 0, 1, 2), (0, 2, 2, 2), (1, 1, 1), (0, 1)], ids=str)
def test_results_that_are_used_several_times_or_never(used: tuple[int, ...], dtype: str) -> None:
    """The gradients of one result are added up. A result without a gradient has one of zeros."""

    def mine(x: Any) -> Any:
        parts = ops.split_with_sizes(x, [4, 5, 2])
        done = [ops.exp(parts[i]) for i in used]
        return ops.cat(tuple(done), (sum(part.shape[0] for part in done), 240))

    def real(x: Any) -> Any:
        parts = x.split([4, 5, 2])
        return torch.cat([parts[i].exp() for i in used])

    agree(mine, real, Given((11, 240), dtype))


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_parts_in_reverse(dtype: str) -> None:
    """The parts' gradients come in another order than the parts."""

    def mine(x: Any) -> Any:
        parts = ops.split_with_sizes(ops.exp(x), [4, 4])
        return ops.mul(ops.exp(parts[1]), ops.exp(parts[0]))

    def real(x: Any) -> Any:
        parts = x.exp().split([4, 4])
        return parts[1].exp() * parts[0].exp()

    agree(mine, real, Given((8, 240), dtype))


@pytest.mark.parametrize("used", [(0, 0, 1, 2), (0, 2, 2), (1, 1, 1)], ids=str)
def test_rows_that_are_used_several_times_or_never(used: tuple[int, ...]) -> None:
    def mine(x: Any) -> Any:
        rows = ops.unbind(x)
        return ops.stack(tuple(ops.exp(rows[i]) for i in used), 0)

    def real(x: Any) -> Any:
        rows = x.unbind()
        return torch.stack([rows[i].exp() for i in used])

    agree(mine, real, Given((3, 240)))


@pytest.mark.parametrize("swapped", [None, (0, 1)])
def test_searchsorted(swapped: Any) -> None:
    values = Given((44, 80), F32, grad=False, swapped=swapped)
    agree(ops.searchsorted, torch.searchsorted, Given((10,), F32, grad=False), values)


def test_bincount() -> None:
    agree(
        lambda x: ops.bincount(x, 200), lambda x: torch.bincount(x, minlength=200), Given((4400,), "int64", grad=False)
    )


@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (1, 6, 3, 4), (2, 6, 3, 5, 4)], ids=str)
@pytest.mark.parametrize("order", ["channels last", "transposed", "contiguous"])
@pytest.mark.parametrize("more", [2, 0])
def test_pad_keeps_channels_last(shape: tuple[int, ...], order: str, more: int) -> None:
    """Tokens of heads that a convolution over tokens made: the tokens are innermost, which is ``channels_last``. Where
    nothing is added the result has the strides of what is padded, so a view of it may be a copy.
    """
    rank = len(shape)
    dims = {
        "channels last": (0, rank - 1, *range(1, rank - 1)),
        "transposed": (0, *range(rank - 1, 0, -1)),
        "contiguous": tuple(range(rank)),
    }[order]
    added = (0, 0) * (rank - 2) + (0, more)

    def padded(x: Any) -> Any:
        return (x.shape[0], x.shape[1] + more, *x.shape[2:])

    agree(
        lambda x: (lambda y: ops.mul(ops.pad(y, padded(y)), ops.pad(y, padded(y))))(ops.permute(x, dims)),
        lambda x: (lambda y: functional.pad(y, added) * functional.pad(y, added))(x.permute(dims)),
        Given(shape),
    )
