"""The blocks of which the graphs of all architectures are made.

Each mirrors a ``llm_graph_context::build_*`` of ``src/llama-graph.cpp``: the same operators on the same tensors in the
same order. ``ggml.py`` and ``allocator.py`` derive the memory from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .builds import Build
from .context import Cache, Context
from .ggml import (
    Graph,
    Tensor,
    cont,
    copy,
    get_rows,
    glu,
    leaf,
    like,
    mul_mat,
    mul_mat_id,
    pad,
    permute,
    reshape,
    row_bytes,
    scale_in_place,
    set_rows,
    sum_rows,
    top_k,
    transpose,
    view,
)
from .header import Header
from .hparams import Hparams
from .placement import TIED


@dataclass
class CacheInputs:
    """The inputs of a graph for one KV cache."""

    cache: Cache
    k_rows: Tensor
    v_rows: Tensor
    mask: Tensor
    k_rotation: Tensor | None
    v_rotation: Tensor | None


@dataclass
class States:
    """Indices of the rows of recurrent states: of all sequences, of the batch's sequences, and of the others.

    Build b11739 makes the last as long as for a batch of one sequence.
    """

    every: Tensor
    main: Tensor
    extra: Tensor


class Builder:
    """A graph under construction: ``n_tokens`` tokens of ``n_seqs`` sequences, and logits of ``n_outputs`` tokens."""

    def __init__(
        self, header: Header, context: Context, build: Build, n_tokens: int, n_seqs: int, n_outputs: int
    ) -> None:
        self.header, self.context, self.build = header, context, build
        self.hparams: Hparams = context.hparams
        self.n_tokens, self.n_seqs, self.n_outputs = n_tokens, n_seqs, n_outputs
        self.graph = Graph()
        self.positions = leaf("i32", n_tokens, name="inp_pos")
        self.out_ids = leaf("i32", n_outputs, name="inp_out_ids")
        """Indices of the tokens whose logits are computed."""
        self._weights: dict[str, Tensor] = {}
        self._stored: dict[int, tuple[Tensor, Tensor | None]] = {}

    def weight(self, name: str) -> Tensor | None:
        """A weight by its name in the file, or ``None``."""
        if name not in self._weights:
            info = self.header.tensors.get(name)
            if info is None:
                return None
            self._weights[name] = leaf(info.kind, *info.shape, name=name, external=True)
        return self._weights[name]

    def required(self, name: str) -> Tensor:
        """A weight that the architecture needs, by its name in the file. Raises ``KeyError``."""
        found = self.weight(name)
        if found is None:
            raise KeyError(name)
        return found

    def frequencies(self, layer: int, *names: str) -> tuple[Tensor, ...]:
        """A layer's copy of the first of some weights that the model has, if any."""
        info = next((self.header.tensors[name] for name in names if name in self.header.tensors), None)
        if info is None:
            return ()
        name = f"{next(name for name in names if name in self.header.tensors)}#{layer}"
        return (leaf(info.kind, *info.shape, name=name, external=True),)

    def of(self, layer: int, name: str) -> Tensor:
        """A weight that a layer needs. Raises ``KeyError``."""
        return self.required(f"blk.{layer}.{name}")

    def maybe(self, layer: int, name: str) -> Tensor | None:
        """A weight of a layer, or ``None``."""
        return self.weight(f"blk.{layer}.{name}")

    @property
    def gating(self) -> str:
        """The function from the router's logits to probabilities (``LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID`` is 2)."""
        return "sigmoid" if self.hparams.expert_gating == 2 else "softmax"

    def inp_embd(self) -> Tensor:
        """The tokens' rows of the embedding. Some builds always have an input for embeddings in place of tokens, and
        one for a batch that mixes both, though no batch does.
        """
        embedding, tokens = self.required("token_embd.weight"), self.n_tokens
        rows = get_rows(embedding, leaf("i32", tokens, name="inp_tokens"))
        given = leaf("f32", self.hparams.n_embd, tokens, name="inp_embd")
        inputs = [rows, given] if self.build.embeddings_pinned else [rows]
        if self.build.mixed_inputs:
            mixed = get_rows(embedding, leaf("i32", tokens, name="inp_mixed_tokens"))
            into = like("dup", leaf("f32", self.hparams.n_embd, tokens, name="inp_mixed_embd"))
            inputs = [rows, mixed, given, set_rows(into, mixed, leaf("i64", tokens, name="inp_mixed_slots"))]
        for tensor in inputs:
            self.graph.expand(tensor)
        if self.hparams.embedding_scale:
            rows = like("scale", rows)
        self.graph.expand(rows)
        return rows

    def scaled_embd(self) -> Tensor:
        """The tokens' rows of the embedding, scaled as Gemma does."""
        rows = self.inp_embd()
        if self.build.mixed_inputs:
            rows = like("mul", rows, leaf("f32", 1, self.n_tokens, name="inp_scale_rows"))
            self.graph.expand(rows)
            return rows
        return like("scale", rows)

    def inp_attn(self, cache: Cache) -> CacheInputs:
        """The inputs for a cache: rows to write, mask and rotations."""
        elements = max(cache.v_elements, default=1) if cache.v_transposed else 1
        tokens = self.n_tokens
        return CacheInputs(
            cache,
            leaf("i64", tokens, name="k_idxs"),
            leaf("i64", tokens * elements, name="v_idxs"),
            self._mask(cache),
            leaf("f32", cache.rotation_k, cache.rotation_k, name="k_rot") if cache.rotation_k else None,
            leaf("f32", cache.rotation_v, cache.rotation_v, name="v_rot") if cache.rotation_v else None,
        )

    def _mask(self, cache: Cache) -> Tensor:
        """The mask of attention: [cells, tokens of a stream, 1, streams]."""
        flash, rows = not cache.v_transposed, self.n_tokens // cache.streams
        if not self.build.float_mask:
            return leaf("f16" if flash else "f32", cache.cells, rows, 1, cache.streams, name="kq_mask")
        mask = leaf("f32", cache.cells, pad(rows, 64), 1, cache.streams, name="kq_mask")
        return Tensor("cpy", "f16", mask.ne, (mask,)) if flash else mask

    def rope(self, x: Tensor, *factors: Tensor) -> Tensor:
        """Rotary embedding at the tokens' positions."""
        return like("rope", x, self.positions, *factors)

    def norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """RMS norm, times the weight if there is one."""
        x = like("rms_norm", x)
        if weight is None:
            return x
        if weight.name.startswith("blk."):
            x.name = f"norm-{weight.name.split('.')[1]}"
        return like("mul", x, weight)

    def linear(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A matrix product, plus the bias if there is one."""
        x = mul_mat(weight, x)
        return x if bias is None else like("add", x, bias)

    def qkv(self, layer: int, x: Tensor, head: int, head_v: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [head, heads, tokens], from one weight or from three (``build_qkv``)."""
        n_head, n_kv = self.hparams.n_head[layer], self.hparams.n_head_kv[layer]
        tokens, head_v = self.n_tokens, head_v or head
        fused = self.maybe(layer, "attn_qkv.weight")
        if fused is not None:
            qkv = self.linear(fused, x, self.maybe(layer, "attn_qkv.bias"))
            return (
                view(qkv, (head, n_head, tokens), (4 * head, qkv.nb[1])),
                view(qkv, (head, n_kv, tokens), (4 * head, qkv.nb[1])),
                view(qkv, (head_v, n_kv, tokens), (4 * head_v, qkv.nb[1])),
            )
        parts = [
            self.linear(self.of(layer, f"attn_{part}.weight"), x, self.maybe(layer, f"attn_{part}.bias"))
            for part in "qkv"
        ]
        return (
            reshape(parts[0], head, n_head, tokens),
            reshape(parts[1], head, n_kv, tokens),
            reshape(parts[2], head_v, n_kv, tokens),
        )

    def ffn(self, layer: int, x: Tensor, suffix: str = "") -> Tensor:
        """The gated MLP (``build_ffn`` with a parallel gate)."""
        up = self.linear(self.of(layer, f"ffn_up{suffix}.weight"), x, self.maybe(layer, f"ffn_up{suffix}.bias"))
        gate_weight = self.maybe(layer, f"ffn_gate{suffix}.weight")
        if gate_weight is None:  # one weight for gate and up, as in Phi-3
            x = glu(up)
        else:
            x = glu(self.linear(gate_weight, x, self.maybe(layer, f"ffn_gate{suffix}.bias")), up)
        return self.linear(self.of(layer, f"ffn_down{suffix}.weight"), x, self.maybe(layer, f"ffn_down{suffix}.bias"))

    def moe(self, layer: int, x: Tensor, *, normalised: bool, scale: float, gating: str = "softmax") -> Tensor:
        """The router and the chosen experts (``build_moe_ffn``)."""
        n_embd, tokens = x.ne[0], x.ne[1]
        experts, used = self.hparams.n_expert, self.hparams.n_expert_used
        logits = self.linear(self.of(layer, "ffn_gate_inp.weight"), x, self.maybe(layer, "ffn_gate_inp.bias"))
        probabilities = logits
        if gating != "softmax-weight":
            probabilities = like("soft_max" if gating == "softmax" else "unary", logits)
        chosen_by = probabilities
        bias = self.maybe(layer, "exp_probs_b.bias")
        if bias is not None:
            chosen_by = like("add", probabilities, bias)
        if self.hparams.n_expert_groups > 1:
            chosen_by = self._mask_groups(chosen_by)
        chosen = top_k(chosen_by, used)
        weights = get_rows(reshape(probabilities, 1, experts, tokens), chosen)
        if gating == "softmax-weight":
            weights = like("soft_max", reshape(weights, used, tokens))
            weights = reshape(weights, 1, used, tokens)
        if normalised:
            weights = reshape(weights, used, tokens)
            total = like("clamp", sum_rows(weights))
            weights = reshape(like("div", weights, total), 1, used, tokens)
        if scale not in (0.0, 1.0):
            weights = like("scale", weights)
        self.graph.expand(weights)
        x = reshape(x, n_embd, 1, tokens)
        merged = self.maybe(layer, "ffn_gate_up_exps.weight")
        if merged is not None:
            both = mul_mat_id(merged, x, chosen)
            half = (both.ne[0] // 2, *both.ne[1:3])
            x, up = view(both, half, both.nb[1:3]), view(both, half, both.nb[1:3])
        else:
            up = self._experts(layer, "up", x, chosen)
            x = self._experts(layer, "gate", x, chosen)
        x = self._experts(layer, "down", glu(x, up), chosen)
        x = like("mul", x, weights)
        self.graph.expand(x)
        parts = [view(x, (n_embd, tokens), (x.nb[2],)) for _ in range(used)]
        for part in parts:
            self.graph.expand(part)
        out = parts[0]
        for part in parts[1:]:
            out = like("add", out, part)
            self.graph.expand(out)
        return cont(out) if used == 1 else out

    def _experts(self, layer: int, part: str, x: Tensor, chosen: Tensor) -> Tensor:
        x = mul_mat_id(self.of(layer, f"ffn_{part}_exps.weight"), x, chosen)
        bias = self.maybe(layer, f"ffn_{part}_exps.bias")
        return x if bias is None else like("add_id", x, bias, chosen)

    def _mask_groups(self, probabilities: Tensor) -> Tensor:
        """The experts' probabilities, with those outside the best groups masked, as in DeepSeek-V3."""
        experts, tokens = probabilities.ne[0], probabilities.ne[1]
        groups = self.hparams.n_expert_groups
        each = experts // groups
        grouped = reshape(probabilities, each, groups, tokens)
        best_two = top_k(grouped, 2)
        scores = get_rows(reshape(grouped, 1, each, groups, tokens), best_two)
        scores = sum_rows(reshape(scores, *scores.ne[1:]))
        scores = reshape(scores, *scores.ne[1:3])
        best = top_k(scores, self.hparams.n_expert_groups_used)
        kept = get_rows(grouped, best)
        masked = set_rows(like("fill", grouped), kept, best)
        return reshape(masked, experts, tokens)

    def attention(
        self,
        inputs: CacheInputs,
        layer: int,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        *,
        sinks: Tensor | None = None,
        decompress: Tensor | None = None,
        softcap: bool = False,
        reads: int | None = None,
    ) -> Tensor:
        """Write keys and values to the cache, attend, project (``build_attn``).

        ``reads`` is the layer whose cache is read, if not this one. ``decompress`` is the weight from latent values to
        heads (MLA); the cache then has no values, since they are a part of the keys.
        """
        cache = inputs.cache
        latent = cache.v_elements[0] == 0
        if inputs.k_rotation is not None and not latent:
            q = self._rotated(q, inputs.k_rotation)
            k = None if k is None else self._rotated(k, inputs.k_rotation)
        if inputs.v_rotation is not None and v is not None:
            v = self._rotated(v, inputs.v_rotation)
        order = (q, k, v) if self.context.swa is not None and not latent else (q, v, k)
        for tensor in order:
            if tensor is not None:
                self.graph.expand(tensor)
        stored = layer if reads is None else reads
        if stored not in self._stored:
            self._stored[stored] = cache.tensors(stored)
        cached_k, cached_v = self._stored[stored]
        if k is not None:
            self.graph.expand(self._write_k(cached_k, k, inputs))
        if v is not None and cached_v is not None:
            self.graph.expand(self._write_v(cached_v, v, inputs))
        n_kv, head = self.hparams.n_head_kv[stored], self.hparams.n_embd_head_k
        keys = view(
            cached_k,
            (head, n_kv, cache.cells, cache.streams),
            (row_bytes(cache.type_k, head), cached_k.nb[1], cached_k.nb[2]),
        )
        if cached_v is None:
            assert v is not None
            values = view(keys, (v.ne[0], *keys.ne[1:]), keys.nb[1:])
        elif cache.v_transposed:
            size, elements = self.hparams.n_embd_head_v, cached_v.ne[0]
            along = row_bytes(cache.type_v, cache.cells)
            values = view(cached_v, (cache.cells, n_kv, size, cache.streams), (along * size, along, along * elements))
        else:
            size = self.hparams.n_embd_head_v
            values = view(
                cached_v,
                (size, n_kv, cache.cells, cache.streams),
                (row_bytes(cache.type_v, size), cached_v.nb[1], cached_v.nb[2]),
            )
        x = self._attend(q, keys, values, inputs.mask, sinks, decompress, softcap, flash=not cache.v_transposed)
        if inputs.v_rotation is not None:
            x = self._rotated(x, inputs.v_rotation)
        return self.linear(self.of(layer, "attn_output.weight"), x, self.maybe(layer, "attn_output.bias"))

    def _rotated(self, x: Tensor, rotation: Tensor) -> Tensor:
        n = rotation.ne[0]
        rows = x.elements // n
        flat = reshape(x, n, rows) if x.contiguous else cont(x, n, rows)
        return reshape(mul_mat(rotation, flat), *x.ne)

    def _write_k(self, cached: Tensor, k: Tensor, inputs: CacheInputs) -> Tensor:
        elements, tokens = k.ne[0] * k.ne[1], k.ne[2]
        values = view(k, (elements, tokens), (k.nb[2],))
        if cached.ne[2] > 1:
            cached = reshape(cached, elements, cached.ne[1] * cached.ne[2])
        return set_rows(cached, values, inputs.k_rows)

    def _write_v(self, cached: Tensor, v: Tensor, inputs: CacheInputs) -> Tensor:
        elements, tokens = v.ne[0] * v.ne[1], v.ne[2]
        if not inputs.cache.v_transposed:
            values = view(v, (elements, tokens), (v.nb[2],))
            if cached.ne[2] > 1:
                cached = reshape(cached, elements, cached.ne[1] * cached.ne[2])
            return set_rows(cached, values, inputs.v_rows)
        whole = v.nb[2] == row_bytes(v.kind, elements)
        values = reshape(v, elements, tokens) if whole else cont(v, elements, tokens)
        if elements < cached.ne[0]:
            values = Tensor("pad", values.kind, (cached.ne[0], tokens, 1, 1), (values,))
        single = reshape(cached, 1, cached.elements)
        return set_rows(single, reshape(values, 1, values.elements), inputs.v_rows)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        sinks: Tensor | None,
        decompress: Tensor | None,
        softcap: bool,
        flash: bool,
    ) -> Tensor:
        """``build_attn_mha``."""
        streams = k.ne[3]
        v_transposed = v.nb[1] > v.nb[2]
        each = q.ne[2] // streams
        q = view(q, (q.ne[0], q.ne[1], each, streams), (q.nb[1], q.nb[2], q.nb[2] * each))
        q, k, v = permute(q, 0, 2, 1, 3), permute(k, 0, 2, 1, 3), permute(v, 0, 2, 1, 3)
        more = () if sinks is None else (sinks,)
        if flash:
            if v_transposed:
                v = transpose(v)
            k, v = (Tensor("cpy", "f16", x.ne, (x,)) if x.kind == "f32" else x for x in (k, v))  # as its kernels read
            x = Tensor("flash_attn_ext", "f32", (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), (q, k, v, mask, *more))
            if decompress is not None:
                x = mul_mat(decompress, permute(x, 0, 2, 1, 3))
                x = cont(permute(x, 0, 2, 1, 3))
            x = reshape(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
        else:
            scores = mul_mat(k, q)
            if softcap:
                scores = like("scale", like("unary", like("scale", scores)))
            scores = like("soft_max", scores, mask, *more)
            if not v_transposed:
                v = cont(transpose(v))
            x = mul_mat(v, scores)
            if decompress is not None:
                x = mul_mat(decompress, x)
            x = permute(x, 0, 2, 1, 3)
            x = cont(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
            x.name = "kqv_out"
        self.graph.expand(x)
        return x

    def last_rows(self, layer: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors; in the last layer only the rows of tokens whose logits are computed."""
        if layer < self.hparams.n_layer - 1:
            return tensors
        return tuple(get_rows(tensor, self.out_ids) for tensor in tensors)

    def head(self, x: Tensor, *, softcap: bool = False, scaled: bool = False) -> Graph:
        """The last norm, whose result is kept as an output, and the logits."""
        x = self.norm(x, self.weight("output_norm.weight") or self.weight("token_embd_norm.weight"))
        x.output = True
        output = self.weight("output.weight")
        if output is None:
            tied = self.required("token_embd.weight")
            output = leaf(tied.kind, *tied.ne, name=TIED, external=True)
        x = mul_mat(output, x)
        bias = self.weight("output.bias")
        if bias is not None:
            x = like("add", x, bias)
        if softcap:
            x = like("scale", like("unary", like("scale", x)))
        if scaled:
            x = like("scale", x)
        x.output = True
        self.graph.expand(x)
        return self.graph

    def inp_recurrent(self) -> States:
        """The input that says which rows of the states to read."""
        states = self.context.parameters.n_seq_max
        ids = leaf("i32", states, name="s_copy")
        others = states - (1 if self.build.states_at_once else self.n_seqs)
        return States(ids, view(ids, (self.n_seqs,)), view(ids, (others,)))

    def state(self, layer: int, kind: str) -> Tensor:
        """A recurrent layer's states of all sequences, by ``kind``: ``r`` of its convolution, ``s`` of its scan."""
        size = self.hparams.n_embd_r if kind == "r" else self.hparams.n_embd_s
        states = self.context.parameters.n_seq_max
        return leaf("f32", size, states, name=f"cache_{kind}_l{layer}", external=True)

    def read_state(self, state: Tensor, ids: States, scan: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The states of the batch's sequences; those of other sequences are moved behind them (``build_rs``).

        ``scan`` makes the operator that reads the states itself, where there is one.
        """
        size, others = state.ne[0], state.ne[1] - self.n_seqs
        states = reshape(state, size, state.ne[1])
        self.graph.expand(scale_in_place(view(states, (size,))))
        if scan is None and self.build.states_at_once:
            every = get_rows(states, ids.every)
            read, rest = view(every, (size, self.n_seqs), (4 * size,)), view(every, (size, others), (4 * size,))
            self.graph.expand(read)
        else:
            read = get_rows(states, ids.main) if scan is None else scan(states)
            self.graph.expand(read)
            rest = get_rows(states, ids.extra)
            if self.build.states_at_once:
                rest = view(rest, (size, others), (4 * size,))
        self.graph.expand(copy(rest, view(state, (size, others), (state.nb[1],))))
        return read
