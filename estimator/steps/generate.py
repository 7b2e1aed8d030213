"""``generate``, to be read beside ``transformers/generation/utils.py``.

Each forward pass of decoding has one more key than the pass before. So only three passes are run: the prefill, the
first after it (when a window's cache still holds the whole prompt), and the last, which is the largest of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from .. import operators as ops
from ..ledger import ITEMSIZE, Called, Size, Tensor, whole
from ..ledger.sizes import compared
from ..programs import CachedTokens, Generated, Inputs, Procedure, Step
from ..programs.attention_functions import Cache
from ..programs.causal_lm import RecordedCausalLM
from ..programs.heads import CAUSAL
from ..programs.masks import create_causal_mask
from ..programs.recorded import Sizes
from .caches import CACHES, DynamicCache, Layer, Pair, running
from .decoding import BeamSearch, Greedy
from .generate_options import GenerateOptions
from .loop import Loop, Model
from .offloading import block_bytes, pin
from .prefill import infer

_OUTSIDE = Layer(1, None, -1)
CARRIED, KEPT = "carried", "kept"
"""What a log says of a tensor that a pass has from the one before, and of one that it leaves to the next."""


@dataclass(frozen=True)
class Generate(Procedure):
    """A call of ``generate``. ``window`` is the model's sliding window in tokens, if it has one."""

    options: GenerateOptions
    window: int | None
    experts: str | None = None
    """How experts run in the passes behind the first, where not as in the first (``_optimize_model_for_decode``)."""
    new: Size | None = None
    """New tokens in place of the options': a symbol stands for three and more."""
    only: Size | None = None
    """The one forward pass that is run: the one that makes the token of this number, from zero on. A log of events says
    what it has from the pass before, and what it leaves to the next one (``Call.carry``)."""
    dtypes: tuple[str, str] = ("", "")
    """Of a pass behind others: the dtypes of the keys and of the values that those gave the cache."""
    trains: bool = field(default=False, kw_only=True)
    layer_by_layer: ClassVar[bool] = True

    @property
    def tokens(self) -> int:
        return self.options.max_new_tokens

    def at_token(self, number: Size, dtypes: tuple[str, str] = ("", "")) -> Generate:
        return replace(self, only=number, dtypes=dtypes)

    @property
    def symbolic(self) -> bool:
        """Whether the pass that is run is behind a number of tokens that is a symbol."""
        return not isinstance(self.only, (int, type(None)))

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
        if step.head == CAUSAL:
            return [(self.step_of(step, one), rows, tokens) for one, rows, tokens in self.cached_passes(batch, seq)]
        prompt = step.sizes(batch, seq).get("T", seq)
        kind, beams = self.options.on_device, self.options.num_beams
        first = CachedTokens(kind, 0, 0, encodes=True, beams=beams)
        later = [(one._replace(beams=beams), rows) for one, rows, _ in self.cached_passes(batch, prompt)]
        return [(self.step_of(step, one), rows, seq) for one, rows in ((first, batch), *later)]

    def step_of(self, step: Step, cached: CachedTokens) -> Step:
        """The options of the pass that starts with this cache."""
        switches = self.experts is not None and bool(cached.past)
        experts = self.experts if switches else step.experts_implementation
        return step._replace(cached=cached, experts_implementation=experts)

    def cached_passes(self, batch: Size, seq: Size) -> list[tuple[CachedTokens, Size, Size]]:
        """The forward passes that are run: the cache with which each starts, and its tokens, [rows, seq]."""
        options, new = self.options, self.new_tokens
        kind, rows = options.on_device, batch * options.num_beams
        tokens = seq + (new - 1)
        numbers: list[Size] = [0, *([1] if new != 1 else []), *([new - 1] if new not in (1, 2) else [])]
        found: list[tuple[CachedTokens, Size, Size]] = []
        for number in numbers if self.only is None else [self.only]:
            past = seq + number - 1 if number else 0
            behind = bool(number) and options.num_beams > 1
            cached = CachedTokens(kind, past, tokens, prefilled=number == 1, reordered=behind)
            found.append((cached, rows, 1 if number else seq))
        return found


class Call:
    """One call of ``generate`` for ids [B, S]. ``vocab`` is the number of logits of a token.

    ``forward`` is the model: ids, the inputs of the forward pass and its cache, if it takes one -> (``None``, logits
    [B, 1, V], the cache, other tensors that the loop holds).
    """

    def __init__(self, model: Model, generate: Generate, vocab: Size) -> None:
        options, ledger, inputs = generate.options, model.ledger, model.inputs
        self.ledger, self.inputs, self.forward = ledger, inputs, model.forward
        self.step_of = partial(generate.step_of, inputs.step)
        self.seq = inputs.step.sizes(inputs.batch, inputs.seq).get("T", inputs.seq)
        """Tokens of the prompt."""
        self.passes = generate.cached_passes(inputs.batch, self.seq)
        cached, self.rows, _ = self.passes[0]
        self.tokens = cached.capacity
        """Tokens in the cache at the end. The last new token is never put there."""
        if options.num_beams == 1:
            self.loop = Greedy(ledger, self.rows, vocab)
        else:  # no beam's sizes are symbols
            beams, new, rows = options.num_beams, options.max_new_tokens, whole(self.rows)
            self.loop = BeamSearch(ledger, rows, whole(vocab), beams, whole(self.seq), new)
        self.positions: Tensor | None = None
        """Position ids of all tokens so far."""
        self.axes = model.causal_lm.c.source.position_axes
        self.deltas: Tensor | None = None
        """``rope_deltas``, which the model keeps where positions have further axes."""
        self.prompt_mask: Tensor | None = None
        self.first_mask: Tensor | None = None
        """That of all rows, which is held by generate's own arguments."""
        self.mask: Tensor | None = None
        """The padding mask [rows, tokens] of all tokens so far, if prompts are padded."""
        self.model_inputs: list[Any] = []
        """Inputs of the last forward pass, while the loop holds them."""
        self.cache: Cache | None = None
        self.layers: Sequence[Layer] = [
            Layer(segment.copies, generate.window if run.windowed else None, index, number)
            for number, segment in enumerate(model.causal_lm.segments)
            for index, run in segment.layers
        ]
        """Those that are run."""

    def carry(self, mark: str) -> None:
        """Note in the log, if one is kept, what this pass has from the one before, or leaves to the next one."""
        if (events := self.ledger.events) is not None:
            loop = {"prompts": self.prompts, "first_positions": self.first_positions, "positions": self.positions}
            loop |= {"deltas": self.deltas}
            masks = {"prompt_mask": self.prompt_mask, "first_mask": self.first_mask, "mask": self.mask}
            held = {**loop, **masks, **self.loop.names, **self._inputs()}
            alike = {tensor.storage.event: name for name, tensor in held.items() if tensor is not None}
            for event, name in alike.items():
                events.call(Called(mark, name, event), self.ledger)
            for layer, tensors in self._by_layer().items():
                with running(self.ledger, layer):
                    for i, tensor in enumerate(tensors):
                        events.call(Called(mark, f"cache.{layer.number}.{i}", tensor.storage.event), self.ledger)

    def _inputs(self) -> dict[str, Tensor]:
        """What the loop holds of the last forward pass's inputs, by name."""
        return {}

    def _by_layer(self) -> dict[Layer, list[Tensor]]:
        """What the cache has of each layer: before a forward pass what the layer has then."""
        raise NotImplementedError

    def run(self) -> Size:
        """Run the forward passes; returns the bytes of the cache at the end."""
        ledger = self.ledger
        infer(ledger)
        ledger.phase, ledger.scope = "prefill", "inputs"
        self._begin()
        self.loop.start()
        done: list[Size] = []
        for cached, _, seq in self.passes:
            done.append(ledger.work)
            if cached.past:
                ledger.phase = "decode"
                self._lengthen(cached.past + 1)
                self.loop.resume(cached.past + 1)
            self._fill(cached, seq)
            if cached.past:
                self.carry(CARRIED)
                self.loop.begin()
            outputs = [self._logits(cached, seq)]
            if not cached.past:
                self.model_inputs.clear()
            self._choose(outputs, cached.past + seq)
        ledger.mark("decode")
        if ledger.counts_work and len(self.passes) == 3:  # those between the last two, which grow evenly
            ledger.work = ledger.work + (ledger.work - done[1]) * (self.tokens - self.seq - 2) // 2
        self.carry(KEPT)
        return self.cache_bytes()

    def _begin(self) -> None:
        """Make what the caller and ``generate``'s own arguments hold."""
        self.prompts = self.ids(self.inputs.batch, self.seq)
        mask = self.ids(self.inputs.batch, self.seq)
        self.first_positions = self.positions = self._first_positions()
        if self.inputs.step.attention_mask:
            self.prompt_mask = mask
            self.first_mask = mask if self.rows == self.inputs.batch else self.ids(self.rows, self.seq)
            self.mask = self.first_mask
        del mask  # without padding it goes: it is of ones alone

    def ids(self, rows: Size, tokens: Size) -> Tensor:
        """Token or position ids [rows, tokens]."""
        return self.ledger.empty((rows, tokens), "int64")

    def _positions(self, tokens: Size) -> Tensor | None:
        """Position ids [..., rows, tokens]."""
        return self.ledger.empty((*self.axes, self.rows, tokens), "int64")

    def _lengthen(self, tokens: Size) -> None:
        """``_update_model_kwargs_for_generation``: positions and mask of so many tokens."""
        before = self.positions, self.mask  # names until it returns
        self.positions = self._positions(tokens)
        if self.mask is not None:
            self.mask = self.ids(self.rows, tokens)
        del before

    def _first_positions(self) -> Tensor | None:
        """``position_ids = attention_mask.long().cumsum(-1) - 1`` where there is a mask, 0 elsewhere."""
        sums = self.ids(self.inputs.batch, self.seq)
        numbers = self.ids(self.inputs.batch, self.seq)
        del sums
        where = self.ledger.empty((self.inputs.batch, self.seq), "bool")
        if not self.axes:
            positions = self._positions(self.seq)
            del where, numbers
            return positions
        text = self.ids(self.inputs.batch, self.seq)
        del where, numbers
        self.deltas = self.ids(self.inputs.batch, 1)
        positions = self._positions(self.seq)
        del text
        return positions

    def _choose(self, outputs: list[Tensor], tokens: Size) -> None:
        """Choose the token after ``tokens`` tokens."""
        self.ledger.scope = "token choice"
        self._lengthen(tokens + 1)
        self.loop.choose(outputs, tokens)
        if self.loop.reorders:
            self._reorder()

    def _fill(self, cached: CachedTokens, seq: Size) -> None:
        """Make what the cache has before a forward pass over ``seq`` tokens."""
        raise NotImplementedError

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        """Run the forward pass over ``seq`` tokens that follow what is cached."""
        raise NotImplementedError

    def _reorder(self) -> None:
        """``reorder_cache``: each layer's keys, then its values, are copied, and what is not seen is left out."""
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

    def _positions(self, tokens: Size) -> Tensor | None:
        return super()._positions(tokens) if self.has_positions else None

    def _fill(self, cached: CachedTokens, seq: Size) -> None:
        self.cache = None
        self.model_inputs.clear()
        self.model.fill_cache(self._given(cached, seq))

    def _given(self, cached: CachedTokens, seq: Size) -> Inputs:
        step = self.step_of(cached)
        return self.inputs._replace(batch=self.rows, seq=seq, step=step, position_ids=self.positions)

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        ids = self.loop.sequences(cached.past + seq)
        given = self.prompts if ids is None else ids
        logits: Tensor
        _, logits, self.cache, self.model_inputs = self.forward(given, self._given(cached, seq))
        return logits

    def _by_layer(self) -> dict[Layer, list[Tensor]]:
        found: dict[Layer, list[Tensor]] = {}
        held = self.model.filled if self.cache is None else self.cache.of_layers()
        for index, tensor in held:
            found.setdefault(self._layer(index), []).append(tensor)
        return found

    def _layer(self, number: int) -> Layer:
        return next((one for one in self.layers if one.number == number), _OUTSIDE)

    def _reorder(self) -> None:
        assert self.cache is not None
        places = [(place, index) for place, (index, tensor) in enumerate(self.cache.of_layers()) if tensor.shape]
        for place, index in places:  # a name for a tensor would keep it
            with running(self.ledger, self._layer(index)):
                read = ops.selecting(self.loop.names["beam_idx"])
                self.cache.copy(place)
                del read

    def cache_bytes(self) -> Size:
        assert self.cache is not None
        return self.cache.nbytes


GROWING = ("token_type_ids", "mm_token_type_ids", "position_ids")
"""What each pass is given of all tokens so far, in the order in which it gets one more."""


class EncodedCall(RecordedCall):
    """A call with a model that has an encoder or a tower, which runs once, before the first token's pass.

    What it gives is held until the call ends, as is what ``generate`` makes of the batch (``kept``).
    """

    kept: dict[str, Tensor]
    """What each pass is given, by name."""

    def __init__(self, model: Model, generate: Generate) -> None:
        super().__init__(model, generate)
        (self.first, *_), *_ = generate.passes(model.step, model.inputs.batch, model.inputs.seq)
        self.beams = generate.options.num_beams
        self.make_batch = model.batch

    def _begin(self) -> None:
        self.batch = self.make_batch()  # the caller holds it
        if "decoder_input_ids" in self.batch:
            self.start_token = self.ledger.empty((), "int64")
        given = self.inputs._replace(
            step=self.first, others=self.batch, attention_mask=self.batch.get("attention_mask")
        )
        _, _, self.held, found = self.forward(self.batch.get("input_ids"), given)
        program = self.model.program(given.batch, given.seq)
        self.kept = dict(zip(program.outputs, found, strict=True))
        ids = self.kept.pop("input_ids")
        if not self.loop.reorders:  # a beam search has them itself
            self.prompts = ids

    def _lengthen(self, tokens: Size) -> None:
        before = [self.kept[name] for name in GROWING if name in self.kept]  # names until it returns
        for name in GROWING:
            if name in self.kept:
                x = self.kept[name]
                self.kept[name] = self.ledger.empty((*x.shape[:-1], tokens), x.dtype)
        del before

    def _given(self, cached: CachedTokens, seq: Size) -> Inputs:
        return self.inputs._replace(
            batch=self.rows,
            step=self.step_of(cached._replace(beams=self.beams)),
            others=self.kept,
            attention_mask=self.kept.get("attention_mask"),
            position_ids=self.kept.get("position_ids"),
        )


class CachedCall(Call):
    """A call with a model whose program asks the setting for its cache."""

    def __init__(self, model: Model, generate: Generate) -> None:
        c: Sizes = model.causal_lm.c
        super().__init__(model, generate, c.vocab)
        self.window, self.dtype = generate.window, model.step.dtype
        parts = getattr(c.program.split, "parts", 1)  # of the heads a process of tensor parallelism has one
        self.states = (self.rows, c.kv_heads // parts, c.head_dim)
        self.dtypes = generate.dtypes
        self.kind, self.offloads = CACHES[generate.options.cache_implementation], generate.options.offloads

    def _fill(self, cached: CachedTokens, seq: Size) -> None:
        self.cache = None
        held = [self._held(layer, cached.past) for layer in self.kind.on_device(self.layers)] if cached.past else ()
        self.cache = self.kind(self.ledger, self.layers, self.tokens, cached.past, held)
        if cached.past and not cached.prefilled and not self.model_inputs:  # of the pass before, which is not run
            mask = None if self.mask is None else self.ids(self.rows, cached.past)
            self.model_inputs = self._made(cached, seq, mask)

    def _inputs(self) -> dict[str, Tensor]:
        if not self.model_inputs:
            return {}
        inputs, ids = self.model_inputs
        masks = inputs.generated.masks or {}
        own = {"ids": ids, "position_ids": inputs.generated.position_ids, "attention_mask": inputs.attention_mask}
        held = own | {f"mask {k}": x for k, x in masks.items()}
        return {f"input {name}": x for name, x in held.items() if x is not None}

    def _by_layer(self) -> dict[Layer, list[Tensor]]:
        assert isinstance(self.cache, DynamicCache)
        return self.cache.by_layer()

    def run(self) -> Size:
        nbytes = super().run()
        if self.offloads:
            self._pin(1)
            self._pin(-1)
        return nbytes

    def _pin(self, sign: int) -> None:
        """Take pinned memory for the whole cache, or give it back. Blocks of each power of two that the cache has grown
        by are kept (``CachingHostAllocator``).
        """
        for layer in self.layers:
            for first, last in zip(*(self._layer_bytes(layer, n) for n in (self.seq, self.tokens)), strict=True):
                nbytes = last
                pin(self.ledger, nbytes, sign * layer.copies)
                while isinstance(nbytes, int) and block_bytes(nbytes := nbytes // 2) >= block_bytes(whole(first)):
                    pin(self.ledger, nbytes, sign * layer.copies)

    def _reorder(self) -> None:
        assert isinstance(self.cache, DynamicCache)
        self.cache.reorder(self.loop.names["beam_idx"])

    def _made(self, cached: CachedTokens, seq: Size, mask: Tensor | None) -> list[Any]:
        """The inputs of a forward pass, and its token ids [rows, seq], which go first: a list is cleared from its end.
        With a static cache the masks of attention are made of the padding mask, which is no input then.
        """
        past, cache = cached.past, self.cache
        assert isinstance(cache, DynamicCache)
        ids = self.ids(self.rows, seq)
        positions = self.positions if not past else self._positions(seq)
        assert positions is not None
        keys = {False: cache.keys(None, past, seq, self.tokens)}
        if self.window is not None:
            keys[True] = cache.keys(self.window, past, seq, self.tokens)
        generated = Generated(positions, keys, cache.static)
        inputs = self.inputs._replace(
            batch=self.rows,
            seq=seq,
            past=past,
            attention_mask=None if cache.static else mask,
            step=self.step_of(cached)._replace(
                window_reached=self.window is not None and compared(keys[True], self.window) >= 0,
            ),
            generated=generated,
        )
        if cache.static:
            kinds = {layer.window is not None for layer in self.layers}
            masks = {windowed: self._mask(inputs, windowed) for windowed in sorted(kinds)}
            inputs = inputs._replace(generated=generated._replace(masks={False: None, **masks}))
        return [inputs, ids]

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        cache = self.cache
        assert isinstance(cache, DynamicCache)
        self.model_inputs = inputs, ids = self._made(cached, seq, self.mask)
        logits: Tensor = self.forward(ids, inputs, cache)[1]
        self.dtypes = self.ledger.cached = cache.dtypes
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
        with running(self.ledger, layer):
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

    def cache_bytes(self) -> Size:
        return sum((layer.copies * sum(self._layer_bytes(layer, self.tokens)) for layer in self.layers), 0)


class UncachedCall(Call):
    """A call with ``use_cache=False``, each of whose forward passes is over all tokens so far."""

    def _fill(self, cached: CachedTokens, seq: Size) -> None:
        """There is nothing."""

    def _logits(self, cached: CachedTokens, seq: Size) -> Tensor:
        tokens = cached.past + seq
        ids = self.loop.sequences(tokens)
        given = self.inputs._replace(
            batch=self.rows,
            seq=tokens,
            logits_to_keep=1,
            position_ids=self.positions,
            attention_mask=self.mask,
        )
        logits: Tensor = self.forward(self.prompts if ids is None else ids, given)[1]
        return logits

    def _by_layer(self) -> dict[Layer, list[Tensor]]:
        return {}

    def cache_bytes(self) -> Size:
        return 0


def call_of(model: Model, generate: Generate) -> Call:
    """The call of a model, with a cache of rules where its program asks for one, else the library's own."""
    inputs, causal_lm = model.inputs, model.causal_lm
    if inputs.step.head != CAUSAL:
        return EncodedCall(model, generate)
    first = generate.passes(inputs.step, inputs.batch, inputs.seq)[0]
    kind: type[CachedCall | RecordedCall] = (
        CachedCall if causal_lm.c.source.at(*first).asks_interfaces else RecordedCall
    )
    return kind(model, generate)
