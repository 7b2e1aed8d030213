"""The ledger: how many bytes are live at every moment of a step.

A tensor of the ledger lives as long as its Python object (``refcounts``). So a program that is written like the
original module frees its temporaries where PyTorch frees them, and nobody declares when a tensor dies. Sizes are
integers, or polynomials in symbols (``sizes``). Nothing here knows an operator, a device, a model or a file.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

from .events import Called, Events, Origin
from .graph import RESULT, Backward, Beside, Call, Node, backward, record, record_views, sum_to
from .ledger import (
    APART,
    FLOATING,
    ITEMSIZE,
    MOST_WORK,
    Counted,
    Hooks,
    Input,
    Ledger,
    Pinned,
    SavedBy,
    SavedRow,
    Shape,
    Storage,
    Tensor,
)
from .refcounts import check
from .sizes import Size, ceiling, product, whole

check()
