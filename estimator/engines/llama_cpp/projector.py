"""A multimodal projector beside the model: its weights, and the graph that makes an image's embeddings.

After ``tools/mtmd/clip.cpp`` and its ``models/siglip.cpp`` and ``models/internvl.cpp``: vision transformers whose
images have one size, or a largest one. The engine reserves the graph's buffer when it starts, and keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from ...errors import InputError, shown
from . import gguf_file
from .allocator import buffer_bytes
from .ggml import (
    Graph,
    Tensor,
    concat,
    cont,
    leaf,
    like,
    mul_mat,
    pad,
    permute,
    repeat,
    reshape,
    row_bytes,
    transpose,
    view,
)
from .header import TensorInfo

LFM2_TOKENS = 256
"""Tokens of the largest image of LFM2-VL (``clip.cpp: set_limit_image_tokens``)."""
LARGEST_SIDE = 2**14
"""Pixels of an image's side, of which a file may ask at most."""


@dataclass(frozen=True)
class Projector:
    """What it takes beside the model, in bytes, and the tokens of a context that one image takes."""

    weights: int = 0
    compute: int = 0
    tokens: int = 0
    """0 where the projector has no graph here, whose ``compute`` is then 0, too."""
    embd: int = 0
    """The length of an embedding, 0 where it is not known."""

    @property
    def total(self) -> int:
        """All bytes: weights are read, not mapped, and the buffer is written whole for each image."""
        return self.weights + self.compute


NONE = Projector()


class _Tower:
    """A graph under construction, of one image. Raises ``KeyError`` for what the file lacks."""

    def __init__(self, keys: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
        self.keys, self.tensors, self.graph = keys, tensors, Graph()
        self.patch, self.pixels = self.number("patch_size"), self.number("image_size")
        self.embd, self.heads = self.number("embedding_length"), self.number("attention.head_count")
        self._weights: dict[str, Tensor] = {}

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return self.pixels // self.patch

    def number(self, key: str, default: int | None = None) -> int:
        found = self.keys.get(f"clip.vision.{key}", default)
        if not isinstance(found, int) or not 0 < found <= LARGEST_SIDE:
            raise KeyError(f"clip.vision.{key}")
        return found

    def maybe(self, name: str) -> Tensor | None:
        info = self.tensors.get(name)
        if info is None:
            return None
        return self._weights.setdefault(name, leaf(info.kind, *info.shape, name=name, external=True))

    def weight(self, name: str) -> Tensor:
        found = self.maybe(name)
        if found is None:
            raise KeyError(name)
        return found

    def plus(self, x: Tensor, name: str) -> Tensor:
        bias = self.maybe(name)
        return x if bias is None else like("add", x, bias)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return self.plus(mul_mat(self.weight(f"{name}.weight"), x), f"{name}.bias")

    def norm(self, x: Tensor, name: str, op: str = "norm") -> Tensor:
        """``build_norm``; a norm that the file lacks is none."""
        weight = self.maybe(f"{name}.weight")
        return x if weight is None else self.plus(like("mul", like(op, x), weight), f"{name}.bias")

    def patches(self) -> Tensor:
        """``build_inp``: the image's patches, [embedding, patches], by a convolution that is a product."""
        kernel, side = self.weight("v.patch_embd.weight"), self.side
        size, count = kernel.ne[0] * kernel.ne[1] * kernel.ne[2], side * side
        raw = leaf("f32", self.pixels, self.pixels, kernel.ne[2], name="inp_raw")
        columns = Tensor("im2col", "f32" if kernel.kind == "bf16" else "f16", (size, side, side, 1), (kernel, raw))
        x = mul_mat(reshape(columns, size, count), reshape(kernel, size, kernel.ne[3]))
        x = cont(permute(reshape(x, side, side, 1, kernel.ne[3]), 0, 1, 3, 2))
        return self.plus(cont(transpose(reshape(x, count, self.embd))), "v.patch_embd.bias")

    def transformer(self, x: Tensor, op: str = "norm") -> Tensor:
        """``build_vit``, with flash attention, which the engine turns on where it can."""
        x = reshape(like("add", x, self._positions(x.ne[1])), self.embd, x.ne[1])
        x = self.norm(x, "v.pre_ln", op)
        for i in range(self.number("block_count")):
            block = f"v.blk.{i}"
            x = like(
                "add", self._scaled(self._attention(self.norm(x, f"{block}.ln1", op), block, op), f"{block}.ls1"), x
            )
            inner = self.linear(self.norm(x, f"{block}.ln2", op), f"{block}.ffn_up")
            x = like("add", x, self._scaled(self.linear(like("unary", inner), f"{block}.ffn_down"), f"{block}.ls2"))
        return self.norm(x, "v.post_ln", op)

    def _positions(self, count: int) -> Tensor:
        """The embeddings of positions, stretched where the image has more or fewer patches than they were made for."""
        x = self.weight("v.position_embd.weight")
        learned = isqrt(x.ne[1])
        if count == x.ne[1]:
            return x
        x = permute(reshape(x, self.embd, learned, learned), 2, 0, 1, 3)
        x = Tensor("upscale", x.kind, (self.side, self.side, self.embd, 1), (x,))
        return cont(permute(x, 1, 2, 0, 3), self.embd, self.side**2)

    def _scaled(self, x: Tensor, name: str) -> Tensor:
        weight = self.maybe(f"{name}.weight")
        return x if weight is None else like("mul", x, weight)

    def _attention(self, x: Tensor, block: str, op: str) -> Tensor:
        head, count = self.embd // self.heads, x.ne[1]
        if self.maybe(f"{block}.attn_qkv.weight") is not None:
            both = self.linear(x, f"{block}.attn_qkv")
            strides = (row_bytes("f32", head), both.nb[1], both.nb[1] * count)
            q, k, v = (view(both, (head, self.heads, count, 1), strides) for _ in "qkv")
            q, k = (self.norm(one, f"{block}.attn_{name}_norm", op) for one, name in ((q, "q"), (k, "k")))
        else:
            q, k, v = (self.linear(x, f"{block}.attn_{name}") for name in "qkv")
            q, k = (self.norm(one, f"{block}.attn_{name}_norm", op) for one, name in ((q, "q"), (k, "k")))
            q, k, v = (reshape(one, head, self.heads, count) for one in (q, k, v))
        for one in (q, k, v):
            self.graph.expand(one)
        q, k, v = (permute(one, 0, 2, 1, 3) for one in (q, k, v))
        k, v = (Tensor("cpy", "f16", one.ne, (one,)) for one in (k, v))
        x = Tensor("flash_attn_ext", "f32", (head, self.heads, count, 1), (q, k, v))
        return self.linear(reshape(x, self.embd, count), f"{block}.attn_out")

    def merged(self, x: Tensor, by: int) -> Tensor:
        """``build_patch_merge_permute``: ``by`` x ``by`` patches become one."""
        across, width = pad(self.side, by), self.embd * by
        x = reshape(x, self.embd, self.side, self.side)
        if across > self.side:
            x = Tensor("pad", x.kind, (self.embd, across, across, 1), (x,))
        x = permute(reshape(x, width, across // by, across), 0, 2, 1, 3)
        x = permute(cont(x, width * by, across // by, across // by), 0, 2, 1, 3)
        return cont(x, width * by, (across // by) ** 2)


def _gemma3(tower: _Tower) -> tuple[Tensor, int]:
    by, embd = tower.number("projector.scale_factor", 4), tower.embd
    x = cont(transpose(tower.transformer(tower.patches())), tower.side, tower.side, embd)
    side = tower.side // by
    x = reshape(Tensor("pool_2d", "f32", (side, side, embd, 1), (x,)), side * side, embd)
    x = like("mul", like("rms_norm", cont(transpose(x))), tower.weight("mm.soft_emb_norm.weight"))
    return mul_mat(cont(transpose(tower.weight("mm.input_projection.weight"))), x), side * side


def _idefics3(tower: _Tower) -> tuple[Tensor, int]:
    x = tower.merged(tower.transformer(tower.patches()), tower.number("projector.scale_factor"))
    return mul_mat(tower.weight("mm.model.fc.weight"), x), x.ne[1]


def _lfm2(tower: _Tower) -> tuple[Tensor, int]:
    by = tower.number("projector.scale_factor")
    tower.pixels = isqrt(LFM2_TOKENS) * tower.patch * by  # the largest that an image is scaled to
    x = tower.norm(tower.merged(tower.transformer(tower.patches()), by), "mm.input_norm")
    return tower.linear(like("unary", tower.linear(x, "mm.1")), "mm.2"), x.ne[1]


def _internvl(tower: _Tower) -> tuple[Tensor, int]:
    first, by = tower.weight("v.class_embd"), tower.number("projector.scale_factor")
    x = concat(tower.patches(), repeat(first, first.ne[0], 1, 1, 1), 1)
    large = (tower.embd, tower.number("block_count")) == (3200, 45)  # InternViT-6B
    x = tower.transformer(x, "rms_norm" if large else "norm")
    x = cont(view(x, (tower.embd, tower.side**2), (x.nb[1],)))
    x = tower.norm(tower.merged(x, by), "mm.model.mlp.0")
    x = tower.linear(like("unary", tower.linear(x, "mm.model.mlp.1")), "mm.model.mlp.3")
    return x, x.ne[1]


GRAPHS = {"gemma3": _gemma3, "idefics3": _idefics3, "internvl": _internvl, "lfm2": _lfm2}
"""What builds the graph of one image and says its tokens, by ``clip.projector_type``."""


def read(path: Path) -> Projector:
    """The projector of a file. Raises ``InputError``."""
    keys, tensors = gguf_file.tables(path)
    if keys.get("general.architecture") != "clip":
        raise InputError(f"mmproj: {shown(str(path))} is no multimodal projector; name its mmproj-*.gguf")
    weights = sum(pad(tensor.nbytes, 32) for tensor in tensors.values())
    kind = str(keys.get("clip.vision.projector_type", keys.get("clip.projector_type")))
    if kind not in GRAPHS:
        return Projector(weights)
    try:
        tower = _Tower(keys, tensors)
        embeddings, tokens = GRAPHS[kind](tower)
    except KeyError as error:
        raise InputError(f"mmproj: {shown(str(path))} has no {error.args[0]}, which {kind} needs") from None
    tower.graph.expand(embeddings)
    return Projector(weights, buffer_bytes(tower.graph)[0], tokens, embeddings.ne[0])
