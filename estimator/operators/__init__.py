"""Operator rules: what PyTorch's operators allocate, save for backward, and allocate in backward.

Each function is one ATen operator, or a documented composite, under its aten name. It takes the ledger's tensors and
those arguments that change memory. The decorators above it are the rest of its row (``table.py``). What is saved, and
under which condition on ``requires_grad``, follows ``tools/autograd/derivatives.yaml``. The backward formulas follow
``torch/csrc/autograd/FunctionsManual.cpp``. Neither depends on the device. Where a kernel's memory does, the rule asks
``device``. ``tests/operators`` compares each rule with the real operator on a CPU. Rules of CUDA kernels name their
source file and function.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

# fmt: off
# isort: off
from .attention import key_block, query_block, scaled_dot_product_attention
from .attention_cuda import flash_attn
from .casts import autocast, from_host, to, widens
from .convolution import conv1d, conv_transpose2d, convolution
from .copies import block_diag, block_diag_of, cat, diff, flip, pad, repeat, repeat_interleave, roll, stack, triu
from .device import CPU, DEVICES, THREADS, Cpu, Cuda, Device
from .elementwise import (
    INTEGER, SCALAR, Operand, abs, add, add_sparse_, ceil, clamp, clamp_by, cos, div, dropout,
    erfinv, exp, expm1, floor, gelu, log, log1p, logsigmoid, masked_fill, masked_scatter, maximum, mul, neg, polar, pow,
    promote_number, reciprocal, relu, round, rsqrt, rsub, sigmoid, sign, silu, sin, softplus, sqrt, square, sub, tanh,
    trunc, where, without_gradient, wrapped_number,
)
from .in_place import (
    add_, clamp_, copy_, div_, exp_, fill_, masked_fill_, mul_, neg_, pow_, relu_, sigmoid_, sub_, tanh_,
)
from . import factories, foreach
from .indexing import (
    bincount, embedding, embedding_dense_backward, gather, index, index_add, index_add_, index_by_mask,
    index_copy, index_copy_, index_put, index_put_, index_select, scatter, scatter_, scatter_add, scatter_add_,
    searchsorted, selected, selecting, sort, take_along_dim, unique,
)
from .layout import Grads, empty_like, strides_of, view_of
from .losses import cross_entropy, mse_loss, nll_loss
from .norms import layer_norm, log_softmax, rms_norm, softmax, softmax_backward
from .products import (
    addmm, baddbmm, bmm, einsum, fft, fft_ifft2, grouped_mm, kron, launch_product, linalg_qr, linalg_solve,
    linalg_solve_triangular, linear, matmul, mm,
)
from .reductions import amax, cumsum, histc, linalg_vector_norm, logsumexp, mean, std, sum, var
from .sparse import coalesce, sparse_coo_tensor, sparse_mm, to_dense
from .views import (
    alias, clone, contiguous, expand, narrow, permute, real, reshape, select, slice, split, split_counted,
    split_with_sizes, squeeze, transpose, unbind, unfold, unsqueeze, view, view_as_complex, view_as_real,
)
