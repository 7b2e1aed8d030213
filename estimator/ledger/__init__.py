"""The ledger: what is live at every moment of a step, kept by reference counting.

A forward program written like the original module frees its temporaries where PyTorch frees them, since the lifetimes
of tensors are those of the interpreter's own objects (``refcounts``); no event is declared by hand. Sizes are integers,
or polynomials where some symbol is left open (``sizes``).

This folder knows no operator, no device, no model and no file, and nothing of PyTorch but the rules of its autograd.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

from .events import Events
from .graph import RESULT, Backward, Call, Node, record, record_views, sum_to
from .ledger import MOST_WORK, Hooks, Ledger, Pinned, SavedRow
from .refcounts import check
from .sizes import Size, ceiling, product, whole
from .tensors import FLOATING, ITEMSIZE, Counted, Shape, Storage, Tensor

check()
