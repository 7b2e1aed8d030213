"""Rules of convolutions. oneDNN's scratch is left out.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch.nn import functional

from estimator import operators as ops
from tests.helpers.operator_rules import BF16, F16, F32, Given, agree

CALLS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]] = {
    "depthwise": ((2, 48, 11), (48, 1, 4), {"padding": 3, "groups": 48}),
    "depthwise of one sequence": ((1, 48, 11), (48, 1, 4), {"padding": 3, "groups": 48}),
    "two groups": ((2, 48, 11), (32, 24, 4), {"padding": 3, "groups": 2}),
    "one group": ((2, 48, 11), (32, 48, 4), {"padding": 3}),
    "one group of one sequence": ((1, 48, 11), (32, 48, 4), {"padding": 3}),
    "one position": ((2, 48, 11), (32, 48, 1), {}),
}


@pytest.mark.share(3)
@pytest.mark.usefixtures("reference_threads")
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("swapped", [None, (1, 2)], ids=["channels first", "tokens first"])
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_conv1d(name: str, bias: bool, grads: tuple[bool, bool], swapped: Any, dtype: str) -> None:
    shape, kernel, options = CALLS[name]
    length = shape[2] + 2 * options.get("padding", 0) - kernel[2] + 1
    given = [Given(shape, dtype, grads[0], swapped), Given(kernel, dtype, grads[1])]
    if bias:
        given.append(Given(kernel[:1], dtype, grads[1]))
    agree(
        lambda x, w, b=None: ops.conv1d(x, w, b, length, options.get("groups", 1)),
        lambda x, w, b=None: functional.conv1d(x, w, b, **options),
        *given,
        work="groups" not in options,
    )


PATCHES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "patches of two images": ((2, 3, 16, 12), (8, 3, 4, 4)),
    "patches of one image": ((1, 3, 16, 12), (8, 3, 4, 4)),
    "small patches of one image": ((1, 3, 16, 12), (8, 3, 2, 2)),
    "patches of a video": ((6, 3, 2, 4, 4), (8, 3, 2, 4, 4)),
}


@pytest.mark.usefixtures("reference_threads")
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("name", PATCHES)
def test_patches(name: str, trains: bool, dtype: str) -> None:
    """What a vision tower begins with. Images need no gradient, of which oneDNN may make a second copy."""
    shape, kernel = PATCHES[name]
    stride = kernel[2:]
    convolve = functional.conv3d if len(shape) == 5 else functional.conv2d
    size = tuple(n // k for n, k in zip(shape[2:], stride, strict=True))
    agree(
        lambda x, w, b: ops.transpose(ops.convolution(x, w, b, size), 1, 2),
        lambda x, w, b: convolve(x, w, b, stride=stride).transpose(1, 2),
        Given(shape, dtype, False),
        Given(kernel, dtype, trains),
        Given(kernel[:1], dtype, trains),
    )


TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]] = {
    "columns": ((1, 4, 24, 22), (4, 1, 2, 2), {"stride": 2}),
    "a padded result": ((1, 4, 24, 22), (4, 1, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1}),
    "one position": ((1, 4, 24, 22), (4, 1, 1, 1), {"stride": 1}),
    "one position, strided": ((1, 4, 24, 22), (4, 1, 1, 1), {"stride": 2}),
    "a large kernel": ((1, 4, 24, 22), (4, 1, 4, 4), {"stride": 2}),
    "a large input": ((1, 4, 80, 90), (4, 1, 2, 2), {"stride": 2}),
    "two sequences": ((2, 4, 24, 22), (4, 1, 2, 2), {"stride": 2}),
}


@pytest.mark.share(3)
@pytest.mark.usefixtures("reference_threads")
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("swapped", [None, (2, 3)], ids=["contiguous", "transposed"])
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d(name: str, bias: bool, grads: tuple[bool, bool], swapped: Any, dtype: str) -> None:
    shape, kernel, options = TRANSPOSED[name]
    added = options.get("output_padding", 0) - 2 * options.get("padding", 0)
    size = tuple((n - 1) * options["stride"] + k + added for n, k in zip(shape[2:], kernel[2:], strict=True))
    given = [Given(shape, dtype, grads[0], swapped), Given(kernel, dtype, grads[1])]
    if bias:
        given.append(Given(kernel[1:2], dtype, grads[1]))
    agree(
        lambda x, w, b=None: ops.conv_transpose2d(x, w, b, size),
        lambda x, w, b=None: functional.conv_transpose2d(x, w, b, **options),
        *given,
    )


@pytest.mark.usefixtures("reference_threads")
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_short_convolution(dtype: str) -> None:
    """Mamba's: a depthwise convolution over tokens, of which the padding's results are cut off."""

    def mine(x: Any, w: Any, b: Any) -> Any:
        out = ops.conv1d(ops.transpose(x, 1, 2), w, b, 14, 48)
        return ops.transpose(ops.silu(ops.slice(out, -1, 11)), 1, 2)

    def real(x: Any, w: Any, b: Any) -> Any:
        out = functional.conv1d(x.transpose(1, 2), w, b, padding=3, groups=48)
        return functional.silu(out[..., :11]).transpose(1, 2)

    agree(mine, real, Given((2, 11, 48), dtype), Given((48, 1, 4), dtype), Given((48,), dtype), work=False)


def test_conv_transpose2d_under_autocast() -> None:
    agree(
        lambda x, w: ops.conv_transpose2d(x, w, None, (48, 44)),
        lambda x, w: functional.conv_transpose2d(x, w, stride=2),
        Given((1, 4, 24, 22), F32),
        Given((4, 1, 2, 2), F32),
        autocast=BF16,
    )


def test_conv1d_under_autocast() -> None:
    agree(
        lambda x, w, b: ops.conv1d(x, w, b, 14, 48),
        lambda x, w, b: functional.conv1d(x, w, b, padding=3, groups=48),
        Given((2, 48, 11), F32),
        Given((48, 1, 4), F32),
        Given((48,), F32),
        autocast=BF16,
        work=False,
    )


@pytest.mark.usefixtures("reference_threads")
@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (3, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("trains", [True, False])
def test_a_weight_beside_channels_last(trains: bool, kernel: tuple[int, int], channels: int, groups: int) -> None:
    """oneDNN has a copy of it in the layout of its input, which is the same of a single channel, or of a point."""
    size = (60 - kernel[0] + 1, 50 - kernel[1] + 1)
    agree(
        lambda x, w: ops.convolution(ops.transpose(ops.transpose(x, 1, 3), 2, 3), w, None, size, groups),
        lambda x, w: functional.conv2d(x.permute(0, 3, 1, 2), w, groups=groups),
        Given((2, 60, 50, channels), F32, grad=False),
        Given((96, channels // groups, *kernel), F32, trains),
        work=groups == 1,
    )
