"""Rules of CUDA kernels. No GPU runs here: the witness is PyTorch where a CPU or a fake tensor shows the fact
(clipping, states, autocast), else numbers worked out by hand from the source that the rule names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from estimator import operators as ops
from estimator.bases.bitsandbytes import matmul_4bit, matmul_8bit
from estimator.bases.formats import Base
from estimator.ledger import Events, Ledger, Tensor, backward
from estimator.methods.base import Targets
from estimator.methods.lora import Lora, LoraMethod
from estimator.operators import CPU, Cuda
from estimator.operators.cuda.cublas import workspace_bytes, workspaces
from estimator.operators.cuda.reductions import reduction_workspace, resident_threads
from estimator.plans.models import ModelSpec
from estimator.programs.step import Step
from estimator.steps.clipping import clip
from estimator.steps.optimizers import OPTIMIZERS
from estimator.steps.optimizers.eight_bit import PagedAdamW8bit
from estimator.steps.step import run
from estimator.steps.train import Train
from estimator.witnesses.measure import allocator_events, peak_of
from estimator.witnesses.reference.model import storage_bytes
from estimator.witnesses.reference.optimizers import make_optimizer

MIB = 1024 * 1024
L40S = {"capability": (8, 9), "multiprocessors": 142}


def gpu(**keys: Any) -> Ledger:
    return Ledger(Cuda(**{**L40S, **keys}), events=Events())


def leaf(ledger: Ledger, shape: tuple[int, ...], dtype: str = "bfloat16", grad: bool = True) -> Tensor:
    x = ledger.empty(shape, dtype)
    x.requires_grad = grad
    return x


def taken(ledger: Ledger, run: Any) -> list[int]:
    """The sizes that ``run`` allocates, in order."""
    assert ledger.events is not None
    before = len(ledger.events.sizes)
    held = run()
    del held
    return ledger.events.sizes[before:]


# ---- reductions ----------------------------------------------------------------------------


def test_columns_of_a_bias_gradient() -> None:
    """By hand from ``setReduceConfig``: 2,756 rows of 4,096 on 142 multiprocessors. Blocks of 32 x 4 threads, four
    columns to a thread: 32 blocks, 689 values to a thread, so 44 blocks share a column; 4 B x 4,096 x 44 x 32 x 4."""
    assert reduction_workspace((8, 9), (2756, 4096), (4096, 1), (True, False), 142) == (92_274_688, 128)


Reduction = tuple[tuple[int, ...], tuple[int, ...], list[int], tuple[int, int], int, "tuple[int, int] | None"]
REDUCTIONS: list[Reduction] = [
    ((4, 689, 3072), (2116608, 3072, 1), [0, 1], (8, 9), 142, (69206016, 96)),
    ((4, 689, 3072), (2116608, 3072, 1), [2], (8, 9), 142, None),
    ((8, 2048, 4096), (8388608, 4096, 1), [0, 1], (8, 0), 108, (113246208, 128)),
    ((8, 2048, 4096), (8388608, 4096, 1), [0, 1], (9, 0), 132, (138412032, 128)),
    ((8, 512, 1000), (512000, 1000, 1), [1], (7, 5), 40, None),
    ((2000, 130), (130, 1), [0], (8, 6), 84, None),
    ((10000000,), (1,), [0], (8, 9), 142, (1704, 4)),
    ((3000, 1111), (1111, 1), [0], (12, 0), 170, None),
    ((4, 100, 5000, 2), (1000000, 5000, 1, 500000), [2], (8, 0), 108, None),
    ((300, 4096), (1, 300), [0], (8, 9), 142, None),
]
"""Shape, strides, dimensions reduced, capability, multiprocessors, workspace."""


@pytest.mark.parametrize("case", REDUCTIONS, ids=str)
def test_reductions(case: Reduction) -> None:
    """Witness: ``Reduce.cuh`` of PyTorch 2.13, its configuration compiled for the host and given the real
    ``TensorIterator``; 18,000 random layouts agreed when the rule was written."""
    shape, strides, dims, capability, count, expected = case
    reduced = [i in dims for i in range(len(shape))]
    assert reduction_workspace(capability, shape, strides, reduced, count) == expected


@pytest.mark.parametrize(
    ("capability", "threads"), [((7, 0), 2048), ((7, 5), 1024), ((8, 0), 2048), ((8, 9), 1536), ((12, 0), 1536)]
)
def test_resident_threads(capability: tuple[int, int], threads: int) -> None:
    """Witness: the CUDA C++ Programming Guide's table."""
    assert resident_threads(capability) == threads


def test_weight_gradient_of_a_norm() -> None:
    """The gradient of a scale is the product's sum over all tokens: its workspace is on top of the product."""
    ledger = gpu()
    weight, x = leaf(ledger, (4096,)), leaf(ledger, (4, 689, 4096), grad=False)
    y = ops.mul(weight, x)
    ledger.peaks.clear()
    start = ledger.live
    backward(ledger, y)
    token_bytes = 4 * 689 * 4096 * 2
    assert ledger.peaks["inputs backward"] - start == 2 * token_bytes + 4096 * 2 + 92_274_688 + 128


# ---- operators -----------------------------------------------------------------------------


def test_scalars_stay_on_the_host() -> None:
    """``TensorIterator`` keeps a wrapped number on the CPU: a scaled tensor is one allocation, its gradient too."""
    ledger = gpu()
    x = leaf(ledger, (40, 6))
    assert taken(ledger, lambda: ops.mul(x, ops.SCALAR)) == [480]
    y = ops.mul(x, ops.SCALAR)
    assert taken(ledger, lambda: backward(ledger, y)) == [480, 480]  # ones, the gradient


SUMS = [lambda x: ops.mean(x, -1), lambda x: ops.sum(x, 1), ops.linalg_vector_norm]


@pytest.mark.parametrize("rule", SUMS)
def test_no_copy_for_wide_sums(rule: Any) -> None:
    """``gpu_reduce_kernel`` reads 16 bits into float32 accumulators: the result is all there is."""
    ledger = gpu()
    x = leaf(ledger, (4, 50), grad=False)
    assert taken(ledger, lambda: rule(x)) in ([8], [2])


@pytest.mark.parametrize("count", [3072, 3073])
def test_embedding_gradient(count: int) -> None:
    """By hand from ``Embedding.cu``: with 3,073 ids of a vocabulary of 50, 307 + 50 float32 rows on top."""
    ledger = gpu()
    ids, weight = ledger.empty((1, count), "int64"), leaf(ledger, (50, 16))
    y = ops.embedding(ids, weight)
    sizes = taken(ledger, lambda: backward(ledger, y))[1:]
    n = 8 * count
    if count == 3072:
        assert sizes == [1600]
    else:
        assert sizes == [n, n, n, 2 * n, 1600, n, 8, n, 400, 400, 8, 8 * 357, 4 * 357 * 16]


def test_products_of_rows_and_columns_take_no_clone() -> None:
    """``prepare_batch_matrix_for_cublas``: a transposed operand is column-major; one split in heads is row-major;
    one expanded along its rows is neither."""
    ledger = gpu()
    a, b = leaf(ledger, (3, 8, 6), grad=False), leaf(ledger, (3, 5, 6), grad=False)
    assert taken(ledger, lambda: ops.bmm(a, ops.transpose(b, 1, 2))) == [3 * 8 * 5 * 2]
    heads = ops.transpose(leaf(ledger, (8, 3, 6), grad=False), 0, 1)
    assert taken(ledger, lambda: ops.bmm(heads, ops.transpose(b, 1, 2))) == [3 * 8 * 5 * 2]
    row = ops.expand(leaf(ledger, (3, 1, 6), grad=False), (3, 8, 6))
    assert taken(ledger, lambda: ops.bmm(row, ops.transpose(b, 1, 2))) == [3 * 8 * 5 * 2, a.nbytes]


def test_layer_norm_statistics() -> None:
    """``layer_norm_cuda`` keeps them in float32 for 16-bit rows; so says PyTorch of a fake GPU tensor."""
    with FakeTensorMode():
        x_real = torch.empty(3, 8, dtype=torch.bfloat16, device="cuda")
        _, *statistics = torch.native_layer_norm(x_real, (8,), None, None, 1e-5)
    ledger = gpu()
    x, weight, bias = leaf(ledger, (3, 8)), leaf(ledger, (8,)), leaf(ledger, (8,))
    y = ops.layer_norm(x, weight, bias)
    assert ledger.saved == x.nbytes + weight.nbytes + bias.nbytes + sum(t.numel() * t.itemsize for t in statistics)
    assert taken(ledger, lambda: backward(ledger, y)) == [48, 48, 16, 16]


Rule = Callable[[Any], Any]
AUTOCAST: dict[str, tuple[Rule, Rule]] = {
    "pow": (lambda x: ops.pow(x, ops.SCALAR), lambda x: x.pow(2)),
    "rsqrt": (ops.rsqrt, torch.rsqrt),
    "exp": (ops.exp, torch.exp),
    "sum": (lambda x: ops.sum(x, 1), lambda x: x.sum(1)),
    "mean": (lambda x: ops.mean(x, -1, keepdim=True), lambda x: x.mean(-1, keepdim=True)),
    "vector_norm": (ops.linalg_vector_norm, torch.linalg.vector_norm),
    "log_softmax": (ops.log_softmax, lambda x: functional.log_softmax(x, 1)),
    "silu": (ops.silu, functional.silu),
    "gelu": (ops.gelu, functional.gelu),
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "sqrt": (ops.sqrt, torch.sqrt),
    "cos": (ops.cos, torch.cos),
    "relu": (ops.relu, torch.relu),
    "clamp": (ops.clamp, lambda x: x.clamp(min=0.5)),
    "add": (lambda x: ops.add(x, ops.SCALAR), lambda x: x + 1),
}


@pytest.mark.parametrize("name", AUTOCAST)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_autocast(device: str, name: str) -> None:
    """Witness: PyTorch's autocast of a fake tensor on the device."""
    rule, function = AUTOCAST[name]
    ledger = Ledger({"cpu": CPU, "cuda": Cuda()}[device])
    ledger.autocast = "bfloat16"
    mine = rule(leaf(ledger, (3, 8), grad=False))
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        with FakeTensorMode():
            real = function(torch.empty(3, 8, dtype=torch.bfloat16, device=device))
    finally:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    assert (mine.dtype, mine.shape) == (str(real.dtype)[6:], tuple(real.shape))


# ---- cuBLAS --------------------------------------------------------------------------------


def test_cublas_workspace() -> None:
    """Witness: pytorch/pytorch issue #95668 (A10G: 8,519,680 bytes), and ``parseChosenWorkspaceSize``."""
    assert workspace_bytes((8, 6)) == workspace_bytes((7, 5)) == 8_519_680
    assert workspace_bytes((9, 0)) == workspace_bytes((10, 0)) == workspace_bytes((12, 0)) == 32 * MIB


PUBLISHED_STEPS = [
    (5067375616, 5470299648, 13631488, 1, 1024, 32768, 4096),
    (1260876800, 1527485952, 6291456, 1, 1024, 32256, 2048),
    (1130420224, 3065928192, 9011200, 12, 1024, 32000, 2048),
    (1359442944, 2450257408, 12582912, 4, 1024, 49152, 2048),
    (407073792, 1365767680, 6553600, 1, 4096, 49152, 960),
]
"""Bytes allocated after loading and at the peak of the first optimizer step, trainable parameters, batch, sequence,
vocabulary, hidden size: QLoRA with checkpointing on a Tesla T4, float32 adapters and head, AdamW. From
https://github.com/Anassbzdd/fitcheck, data/measurements of 0.3.1: final-t4-20260921 (1, 3), t4-phase3-2026-09-16 (10;
all torch 2.10.0), t4-sweep-2026-09-15 (4, 24; published as torch 2.14.0, but see the notes in
docs/measured/published/fitcheck-t4.yaml). Of 24 such rows 17 come out to the byte; the others are up to 3 MB higher, as
where a block of the allocator is not split."""


@pytest.mark.parametrize("step", PUBLISHED_STEPS)
def test_published_optimizer_steps(step: tuple[int, ...]) -> None:
    """Witness: published measurements. Two workspaces are alive, and AdamW's step is the foreach one with no count on
    the device. The rest is what the ledger holds there: logits, two hidden states of the checkpoints, ids, the loss."""
    loaded, peak, trainable, batch, seq, vocab, hidden = step
    ledger = gpu(capability=(7, 5), multiprocessors=40)
    ledger.unrolled = True
    options = Step("llama", "float32", base=Base("nf4", "float16", "float16"), checkpointing="layer", procedure=Train())
    raw = {"model_type": "llama", "vocab_size": vocab, "hidden_size": 64, "intermediate_size": 64}
    own = {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 4}
    sizes = ModelSpec("test", {**raw, **own}, "test").config.sizes(lambda layer: None, options, 1, 40)
    totals = run(options, sizes, Lora(LoraMethod(r=4), Targets(["q_proj"]), "float32"), 1, 40, ledger=ledger)
    held = totals.moments["optimizer step"][0] - 2 * totals.gradients  # gradients, roots
    assert held == 40 * vocab * 4 + 2 * 40 * 64 * 4 + 40 * 8 + 4
    above = 4 * trainable * 4 + batch * seq * (vocab * 4 + 2 * hidden * 4 + 8) + 512
    assert totals.optimizer == 2 * totals.gradients
    assert peak - loaded == above + workspaces("backpropagation") * workspace_bytes((7, 5))


def test_first_products() -> None:
    """The first product of each thread is noted when its result is there."""
    ledger = gpu()
    assert ledger.events is not None
    x, weight = leaf(ledger, (5, 6)), leaf(ledger, (7, 6))
    y = ops.linear(x, weight)
    backward(ledger, ops.linear(y, leaf(ledger, (3, 7))))
    places = ledger.events.products
    sizes = {thread: ledger.events.sizes[ledger.events.order[place - 1]] for thread, place in places.items()}
    assert sizes == {"main": 2 * 5 * 7, "backward": 2 * 3 * 7}  # the gradient of the weight comes first


# ---- optimizers ----------------------------------------------------------------------------

SHAPES = [("a.0.w", (40, 10)), ("a.1.w", (80, 64)), ("norm", (10,)), ("a.2.w", (400, 300))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name, made in OPTIMIZERS.items() if not made.in_backward])
def test_state_sizes_in_their_order(name: str, dtype: str) -> None:
    """Witness: the real optimizer's states on a CPU, in the order of its dictionary (bitsandbytes' quantisation maps,
    which all share, are told apart)."""
    ledger = Ledger(CPU)
    parameters = [ledger.parameter(key, shape, dtype, requires_grad=True) for key, shape in SHAPES]
    torch.manual_seed(0)
    named = [(key, torch.nn.Parameter(torch.randn(s).to(getattr(torch, dtype)))) for key, s in SHAPES]
    optimizer = make_optimizer(name, named, 6)
    for _, p in named:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for mine, (_, p) in zip(parameters, named, strict=True):
        state = optimizer.state.get(p, {})
        kept = [s for key, s in state.items() if isinstance(s, torch.Tensor) and not key.startswith("qmap")]
        assert OPTIMIZERS[name](6).state_sizes(mine) == tuple(storage_bytes([s]) for s in kept)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("adamw", (8000, 8000)),
        ("adamw-fused", (4, 8000, 8000)),
        ("adamw-master", (16000, 16000, 16000)),
        ("adamw-8bit", (4000 * 4, 4000 * 4)),
        ("adafactor", (200, 80)),
        ("sgd-momentum", (8000,)),
    ],
)
def test_step_counts_on_the_host(name: str, sizes: tuple[int, ...]) -> None:
    """``Adam._init_group``: the count is on the host unless the optimizer is fused."""
    p = gpu().parameter("w", (100, 40), "bfloat16", requires_grad=True)
    assert OPTIMIZERS[name]().state_sizes(p) == sizes


def test_paged_states_are_not_the_allocators() -> None:
    """``get_state_buffer``: from 100,000 elements on; the maxima of 391 blocks stay."""
    p = gpu().parameter("w", (1000, 100), "bfloat16", requires_grad=True)
    assert PagedAdamW8bit().state_sizes(p) == (4 * 391, 4 * 391)


@pytest.mark.parametrize("name", ["adamw", "adamw-foreach"])
def test_foreach_temporaries(name: str) -> None:
    """``_multi_tensor_adam``: a root for each parameter, each an allocation; the first dtype's go when the second
    one's are there (which the CPU's foreach step shows, ``tests/cases/optimizers.py``)."""
    ledger = gpu()
    kinds = [((40, 10), "float32"), ((7,), "bfloat16"), ((6, 5), "float32")]
    parameters = [ledger.parameter("w", shape, dtype, requires_grad=True) for shape, dtype in kinds]
    assert taken(ledger, lambda: OPTIMIZERS[name]().step(ledger, parameters)) == [1600, 120, 14]
    assert ledger.events is not None
    assert ledger.events.order[:3] == [0, 1, 2]
    assert taken(ledger, lambda: OPTIMIZERS["adamw-fused"]().step(ledger, parameters)) == []
    assert ledger.live == 0


# ---- clipping ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", [("float32",), ("bfloat16",), ("float16", "float32"), ("bfloat16", "float16")])
def test_clipping(dtypes: tuple[str, ...]) -> None:
    """Witness: ``clip_grad_norm_`` on the real allocator."""
    kinds = [((7 + i, 40), dtypes[i % len(dtypes)]) for i in range(60)]
    real = [torch.nn.Parameter(torch.randn(shape).to(getattr(torch, dtype))) for shape, dtype in kinds]
    for p in real:
        p.grad = torch.randn_like(p)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(real, 1.0)

    ledger = Ledger(CPU)
    clip(ledger, [ledger.parameter("w", shape, dtype, requires_grad=True) for shape, dtype in kinds])
    assert (max(ledger.peaks.values()), ledger.live) == (peak_of(allocator_events(step))[0], 0)


def test_clipping_in_chunks() -> None:
    """By hand from ``foreach_tensor_norm_cuda``: three gradients of at most four chunks of 65,536 elements."""
    ledger = gpu()
    parameters = [ledger.parameter("w", (n,), "bfloat16", requires_grad=True) for n in (10, 65_536, 200_000)]
    sizes = taken(ledger, lambda: clip(ledger, parameters))
    assert sizes == [3 * 4 * 4, 2, 2, 2, 6, 2, 2, 2, 2, 2]
    assert ledger.live == 0


# ---- bitsandbytes --------------------------------------------------------------------------

NF4 = Base("nf4", "bfloat16", "bfloat16", double_quant=True)


@pytest.mark.parametrize(("tokens", "weights"), [(4, 0), (5, 1), (2000, 1)])
def test_four_bit_forward(tokens: int, weights: int) -> None:
    """``_dequant_linear_fallback`` holds both scales and the weight; a few tokens need neither."""
    ledger = gpu()
    x = leaf(ledger, (1, tokens, 128))
    sizes = taken(ledger, lambda: matmul_4bit(x, (256, 128), None, NF4))
    scales = [4 * 512, 4 * 512, 2 * 256 * 128] * weights
    assert sizes == [*scales, tokens * 256 * 2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_eight_bit(dtype: str) -> None:
    """``MatMul8bitLt``: the input in float16 and int8, its magnitudes and outliers, int32, float16, the result; in
    backward one weight and the scales, without copies."""
    ledger = gpu()
    tokens, n_in, n_out = 6, 128, 256
    x = leaf(ledger, (2, 3, n_in), dtype)
    half = [] if dtype == "float16" else [2]
    quantised = [*(size * tokens * n_in for size in (*half,)), 4 * tokens, tokens * n_in, 2 * tokens * n_in]
    wide = [tokens * n_in, 1, 4 * tokens * n_out, *itertools.repeat(2 * tokens * n_out, 1 + len(half))]
    assert taken(ledger, lambda: matmul_8bit(x, (n_out, n_in), None)) == [*quantised, *wide]
    y = matmul_8bit(x, (n_out, n_in), None)
    freed = taken(ledger, lambda: backward(ledger, y))
    assert freed == [2 * tokens * n_out, 2 * n_out * n_in, 4 * n_out, 2 * tokens * n_in]
