"""Operator rules: what PyTorch's operators allocate, save for backward, and allocate in backward.

Each function is one ATen operator, or a documented composite, under its aten name. It takes the ledger's tensors and
those arguments that change memory. What is saved, and under which condition on ``requires_grad``, follows
``tools/autograd/derivatives.yaml``. The backward formulas follow ``torch/csrc/autograd/FunctionsManual.cpp``. Neither
depends on the device. Where a kernel's memory does, the rule asks ``device``. ``tests/operators`` compares each rule
with the real operator on a CPU. Rules of CUDA kernels name their source file and function.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

# fmt: off
# isort: off
from .attention import key_block, query_block, scaled_dot_product_attention
from .attention_cuda import flash_attn
from .casts import autocast, from_host, to
from .convolution import conv1d
from .copies import block_diag, cat, pad, repeat, repeat_interleave, stack
from .device import CPU, THREADS, Cpu, Cuda, Device
from .elementwise import (
    SCALAR, add, add_, add_sparse_, add_to_view_, clamp, cos, div, dropout, exp, gelu, mul, mul_view_, neg, pow,
    relu, rsqrt, sigmoid, silu, sin, sqrt, sub, tanh, without_gradient, wrapped_number,
)
from .indexing import (
    bincount, embedding, embedding_dense_backward, index_copy, index_copy_, index_put_, searchsorted, where,
)
from .layout import Grads, strides_of, view_of
from .losses import cross_entropy
from .norms import layer_norm, log_softmax, softmax, softmax_backward
from .products import (
    addmm, baddbmm, bmm, einsum, fft_ifft2, grouped_mm, kron, launch_cublas, linalg_solve, linalg_solve_triangular,
    linear, matmul, mm,
)
from .reductions import histc, linalg_vector_norm, mean, sum
from .views import (
    alias, clone, contiguous, expand, narrow, permute, real, reshape, select, slice, split, split_counted,
    split_with_sizes, squeeze, transpose, unbind, unsqueeze, view,
)
