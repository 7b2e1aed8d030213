"""The memory plan of a program that ``export_llm`` makes: its graph's tensors, and one arena for them.

The graph is that of ``examples/models/llama`` after ``to_edge`` and ``to_executorch``: every operator writes into a
tensor that is allocated just before it, and views take no memory. Sizes are those at the longest input. Followed from
ExecuTorch 1.5.1: ``llama_transformer.py``, ``attention.py``, ``rope.py``, ``norm.py``, ``feed_forward.py``,
``source_transformation/``; the plan from ``exir/memory_planning.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ...ledger import ITEMSIZE

ALIGNMENT = 16
"""``exir/tensor.py: ALIGNMENT``. Each tensor is rounded up to a multiple of so many bytes."""
DELEGATE_PADDING = 64
"""Bytes that are added to the arena of a program with XNNPACK's delegates (``apply_algo``)."""
BOOL, INT8, INT32, FLOAT32, INT64, FLOAT64 = 1, 1, 4, 4, 8, 8


@dataclass(frozen=True)
class Shape:
    """A model and its export, by the exporter's names."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    rotary_dim: int
    """Of each head; ``head_dim`` unless the model turns a part only."""
    use_hf_rope: bool
    use_qk_norm: bool
    qkv_bias: bool
    tied: bool
    """Whether the output layer's weight is the embedding, which a file has once."""
    dtype: str
    """``dtype_override``, by PyTorch's name."""
    max_seq_length: int
    max_context_length: int
    table_rows: int
    """Positions in the tables of rotary embeddings."""
    use_kv_cache: bool
    use_sdpa_with_kv_cache: bool
    quantize_kv_cache: bool
    enable_dynamic_shape: bool
    generate_full_logits: bool

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the dtype."""
        return ITEMSIZE[self.dtype]

    @property
    def tokens(self) -> int:
        """Of the longest input. With a length that may vary the exporter's bound is one less than ``max_seq_length``;
        else a program with a cache takes one token at a time.
        """
        if self.enable_dynamic_shape:
            return self.max_seq_length - 1
        return 1 if self.use_kv_cache else self.max_seq_length


class Tensor:
    """A planned tensor: its bytes, and the first and last node that refers to it."""

    __slots__ = ("end", "size", "start")

    def __init__(self, size: int, start: int, end: int) -> None:
        self.size, self.start, self.end = -(-size // ALIGNMENT) * ALIGNMENT, start, end


class Graph:
    """The tensors of a graph, in the order of its nodes."""

    def __init__(self) -> None:
        self.nodes = 0
        self.tensors: list[Tensor] = []

    def input(self, size: int) -> Tensor:
        """A tensor that exists from the start."""
        found = Tensor(size, -1, -1)
        self.tensors.append(found)
        return found

    def op(self, size: int, *operands: Tensor | None) -> Tensor:
        """An operator's result of ``size`` bytes. A weight, which is not planned, is no operand, or ``None``."""
        return self.ops((size,), *operands)[0]

    def ops(self, sizes: tuple[int, ...], *operands: Tensor | None) -> list[Tensor]:
        """An operator with several results, each of which a node of its own allocates."""
        start = self.nodes
        self.nodes += len(sizes) + 1
        results = [Tensor(size, start + number, self.nodes - 1) for number, size in enumerate(sizes)]
        self.tensors += results
        for one in operands:
            if one is not None:
                one.end = self.nodes - 1
        return results

    def reads(self, *operands: Tensor) -> None:
        """A node without a planned result."""
        for one in operands:
            one.end = self.nodes
        self.nodes += 1


class _Model:
    """Writes the graph of a model."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.graph = shape, Graph()
        self.low = shape.itemsize != FLOAT32
        """Whether activations have 16 bits, so that what is computed in float32 is cast to and fro."""

    def write(self) -> list[Tensor]:
        """The tensors that are planned, in the order in which the planner meets them."""
        shape, graph = self.shape, self.graph
        caches = [self.caches() for _ in range(shape.n_layers)] if shape.use_kv_cache else []
        hidden = self.op(shape.tokens, shape.dim)
        self.frequencies()
        written: list[Tensor] = []
        for layer in range(shape.n_layers):
            hidden, cells = self.layer(hidden, caches[layer] if caches else [])
            written += cells
        rows = shape.tokens if shape.generate_full_logits else 1
        if not shape.generate_full_logits:
            hidden = self.op(shape.dim, hidden)
        logits = self.op(rows, shape.vocab_size, self.norm(hidden, rows, shape.dim))
        for cell in written:
            graph.reads(cell)
        for one in (*(cache for layer in caches for cache in layer), logits):
            one.end = graph.nodes
        for cell in written:
            graph.tensors.append(Tensor(cell.size, graph.nodes, graph.nodes))
        return graph.tensors

    def op(self, *sizes_and_operands: int | Tensor | None) -> Tensor:
        """An operator's result in the model's dtype: the elements' number as factors, if not one, then the operands."""
        factors = [one for one in sizes_and_operands if isinstance(one, int)]
        operands = [one for one in sizes_and_operands if not isinstance(one, int)]
        return self.graph.op(prod(factors) * self.shape.itemsize, *operands)

    def wide(self, tensor: Tensor, elements: int) -> Tensor:
        """A tensor of the model's dtype in float32."""
        return self.graph.op(elements * FLOAT32, tensor) if self.low else tensor

    def narrow(self, tensor: Tensor, elements: int) -> Tensor:
        """A tensor of float32 in the model's dtype."""
        return self.op(elements, tensor) if self.low else tensor

    def caches(self) -> list[Tensor]:
        """Keys and values of a layer; in 8 bits with a scale and a zero point for each head and position."""
        shape = self.shape
        cells = shape.max_context_length * shape.n_kv_heads
        if shape.quantize_kv_cache:
            sizes = [cells * shape.head_dim * INT8, cells * FLOAT32, cells * INT8] * 2
        else:
            sizes = [cells * shape.head_dim * shape.itemsize] * 2
        return [self.graph.input(size) for size in sizes]

    def scalar(self) -> None:
        """A position that is read out of its tensor."""
        self.graph.reads(self.graph.op(INT64))

    def frequencies(self) -> None:
        """The rows of the tables of cosines and sines for these positions."""
        shape = self.shape
        columns = shape.rotary_dim // (1 if shape.use_hf_rope else 2)
        if shape.enable_dynamic_shape and shape.use_kv_cache:
            self.scalar()
        self.cosine, self.sine = (self.op(shape.tokens, columns) for _ in range(2))

    def norm(self, tensor: Tensor, rows: int, columns: int) -> Tensor:
        """``RMSNorm`` in float32."""
        graph = self.graph
        wide = self.wide(tensor, rows * columns)
        squares = graph.op(rows * columns * FLOAT32, wide, wide)
        mean = graph.op(rows * FLOAT32, squares)
        shifted = graph.op(rows * FLOAT32, mean)
        root = graph.op(rows * FLOAT32, shifted)
        normed = graph.op(rows * columns * FLOAT32, wide, root)
        return self.op(rows, columns, self.narrow(normed, rows * columns))

    def layer(self, hidden: Tensor, caches: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """A layer's result, and the caches that it wrote anew."""
        shape, rows = self.shape, self.shape.tokens
        normed = self.norm(hidden, rows, shape.dim)
        query = self.op(rows, shape.n_heads, shape.head_dim, normed)
        key = self.op(rows, shape.n_kv_heads, shape.head_dim, normed)
        value = self.op(rows, shape.n_kv_heads, shape.head_dim, normed)
        if shape.use_qk_norm:
            query = self.norm(query, rows * shape.n_heads, shape.head_dim)
            key = self.norm(key, rows * shape.n_kv_heads, shape.head_dim)
        query, key = (self.halves if shape.use_hf_rope else self.pairs)(query, key)
        if shape.quantize_kv_cache:
            attended, written = self.attend_quantised(query, key, value), list[Tensor]()
        elif shape.use_sdpa_with_kv_cache:
            attended, written = self.attend_fused(query, key, value, caches), list[Tensor]()
        else:
            attended, written = self.attend(query, key, value)
        hidden = self.op(rows, shape.dim, hidden, self.op(rows, shape.dim, attended))
        normed = self.norm(hidden, rows, shape.dim)
        gate = self.wide(self.op(rows, shape.hidden_dim, normed), rows * shape.hidden_dim)
        sigmoid = self.graph.op(rows * shape.hidden_dim * FLOAT32, gate)
        gate = self.narrow(self.graph.op(rows * shape.hidden_dim * FLOAT32, gate, sigmoid), rows * shape.hidden_dim)
        product = self.op(rows, shape.hidden_dim, gate, self.op(rows, shape.hidden_dim, normed))
        return self.op(rows, shape.dim, hidden, self.op(rows, shape.dim, product)), written

    def pairs(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embeddings of neighbouring elements, in float32."""
        graph, shape = self.graph, self.shape
        sizes = [shape.tokens * heads * shape.head_dim for heads in (shape.n_heads, shape.n_kv_heads)]
        parts = []
        for tensor, size in zip((query, key), sizes, strict=True):
            wide, half = self.wide(tensor, size), size // 2 * FLOAT32
            taken = [graph.op(half, wide) for _ in range(2)]
            parts.append([graph.op(half, one) for one in taken])
        table = shape.tokens * shape.rotary_dim // 2
        turned = []
        for (real, imaginary), size in zip(parts, sizes, strict=True):
            half = size // 2 * FLOAT32
            for first, second in ((self.cosine, self.sine), (self.sine, self.cosine)):
                left = graph.op(half, real, self.wide(first, table))
                right = graph.op(half, imaginary, self.wide(second, table))
                turned.append(graph.op(half, left, right))
        whole = []
        for (real, imaginary), size in zip((turned[:2], turned[2:]), sizes, strict=True):
            stacked = [graph.op(size // 2 * FLOAT32, one) for one in (real, imaginary)]
            whole.append(graph.op(size * FLOAT32, *stacked))
        first, second = (self.narrow(one, size) for one, size in zip(whole, sizes, strict=True))
        return first, second

    def halves(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embeddings as Hugging Face has them: of the first half of a head's elements with the second."""
        shape = self.shape
        table = shape.tokens * shape.rotary_dim
        cosine, sine = self.op(table, self.cosine), self.op(table, self.sine)
        left = shape.head_dim - shape.rotary_dim
        taken = []
        for tensor, heads in ((query, shape.n_heads), (key, shape.n_kv_heads)):
            rows = shape.tokens * heads
            turned = self.op(rows, shape.rotary_dim, tensor)
            taken.append((rows, turned, self.op(rows, left, tensor) if left else None))
        found = []
        for rows, turned, passed in taken:
            size = rows * shape.rotary_dim
            direct = self.op(size, turned, cosine)
            first, second = (self.op(size // 2, turned) for _ in range(2))
            swapped = self.op(size, self.op(size // 2, second), first)
            whole = self.op(size, direct, self.op(size, swapped, sine))
            found.append(self.op(rows, shape.head_dim, whole, passed))
        return found[0], found[1]

    def attend_fused(self, query: Tensor, key: Tensor, value: Tensor, caches: list[Tensor]) -> Tensor:
        """``llama::update_cache`` and ``llama::custom_sdpa``, whose own buffers are no part of the plan. In float16 it
        runs in float32, and casts the whole caches.
        """
        shape, size = self.shape, self.shape.tokens * self.shape.n_heads * self.shape.head_dim
        self.scalar()
        for tensor in (key, value):
            self.op(tensor)
        if shape.dtype != "float16":
            self.scalar()
            return self.op(size, query)
        cells = shape.max_context_length * shape.n_kv_heads * shape.head_dim
        wide = [self.wide(query, size), *(self.wide(cache, cells) for cache in caches)]
        self.scalar()
        return self.narrow(self.graph.op(size * FLOAT32, *wide), size)

    def quantised(self, tensor: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scales [float64], zero points [int64] and values [int8] of a tensor."""
        graph, rows = self.graph, self.shape.tokens * heads
        scales, zeros = graph.ops((rows * FLOAT64, rows * INT64), tensor)
        graph.reads(scales)
        graph.reads(zeros)
        return scales, zeros, graph.op(rows * self.shape.head_dim * INT8, tensor, scales, zeros)

    def attend_quantised(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same with keys, values and queries in 8 bits."""
        graph, shape = self.graph, self.shape
        cells = shape.tokens * shape.n_kv_heads
        parts = [self.quantised(tensor, shape.n_kv_heads) for tensor in (key, value)]
        kept = [
            (values, graph.op(cells * FLOAT32, scales), graph.op(cells * INT8, zeros))
            for scales, zeros, values in parts
        ]
        self.scalar()
        for part in kept:
            for tensor in part:
                graph.op(1, tensor)
        scales, zeros, values = self.quantised(query, shape.n_heads)
        rows = shape.tokens * shape.n_heads
        narrow, single = graph.op(rows * INT8, zeros), graph.op(rows * FLOAT32, scales)
        self.scalar()
        return graph.op(rows * shape.head_dim * FLOAT32, values, narrow, single)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``scaled_dot_product_attention`` as its decomposition has it, and new caches beside the old ones."""
        graph, shape = self.graph, self.shape
        rows, cells = shape.tokens, shape.max_context_length if shape.use_kv_cache else shape.tokens
        queries, keys = shape.n_heads * rows * shape.head_dim, shape.n_heads * cells * shape.head_dim
        mixed = [
            self.op(rows, heads, shape.head_dim, tensor)
            for heads, tensor in ((shape.n_heads, query), (shape.n_kv_heads, key), (shape.n_kv_heads, value))
        ]
        query, written = mixed[0], mixed[1:]
        mask: Tensor | None = None
        if shape.use_kv_cache:
            mask, written = self.store(*written)
        repeated = []
        for tensor in written:
            single = self.op(cells, shape.n_kv_heads, shape.head_dim, tensor)
            repeated.append(self.op(keys, self.op(keys, single)))
        if not shape.use_kv_cache:
            mask = graph.op(rows * cells * BOOL, graph.op(rows * shape.max_context_length * BOOL))
        bias = self.op(rows * cells, mask)
        query, key, value = (
            self.wide(query, queries), self.wide(repeated[0], keys), self.wide(repeated[1], keys)
        )  # fmt: skip
        queries, keys, scores = queries * FLOAT32, keys * FLOAT32, shape.n_heads * rows * cells
        query = graph.op(queries, query)
        key = graph.op(keys, graph.op(keys, key))
        query, key = graph.op(queries, query), graph.op(keys, key)
        product = graph.op(scores * FLOAT32, query, key)
        product = graph.op(scores * FLOAT32, product, self.wide(bias, rows * cells))
        shares = graph.op(scores * FLOAT32, product)
        masked = graph.op(scores * BOOL, graph.op(scores * BOOL, product))
        empty = graph.op(shape.n_heads * rows * BOOL, graph.op(shape.n_heads * rows * BOOL, masked))
        zeros = graph.op(scores * FLOAT32, shares)
        shares = graph.op(scores * FLOAT32, empty, zeros, shares)
        shares, value = graph.op(scores * FLOAT32, shares), graph.op(keys, value)
        attended = self.narrow(graph.op(queries, shares, value), queries // FLOAT32)
        attended = self.op(queries // FLOAT32, attended)
        if shape.enable_dynamic_shape:
            attended = self.op(queries // FLOAT32, attended)
        return attended, written if shape.use_kv_cache else []

    def store(self, key: Tensor, value: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The rows of the mask, and caches with the new keys and values."""
        graph, shape = self.graph, self.shape
        rows = shape.tokens
        size = shape.max_context_length * shape.n_kv_heads * shape.head_dim
        if not shape.enable_dynamic_shape:
            mask = graph.op(rows * shape.max_context_length * BOOL)
            return mask, [self.op(size, tensor) for tensor in (key, value)]
        self.scalar()
        mask = graph.op(rows * shape.max_context_length * BOOL)
        self.scalar()
        counted = graph.op(rows * INT64)
        places = graph.op(rows * INT64, counted, graph.op(INT64, graph.op(INT32)))
        return mask, [self.op(size, places, tensor) for tensor in (key, value)]


class _Delegated(_Model):
    """Writes the graph of a model whose linear layers and elementwise operators XNNPACK runs.

    A delegate's results are allocated with it, and what it computes between them is XNNPACK's own. Left to ExecuTorch
    are the embedding, the means of norms, cache and attention, and of rotary embeddings the taking apart and putting
    together.
    """

    def delegate(self, sizes: tuple[int, ...], *operands: Tensor) -> list[Tensor]:
        """Results of a delegate, in float32, which nodes of their own take out of it."""
        graph = self.graph
        results = [Tensor(size * FLOAT32, graph.nodes, graph.nodes) for size in sizes]
        graph.tensors += results
        graph.reads(*operands)
        for one in results:
            graph.reads(one)
        return results

    def write(self) -> list[Tensor]:
        shape, graph = self.shape, self.graph
        rows, columns = shape.tokens, shape.dim
        caches = [self.caches() for _ in range(shape.n_layers)] if shape.use_kv_cache else []
        hidden = self.op(rows, columns)
        (squares,) = self.delegate((rows * columns,), hidden)
        self.frequencies()
        mean = self.op(rows, squares)
        tables = self.tables()
        for layer in range(shape.n_layers):
            hidden, squares = self.block(hidden, mean, *(table[layer] for table in tables))
            if layer < shape.n_layers - 1:
                mean = self.op(rows, squares)
        last = rows if shape.generate_full_logits else 1
        if last == 1:
            hidden = self.op(columns, hidden)
            (squares,) = self.delegate((columns,), hidden)
        (normed,) = self.delegate((last * columns,), self.op(last, squares), hidden)
        (logits,) = self.delegate((last * shape.vocab_size,), normed)
        for one in (*(cache for layer in caches for cache in layer), logits):
            one.end = graph.nodes
        return graph.tensors

    def tables(self) -> list[list[Tensor]]:
        """The tables of cosines and sines for each layer, which Hugging Face's rotary embeddings copy at the start."""
        shape, both = self.shape, (self.cosine, self.sine)
        if not shape.use_hf_rope:
            return [[table] * shape.n_layers for table in both]
        return [[self.op(shape.tokens, shape.rotary_dim, table) for _ in range(shape.n_layers)] for table in both]

    def block(self, hidden: Tensor, mean: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's result, and its squares for the next norm."""
        shape, rows, heads = self.shape, self.shape.tokens, self.shape.n_heads * self.shape.head_dim
        wide, kv = rows * shape.dim, shape.n_kv_heads * shape.head_dim
        (normed,) = self.delegate((wide,), mean, hidden)
        query, key, value = self.delegate((rows * heads, rows * kv, rows * kv), normed)
        self.scalar()
        if shape.use_qk_norm:
            of_query, of_key = self.delegate((rows * heads, rows * kv), query, key)
            self.op(value)
            means = self.op(rows, shape.n_heads, of_query), self.op(rows, shape.n_kv_heads, of_key)
            query, key = self.delegate((rows * heads, rows * kv), *means, query, key)
        else:
            self.op(value)
        query, key = self.turned(query, key, cosine, sine)
        self.op(key)
        (mixed,) = self.delegate((wide,), self.op(rows, heads, query))
        hidden, squares = self.delegate((wide, wide), hidden, mixed)
        (normed,) = self.delegate((wide,), self.op(rows, squares), hidden)
        gate, up = self.delegate((rows * shape.hidden_dim,) * 2, normed)
        (product,) = self.delegate((rows * shape.hidden_dim,), gate, up)
        (mixed,) = self.delegate((wide,), product)
        found = self.delegate((wide, wide), hidden, mixed)
        return found[0], found[1]

    def turned(self, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embeddings: ExecuTorch takes apart and puts together, XNNPACK multiplies."""
        shape, rows = self.shape, self.shape.tokens
        pairs = [(query, rows * shape.n_heads), (key, rows * shape.n_kv_heads)]
        if not shape.use_hf_rope:
            half = shape.head_dim // 2
            taken = [(self.op(size, half, tensor), size) for tensor, size in pairs for _ in range(2)]
            parts = [self.op(size, half, one) for one, size in taken]
            found = self.delegate(tuple(size * shape.head_dim for _, size in pairs), *parts, cosine, sine)
            return found[0], found[1]
        whole, passed, left = [], [], shape.head_dim - shape.rotary_dim
        for tensor, size in pairs:
            whole.append(self.op(size, shape.rotary_dim, tensor))
            passed.append(self.op(size, left, tensor) if left else None)
        halves = [
            self.op(size, shape.rotary_dim // 2, one)
            for one, (_, size) in zip(whole, pairs, strict=True)
            for _ in range(2)
        ]
        sizes = tuple(size * shape.rotary_dim for _, size in pairs)
        found = self.delegate(sizes, *whole, *halves, cosine, sine)
        query, key = (
            self.op(size, shape.head_dim, one, rest) for one, (_, size), rest in zip(found, pairs, passed, strict=True)
        )
        return query, key


class _Block:
    """A part of the arena that tensors share (``SharedObject``)."""

    def __init__(self, size: int) -> None:
        self.size, self.used, self.tensors = size, 0, list[tuple[int, Tensor]]()

    def put(self, offset: int, tensor: Tensor, lifetime: int) -> None:
        self.used |= lifetime
        self.tensors.append((offset, tensor))


def arena(tensors: list[Tensor]) -> int:
    """The bytes of the arena: ``exir/memory_planning.py: greedy``.

    The largest tensor comes first, of equal ones the latest. Each takes the first block that is free in its lifetime,
    else the first with room behind those that live then, else a block of its own. A lifetime is a number whose bits are
    the graph's nodes.
    """
    blocks: list[_Block] = []
    for _, tensor in sorted(enumerate(tensors), key=lambda pair: (pair[1].size, pair[0]), reverse=True):
        lifetime = (1 << (tensor.end + 2)) - (1 << (tensor.start + 1))
        block = next((one for one in blocks if not one.used & lifetime), None)
        if block is not None:
            block.put(0, tensor, lifetime)
            continue
        for block in blocks:
            behind = max(
                offset + other.size
                for offset, other in block.tensors
                if other.start <= tensor.end and tensor.start <= other.end
            )
            if behind + tensor.size <= block.size:
                block.put(behind, tensor, lifetime)
                break
        else:
            blocks.append(_Block(tensor.size))
            blocks[-1].put(0, tensor, lifetime)
    return sum(block.size for block in blocks)


@lru_cache(maxsize=256)
def planned_bytes(shape: Shape, delegated: bool = False) -> int:
    """The bytes of ``non_const_buffer_sizes`` in the program's file; ``delegated``: with XNNPACK's delegates."""
    if not delegated:
        return arena(_Model(shape).write())
    return arena(_Delegated(shape).write()) + DELEGATE_PADDING


def cache_bytes(shape: Shape) -> int:
    """The bytes of the KV cache."""
    return shape.n_layers * sum(tensor.size for tensor in _Model(shape).caches())


def linears(shape: Shape) -> list[tuple[int, int, int]]:
    """The linear layers, each as [outputs, inputs] and how often the model has it."""
    query, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    of_layers = [(query, shape.dim), (kv, shape.dim), (kv, shape.dim), (shape.dim, query)]
    of_layers += [(shape.hidden_dim, shape.dim)] * 2 + [(shape.dim, shape.hidden_dim)]
    return [(*one, shape.n_layers) for one in of_layers] + [(shape.vocab_size, shape.dim, 1)]


def rest_count(shape: Shape) -> int:
    """Parameters beside the embedding and the linear layers' weights: norms and biases."""
    norms = 2 * shape.dim + (2 * shape.head_dim if shape.use_qk_norm else 0)
    biases = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim if shape.qkv_bias else 0
    return shape.n_layers * (norms + biases) + shape.dim


def parameter_count(shape: Shape) -> int:
    """Parameters, a tied embedding counted once."""
    layers = sum(rows * columns * times for rows, columns, times in linears(shape))
    return layers + rest_count(shape) + (0 if shape.tied else shape.vocab_size * shape.dim)


def table_bytes(shape: Shape) -> int:
    """The tables of cosines and sines, and each layer's mask where attention is no operator of its own."""
    columns = shape.rotary_dim // (1 if shape.use_hf_rope else 2)
    tables = 2 * shape.table_rows * columns * shape.itemsize
    fused = shape.use_sdpa_with_kv_cache or shape.quantize_kv_cache
    return tables + (0 if fused else shape.n_layers * shape.max_context_length**2 * BOOL)


def constant_bytes(shape: Shape) -> int:
    """Weights and tables in the file of a program without a delegate."""
    return parameter_count(shape) * shape.itemsize + table_bytes(shape)


def unread_bytes(shape: Shape) -> int:
    """Of the constants those of the embedding, whose rows are looked up; none where the output layer has its weight."""
    return 0 if shape.tied else shape.vocab_size * shape.dim * shape.itemsize
