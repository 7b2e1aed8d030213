"""Why an operator keeps a tensor for backward: what each operator saves, and which input's gradient is made of it.

Source: ``tools/autograd/derivatives.yaml`` of PyTorch, and the ``backward`` of each ``torch.autograd.Function``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from ..ledger import Input, SavedBy


class Kept(NamedTuple):
    """A tensor that an operator saves. ``because``: a reason beside the gradients that need it."""

    what: str
    wanted: tuple[int, ...] = ()
    """The inputs whose gradient is made of it, counted from the last one (-1). None: of an operator with one input."""
    because: str = ""


class Operator(NamedTuple):
    """The inputs that may need a gradient, and what is saved, in order. Positions past the end are as the last one."""

    inputs: tuple[str, ...]
    saved: tuple[Kept, ...]


def _unary(what: str, because: str) -> Operator:
    return Operator(("input",), (Kept(f"its {what}", because=because),))


_FACTORS = ("first factor", "second factor")
_PRODUCT = Operator(_FACTORS, (Kept("its second factor", (-2,)), Kept("its first factor", (-1,))))
_MATRICES = Operator(("input", "weight"), _PRODUCT.saved)
"""What a linear layer runs, among others."""
_SCORES = "backward computes the attention weights again from query and key"
_QKV = ("query", "key", "value")
_QUERY = Kept("query", because=_SCORES)
_KEY = Kept("key", because=_SCORES)
_VALUE = Kept("value", because="the gradient of the attention weights is the incoming one times value")
_OUT = Kept("its result", because="each row's sum of result times gradient is part of softmax's gradient")
_LSE = Kept("each row's log-sum-exp", because="with it backward computes the attention weights again")
_MASK = Kept("the mask", because=_SCORES)
_RANDOM = Kept("the state of the random numbers", because="kept even without dropout")
_SOFTMAX = _unary("result", "softmax's gradient is computed from its result")
_WHERE = Kept("the indices", because="they say where the gradient belongs")
_CHECKPOINT = Operator((), (Kept("what goes into the checkpoint", because="backward runs it again from here"),))
_SHAPE = "backward reads its shape"

OPERATORS: Mapping[str, Operator] = {
    # products
    "MmBackward0": _MATRICES,
    "AddmmBackward0": _MATRICES,
    "BmmBackward0": _PRODUCT,
    "BaddbmmBackward0": _PRODUCT,
    "MvBackward0": _PRODUCT,
    "DotBackward0": _PRODUCT,
    "MulBackward0": _PRODUCT,
    "GroupedMmBackward0": Operator(
        _FACTORS, (*_PRODUCT.saved, Kept("the groups' last rows", because="they say which rows belong to which matrix"))
    ),
    "ConvolutionBackward0": Operator(
        ("input", "weight", "bias"), (Kept("its input", (-2,)), Kept("its weight", (-3,)))
    ),
    "DivBackward0": Operator(("dividend", "divisor"), (Kept("its dividend", (-1,)), Kept("its divisor", (-2, -1)))),
    "LinalgSolveExBackward0": Operator(
        ("matrix", "right-hand side"),
        (
            Kept("its matrix", because="kept beside its factors"),
            Kept("the matrix's LU factors", (-2, -1), "backward solves with them again"),
            Kept("the factors' row order", (-2, -1), "backward solves with them again"),
            Kept("its result", (-2,)),
        ),
    ),
    "LinalgSolveTriangularBackward0": Operator(
        ("matrix", "right-hand side"), (Kept("its matrix", (-2, -1)), Kept("its result", (-2,)))
    ),
    "FftR2CBackward0": _unary("input", _SHAPE),
    # elementwise
    "PowBackward0": _unary("input", "the derivative of x^n is n x^(n-1)"),
    "PowBackward1": Operator(
        ("base", "exponent"),
        (Kept("its base", (-2, -1)), Kept("its exponent", (-2, -1)), Kept("its result", (-1,))),
    ),
    "PowBackward2": Operator(
        ("exponent",), (Kept("its exponent", because="PyTorch keeps it"), Kept("its result", because="b^x ln b"))
    ),
    "ExpBackward0": _unary("result", "the derivative of e^x is e^x"),
    "Expm1Backward0": _unary("result", "the derivative of e^x - 1 is the result plus one"),
    "SqrtBackward0": _unary("result", "the derivative of a square root is 1/2 over the result"),
    "RsqrtBackward0": _unary("result", "the derivative of 1/sqrt(x) is -1/2 times the result's cube"),
    "ReciprocalBackward0": _unary("result", "the derivative of 1/x is minus the result's square"),
    "CosBackward0": _unary("input", "the derivative of cos(x) is -sin(x)"),
    "SinBackward0": _unary("input", "the derivative of sin(x) is cos(x)"),
    "LogBackward0": _unary("input", "the derivative of ln(x) is 1/x"),
    "Log1PBackward0": _unary("input", "the derivative of ln(1 + x) is 1/(1 + x)"),
    "AbsBackward0": _unary("input", "the derivative of |x| is the sign of x"),
    "ErfinvBackward0": _unary("input", "the derivative depends on x"),
    "SoftplusBackward0": _unary("input", "the derivative of softplus(x) depends on x"),
    "ReluBackward0": _unary("result", "gradients pass where the result is above zero"),
    "GeluBackward0": _unary("input", "the derivative of gelu(x) depends on x"),
    "SiluBackward0": _unary("input", "the derivative of silu(x) depends on x"),
    "TanhBackward0": _unary("result", "the derivative of tanh(x) is one minus the result's square"),
    "SigmoidBackward0": _unary("result", "the derivative is the result times one minus the result"),
    "LogSigmoidBackward0": Operator(
        ("input",),
        (
            Kept("its input", because="the derivative of log-sigmoid(x) depends on x"),
            Kept("exp(-|x|) of its input", because="backward reads it in place of computing it again"),
        ),
    ),
    "ClampBackward0": Operator(
        ("input",),
        (
            Kept("its input", because="gradients pass where the input is within the bounds"),
            Kept("a bound", because="gradients pass where the input is within the bounds"),
        ),
    ),
    "ClampBackward1": _unary("input", "gradients pass where the input is within the bounds"),
    "MaximumBackward0": Operator(
        ("first operand", "second operand"),
        (
            Kept("its first operand", (-2, -1), "the gradient goes to the larger one"),
            Kept("its second operand", (-2, -1), "the gradient goes to the larger one"),
        ),
    ),
    "WhereBackward0": Operator(
        ("first choice", "second choice"), (Kept("the condition", because="it says which choice gets the gradient"),)
    ),
    "MaskedFillBackward0": Operator(
        ("input",), (Kept("the mask", because="where a number was filled in the gradient is zero"),)
    ),
    "NativeDropoutBackward0": Operator(
        ("input",), (Kept("the mask of dropout", because="the gradient of what was dropped is zero"),)
    ),
    # reductions and norms
    "VarBackward0": _unary("input", "the derivative is the distance from the mean"),
    "StdBackward0": Operator(
        ("input",),
        (
            Kept("its input", because="the derivative is the distance from the mean, over the result"),
            Kept("its result", because="the derivative is the distance from the mean, over the result"),
        ),
    ),
    "LinalgVectorNormBackward0": Operator(
        ("input",),
        (
            Kept("its input", because="the derivative is the input over the norm"),
            Kept("its result", because="the derivative is the input over the norm"),
        ),
    ),
    "LogsumexpBackward0": Operator(
        ("input",),
        (
            Kept("its input", because="the derivative is e^(input - result)"),
            Kept("its result", because="the derivative is e^(input - result)"),
        ),
    ),
    "AmaxBackward0": Operator(
        ("input",),
        (
            Kept("its input", because="the gradient goes to the elements that are equal to the result"),
            Kept("its result", because="the gradient goes to the elements that are equal to the result"),
        ),
    ),
    "SoftmaxBackward0": _SOFTMAX,
    "SafeSoftmaxBackward0": _SOFTMAX,
    "LogSoftmaxBackward0": _unary("result", "its gradient is computed from the probabilities, which are e^result"),
    "NativeLayerNormBackward0": Operator(
        ("input", "weight", "bias"),
        (
            Kept("its input", because="normalised again in backward"),
            Kept("each row's mean", because="the input is normalised again in backward"),
            Kept("each row's reciprocal deviation", because="the input is normalised again in backward"),
            Kept("its weight", (-3,)),
            Kept("its bias", because="PyTorch keeps it"),
        ),
    ),
    "FusedRmsNormBackward0": Operator(
        ("input", "weight"),
        (
            Kept("its input", because="normalised again in backward"),
            Kept("its weight", (-2,)),
            Kept("each row's reciprocal norm", because="the input is normalised again in backward"),
        ),
    ),
    # looking up and writing
    "EmbeddingBackward0": Operator(
        ("weight",), (Kept("the token ids", because="they say to which rows of the weight gradients are added"),)
    ),
    "IndexBackward0": Operator(("input",), (_WHERE,)),
    "IndexPutBackward0": Operator(("input", "values"), (_WHERE,)),
    "IndexSelectBackward0": Operator(("input",), (_WHERE,)),
    "IndexAddBackward0": Operator(("input", "source"), (_WHERE, Kept("its source", because=_SHAPE))),
    "IndexCopyBackward0": Operator(("input", "source"), (_WHERE, Kept("its source", because=_SHAPE))),
    "GatherBackward0": Operator(("input",), (_WHERE, Kept("its input", because=_SHAPE))),
    "ScatterBackward0": Operator(("input", "source"), (_WHERE,)),
    "ScatterAddBackward0": Operator(("input", "source"), (_WHERE,)),
    "TopkBackward0": Operator(("input",), (_WHERE,)),
    "SortBackward0": Operator(("input",), (_WHERE,)),
    "MaxBackward0": Operator(("input",), (_WHERE,)),
    "SparseCooTensorWithDimsAndTensorsBackward0": Operator(
        ("values",), (_WHERE, Kept("the values", because="part of the sparse tensor that is kept"))
    ),
    "SparseAddmmBackward0": Operator(
        ("sparse factor", "second factor"),
        (
            _WHERE,
            Kept("its sparse factor", because="backward multiplies by it and reads its indices"),
            Kept("its second factor", (-2,)),
        ),
    ),
    "ToDenseBackward0": Operator(("input",), (_WHERE, Kept("the sparse tensor", because=_SHAPE))),
    "CopySlices": Operator(
        ("input", "values"), (Kept("what the operator keeps that wrote to a part of a larger tensor"),)
    ),
    # attention kernels
    "ScaledDotProductFlashAttentionForCpuBackward0": Operator(_QKV, (_QUERY, _KEY, _VALUE, _OUT, _LSE, _MASK)),
    "ScaledDotProductFlashAttentionBackward0": Operator(
        _QKV, (_QUERY, _KEY, _VALUE, _MASK, _OUT, _LSE, _RANDOM, _RANDOM)
    ),
    "FlashAttnFuncBackward": Operator(_QKV, (_QUERY, _KEY, _VALUE, _MASK, _OUT, _LSE, _RANDOM)),
    "ScaledDotProductEfficientAttentionBackward0": Operator(_QKV, (_QUERY, _KEY, _VALUE, _MASK, _OUT, _LSE)),
    "ScaledDotProductCudnnAttentionBackward0": Operator(
        _QKV, (_QUERY, _KEY, _VALUE, _MASK, _OUT, _LSE, _RANDOM, _RANDOM)
    ),
    # losses
    "NllLossBackward0": Operator(
        ("log-probabilities",),
        (
            Kept("its log-probabilities", because=_SHAPE),
            Kept("the labels", because="they say which entry of each row gets the gradient"),
            Kept("the number of labels", because="the mean divides by it"),
        ),
    ),
    "LigerFusedLinearCrossEntropyFunctionBackward": Operator(
        ("hidden states", "weight"),
        (
            Kept("the gradient of the hidden states", because="Liger computes it in the forward pass"),
            Kept("the gradient of the head's weight", because="Liger computes it in the forward pass"),
        ),
    ),
    "LinearCrossEntropyFunctionBackward": Operator(
        ("hidden states", "weight"),
        (
            Kept("the hidden states", because="backward computes the logits again, tile by tile"),
            Kept("the head's weight", because="backward computes the logits again, tile by tile"),
            Kept("each token's log-sum-exp", because="backward computes the probabilities again"),
            Kept("the labels", because="they say which logit of each token gets the gradient"),
            Kept("the tokens that have a label", because="backward takes them alone"),
            Kept("the mean logit of each word", because="backward sorts the vocabulary by it"),
        ),
    ),
    "ChunkedLogProbFunctionBackward": Operator(
        ("hidden states", "weight", "bias"),
        (
            Kept("the hidden states", because="backward computes the logits again, tile by tile"),
            Kept("the head's weight", because="backward computes the logits again, tile by tile"),
            Kept("the head's bias", because="backward computes the logits again, tile by tile"),
            Kept("the labels", because="they say which logit of each token gets the gradient"),
            Kept("each token's log-sum-exp", because="backward computes the probabilities again"),
            Kept("each token's entropy", because="the function marks it for backward"),
        ),
    ),
    "MaskedScatterBackward0": Operator(
        ("input",), (Kept("the mask", because="it says which positions' gradients are taken"),)
    ),
    # adapters
    "HadaWeightBackward": Operator(
        ("w1_a", "w1_b", "w2_a", "w2_b"),
        (
            *(Kept(f"its {name}", because="backward multiplies the factors again") for name in ("w1_a", "w1_b")),
            *(Kept(f"its {name}", because="backward multiplies the factors again") for name in ("w2_a", "w2_b")),
            Kept("the scale", because="the gradients are multiplied by it"),
        ),
    ),
    "UniqueBaseGradBackward": Operator(
        ("base", "lambda", "gamma"), (Kept("its base", (-2, -1)), Kept("lambda", (-1,)), Kept("gamma", (-2,)))
    ),
    "BlockCircularConvolutionBackward": Operator(
        ("input", "kernel"), (Kept("its input in blocks", (-1,)), Kept("its kernel", (-2,)))
    ),
    # checkpoints
    "_NoopSaveInputs": _CHECKPOINT,
    "CheckpointFunctionBackward": _CHECKPOINT,
    "product": Operator(
        (), (Kept("the result of a product or of attention", because="selective checkpointing keeps it"),)
    ),
}
"""What each operator saves, by its node's name in PyTorch."""

CHECKPOINTS = ("_NoopSaveInputs", "CheckpointFunctionBackward")
"""What holds the inputs of a checkpoint."""
UNCHANGED = (
    *("AliasBackward0", "ExpandBackward0", "PermuteBackward0", "SelectBackward0", "SliceBackward0", "SqueezeBackward0"),
    *("ToCopyBackward0", "TransposeBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0"),
)
"""Operators whose result is their input, seen or stored in another way."""


def reason(use: SavedBy, where: str = "", linear: Container[str] = ()) -> str:
    """Why an operator keeps a tensor, as a clause. ``where`` is what precedes the paths of the layer's modules.

    ``linear`` are the paths of linear layers. Which gradients need the tensor follows from ``OPERATORS`` and from which
    of the operator's inputs require one.
    """
    operator = OPERATORS.get(use.operator)
    if operator is None:
        # A rule of this project has a row, so this is a function of the model's own or of a library's.
        clause = "saved by this autograd.Function itself"
        return f"{_INSTEAD}{clause}" if use.instead else clause
    kept = operator.saved[min(use.position, len(operator.saved) - 1)]
    clause = kept.what
    wanted = [number for number in kept.wanted if -number <= len(use.inputs)]
    needed = [(number, one) for number in wanted if (one := use.inputs[number]) is not None and one.requires_grad]
    names = [_parameter(one, where) for _, one in needed]
    if operator is _MATRICES and (use.within in linear or any(names)):
        what = "input" if use.position else "weight"
        clause = f"the {what} of {use.within.removeprefix(where)}"
    if needed:
        inputs = operator.inputs if clause != kept.what or operator is not _MATRICES else _FACTORS
        listed = [name or f"its {inputs[number]}" for (number, _), name in zip(needed, names, strict=True)]
        verb = "need" if len(listed) > 1 else "needs"
        noun = "gradients" if len(listed) > 1 else "gradient"
        clause += f": the {noun} of {_listed(listed)} {verb} it"
        clause += f" ({kept.because})" if kept.because else ""
    elif kept.wanted:
        clause += ": kept although no gradient needs it"
    elif kept.because:
        clause += f": {kept.because}"
    return f"{_INSTEAD}{clause}" if use.instead else clause


_INSTEAD = "codes, scale or zero point, held in place of "


def _parameter(one: Input, where: str) -> str:
    """The parameter that an input is, whatever its view or its dtype; empty if it is computed."""
    return one.parameter.removeprefix(where) if all(name in UNCHANGED for name in one.through) else ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
