"""The memory of a llama.cpp process for a model and a context: the bytes of each buffer, and the resident ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from ...errors import InputError
from .allocator import buffer_bytes
from .builder import Builder
from .builds import Build
from .context import Context, Parameters, context
from .ggml import TYPES, UNQUANTISED
from .graphs import GRAPHS
from .header import Header
from .hparams import Hparams
from .hparams import read as read_hparams
from .placement import ON_HOST, Layout
from .projector import NONE, Projector
from .scheduler import schedule
from .weights import Weights, repacked_names, repacked_rows, weights

PROGRAM_BYTES = round(11.83 * 2**20)
"""Resident bytes of a process beside its buffers and the tokenizer's tables: the program and its libraries (8.2 MiB of
file pages), threads, graph metadata and work buffer. It is the median of the 108 recorded decode runs of
``docs/measured/llama_cpp/runs.json``. They differ from it by -3.0 to +3.5 MiB; two, whose peak is while loading, by 15
and 21 MiB."""
_TABLE_BYTES = 44
"""Bytes for each entry of the vocabulary: ``token_data`` (40, ``src/llama-vocab.h``) and an id for samplers (4,
``sampling.token_ids_full_vocab``)."""
_TOKEN_BYTES = 168 - 40
"""More bytes for each token of a real tokenizer: hash node, bucket, cached piece, and the characters of long tokens.
Measured with Gemma 3's 262,144 tokens (``test_resident_set_of_a_real_model``)."""
_MERGE_BYTES = 112
"""Bytes for each merge of a byte-pair tokenizer: a node of ``std::unordered_map<pair<string, string>, int>`` and its
bucket."""
UNCERTAINTY = 0.039
"""The largest share by which the resident set of one of the 108 recorded decode runs exceeds its prediction. The others
differ by 2.8 % at most, 95 of 100 by 1.9 % at most."""


@dataclass(frozen=True)
class Usage:
    """The buffers of a process, in bytes."""

    header: Header
    context: Context
    build: Build
    cpu: str
    """The host's processor, as it is told apart by its instructions."""
    layout: Layout
    weights: Weights
    tokenizer: bool
    """Whether a vocabulary is loaded."""
    repack: bool
    draft: Usage | None = None
    """The buffers of a draft model beside it."""
    projector: Projector = NONE
    """A multimodal projector beside it."""

    @property
    def places(self) -> list[dict[str, int]]:
        """The bytes of each buffer of each device, and at the end of the host, of all models."""
        first = int(not self.layout.devices)  # a projector is on the first device, if there is one
        found = [
            {"weights": weights, "kv_cache": kv, "recurrent_state": states, "compute": compute, "output": 0}
            for weights, (kv, states), compute in zip(self.weights.places, self.caches, self.reserved, strict=True)
        ]
        found[-1]["output"] = self.context.output_bytes
        found[0 - first]["weights"] += self.projector.weights
        found[0 - first]["compute"] += self.projector.compute
        for own, more in zip(found, self.draft.places, strict=True) if self.draft is not None else ():
            own |= {part: own[part] + more[part] for part in own}
        return found

    @property
    def beside(self) -> int:
        """Bytes of a projector and of a draft model, resident while they decode."""
        draft = self.draft
        return self.projector.total + (0 if draft is None else draft.clean + draft.dirty - draft.overhead)

    @cached_property
    def reserved(self) -> tuple[int, ...]:
        """The compute buffers as the engine reserves them: of each device, and at the end of the host."""
        return self._compute(self.context)

    @cached_property
    def touched(self) -> tuple[int, ...]:
        """The part of the compute buffers that decoding writes: it computes logits for the last token of a sequence.

        Metal makes whole buffers resident, written or not (residency sets, ``ggml-metal/ggml-metal-device.m``).
        """
        p = self.context.parameters
        if p.n_outputs_max or any(device.backend.maps for device in self.layout.devices):
            return self.reserved
        return self._compute(context(self.context.hparams, replace(p, n_outputs_max=p.n_seq_max)))

    def _compute(self, c: Context) -> tuple[int, ...]:
        sequences = c.parameters.n_seq_max
        tokens = -(-c.n_ubatch // sequences) * sequences
        batch = self._buffers(c, tokens, min(c.n_ubatch, c.n_outputs_max))
        single = self._buffers(c, sequences, sequences)  # one token of each sequence: larger for tiny batches only
        return tuple(map(max, batch, single))

    def _buffers(self, c: Context, tokens: int, outputs: int) -> tuple[int, ...]:
        builder = Builder(self.header, c, self.build, tokens, c.parameters.n_seq_max, outputs)
        try:
            graph = GRAPHS[self.header.architecture](builder)
        except KeyError as error:
            raise InputError(
                f"the model has no tensor {error.args[0]}, which {self.header.architecture} needs"
            ) from None
        if self.layout.devices:
            rows = repacked_rows(self.cpu, self.layout, self.repack)
            graph = schedule(graph, self.layout, tokens, repacked_names(self.header, rows))
        return buffer_bytes(graph, self.layout)

    @cached_property
    def caches(self) -> tuple[tuple[int, int], ...]:
        """The bytes of the KV caches and of the recurrent states of each device, and at the end of the host."""
        found = [[0, 0] for _ in self.layout.names]
        c = self.context
        for cache in (c.base, c.swa):
            for layer, nbytes in zip(cache.layers, cache.layer_bytes, strict=True) if cache is not None else ():
                found[self.layout.layer_of(layer)][0] += nbytes
        for layer in c.recurrent_layers:
            found[self.layout.layer_of(layer)][1] += c.recurrent_bytes // len(c.recurrent_layers)
        return tuple((kv, states) for kv, states in found)

    @property
    def overhead(self) -> int:
        """Bytes outside the buffers: program, libraries and tokenizer."""
        tables = _TABLE_BYTES * self.header.n_vocab
        if not self.tokenizer:
            return PROGRAM_BYTES + tables
        merges = 0 if self.header.merges is None else self.header.merges.count
        return PROGRAM_BYTES + tables + _TOKEN_BYTES * self.header.n_vocab + _MERGE_BYTES * merges

    @property
    def clean(self) -> int:
        """Resident pages of the model's file, which the operating system may drop and read again."""
        return self.weights.mapped + (0 if self.draft is None else self.draft.weights.mapped)

    @property
    def used(self) -> int:
        """Resident memory that decoding reads or writes for every token: all but the file's idle pages, which the
        operating system can drop without making decoding slower.
        """
        idle = self.weights.idle + (0 if self.draft is None else self.draft.weights.idle)
        return self.clean + self.dirty - idle

    @property
    def dirty(self) -> int:
        """Resident memory that the operating system cannot drop."""
        c = self.context
        held = self.weights.repacked + self.weights.read + self.weights.device + self.projector.total
        draft = 0 if self.draft is None else self.draft.dirty - self.draft.overhead
        return held + c.kv_bytes + c.recurrent_bytes + c.output_bytes + sum(self.touched) + self.overhead + draft


def usage(
    header: Header,
    parameters: Parameters,
    build: Build,
    cpu: str = "cpu",
    layout: Callable[[int], Layout] = lambda n_layer: ON_HOST,
    *,
    use_mmap: bool = True,
    repack: bool = True,
    tokenizer: bool = True,
) -> Usage:
    """The buffers of a model in a context. Raises ``InputError`` for what the engine refuses.

    ``cpu`` is the host's processor, and ``layout`` says who has which of so many layers.
    """
    if header.architecture not in GRAPHS:
        raise InputError(
            f"architecture '{header.architecture}' has no graph here; this version knows {', '.join(GRAPHS)}"
        )
    hparams = read_hparams(header)
    _check_shapes(header, hparams)
    _check(hparams.mla is not None, (hparams.n_embd_head_k, hparams.n_embd_head_v), parameters)
    shared = layout(hparams.n_layer)
    return Usage(
        header,
        context(hparams, parameters),
        build,
        cpu,
        shared,
        weights(header, cpu, shared, use_mmap=use_mmap, repack=repack),
        tokenizer,
        repack,
    )


def _check_shapes(header: Header, hparams: Hparams) -> None:
    """Refuse a header whose sizes contradict its tensors (``llama_model_loader::create_tensor``)."""
    wanted = {"token_embd.weight": (0, hparams.n_embd, "embedding_length")}
    for layer, heads in enumerate(hparams.n_head_kv):
        name = f"blk.{layer}.attn_k.weight"
        wanted[name] = (1, heads * hparams.n_embd_head_k, "attention.head_count_kv and key_length")
    for name, (axis, size, key) in wanted.items():
        tensor = header.tensors.get(name)
        if tensor is not None and tensor.shape[axis : axis + 1] != (size,):
            raise InputError(
                f"the GGUF header's {key} give {size} for {name} of {list(tensor.shape)}; is the file damaged?"
            )


def _check(latent: bool, heads: tuple[int, int], p: Parameters) -> None:
    """Refuse the combinations that ``llama_init_from_model`` and the caches refuse."""
    if latent and p.type_k != p.type_v:
        raise InputError(
            f"type_k {p.type_k} and type_v {p.type_v} differ, but the model's latent attention (MLA) keeps one vector "
            "for both; give them the same type"
        )
    if p.type_v not in UNQUANTISED and not p.flash_attn:
        raise InputError(
            f"type_v {p.type_v} needs flash attention, whose kernel alone reads quantised values; "
            "set flash_attn to true, or type_v to f16"
        )
    for key, kind, head in (("type_k", p.type_k, heads[0]), ("type_v", p.type_v, heads[1])):
        block = TYPES[kind][0]
        if head % block:
            raise InputError(
                f"{key} {kind} packs {block} elements to a block, which heads of {head} do not fill; "
                "take a type with smaller blocks, or f16"
            )
