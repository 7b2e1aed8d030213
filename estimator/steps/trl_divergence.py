"""TRL's ``ChunkedDivergenceFunction``: how far a student's next tokens are from a teacher's, without whole logits.

The ``DistillationTrainer`` of TRL 1.16 calls it (``trl/kernels/chunked_divergence.py``): an ``autograd.Function`` over
tiles of both models' logits, of 4,096 tokens and 32,768 entries of the vocabulary, always float32. A Triton kernel
folds them on a GPU, and PyTorch's operators on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .. import operators as ops
from ..ledger import ITEMSIZE, RESULT, Call, Ledger, Size, Tensor, record, whole
from ..operators.table import Kept, saves
from .trl_loss import accumulate, buffer, first_rows, tiles


class Head(NamedTuple):
    """A model's hidden states [N, H], and the head that makes its logits."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


@saves(
    "ChunkedDivergenceFunctionBackward",
    Kept("the student's hidden states", because="backward computes the logits again, tile by tile"),
    Kept("the student's head's weight", because="backward computes the logits again, tile by tile"),
    Kept("the student's head's bias", because="backward computes the logits again, tile by tile"),
    Kept("the teacher's hidden states", because="backward computes the logits again, tile by tile"),
    Kept("the teacher's head's weight", because="backward computes the logits again, tile by tile"),
    Kept("the teacher's head's bias", because="backward computes the logits again, tile by tile"),
    Kept("each token's log-sum-exp of the student", because="backward computes the probabilities again"),
    Kept("each token's log-sum-exp of the teacher", because="backward computes the probabilities again"),
    Kept("each token's divergence", because="the gradient of a probability depends on it"),
    inputs=("hidden states", "weight", "bias"),
)
def divergence(student: Head, teacher: Head, mixes: bool, capped: bool) -> tuple[Tensor, Tensor]:
    """The divergence of each token [N] and the student's entropy [N], float32. Only the student gets a gradient.

    ``mixes``: of a mixture of both (``beta`` between 0 and 1), which takes two passes over the tiles. ``capped``: the
    student's logits have a soft cap.
    """
    ledger = student.hidden.ledger
    tokens, vocab = student.hidden.shape[0], whole(student.weight.shape[0])
    dtypes = [ledger.autocast or one.hidden.dtype for one in (student, teacher)]
    with ledger.no_grad():
        running = [_numbers(ledger, tokens) for _ in range(7)]
        jsd, kl_student = _numbers(ledger, tokens), _numbers(ledger, tokens)
        buffers = _buffers(ledger, tokens)
        for rows, of, widths in tiles(tokens, vocab):
            chunks = _chunks(student, teacher, rows, dtypes)
            for width in widths:
                _project(student, teacher, chunks, width, of)
                _fold(ledger, rows, width, 6, 5)
            for width in widths if mixes else ():
                log_z = [_numbers(ledger, rows) for _ in range(2)]
                _project(student, teacher, chunks, width, of)
                _fold(ledger, rows, width, 7)
                del log_z
        s_log_z, t_log_z, entropy = (_numbers(ledger, tokens) for _ in range(3))
    result = record(
        "ChunkedDivergenceFunctionBackward",
        lambda: jsd if mixes else _numbers(ledger, tokens),
        student,
        (*student, *teacher, s_log_z, t_log_z, kl_student if mixes else RESULT),
        _backward,
        dtypes,
        mixes,
        capped,
    )
    del running, kl_student, buffers, chunks
    return result, entropy


def _numbers(ledger: Ledger, tokens: Size) -> Tensor:
    return ledger.empty((tokens,), "float32")


def _buffers(ledger: Ledger, tokens: Size) -> list[Tensor]:
    """Of the student's tiles and of the teacher's."""
    return [buffer(ledger, tokens, "float32") for _ in range(2)]


def _chunks(student: Head, teacher: Head, rows: Size, dtypes: Sequence[str]) -> list[Tensor]:
    """The hidden states of a row of tiles, in the dtypes of the products."""
    return [first_rows(one.hidden, rows, dtype) for one, dtype in zip((student, teacher), dtypes, strict=True)]


def _project(student: Head, teacher: Head, chunks: Sequence[Tensor], width: int, of: Size) -> None:
    """``_project`` of both models: float32 logits in a buffer. A CPU takes float32 copies of 16-bit factors."""
    for one, chunk in zip((student, teacher), chunks, strict=True):
        ledger = chunk.ledger
        weight = first_rows(one.weight, width, chunk.dtype)
        if not ledger.device.tiles_on_chip:
            copies = ops.to(chunk, "float32"), ops.to(weight, "float32")
            del copies
        ledger.multiply(of, chunk.shape[1], width)
        if one.bias is not None:
            first_rows(one.bias, width, "float32")
        del weight


def _fold(ledger: Ledger, rows: Size, width: int, tiles: int, numbers: int = 0) -> None:
    """What PyTorch's operators have at once: so many tiles [rows, width], and numbers of each row."""
    if not ledger.device.tiles_on_chip:
        size = ITEMSIZE["float32"]
        ledger.transient(*[rows * width * size] * tiles, *[rows * size] * numbers)


def _backward(call: Call) -> ops.Grads:
    """All that the function has by name is there to its end: both buffers, and the gradients before they are cast."""
    student, teacher = Head(*call.saved[:3]), Head(*call.saved[3:6])
    (dtypes, mixes, capped), ledger = call.args, call.ledger
    tokens, vocab, width_of = student.hidden.shape[0], whole(student.weight.shape[0]), student.hidden.shape[1]
    grads: list[Any] = [
        ledger.empty(operand.shape, "float32") if need and operand is not None else None
        for operand, need in zip(student, call.needs, strict=True)
    ]
    buffers = _buffers(ledger, tokens)
    grad_tile: Any = None
    for rows, of, widths in tiles(tokens, vocab):
        chunks = _chunks(student, teacher, rows, dtypes)
        for width in widths:
            _project(student, teacher, chunks, width, of)
            _fold(ledger, rows, width, (10 if mixes else 9) + capped)
            grad_tile = None if dtypes[0] == "float32" else ledger.empty((rows, width), dtypes[0])
            for need in call.needs[:2]:
                if need:
                    ledger.multiply(of, width_of, width)
            if call.needs[0]:
                weight = first_rows(student.weight, width, dtypes[0])
                accumulate(ledger, (True, False), (rows, width, width_of), dtypes[0])
                del weight
            accumulate(ledger, (False, call.needs[1]), (rows, width, width_of), dtypes[0])
    made = [
        None if grad is None or x is None else ops.to(grad, x.dtype) for grad, x in zip(grads, student, strict=True)
    ]
    del buffers, chunks, grad_tile, grads
    return tuple(made)
