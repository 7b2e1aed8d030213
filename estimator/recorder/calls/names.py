"""PyTorch's functions by their names: which need no record or a cast of their operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

PYTHON_DTYPES = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
"""What Python's types mean where a dtype is expected (``python_arg_parser.h: PythonArgs::scalartype``)."""
READS = {
    "__bool__", "item", "tolist", "__int__", "__float__", "__index__", "__complex__", "__contains__", "numpy",
    "equal", "allclose", "is_nonzero", "__array__",
}  # fmt: skip
"""Functions whose answer is made of a tensor's data."""
ANSWERS = {"isinf": False, "isnan": False, "isfinite": True, "_is_all_true": True}
"""What functions say of any numbers: they are finite, and within the bounds that a distribution checks."""
QUESTIONS = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous",
    "is_floating_point", "is_complex", "element_size", "__len__", "get_device", "data_ptr", "is_inference",
    "__hash__", "__repr__", "__format__", "is_tensor", "result_type", "can_cast", "promote_types", "is_signed",
    "is_set_to", "untyped_storage", "_is_zerotensor", "is_conj", "is_neg", "has_names", "__dir__", "__deepcopy__",
    "is_same_size", "storage", "_nnz", "is_coalesced",
}  # fmt: skip
"""Functions that answer something about a tensor without its data."""
AUTOCAST_LOWER = {
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "conv1d", "conv2d", "conv3d",
    "conv_transpose2d", "einsum", "scaled_dot_product_attention", "chain_matmul", "mv", "addmv", "prelu",
}  # fmt: skip
AUTOCAST_LOSSES = {
    "poisson_nll_loss", "cosine_embedding_loss", "nll_loss_nd", "nll_loss", "cross_entropy_loss", "kl_div",
    "hinge_embedding_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss",
    "binary_cross_entropy_with_logits",
}  # fmt: skip
"""Losses, which autocast runs in float32 on a CPU, too."""
AUTOCAST_FLOAT32 = {
    *AUTOCAST_LOSSES,
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt",
    "sinh", "tan", "pow", "softplus", "layer_norm", "group_norm", "norm", "nuclear_norm", "linalg_vector_norm",
    "cosine_similarity", "dist", "pdist", "cdist", "renorm", "logsumexp",
    "softmax", "log_softmax", "prod", "sum", "cumprod", "cumsum", "rms_norm",
}  # fmt: skip


SPECIAL: dict[str, Callable[..., Any]] = {}
"""What notes a function that needs handling of its own. It takes the recorder, the function and its arguments."""
F = TypeVar("F", bound=Callable[..., Any])


def special(*names: str) -> Callable[[F], F]:
    """Enter what notes the functions of these names."""

    def enter(note: F) -> F:
        SPECIAL.update(dict.fromkeys(names, note))
        return note

    return enter


def cast_all(tree: Any, dtype: torch.dtype) -> Any:
    """A tree of arguments with its floating tensors in another dtype, as autocast makes them."""

    def cast(x: Any) -> Any:
        return (
            x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype.is_floating_point and x.dtype != torch.float64 else x
        )

    return torch.utils._pytree.tree_map(cast, tree)
