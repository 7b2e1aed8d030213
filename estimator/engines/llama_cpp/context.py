"""A context: its parameters, as the engine rounds them, and its caches.

Sources: the constructor of ``llama_context`` (``src/llama-context.cpp``), ``llama_kv_cache``,
``llama_kv_cache_iswa``, ``llama_memory_recurrent``, ``create_memory`` (``src/llama-model.cpp``).
"""

from __future__ import annotations

from dataclasses import dataclass

from .ggml import UNQUANTISED, Tensor, leaf, pad, row_bytes
from .hparams import Hparams


@dataclass(frozen=True)
class Parameters:
    """The parameters of a context, with the engine's names and defaults (``llama_context_default_params``)."""

    n_ctx: int
    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = True
    n_seq_max: int = 1
    kv_unified: bool = False
    swa_full: bool = False
    n_outputs_max: int = 0


@dataclass(frozen=True)
class Cache:
    """A KV cache: the keys and values of some layers, each for ``cells`` positions in ``streams`` sequences."""

    layers: tuple[int, ...]
    cells: int
    streams: int
    type_k: str
    type_v: str
    v_transposed: bool
    """Whether values are stored transposed, as they are without flash attention."""
    rotation_k: int
    """Rows of the Hadamard matrix by which keys are rotated before they are quantised; 0 for none."""
    rotation_v: int
    k_elements: tuple[int, ...]
    """For each layer, the elements of a cell."""
    v_elements: tuple[int, ...]

    @property
    def layer_bytes(self) -> list[int]:
        """Bytes of the keys and values of each layer."""
        rows = self.cells * self.streams
        return [
            rows * (row_bytes(self.type_k, k) + (row_bytes(self.type_v, v) if v else 0))
            for k, v in zip(self.k_elements, self.v_elements, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of the cache."""
        return sum(self.layer_bytes)

    def tensors(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """The keys and the values of a layer, each [elements, cells, streams]; no values where they are latent."""
        i = self.layers.index(layer)
        k = leaf(self.type_k, self.k_elements[i], self.cells, self.streams, name=f"cache_k_l{layer}", external=True)
        if not self.v_elements[i]:
            return k, None
        v = leaf(self.type_v, self.v_elements[i], self.cells, self.streams, name=f"cache_v_l{layer}", external=True)
        return k, v


@dataclass(frozen=True)
class Context:
    """A context's rounded sizes and its memory."""

    hparams: Hparams
    parameters: Parameters
    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_outputs_max: int
    base: Cache
    swa: Cache | None
    recurrent_layers: tuple[int, ...]

    @property
    def kv_bytes(self) -> int:
        """Bytes of all KV caches."""
        return self.base.nbytes + (0 if self.swa is None else self.swa.nbytes)

    @property
    def recurrent_bytes(self) -> int:
        """Bytes of the recurrent states: float32, one row for each sequence and layer."""
        hparams = self.hparams
        size = hparams.n_embd_r + hparams.n_embd_s
        return 4 * size * self.parameters.n_seq_max * len(self.recurrent_layers)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output buffer: a row of logits for each sequence (``output_reserve``)."""
        return 4 * self.hparams.n_vocab * self.parameters.n_seq_max


def context(hparams: Hparams, parameters: Parameters) -> Context:
    """The context of a model, its sizes rounded as the engine does."""
    p, sequences = parameters, parameters.n_seq_max
    n_batch = min(p.n_ctx, p.n_batch)
    n_ubatch = min(n_batch, p.n_ubatch or p.n_batch)
    n_ctx = pad(p.n_ctx, 256)
    per_sequence = n_ctx if p.kv_unified else pad(n_ctx // sequences, 256)
    if not p.kv_unified:
        n_ctx = per_sequence * sequences
    windowed = tuple(i for i in range(hparams.n_layer) if hparams.is_swa[i] and hparams.has_kv(i))
    full = tuple(i for i in range(hparams.n_layer) if not hparams.is_swa[i] and hparams.has_kv(i))
    swa = None
    if any(hparams.is_swa):
        reach = hparams.n_swa * (sequences if p.kv_unified else 1) + n_ubatch
        cells = per_sequence if p.swa_full else pad(min(per_sequence, reach), 256)
        swa = _cache(hparams, p, windowed, cells)
    return Context(
        hparams=hparams,
        parameters=p,
        n_ctx=n_ctx,
        n_ctx_seq=per_sequence,
        n_batch=n_batch,
        n_ubatch=min(n_ctx, n_ubatch),
        n_outputs_max=p.n_outputs_max or n_batch,
        base=_cache(hparams, p, full, per_sequence),
        swa=swa,
        recurrent_layers=tuple(i for i in range(hparams.n_layer) if hparams.is_recurrent[i]),
    )


def _cache(hparams: Hparams, p: Parameters, layers: tuple[int, ...], cells: int) -> Cache:
    latent = hparams.mla is not None
    values = [hparams.n_embd_v(i) for i in layers]
    if not p.flash_attn and layers:
        values = [max(hparams.n_embd_v(i) for i in range(hparams.n_layer))] * len(layers)  # TAG_V_CACHE_VARIABLE
    return Cache(
        layers=layers,
        cells=cells,
        streams=1 if p.kv_unified else p.n_seq_max,
        type_k=p.type_k,
        type_v=p.type_v,
        v_transposed=not p.flash_attn,
        rotation_k=_rotation(p.type_k, hparams.n_embd_head_k) if layers else 0,
        # Values are rotated in pieces of 64. A latent cache (MLA) has no values.
        rotation_v=min(64, _rotation(p.type_v, hparams.n_embd_head_v)) if layers and not latent else 0,
        k_elements=tuple(hparams.n_embd_k(i) for i in layers),
        v_elements=tuple(0 if latent else v for v in values),
    )


def _rotation(kind: str, head: int) -> int:
    """Rows of the Hadamard matrix, by the cache's type and the size of a head
    (``llama_kv_cache::build_input_k_rot``).
    """
    if kind in UNQUANTISED or head % 64:
        return 0
    rows = 64
    while head % rows == 0:
        rows *= 2
    return rows // 2
