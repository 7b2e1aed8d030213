"""``generate`` of prompts without padding, to be read beside ``transformers/generation/utils.py``.

Each forward pass of decoding has one more key than the pass before. So only three passes are run: the prefill, the
first after it (when a window's cache still holds the whole prompt), and the last, which is the largest of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..ledger import ITEMSIZE, Ledger, Size, Tensor
from ..programs import Generated, Inputs, Sizes
from ..programs.attention import causal_mask
from .caches import CACHES, DynamicCache, Layer, Pair
from .decoding import BeamSearch, Greedy
from .generate_options import GenerateOptions


@dataclass(frozen=True)
class Generation:
    """The options of ``generate``, and the model's sliding window in tokens, if it has one."""

    options: GenerateOptions
    window: int | None


Forward = Callable[[Tensor, Inputs, DynamicCache], "tuple[Any, ...]"]
"""The model: ids, the inputs of the forward pass, its cache -> (``None``, logits [B, 1, V], the cache)."""


class Call:
    """One call of ``generate`` for ids [B, S]. ``layers`` are those that are run; ``dtype`` is the weights'."""

    def __init__(
        self,
        ledger: Ledger,
        generation: Generation,
        inputs: Inputs,
        layers: Sequence[Layer],
        c: Sizes,
        dtype: str,
        forward: Forward,
    ) -> None:
        assert isinstance(inputs.batch, int)
        assert isinstance(inputs.seq, int)
        assert isinstance(c.vocab, int)
        options = generation.options
        self.ledger, self.inputs, self.layers, self.forward = ledger, inputs, layers, forward
        self.window, self.dtype = generation.window, dtype
        self.seq, self.rows = inputs.seq, inputs.batch * options.num_beams
        self.tokens = self.seq + options.max_new_tokens - 1
        """Tokens in the cache at the end. The last new token is never put there."""
        self.states = (self.rows, c.kv_heads, c.head_dim)
        self.dtypes: tuple[str, str] = ("", "")
        self.cache = CACHES[options.cache_implementation]
        if options.num_beams == 1:
            self.loop = Greedy(ledger, self.rows, c.vocab)
        else:
            beams, new = options.num_beams, options.max_new_tokens
            self.loop = BeamSearch(ledger, self.rows, c.vocab, beams, self.seq, new)

        self.positions: Tensor | None = None
        """Position ids of all tokens so far."""
        self.model_inputs: list[Any] = []
        """Inputs of the last forward pass, while the loop holds them."""

    def run(self) -> Size:
        """Run the forward passes; returns the bytes of the cache at the end."""
        ledger = self.ledger
        ledger.grad_enabled = ledger.training = False
        ledger.inference_mode = True
        ledger.phase, ledger.scope = "prefill", "inputs"
        prompts = self.ids(self.inputs.batch, self.seq)  # noqa: F841 (the caller holds them)
        self.prefill()
        ledger.phase = "decode"
        for past in sorted({self.seq, self.tokens - 1}):
            if self.seq <= past < self.tokens:
                self.decode(past)
        return self.cache_bytes(self.tokens)

    def ids(self, rows: Size, tokens: int) -> Tensor:
        """Token or position ids [rows, tokens]."""
        return self.ledger.empty((rows, tokens), "int64")

    def prefill(self) -> None:
        """Run the prompts, and choose the first new tokens."""
        self.positions = self.ids(self.rows, self.seq)
        self.first_positions = self.positions  # held by generate's own arguments
        self.loop.start()
        cache = self.cache(self.ledger, self.layers, self.tokens)
        outputs = [self._forward(self.ids(self.rows, self.seq), self.positions, cache, 0)]
        self.model_inputs.clear()
        self.dtypes = cache.dtypes
        self._choose(outputs, self.seq)

    def decode(self, past: int) -> None:
        """Run one token after ``past`` tokens, and choose the next."""
        self.positions = self.ids(self.rows, past + 1)
        self.loop.resume(past + 1)
        cache = self.cache(
            self.ledger, self.layers, self.tokens, past, [self._held(layer, past) for layer in self.layers]
        )
        outputs = [self._forward(self.ids(self.rows, 1), self.ids(self.rows, 1), cache, past)]
        self._choose(outputs, past + 1)

    def _forward(self, ids: Tensor, positions: Tensor, cache: DynamicCache, past: int) -> Tensor:
        seq = ids.shape[1]
        assert isinstance(seq, int)
        keys = {False: cache.keys(None, past, seq, self.tokens)}
        if self.window is not None:
            keys[True] = cache.keys(self.window, past, seq, self.tokens)
        generated = Generated(positions, keys, cache.static)
        inputs = replace(
            self.inputs,
            batch=self.rows,
            seq=seq,
            past=past,
            step=replace(self.inputs.step, window_reached=self.window is not None and keys[True] >= self.window),
            generated=generated,
        )
        if cache.static:
            kinds = {layer.window is not None for layer in self.layers}
            masks = {windowed: causal_mask(inputs, self.dtype, windowed) for windowed in sorted(kinds)}
            inputs = replace(inputs, generated=replace(generated, masks={False: None, **masks}))
        self.model_inputs = [ids, inputs]
        logits: Tensor = self.forward(ids, inputs, cache)[1]
        return logits

    def _choose(self, outputs: list[Tensor], tokens: int) -> None:
        """Choose the token after ``tokens`` tokens."""
        self.ledger.scope = "token choice"
        self.positions = self.ids(self.rows, tokens + 1)
        self.loop.choose(outputs, tokens)
        if self.loop.reorders:  # a copy of one layer's keys or values at a time
            self.ledger.transient(max(max(self._layer_bytes(layer, tokens)) for layer in self.layers))

    def _tokens(self, layer: Layer, past: int) -> tuple[int, int]:
        reorders = self.loop.reorders
        return self.cache.held(layer.window, past, self.tokens, reorders, prefilled=past == self.seq)

    def _held(self, layer: Layer, past: int) -> Pair:
        """A layer's keys and values after ``past`` tokens."""
        rows, heads, dim = self.states
        seen, stored = self._tokens(layer, past)
        pair = []
        with self.ledger.counted(layer.copies):
            for dtype in self.dtypes:
                whole = self.ledger.empty((rows, heads, stored, dim), self.cache.dtype(dtype))
                pair.append(Tensor(whole.storage, (rows, heads, seen, dim), whole.dtype))
        return pair[0], pair[1]

    def _layer_bytes(self, layer: Layer, past: int) -> tuple[int, int]:
        """Bytes of a layer's keys, and of its values, after ``past`` tokens."""
        rows, heads, dim = self.states
        _, stored = self._tokens(layer, past)
        key, value = (rows * heads * stored * dim * ITEMSIZE[self.cache.dtype(dtype)] for dtype in self.dtypes)
        assert isinstance(key, int)
        assert isinstance(value, int)
        return key, value

    def cache_bytes(self, past: int) -> Size:
        """Bytes of the cache after ``past`` tokens."""
        return sum((layer.copies * sum(self._layer_bytes(layer, past)) for layer in self.layers), 0)
