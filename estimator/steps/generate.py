"""``generate`` of prompts without padding, to be read beside ``transformers/generation/utils.py``.

Each forward pass of decoding has one more key than the pass before. So only three passes are run: the prefill, the
first after it (when a window's cache still holds the whole prompt), and the last, which is the largest of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from .. import operators as ops
from ..ledger import ITEMSIZE, Size, Tensor, whole
from ..programs import CachedTokens, Generated, Inputs, Procedure, Step
from ..programs.attention_functions import Cache
from ..programs.causal_lm import RecordedCausalLM
from ..programs.masks import create_causal_mask
from ..programs.recorded import Sizes
from .caches import CACHES, DynamicCache, Layer, Pair
from .decoding import BeamSearch, Greedy
from .generate_options import GenerateOptions
from .loop import Loop, Model
from .prefill import infer


@dataclass(frozen=True)
class Generate(Procedure):
    """A call of ``generate``. ``window`` is the model's sliding window in tokens, if it has one."""

    options: GenerateOptions
    window: int | None
    new: Size | None = None
    """New tokens in place of the options': a symbol stands for three and more."""
    trains: bool = field(default=False, kw_only=True)
    layer_by_layer: ClassVar[bool] = True

    @property
    def new_tokens(self) -> Size:
        """Tokens that are added to each prompt."""
        return self.options.max_new_tokens if self.new is None else self.new

    def phases(self, loop: Loop) -> Iterator[str]:
        yield "forward"
        loop.settle(lambda: call_of(loop.model, self).run())
        loop.kv_cache = call_of(loop.model, self).run()
        yield "end"

    def passes(self, step: Step, batch: Size, seq: Size) -> list[tuple[Step, Size, Size]]:
        return [(replace(step, cached=cached), rows, tokens) for cached, rows, tokens in self.cached_passes(batch, seq)]

    def cached_passes(self, batch: Size, seq: Size) -> list[tuple[CachedTokens, Size, Size]]:
        """The forward passes that are run: the cache with which each starts, and its tokens, [rows, seq]."""
        options, new = self.options, self.new_tokens
        kind, rows = options.cache_implementation, batch * options.num_beams
        tokens = seq + (new - 1)
        found: list[tuple[CachedTokens, Size, Size]] = [(CachedTokens(kind, 0, tokens), rows, seq)]
        pasts = {1: [], 2: [seq]}.get(new, [seq, tokens - 1]) if isinstance(new, int) else [seq, tokens - 1]
        for number, past in enumerate(pasts):
            cached = CachedTokens(kind, past, tokens, prefilled=not number, reordered=options.num_beams > 1)
            found.append((cached, rows, 1))
        return found


class Call:
    """One call of ``generate`` for ids [B, S]. ``vocab`` is the number of logits of a token.

    ``forward`` is the model: ids, the inputs of the forward pass and its cache, if it takes one -> (``None``, logits
    [B, 1, V], the cache, other tensors that the loop holds).
    """

    def __init__(self, model: Model, generate: Generate, vocab: Size) -> None:
        options, ledger, inputs = generate.options, model.ledger, model.inputs
        self.ledger, self.inputs, self.forward = ledger, inputs, model.forward
        self.passes = generate.cached_passes(inputs.batch, inputs.seq)
        cached, self.rows, self.seq = self.passes[0]
        self.tokens = cached.capacity
        """Tokens in the cache at the end. The last new token is never put there."""
        if options.num_beams == 1:
            self.loop = Greedy(ledger, self.rows, vocab)
        else:  # no beam's sizes are symbols
            beams, new, rows = options.num_beams, options.max_new_tokens, whole(self.rows)
            self.loop = BeamSearch(ledger, rows, whole(vocab), beams, whole(self.seq), new)
        self.positions: Tensor | None = None
        """Position ids of all tokens so far."""
        self.model_inputs: list[Any] = []
        """Inputs of the last forward pass, while the loop holds them."""

    def run(self) -> Size:
        """Run the forward passes; returns the bytes of the cache at the end."""
        ledger = self.ledger
        infer(ledger)
        ledger.phase, ledger.scope = "prefill", "inputs"
        self.prompts = self.ids(self.inputs.batch, self.seq)  # the caller holds them
        self.first_positions = self.positions = self._positions(self.seq)  # held by generate's own arguments
        self.loop.start()
        for cached, _, seq in self.passes:
            if cached.past:
                ledger.phase = "decode"
                self.positions = self._positions(cached.past + 1)
                self.loop.resume(cached.past + 1)
            outputs = [self._logits(cached, seq)]
            if not cached.past:
                self.model_inputs.clear()
            self._choose(outputs, cached.past + seq)
        return self.cache_bytes()

    def ids(self, rows: Size, tokens: Size) -> Tensor:
        """Token or position ids [rows, tokens]."""
        return self.ledger.empty((rows, tokens), "int64")

    def _positions(self, tokens: Size) -> Tensor | None:
        return self.ids(self.rows, tokens)

    def _choose(self, outputs: list[Tensor], tokens: Size) -> None:
        """Choose the token after ``tokens`` tokens."""
        self.ledger.scope = "token choice"
        self.positions = self._positions(tokens + 1)
        self.loop.choose(outputs, tokens)
        if self.loop.reorders:  # a copy of one layer's keys or values at a time
            self.ledger.transient(self._largest(tokens))

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        """Run the forward pass over ``seq`` tokens that follow what is cached."""
        raise NotImplementedError

    def _largest(self, tokens: Size) -> Size:
        """Bytes of the largest tensor of the cache after ``tokens`` tokens."""
        raise NotImplementedError

    def cache_bytes(self) -> Size:
        """Bytes of the cache at the end."""
        raise NotImplementedError


class RecordedCall(Call):
    """A call with a model whose program is recorded, with the library's own cache."""

    def __init__(self, model: Model, generate: Generate) -> None:
        causal_lm: RecordedCausalLM = model.causal_lm
        config = causal_lm.c.config
        assert config is not None
        super().__init__(model, generate, config.vocab_size)
        self.model = causal_lm
        first = generate.passes(model.step, model.inputs.batch, model.inputs.seq)[0]
        self.has_positions = "position_ids" in causal_lm.c.source.at(*first).inputs
        self.cache: Cache | None = None

    def _positions(self, tokens: Size) -> Tensor | None:
        return super()._positions(tokens) if self.has_positions else None

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        step = replace(self.inputs.step, cached=cached)
        inputs = replace(self.inputs, batch=self.rows, seq=seq, step=step, position_ids=self.positions)
        self.cache = None
        self.model_inputs.clear()
        self.model.fill_cache(inputs)
        ids = self.loop.sequences(cached.past + seq)
        logits: Tensor
        _, logits, self.cache, self.model_inputs = self.forward(self.prompts if ids is None else ids, inputs)
        return logits

    def _held(self) -> Cache:
        assert self.cache is not None
        return self.cache

    def _largest(self, tokens: Size) -> Size:
        return max((whole(x.nbytes) for x, _ in self._held().tensors()), default=0)

    def cache_bytes(self) -> Size:
        if self.loop.reorders:
            return sum((x.nbytes * copies for x, copies in self._held().tensors()), 0)
        return self._held().nbytes


class CachedCall(Call):
    """A call with a model whose program asks the setting for its cache. ``layers`` are those that are run."""

    def __init__(self, model: Model, generate: Generate, layers: Sequence[Layer]) -> None:
        c: Sizes = model.causal_lm.c
        super().__init__(model, generate, c.vocab)
        self.layers, self.window, self.dtype = layers, generate.window, model.step.dtype
        parts = getattr(c.program.split, "parts", 1)  # of the heads a process of tensor parallelism has one
        self.states = (self.rows, c.kv_heads // parts, c.head_dim)
        self.dtypes: tuple[str, str] = ("", "")
        self.kind = CACHES[generate.options.cache_implementation]
        self.cache: DynamicCache | None = None

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        past = cached.past
        self.cache = None
        held = [self._held(layer, past) for layer in self.layers] if past else ()
        self.cache = cache = self.kind(self.ledger, self.layers, self.tokens, past, held)
        del held
        ids = self.ids(self.rows, seq)
        positions = self.positions if not past else self.ids(self.rows, seq)
        assert positions is not None
        keys = {False: cache.keys(None, past, seq, self.tokens)}
        if self.window is not None:
            keys[True] = cache.keys(self.window, past, seq, self.tokens)
        generated = Generated(positions, keys, cache.static)
        inputs = replace(
            self.inputs,
            batch=self.rows,
            seq=seq,
            past=past,
            step=replace(
                self.inputs.step,
                window_reached=self.window is not None and whole(keys[True]) >= self.window,
                cached=cached,
            ),
            generated=generated,
        )
        if cache.static:
            kinds = {layer.window is not None for layer in self.layers}
            masks = {windowed: self._mask(inputs, windowed) for windowed in sorted(kinds)}
            inputs = replace(inputs, generated=replace(generated, masks={False: None, **masks}))
        self.model_inputs = [ids, inputs]
        logits: Tensor = self.forward(ids, inputs, cache)[1]
        self.dtypes = cache.dtypes
        return logits

    def _mask(self, inputs: Inputs, windowed: bool) -> Tensor | None:
        """A mask of a static cache, which ``prepare_inputs_for_generation`` makes contiguous."""
        mask = create_causal_mask(inputs, self.dtype, None, windowed, allow_is_causal_skip=True)
        return None if mask is None else ops.contiguous(mask)

    def _tokens(self, layer: Layer, past: Size) -> tuple[Size, Size]:
        reorders = self.loop.reorders
        return self.kind.held(layer.window, past, self.tokens, reorders, prefilled=past == self.seq)

    def _held(self, layer: Layer, past: Size) -> Pair:
        """A layer's keys and values after ``past`` tokens."""
        rows, heads, dim = self.states
        seen, stored = self._tokens(layer, past)
        pair = []
        with self.ledger.counted(layer.copies):
            for dtype in self.dtypes:
                whole = self.ledger.empty((rows, heads, stored, dim), self.kind.dtype(dtype))
                pair.append(Tensor(whole.storage, (rows, heads, seen, dim), whole.dtype))
        return pair[0], pair[1]

    def _layer_bytes(self, layer: Layer, past: Size) -> tuple[Size, Size]:
        """Bytes of a layer's keys, and of its values, after ``past`` tokens."""
        rows, heads, dim = self.states
        _, stored = self._tokens(layer, past)
        key, value = (rows * heads * stored * dim * ITEMSIZE[self.kind.dtype(dtype)] for dtype in self.dtypes)
        return key, value

    def _largest(self, tokens: Size) -> Size:
        return max(whole(nbytes) for layer in self.layers for nbytes in self._layer_bytes(layer, tokens))

    def cache_bytes(self) -> Size:
        return sum((layer.copies * sum(self._layer_bytes(layer, self.tokens)) for layer in self.layers), 0)


def call_of(model: Model, generate: Generate) -> Call:
    """The call of a model, with a cache of rules where its program asks for one, else the library's own."""
    inputs, causal_lm = model.inputs, model.causal_lm
    first = generate.passes(inputs.step, inputs.batch, inputs.seq)[0]
    if not causal_lm.c.source.at(*first).asks_interfaces:
        return RecordedCall(model, generate)
    layers = [
        Layer(segment.copies, generate.window if run.windowed else None)
        for segment in causal_lm.segments
        for _, run in segment.layers
    ]
    return CachedCall(model, generate, layers)
