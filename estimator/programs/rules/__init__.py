"""The rule of each PyTorch function that a program may call (``RULES``).

A rule takes the result's shape and dtype, then the function's own arguments under their PyTorch names, with the
ledger's tensors. It says which operator rules (``estimator/operators/``) the function is made of.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

from . import (
    attention,
    copies,
    elementwise,
    in_place,
    indexing,
    linear_algebra,
    optimizers,
    products,
    reductions,
    sparse,
    views,
)
from .table import RULES, Result
