"""Liger's, Apple's and torchtune's losses: the reference computes the loss, and the rules give published peaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.errors import InputError
from estimator.ledger import Events, Ledger, Tensor, backward
from estimator.operators import Cpu, Cuda
from estimator.steps import fused_loss, torchtune_loss, trl_loss
from estimator.witnesses.reference.savings import CutCrossEntropySteps, LigerSteps
from tests.helpers.operator_rules import BF16


@pytest.mark.parametrize("steps", [LigerSteps, CutCrossEntropySteps])
def test_reference_computes_the_loss(steps: Any) -> None:
    """Witness: PyTorch's cross entropy. The reference's steps give its loss and its gradients."""
    torch.manual_seed(0)
    x, weight = torch.randn(2 * 150, 32, requires_grad=True), torch.randn(300, 32, requires_grad=True)
    target = torch.randint(0, 300, (2 * 150,))
    target[[3, 200]] = -100
    valids = (target[1:] != -100).nonzero().squeeze(1)
    if steps is LigerSteps:
        loss = steps.apply(x, weight, target)
        wanted = functional.cross_entropy(x @ weight.t(), target)
    else:
        loss = steps.apply(x, weight, target, valids)
        wanted = functional.cross_entropy((x @ weight.t())[valids], target[valids + 1])
    torch.testing.assert_close(loss, wanted)
    ours, real = torch.autograd.grad(loss, (x, weight)), torch.autograd.grad(wanted, (x, weight))
    torch.testing.assert_close(ours, real)


def test_liger_head_alone() -> None:
    """Liger asks the hidden states whether a gradient is wanted: a head above a frozen model gets none."""
    _, x, weight, target = operands(64, 32, 300)
    x.requires_grad = False
    with pytest.raises(InputError, match="no gradient for the head"):
        fused_loss.fused_linear_cross_entropy(x, weight, target)


MIB = 1 << 20
CUBLAS_BYTES = 8_519_680
"""cuBLAS's workspace on an A100 (``parseChosenWorkspaceSize``: 4096 KiB twice, 8 KiB 16 times), one per thread."""


def operands(tokens: int, hidden: int, vocab: int, dtype: str = BF16) -> tuple[Ledger, Tensor, Tensor, Tensor]:
    """Trainable hidden states and head, outside the running total, and targets."""
    ledger = Ledger(Cuda())
    x = ledger.parameter("x", (tokens, hidden), dtype, requires_grad=True)
    weight = ledger.parameter("weight", (vocab, hidden), dtype, requires_grad=True)
    target = ledger.parameter("target", (tokens,), "int64", requires_grad=False)
    return ledger, x, weight, target


def peak(ledger: Ledger, loss: Callable[[], Tensor], runs_backward: bool = True) -> int:
    """Largest total over forward and backward."""
    out = loss()
    if runs_backward:
        backward(ledger, out)
    return max(ledger.peaks.values())


@pytest.mark.parametrize(
    ("tokens", "published"),
    [(4096, 4245.5478515625), (8192, 4466.9697265625), (16384, 4910.4384765625), (32768, 5794.6259765625)],
)
def test_liger_published(tokens: int, published: float) -> None:
    """Witness: Liger-Kernel's benchmark/data/all_benchmark_data.csv at ead96b61, fused_linear_cross_entropy of
    0.4.2 in MiB, A100, H 4096, V 128256, bfloat16. The script holds a second head, and gradients of earlier runs.
    """
    hidden, vocab = 4096, 128256
    ledger, x, weight, target = operands(tokens, hidden, vocab)
    above = peak(ledger, lambda: fused_loss.fused_linear_cross_entropy(x, weight, target, one_buffer=False))
    held = 3 * weight.nbytes + 2 * x.nbytes + target.nbytes + 2 * CUBLAS_BYTES
    # The allocator leaves up to 1 MiB of a block that it does not find worth splitting.
    assert abs(published - (held + above) / MIB) < 1.01


@pytest.mark.parametrize(
    ("sort", "runs_backward", "published"),
    [(False, False, 0.09), (True, False, 1), (True, True, 1164), (False, True, 1162)],
)
def test_cce_published(sort: bool, runs_backward: bool, published: float) -> None:
    """Witness: table 1 of arXiv 2411.09009 in MiB: 8192 tokens that count, H 2304, V 256000, bfloat16."""
    ledger, x, weight, target = operands(8192, 2304, 256000)
    valids = ledger.empty((8192,), "int32")
    above = peak(ledger, lambda: fused_loss.linear_cross_entropy(x, weight, target, valids, sort), runs_backward)
    digits = 2 if published < 1 else 0
    assert round(above / MIB, digits) == pytest.approx(published, rel=0.01)


TORCHTUNE = [
    # dtype, B, S, head trains, chunks; saved and peak of CEWithChunkedOutputLoss, then of LinearCrossEntropyLoss
    (BF16, 1, 33, False, 8, (132300, 214540), (128544, 164784)),
    (BF16, 1, 33, True, 3, (136508, 413056), (132620, 439544)),
    (BF16, 2, 33, False, 8, (264564, 429556), (257056, 329520)),
    (BF16, 2, 64, False, 3, (513044, 946468), (506028, 858428)),
    (BF16, 2, 64, True, 8, (529448, 866872), (522176, 806412)),
    ("float32", 1, 64, False, 8, (256552, 528956), (253040, 325440)),
    ("float32", 2, 33, True, 8, (281460, 1001808), (273440, 998444)),
    ("float32", 2, 33, True, 3, (281444, 889808), (273420, 901080)),
]


@pytest.mark.parametrize(("dtype", "batch", "seq", "trained", "number", "chunked", "linear"), TORCHTUNE)
def test_torchtune_measured(
    dtype: str, batch: int, seq: int, trained: bool, number: int, chunked: tuple[int, int], linear: tuple[int, int]
) -> None:
    """Witness: torchtune's own ``CEWithChunkedOutputLoss`` (0.6.1) and ``LinearCrossEntropyLoss`` (bd2a0fc), measured
    forward and backward on PyTorch 2.13's CPU allocator without oneDNN's scratch. Hidden size 64, vocabulary 1,000.
    """
    for loss, (saved, largest) in (
        (torchtune_loss.ce_chunked_output, chunked),
        (partial(torchtune_loss.linear_cross_entropy, share=1.0), linear),
    ):
        ledger = Ledger(Cpu())
        x = ledger.parameter("x", (batch, seq, 64), dtype, requires_grad=True)
        weight = ledger.parameter("weight", (1000, 64), dtype, requires_grad=trained)
        labels = ledger.parameter("labels", (batch, seq), "int64", requires_grad=False)
        hidden = ops.mul(x, ops.SCALAR)
        before = ledger.saved
        out = loss(partial(ops.linear, weight=weight), hidden, labels, number)  # type: ignore[arg-type]
        assert ledger.saved - before == saved
        backward(ledger, out)
        assert max(ledger.peaks.values()) == pytest.approx(largest, abs=64)


def test_log_probabilities_and_entropies_by_a_kernel() -> None:
    """By hand, after ``trl/kernels/logprob_entropy.py``: on a GPU four numbers in float32 for each token, and backward
    the gradient of the logits. An entropy alone takes labels of its own."""
    ledger = Ledger(Cuda((9, 0)), events=Events())
    logits = ledger.parameter("logits", (2, 3, 11), "bfloat16", True)
    labels = ledger.parameter("labels", (2, 3), "int64", False)
    assert ledger.events is not None
    sizes = ledger.events.sizes
    both = trl_loss.selective_log_softmax_and_entropy(logits, labels, True, 1.0, None)
    assert sizes == [132, 48, *[24] * 4]
    assert [(one.shape, one.dtype, one.node is None) for one in both] == [((2, 3), "float32", i == 1) for i in (0, 1)]
    (entropy,) = trl_loss.entropy_from_logits(logits, 128)
    assert (entropy.shape, entropy.node, sizes[6:]) == ((2, 3), None, [48, *[24] * 4])
    (logprobs,) = trl_loss.selective_log_softmax(logits, labels)
    assert (logprobs.node is None, sizes[11:]) == (False, [24] * 4)
    backward(ledger, ops.sum(logprobs))
    assert sizes[15:] == [4, 4, 132]  # the sum, its gradient, that of the logits
    assert logits.grad is not None
    assert (logits.grad.shape, logits.grad.dtype) == ((2, 3, 11), "bfloat16")


def test_a_capped_tile_has_a_tangent_more() -> None:
    """By hand, after ``_backward_tile`` of TRL: where logits are capped, their hyperbolic tangent is there, too."""

    def sizes(capped: bool) -> Counter[int]:
        ledger = Ledger(Cpu(), events=Events())
        x = ledger.parameter("x", (5, 8), "float32", requires_grad=True)
        weight = ledger.parameter("weight", (11, 8), "float32", requires_grad=True)
        targets = ledger.parameter("targets", (5,), "int64", requires_grad=False)
        (logprobs,) = trl_loss.log_probabilities(x, weight, None, targets, capped, ())
        backward(ledger, ops.sum(logprobs))
        assert ledger.events is not None
        return Counter(ledger.events.sizes)

    more = sizes(capped=True)
    more.subtract(sizes(capped=False))
    assert {size: count for size, count in more.items() if count} == {5 * 11 * 4: 1}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_entropies_without_a_kernel(temperature: float) -> None:
    """By hand, after ``trl/trainer/utils.py``: logits are divided by a temperature that is not one, each row has its
    log-probabilities, and so have the tokens of the entropy, which keeps nothing here."""
    ledger = Ledger(Cpu(), events=Events())
    logits = ledger.parameter("logits", (2, 3, 11), "bfloat16", True)
    labels = ledger.parameter("labels", (2, 3), "int64", False)
    assert ledger.events is not None
    before = len(ledger.events.sizes)
    logprobs, entropy = trl_loss.selective_log_softmax_and_entropy(logits, labels, False, temperature, None)
    divided = [] if temperature == 1 else [8, 2, 132]  # with the number, in its dtype and in that of the logits
    assert ledger.events.sizes[before:] == [*divided, *[66, 6, 12] * 2, 12, 132, 132, 132, 12, 12, 12]
    assert (logprobs.shape, entropy.shape, entropy.node) == ((2, 3), (2, 3), None)
    assert logprobs.node is not None
