"""The options of a step, what it runs, and the inputs of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from ..ledger import Ledger, Size, Tensor
from ..ledger.sizes import smaller
from ..operators import CPU, Device
from .heads import HEADS, Input, Placeholders
from .modules import Base, Module

CACHED_SIZES = ("past", "stored")
"""The names of ``CachedTokens.sizes``."""
OF_STEPS = ("B", "S", "T", "tiles", "samples", "high", "wide")
"""Sizes that a step has, and no config."""


class CachedTokens(NamedTuple):
    """The cache with which a forward pass of ``generate`` starts."""

    implementation: str
    """``dynamic``, ``static`` or ``quantized``."""
    past: Size
    """Tokens that it has."""
    capacity: Size
    """Tokens that it has at the end."""
    prefilled: bool = False
    """One forward pass made all that it has."""
    reordered: bool = False
    """Beam search has copied it since."""
    encodes: bool = False
    """There is none yet: ``generate`` runs the encoder or the tower, before the first token's pass."""
    beams: int = 1
    """Of a model with an encoder or a tower: the rows of the cache for each row of the batch."""

    def sizes(self, window: int | None) -> dict[str, Size]:
        """The sizes of a program that starts with a dynamic cache: the tokens that it has (``past``), and those that a
        layer with a sliding window stores (``stored``), which sees one less than the window.

        What one forward pass left is a view of all its tokens. A later one leaves a view of a whole window, and beam
        search copies what is seen (``cache_utils.py: DynamicSlidingWindowLayer``).
        """
        if not self.past:
            return {}
        stored = self.past
        if window is not None and (self.reordered or not self.prefilled):
            stored = smaller(stored, window - self.reordered)
        return dict(zip(CACHED_SIZES, (self.past, stored), strict=True))


@dataclass(frozen=True)
class Procedure:
    """What is run with a model. A program is asked what its passes call; what is around them, ``steps/`` has."""

    trains: bool = field(default=True, kw_only=True)
    """Whether the model is given labels and makes a loss."""
    runs_backward: ClassVar[bool] = False
    """Whether gradients come from a backward pass, which runs on a thread of its own."""
    rows: int = field(default=1, kw_only=True)
    """The rows that a model gets for each one of the batch."""
    asks_loss: ClassVar[bool] = True
    """The model makes the loss, where it trains."""
    layer_by_layer: ClassVar[bool] = False
    """Whether all but the optimizer's step goes through the layers one after the other, equal ones alike."""

    @property
    def symbolic(self) -> bool:
        """Whether it has symbols of its own, beside the batch's and the sequence's."""
        return False

    @property
    def tokens(self) -> int:
        """How many tokens are made for each row, each by a pass that begins with what the one before left."""
        return 0

    def at_token(self, number: Size, dtypes: tuple[str, str] = ("", "")) -> Procedure:
        """The pass that makes the token of this number, where the cache has keys and values of these ``dtypes``."""
        return self

    def passes(self, step: Step, batch: Size, seq: Size) -> list[tuple[Step, Size, Size]]:
        """The forward passes that differ: the options of each, and its batch and sequence."""
        return [(step, batch, seq)]

    def add_models(self, loop: Any, make: Callable[..., Any]) -> None:
        """Make the models beside the one that trains, of equal sizes.

        ``make`` takes a method (``steps/loop.py: Model``).
        """

    def phases(self, loop: Any) -> Iterator[str]:
        """Run, on what a loop has at hand (``steps/loop.py: Loop``). Yields each phase's name where it begins.

        The last one is ``end``: what the generator holds then is held until the next step.
        """
        raise NotImplementedError


class ModuleHooks(Protocol):
    """What is called around some modules. A layer's are called outside of its checkpoint (``modeling_layers.py``)."""

    @property
    def paths(self) -> Collection[str]:
        """The modules' paths."""

    def before_module(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        """Called with the module's inputs; gives those that take their place."""

    def after_module(self, path: str, outputs: list[Tensor]) -> None:
        """Called with the module's outputs."""


class Blocks(NamedTuple):
    """Bytes of the tensors that sharding allocates beside the step."""

    passing: Sequence[int] = ()
    """After loading, one after the other; two exist at once."""
    first: Sequence[int] = ()
    """Those that are kept in the first step."""
    later: Sequence[int] = ()
    """Those that take their place in the second."""


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How the processes of a job share a model, by the keys of a plan's block ``sharding``. A way to share is a class
    of its own in ``steps/sharding/``, whose fields are its options.
    """

    is_played: ClassVar[bool] = False
    """Equal layers differ. So the step runs without it, and it acts on the step's log (``steps/played.py``)."""
    holds_gradients: ClassVar[bool] = False
    """Gradients live on after ``zero_grad``, until the next forward pass."""

    name: str | None = None
    world_size: int
    """The product of the sizes below and ``shard``."""
    replicate: int = 1
    """How many groups of processes have whole models."""
    tp: int = 1
    """How many processes share each product (tensor parallelism)."""
    adapted: bool = False
    """A tuner of PEFT's is around the model."""
    upcasts: bool = False
    """Parameters that train are cast to float32 before they are sharded, as accelerate does under mixed precision."""
    rank: int | None = None
    """The process that is answered for; by default the one with the most bytes."""

    @property
    def shard(self) -> int:
        """How many processes share the parameters."""
        return self.world_size // (self.replicate * self.tp)

    @property
    def offloads(self) -> bool:
        """A part of the model, or of what updates it, rests in the host's memory."""
        return False

    @property
    def has_cpu_adam(self) -> bool:
        """What updates it is DeepSpeed's own AdamW for the host."""
        return False

    def blocks(self, stored: Sequence[tuple[str, int]], trained: Sequence[tuple[str, int]]) -> Blocks:
        """What is allocated beside the step. ``stored`` are dtype and bytes of all parameters, ``trained`` those of the
        trained ones in the order in which their gradients arrive.
        """
        return Blocks()

    def notes(self, ledger: Ledger, parts: Any) -> Any:
        """What notes in the log of a step where the scope acts, if it ``is_played``."""
        raise NotImplementedError

    def scope(self, ledger: Ledger, parts: Any) -> Any:
        """What acts around a model's step (``steps/sharding/scope.py: Scope``), given its parameters (``Parts``)."""
        raise NotImplementedError


class Step(NamedTuple):
    """Everything about a step except its sizes. Steps with equal options have equal formulas."""

    family: str
    dtype: str
    """The dtype of all weights that are not quantised."""
    base: Base | None = None
    """How linear layers are quantised, if they are."""
    autocast: str | None = None
    attention: Literal["eager", "sdpa", "flash"] = "sdpa"
    checkpointing: str = "none"
    use_reentrant: bool = False
    """Checkpoints of layers are reentrant."""
    hooks_in_checkpoint: bool = False
    """Checkpoints of layers call what is called around them, too, as before transformers' GradientCheckpointingLayer
    (``modeling_layers.py``).
    """
    kernels: str = "transformers"
    """Whose modules run: transformers' and PEFT's, or those that Unsloth puts in their place."""
    mlp_chunks: int = 1
    loss: str = "standard"
    loss_chunk: int | None = None
    num_output_chunks: int = 8
    loss_target: int = 0
    """Bytes that a chunk of Unsloth's loss may take."""
    label_share: float = 1.0
    """The share of the tokens that have a label."""
    optimizer: str = "adamw"
    optimizer_rank: int = 128
    wide_states: frozenset[str] = frozenset()
    """Names of the parameters whose states an 8-bit optimizer keeps in 32 bits, small ones aside."""
    keep_logits: bool = True
    drop_output_before_step: bool = False
    """The loop frees the model's output after backward."""
    attention_mask: bool = False
    """All attention masks are made of the padding mask that the batch has."""
    data_collator: bool = False
    """The batch has labels of its own, and a padding mask, perhaps without padding."""
    packing: bool = False
    """The batch is one row, with position ids that start again in each sequence."""
    return_seq_idx: bool = False
    """The packed batch has the number of each token's sequence."""
    convert_outputs_to_fp32: bool = False
    neftune: bool = False
    """Noise is added to the embeddings."""
    use_cache: bool = False
    caches_in_checkpoints: bool = False
    """The model's class does not turn ``use_cache`` off with gradient checkpointing."""
    window_reached: bool = False
    micro_batches: int = 1
    """Of gradient accumulation, those that differ: the first, the last, and where processes share the model, one that
    stands for all between."""
    device: Device = CPU
    """The device that the step runs on."""
    procedure: Procedure = Procedure()
    """What is run: how the step finds its update, or how a model infers."""
    sharding: Sharding | None = None
    saved_activations: str = "as-is"
    activation_group_size: int = 64
    gradient_clipping: bool = False
    previous_output: bool = False
    experts_implementation: str | None = None
    """How a mixture of experts runs, by transformers' name. ``None``: as it picks."""
    routing: Literal["balanced", "worst"] = "balanced"
    """How tokens choose experts, where memory depends on it."""
    cached: CachedTokens | None = None
    """In a forward pass of ``generate``: the cache with which it starts."""
    head: str = "causal-lm"
    """What the model ends with (``heads.HEADS``)."""
    num_labels: int = 0
    """Of a classification."""
    token_types: bool = False
    """The batch has ``token_type_ids``, as the model's tokenizer makes them."""
    special: int | None = None
    """``Input.special`` of the labels of CTC, and of the ids of an encoder-decoder that is to classify."""
    media: tuple[Input, ...] = ()
    """Images and audio of the batch, and what says more of them."""
    placeholders: Placeholders = (0, ())
    """What stands for the images in a row of token ids."""
    lengths: tuple[tuple[str, Size], ...] = ()
    """Sizes of the inputs beside the batch and the sequence, by their symbols: ``T``, the tokens of a decoder."""

    @property
    def tensor_parallel(self) -> int:
        """How many processes share each product."""
        return 1 if self.sharding is None else self.sharding.tp

    @property
    def is_played(self) -> bool:
        """Whether the sharding acts on the log of the step."""
        return self.sharding is not None and self.sharding.is_played

    @property
    def holds_gradients(self) -> bool:
        """Whether gradients live on after ``zero_grad``."""
        return self.sharding is not None and self.sharding.holds_gradients

    @property
    def mixes_dtensors(self) -> bool:
        """Whether some parameters are DTensors and some are not: those that tensor parallelism alone leaves whole."""
        return self.sharding is not None and self.sharding.tp > 1 and self.sharding.name is None

    @property
    def returns_cache(self) -> bool:
        """Whether the model returns its cache. With gradient checkpointing most classes turn ``use_cache`` off."""
        return self.cached is not None or (
            self.use_cache and (self.checkpointing == "none" or self.caches_in_checkpoints)
        )

    @property
    def passes_mask(self) -> bool:
        """Whether the model makes something of a padding mask. One of ones alone is nothing to causal attention."""
        return self.attention_mask or HEADS[self.head].masked

    @property
    def takes_mask(self) -> bool:
        """Whether the batch has a padding mask."""
        return self.passes_mask or (self.data_collator and not self.packing)

    def inputs(self) -> tuple[Input, ...]:
        """The inputs of a forward pass, in the order in which a loop makes them."""
        rows = ("B", "S")
        ids = Input("input_ids", rows, placeholders=self.placeholders, special=self.special, ends=True)
        found = [ids] if HEADS[self.head].text else []
        found += self.media
        if self.token_types:
            found.append(Input("token_type_ids", rows))
        if self.takes_mask:
            found.append(Input("attention_mask", rows))
        if self.procedure.trains:
            own = self.data_collator or self.packing
            found += [one._replace(same_as="") if own else one for one in HEADS[self.head].labels]
            if self.head == "ctc":
                found[-1] = found[-1]._replace(special=self.special)
            if found[-1].shape == ("B",) and self.num_labels == 1:  # a regression has numbers
                found[-1] = Input("labels", ("B", 1), "float32")
        else:
            found += HEADS[self.head].prompts
        if self.packing:
            found.append(Input("position_ids", rows))
        if self.return_seq_idx:
            found.append(Input("seq_idx", rows, "int32"))
        return tuple(found)

    def sizes(self, batch: Size, seq: Size) -> dict[str, Size]:
        """The sizes of the inputs by their symbols."""
        return {"B": batch, "S": seq, **dict(self.lengths)}

    def rows(self, batch: Size, seq: Size) -> tuple[Size, Size]:
        """The rows of a batch of sequences, and their tokens."""
        batch = batch * self.procedure.rows
        return (1, batch * seq) if self.packing else (batch, seq)

    def ledger(self, **keys: Any) -> Ledger:
        """An empty ledger for the step's device, and for its host where the device has memory of its own."""
        ledger = Ledger(self.device, **keys)
        if self.sharding is not None and self.sharding.offloads and self.device.has_own_memory:
            ledger.host = Ledger(CPU, symbolic=ledger.symbolic)
        return ledger


class Generated(NamedTuple):
    """What ``generate`` adds to the inputs of a forward pass, which then makes logits of the last token only."""

    position_ids: Tensor
    keys: Mapping[bool, Size]
    """How many keys the tokens see, in layers without (``False``) and with (``True``) a sliding window."""
    static: bool
    """The cache has its full size from the start. Then single tokens get a mask too, and masks are contiguous."""
    masks: dict[bool, Tensor | None] | None = None
    """The masks, if ``generate`` makes them before the forward pass, as it does for a static cache."""


FusedLoss = Callable[["Module", Tensor, Tensor], Tensor]


class Inputs(NamedTuple):
    """The batch size and length of one forward pass, and what it is run with."""

    ledger: Ledger
    batch: Size
    seq: Size
    step: Step
    gradient_checkpointing_func: Callable[..., Any] | None = None
    """Runs ``function(hidden_states, *arguments)``, a segment of layers, in a checkpoint; ``None`` for none."""
    fused_loss: FusedLoss | None = None
    """If the loss needs no whole logits: the loss, given the head, the hidden states and the labels."""
    fused_loss_after: Mapping[tuple[str, ...], FusedLoss] = MappingProxyType({})
    """That of models which call these functions between the head and the loss."""
    module_hooks: ModuleHooks | None = None
    after_forward: Callable[[tuple[Any, ...]], tuple[Any, ...]] = tuple
    """Called with the outputs of a model whose loop makes the loss of them. What is returned takes their place."""
    until: Literal["", "hidden", "logits"] = ""
    """What a pass ends with that does not run to its end: the head's input, or what the loss is made of."""
    logits_to_keep: Size = 0
    """The last tokens that go through the head (``slice_logits_to_keep``); 0: all."""
    past: Size = 0
    """How many tokens each layer's cache has already."""
    generated: Generated | None = None
    attention_mask: Tensor | None = None
    """The padding mask [B, S], if there is padding."""
    position_ids: Tensor | None = None
    """The positions [B, S] of a packed row, or of all tokens so far, if ``generate`` gives them to a recorded model."""
    others: Mapping[str, Tensor] = MappingProxyType({})
    """Inputs beside the token ids, the mask and the positions, by the names of the arguments."""
    makes_own: bool = False
    """The model is a module of the user's own, which makes its inputs itself."""

    def keys(self, windowed: bool) -> Size:
        """How many keys the sequence's tokens see in a layer."""
        return self.past + self.seq if self.generated is None else self.generated.keys[windowed]
