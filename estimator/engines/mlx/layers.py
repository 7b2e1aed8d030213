"""Layers of ``mlx.nn`` and of mlx-lm's ``tuner``, by what they call. Only shapes and dtypes are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ...errors import InputError
from . import arrays as mx
from .arrays import Array, scalar
from .compiler import compiled


@dataclass(frozen=True)
class Setting:
    """How a model runs."""

    dtype: str
    bits: int | None
    """Bits of a quantised weight."""
    metal: bool
    """A GPU has kernels for what a CPU composes of primitives (``use_fallback`` in ``fast.cpp``)."""
    group: int = 64
    """Weights that share a scale and a bias."""
    checkpointing: bool = False
    training: bool = True


class Module:
    """Arrays by name, in the order in which the real module has them, and modules below."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.trained: set[str] = set()
        """Names of arrays that are trained."""
        self.adapters: set[str] = set()
        """Names of arrays that an adapter has."""

    def children(self) -> Iterator[Module]:
        return iter(())

    def modules(self) -> Iterator[Module]:
        """Itself and all below, in the order of the arrays."""
        for child in self.children():
            yield from child.modules()
        yield self

    def train(self) -> None:
        """``unfreeze``: what is not quantised is trained."""
        for module in self.modules():
            module.trained = {
                name for name, a in module.arrays.items() if "scales" not in module.arrays and name[0] != "_"
            }

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]


def weights(shape: tuple[int, ...], setting: Setting, bits: int | None) -> dict[str, Array]:
    """A weight, or its packed integers of 32 bits with a scale and a bias for each group of a row."""
    *rows, columns = shape
    if bits is None:
        return {"weight": Array(shape, setting.dtype)}
    grouped = (*rows, columns // setting.group)
    return {
        "weight": Array((*rows, columns * bits // 32), "uint32"),
        "scales": Array(grouped, setting.dtype),
        "biases": Array(grouped, setting.dtype),
    }


def packed(arrays: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """A quantised weight's integers, scales and biases."""
    return arrays["weight"], arrays["scales"], arrays["biases"]


class Linear(Module):
    """``nn.Linear``, ``nn.QuantizedLinear``, and adapters around them."""

    def __init__(self, rows: int, columns: int, setting: Setting, bias: bool = False, bits: int | None = None) -> None:
        super().__init__()
        self.rows, self.columns, self.setting = rows, columns, setting
        self.bits = bits or setting.bits
        self.arrays = weights((rows, columns), setting, self.bits)
        if bias:
            self.arrays["bias"] = Array((rows,), setting.dtype)

    def adapt(self, rank: int, dora: bool) -> None:
        """``LoRALinear.from_base``, ``DoRALinear.from_base``."""
        if dora:
            self.arrays["m"] = Array((self.rows,), "float32")
        self.arrays["lora_a"] = Array((self.columns, rank), "float32")
        self.arrays["lora_b"] = Array((rank, self.rows), "float32")
        self.adapters = self.arrays.keys() & {"m", "lora_a", "lora_b"}
        self.trained = set(self.adapters)

    def __call__(self, x: Array) -> Array:
        if "m" in self.arrays:
            return self._dora(x)
        y = self._base(x)
        if not self.adapters:
            return y
        z = (x @ self["lora_a"]) @ self["lora_b"]
        return y + (20.0 * z).astype(x.dtype)

    def _base(self, x: Array) -> Array:
        bias = self.arrays.get("bias")
        if self.bits is not None:
            y = mx.quantized_matmul(x, packed(self.arrays), True, self.bits, self.setting.group)
            return y if bias is None else y + bias
        return x @ self["weight"].T if bias is None else mx.addmm(bias, x, self["weight"].T)

    def _dora(self, x: Array) -> Array:
        w = self["weight"]
        if self.bits is not None:
            w = mx.dequantize(packed(self.arrays), self.bits, self.setting.group, self.setting.metal)
        y = x @ w.T
        z = (x @ self["lora_a"]) @ self["lora_b"]
        out = y + (20.0 * z).astype(x.dtype)
        adapted = w + (20.0 * self["lora_b"].T) @ self["lora_a"].T
        norm = mx.stop_gradient(mx.unary("Sqrt", mx.sum(mx.unary("Square", adapted), 1)))
        out = (self["m"] / norm).astype(x.dtype) * out
        return out + self["bias"] if "bias" in self.arrays else out


class Switch(Module):
    """``SwitchLinear`` and its quantised form: a matrix for each expert."""

    def __init__(self, experts: int, rows: int, columns: int, setting: Setting) -> None:
        super().__init__()
        self.shape, self.setting = (experts, rows, columns), setting
        self.arrays = weights(self.shape, setting, setting.bits)

    def adapt(self, rank: int, dora: bool) -> None:
        """``LoRASwitchLinear.from_base``. Raises ``InputError`` for DoRA, as mlx-lm does."""
        if dora:
            raise InputError(
                "use_dora: true does not go with experts, for which mlx-lm has no DoRA; leave use_dora out, or name "
                "other layers as target_modules"
            )
        experts, rows, columns = self.shape
        self.arrays["lora_a"] = Array((experts, rank, columns), "float32")
        self.arrays["lora_b"] = Array((experts, rows, rank), "float32")
        self.adapters = {"lora_a", "lora_b"}
        self.trained = set(self.adapters)

    def __call__(self, x: Array, index: Array, in_order: bool) -> Array:
        s = self.setting
        if s.bits is not None:
            y = mx.gather_qmm(x, packed(self.arrays), index, True, s.bits, s.group, in_order)
        else:
            y = mx.gather_mm(x, mx.swapaxes(self["weight"], -1, -2), None, index, in_order)
        if not self.adapters:
            return y
        z = x
        for name in ("lora_a", "lora_b"):
            z = mx.gather_mm(z, mx.swapaxes(self[name], -1, -2), None, index, in_order)
        return y + (20.0 * z).astype(x.dtype)


class Embedding(Module):
    """``nn.Embedding`` and its quantised form."""

    def __init__(self, rows: int, columns: int, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.arrays = weights((rows, columns), setting, setting.bits)

    def __call__(self, x: Array) -> Array:
        s = self.setting
        if s.bits is not None:
            return mx.dequantize([part[x] for part in packed(self.arrays)], s.bits, s.group, s.metal)
        return self["weight"][x]

    def as_linear(self, x: Array) -> Array:
        s = self.setting
        if s.bits is not None:
            return mx.quantized_matmul(x, packed(self.arrays), True, s.bits, s.group)
        return x @ self["weight"].T


class RMSNorm(Module):
    """``nn.RMSNorm``, and Gemma's, which adds one to its weight."""

    def __init__(self, size: int, setting: Setting, plus_one: bool) -> None:
        super().__init__()
        self.plus_one, self.metal = plus_one, setting.metal
        self.arrays = {"weight": Array((size,), setting.dtype)}

    def __call__(self, x: Array) -> Array:
        weight = 1.0 + self["weight"] if self.plus_one else self["weight"]
        dtype = mx.promoted(x.dtype, weight.dtype)
        weight = weight.astype(dtype)
        if self.metal:
            return Array(x.shape, dtype, mx.Primitive("RMSNorm", (), _rms_norm_vjp), (x.astype(dtype), weight))
        y = x.astype("float32")
        y = y * mx.unary("Rsqrt", mx.mean(mx.unary("Square", y), -1, keepdims=True) + scalar(1e-5, "float32"))
        return y.astype(dtype) * weight


def _rms_norm_vjp(node: Array, cotangents: list[Array]) -> list[Array]:
    x, weight = node.inputs
    primitive = mx.Primitive("RMSNormVJP")
    return mx.made(primitive, (x, weight, cotangents[0]), (x.shape, weight.shape), (x.dtype, weight.dtype))


class RoPE(Module):
    """``mx.fast.rope`` over the first ``dims`` of a head.

    With ``table`` the frequencies are an array that was computed when the model was made (Llama 3, YaRN, LongRoPE), and
    with ``rescaled`` what is rotated is scaled first (YaRN, LongRoPE).
    """

    def __init__(self, dims: int, setting: Setting, base: float, table: bool = False, rescaled: bool = False) -> None:
        super().__init__()
        self.dims, self.metal, self.base, self.rescaled = dims, setting.metal, base, rescaled
        if table:
            self.arrays["_freqs"] = Array((dims // 2,), "float32")

    def __call__(self, x: Array, offset: int = 0) -> Array:
        if self.rescaled:
            start, stop = (0,) * x.ndim, (*x.shape[:-1], self.dims)
            x = x * 1.5 if self.dims == x.shape[-1] else mx.slice_update(x, mx.slice(x, start, stop) * 1.5, start, stop)
        inputs = [x, Array((), "int32", value=float(offset)), *self.arrays.values()]
        return self._kernel(inputs, True) if self.metal else self._composed(inputs)

    def _kernel(self, inputs: list[Array], forward: bool) -> Array:
        def rule(node: Array, cotangents: list[Array]) -> list[Array]:
            return [self._kernel([cotangents[0], *node.inputs[1:]], not forward)]

        x = inputs[0]
        return Array(x.shape, x.dtype, mx.Primitive("RoPE", (self.dims, self.base, forward), rule), inputs)

    def _composed(self, inputs: list[Array]) -> Array:
        x, half, dims = inputs[0], self.dims // 2, self.dims
        positions = (mx.arange(0, x.shape[2], "float32") + inputs[1]) * scalar(1.0, "float32")
        if len(inputs) == 3:
            inverse = mx.divide(scalar(1.0, "float32"), inputs[2])
        else:
            inverse = mx.unary("Exp", mx.arange(0, -half, "float32", -1) * scalar(self.base, "float32"))
        theta = mx.expand_dims(positions, -1) * inverse
        cos, sin = (mx.unary(name, theta).astype(x.dtype) for name in ("Cos", "Sin"))
        first, second = mx.slice_axis(x, -1, 0, half), mx.slice_axis(x, -1, half, dims)
        parts = [first * cos - second * sin, first * sin + second * cos]
        if dims < x.shape[-1]:
            parts.append(mx.slice_axis(x, -1, dims, x.shape[-1]))
        return mx.reshape(mx.concatenate(parts), x.shape)


def attention(q: Array, k: Array, v: Array, scale: float, mask: Array | str | None, setting: Setting) -> Array:
    """``mx.fast.scaled_dot_product_attention``. While a GPU trains it is composed of primitives, as on a CPU."""
    inputs = [q, k, v]
    if isinstance(mask, Array):
        inputs.append(mx.broadcast_to(mask, (*q.shape[:-1], k.shape[-2])))
    length, dim = q.shape[2], q.shape[-1]
    # backend/metal/scaled_dot_product_attention.cpp: use_fallback, with the kernels' head sizes.
    fused = dim in (64, 80, 128) if length > 8 else dim in (64, 96, 128, 256)
    if not setting.metal or setting.training or not fused:
        return _attention(inputs, scale, mask == "causal")
    return Array((*q.shape[:-1], v.shape[-1]), q.dtype, mx.Primitive("ScaledDotProductAttention"), inputs)


def _attention(inputs: list[Array], scale: float, causal: bool) -> Array:
    q = mx.multiply(scalar(scale, inputs[0].dtype), inputs[0])
    k, v = inputs[1:3]
    heads = k.shape[1]
    repeats = q.shape[1] // heads
    if repeats > 1:
        q = mx.unflatten(q, 1, (heads, repeats))
        k, v = mx.expand_dims(k, 2), mx.expand_dims(v, 2)
    scores = q @ mx.swapaxes(k, -1, -2)
    mask = None
    if causal:
        length, keys = q.shape[-2], k.shape[-2]
        rows = mx.expand_dims(mx.arange(keys - length, keys), 1)
        columns = mx.expand_dims(mx.arange(0, keys), 0)
        mask = mx.binary("GreaterEqual", rows, columns, "bool")
    elif len(inputs) == 4:
        mask = inputs[3]
    if mask is not None:
        if repeats > 1 and mask.ndim >= 3:
            mask = mx.expand_dims(mask, -3) if mask.shape[-3] == 1 else mx.unflatten(mask, -3, (heads, repeats))
        scores = mx.where(mask, scores, scalar(-1e30, scores.dtype)) if mask.dtype == "bool" else scores + mask
    out = mx.softmax(scores) @ v
    return mx.flatten(out, 1, 2) if repeats > 1 else out


def compiled_alone(function: Callable[..., Array], setting: Setting, *arrays: Array) -> Array:
    """A function under ``mx.compile(shapeless=True)``. Within a compiled step it is traced with the rest."""
    if setting.training:
        return function(*arrays)
    inputs = [Array(a.shape, a.dtype) for a in arrays]
    with mx.shapeless():
        outputs = [function(*inputs)]
    given = {id(x): a for x, a in zip(inputs, arrays, strict=True)}
    outputs = compiled(inputs, outputs)
    stack, seen = list(outputs), set[int]()
    while stack:
        a = stack.pop()
        if id(a) not in seen:
            seen.add(id(a))
            a.inputs = [given.get(id(x), x) for x in a.inputs]
            stack.extend(
                x
                for x in a.inputs
                if id(x) not in given and x.primitive is not None and all(x is not y for y in arrays)
            )
    return outputs[0]


def swiglu(gate: Array, x: Array) -> Array:
    """``activations.py: swiglu``."""
    return gate * mx.unary("Sigmoid", gate) * x


def gelu_approx(x: Array) -> Array:
    """``nn.gelu_approx``."""
    return 0.5 * x * (1 + mx.unary("Tanh", 0.7978845608028654 * (x + 0.044715 * x**3)))
