"""Why an operator keeps a tensor for backward, from the operators' rows."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ..ledger import Input, SavedBy
from ..operators.table import FACTORS, SAVED

_MATRICES = ("MmBackward0", "AddmmBackward0")
"""What a linear layer runs, among others."""
CHECKPOINTS = ("_NoopSaveInputs", "CheckpointFunctionBackward")
"""What holds the inputs of a checkpoint."""
UNCHANGED = (
    *("AliasBackward0", "ExpandBackward0", "PermuteBackward0", "SelectBackward0", "SliceBackward0", "SqueezeBackward0"),
    *("ToCopyBackward0", "TransposeBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0"),
)
"""Operators whose result is their input, seen or stored in another way."""


def reason(use: SavedBy, where: str = "", linear: Container[str] = ()) -> str:
    """Why an operator keeps a tensor, as a clause. ``where`` is what precedes the paths of the layer's modules.

    ``linear`` are the paths of linear layers. Which gradients need the tensor follows from ``SAVED`` and from which
    of the operator's inputs require one.
    """
    operator = SAVED.get(use.operator)
    if operator is None:
        # A rule of this project has a row, so this is a function of the model's own or of a library's.
        clause = "saved by this autograd.Function itself"
        return f"{_INSTEAD}{clause}" if use.instead else clause
    kept = operator.kept[min(use.position, len(operator.kept) - 1)]
    clause = kept.what
    wanted = [number for number in kept.wanted if -number <= len(use.inputs)]
    needed = [(number, one) for number in wanted if (one := use.inputs[number]) is not None and one.requires_grad]
    names = [_parameter(one, where) for _, one in needed]
    if use.operator in _MATRICES and (use.within in linear or any(names)):
        what = "input" if use.position else "weight"
        clause = f"the {what} of {use.within.removeprefix(where)}"
    if needed:
        inputs = operator.inputs if clause != kept.what or use.operator not in _MATRICES else FACTORS
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
