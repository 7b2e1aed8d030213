"""The numbers of a model whose program is recorded, and where its programs come from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from ..errors import InputError
from ..ledger import Size
from ..ledger.sizes import symbol
from .heads import SPEECH, Part
from .images import Given, Media
from .layer_runs import KEPT, Run, runs_of
from .module_table import ModuleTable, NamedModule
from .program import Program, Stored
from .step import Step


class Source(Protocol):
    """Where a model's programs come from: by default, recordings of one model that are made when they are asked for."""

    @property
    def attention(self) -> str:
        """The attention implementation that transformers picks for the model."""

    def check_attention(self, attention: str) -> None:
        """Raises ``InputError`` for an implementation that transformers refuses by name, though it picks it itself."""
        return

    @property
    def origin(self) -> str:
        """A sentence that says from which releases the programs are; empty where the answer need not say it."""

    @property
    def release(self) -> str:
        """The release of transformers whose modules run; empty for a module of the user's own."""

    @property
    def peft_release(self) -> str:
        """The release of PEFT whose adapters the programs have in them; empty where they have none."""
        return ""

    @property
    def has_experts(self) -> bool:
        """Whether weights of several experts are one parameter, [experts, n_out, n_in]."""
        return False

    @property
    def experts(self) -> str | None:
        """How transformers runs experts by default; ``None`` where the class has one way alone."""
        return None

    @property
    def supports_checkpointing(self) -> bool:
        """Whether transformers can put a checkpoint around each layer."""
        return True

    @property
    def caches_in_checkpoints(self) -> bool:
        """Whether the class does not turn ``use_cache`` off with gradient checkpointing."""
        return False

    @property
    def position_axes(self) -> tuple[int, ...]:
        """The axes of ``generate``'s position ids before [rows, tokens]: (4,) where those of text stand beside those in
        time, height and width.
        """
        return ()

    @property
    def tp_plan(self) -> Mapping[str, str]:
        """How transformers splits the model's weights: styles by the names of modules and parameters (``split.py``)."""
        return {}

    def media(self, asked: Media, dtype: str) -> Given:
        """What the model is given beside ids, masks and labels. Raises ``InputError``."""
        return Given()

    def part(self, name: Part) -> tuple[str, ...]:
        """The paths of the modules that a part of the model is. Raises ``InputError`` where it has none."""
        embeddings = tuple(row.path for row in self.modules() if row.role == "input embedding")
        found = {"embeddings": embeddings, "base_model": tuple({path.partition(".")[0] for path in embeddings})}
        if name not in found:
            raise InputError(f"freeze: {name} does not go with the model, which has {', '.join(found)}; name these")
        return found[name]

    def modules(self) -> tuple[NamedModule[Any], ...]:
        """The model's modules, in the order of ``named_modules()``, each with the number of its layer."""

    def parameters(self) -> Mapping[str, tuple[Size, ...]]:
        """Names and shapes of the model's parameters, in the order of ``named_parameters()``."""

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        """The program of a forward pass. Raises ``InputError`` where there is none."""

    def knows(self, step: Step, batch: Size, seq: Size) -> bool:
        """Whether there is a program that need not be recorded first."""
        return False

    def chunk_of(self, step: Step) -> int | None:
        """The tokens of a chunk of the sequence, where layers cut it and the number of chunks can be a symbol."""
        return None

    def opened(self, step: Step, layers: int | None) -> Opened | None:
        """The source of programs whose sizes are symbols; ``None`` where there are none for a step. Of ``layers``
        equal layers their number is a symbol, too.
        """
        return None


class Opened(Protocol):
    """A source of programs whose sizes are symbols."""

    @property
    def release(self) -> str:
        """The release of transformers whose modules run."""

    @property
    def structure(self) -> Hashable:
        """What formulas depend on besides the symbols. Models of equal structure have the same formulas."""

    @property
    def values(self) -> Mapping[str, Size]:
        """The symbols by their names, and numbers for those that are none here."""

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        """The program of a forward pass. Raises ``InputError`` where there is none."""


class Sizes(NamedTuple):
    """What a recorded model is built from: a program, its runs of equal layers, and where its other programs are."""

    source: Source | Opened
    program: Program
    runs: tuple[Run, ...]
    hidden: Size
    config: Config | None = None
    given: tuple[Stored, ...] = ()
    """The inputs of a module of the user's own, which a step makes. Empty for a language model."""
    open: Mapping[str, Size] = MappingProxyType({})
    """Sizes that are symbols, by the names of these."""

    @property
    def structure(self) -> Hashable:
        """What formulas depend on besides the symbols."""
        return (getattr(self.source, "structure", id(self.source)), self.runs)

    @property
    def vocab(self) -> Size:
        """Logits of a token."""
        assert self.config is not None
        return self.open.get("V", self.config.vocab_size)

    @property
    def kv_heads(self) -> Size:
        """Heads of keys and values."""
        assert self.config is not None
        return self.open.get("K", self.config.num_key_value_heads)

    @property
    def groups(self) -> Size:
        """Query heads per key/value head."""
        assert self.config is not None
        return self.open.get("G", self.config.num_attention_heads // self.config.num_key_value_heads)

    @property
    def heads(self) -> Size:
        """Query heads."""
        return self.kv_heads * self.groups

    @property
    def head_dim(self) -> Size:
        """The size of a head."""
        assert self.config is not None
        return self.open.get("D", self.config.head_dim)

    def layers(self, windowed: bool | None = None) -> Size:
        """The number of all layers, or of those with (``True``) or without (``False``) a sliding window."""
        return sum((run.count for run in self.runs if windowed in (None, run.windowed)), 0)


@dataclass(frozen=True)
class Config:
    """The numbers of a recorded model that methods and answers ask for."""

    family: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    heads: Mapping[str, int | None]
    """The sizes of attention, by the names that configs have for them. None where layers differ."""
    tie_word_embeddings: bool
    sliding_window: int | None
    windowed_layers: tuple[bool, ...]
    """For each layer, whether it has the sliding window."""
    source: Source
    given: tuple[Stored, ...] = ()
    """The inputs of a module of the user's own. Empty for a language model."""
    longest: int | None = None
    """The most tokens that formulas of its programs are for, if something limits them."""
    open_values: Mapping[str, int] = field(default_factory=dict)
    """The values of the sizes that can be symbols in formulas, by the symbols' names."""
    intermediate_size: int = 0
    """Of an MLP; 0 where the config has none."""
    num_labels: int = 0
    """Of a classification."""
    special: int | None = None
    """``Step.special``."""

    @property
    def open_sizes(self) -> bool:
        """Whether the sizes can be symbols in formulas."""
        return bool(self.open_values)

    def _of_heads(self, name: str) -> int:
        value = self.heads[name]
        if value is None:
            raise InputError(f"{self.family}: {name} differs from layer to layer, for which this question has no rule")
        return value

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries."""
        return self._of_heads("num_attention_heads")

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self._of_heads("num_key_value_heads")

    @property
    def head_dim(self) -> int:
        """The size of a head."""
        return self._of_heads("head_dim")

    @cached_property
    def modules(self) -> ModuleTable:
        """The table of the model's modules."""
        return ModuleTable(self.source.modules())

    @cached_property
    def parameters(self) -> Mapping[str, tuple[Size, ...]]:
        """Names and shapes of the model's parameters."""
        return self.source.parameters()

    def sizes(
        self, signature: Callable[[int], Hashable], step: Step, batch: Size, seq: Size, symbolic: bool = False
    ) -> Sizes:
        """Sizes for a program. Neighbouring layers form a run if they call the same and their signatures are equal."""
        equal = len({(windowed, signature(i)) for i, windowed in enumerate(self.windowed_layers)}) == 1
        layers = self.num_hidden_layers if equal and self.num_hidden_layers > KEPT else None
        if symbolic and (opened := self.source.opened(step, layers)) is not None:
            program = opened.at(*step.procedure.passes(step, batch, seq)[0])
            if isinstance(opened.values.get("L"), int):
                runs = self._runs([program], signature)
            else:
                runs = (Run(0, symbol("L"), self.windowed_layers[0], program.kinds[0]),)
            values = opened.values
            return Sizes(opened, program, runs, values.get("H", self.hidden_size), self, self.given, values)
        programs = [self.source.at(*one) for one in step.procedure.passes(step, batch, seq)]
        return Sizes(self.source, programs[0], self._runs(programs, signature), self.hidden_size, self, self.given)

    def _runs(self, programs: Sequence[Program], signature: Callable[[int], Hashable]) -> tuple[Run, ...]:
        program = programs[0]
        windowed = (
            self.windowed_layers if len(self.windowed_layers) == len(program.layers) else (False,) * len(program.layers)
        )
        kinds = [
            (program.stack_of[i], kind, windowed[i], signature(i))
            for i, kind in enumerate(zip(*(p.kinds for p in programs), strict=True))
        ]
        return tuple(
            Run(start, count, windowed[start], kinds[start][1:], program.stack_of[start])
            for start, count in runs_of(kinds)
        )

    def values(self) -> dict[str, int]:
        """The values of the symbols in formulas of open sizes."""
        return dict(self.open_values)


def refuse_encoder(raw: Mapping[str, Any], where: str) -> None:
    """Raise ``InputError`` for an encoder-decoder's config.json, unless its ``architectures`` name the decoder's class.

    The decoder alone is not what anyone runs. ``where`` is what messages call the config.
    """
    names = raw.get("architectures")
    if not (isinstance(names, list) and any(str(name).endswith("ForCausalLM") for name in names)):
        head = "speech-seq2seq" if raw.get("model_type") in SPEECH else "seq2seq-lm"
        raise InputError(
            f"{where}: model_type {raw.get('model_type')} has an encoder beside its decoder; set head: {head}, "
            'which counts both. A decoder that runs alone, such as BartForCausalLM, has "is_encoder_decoder": false'
        )


def part_of(parts: Mapping[Part, Sequence[str]], name: Part, where: str) -> tuple[str, ...]:
    """The paths of a model's part. Raises ``InputError`` where it has none."""
    if not (found := parts.get(name)):
        having = ", ".join(part for part, paths in parts.items() if paths)
        raise InputError(f"{where}: freeze: {name} does not go with the model, which has {having}; name these")
    return tuple(found)


ALONE = "only the language model"


def language_model_alone(parts: Iterable[str]) -> str:
    """What an answer says of a model whose other ``parts``, such as ``vision_config``, are left out."""
    return f"{ALONE} is counted; parameters and activations of {' and '.join(parts) or 'others'} are not"


def no_language_model(name: str, source: Source, given: tuple[Stored, ...] = ()) -> Config:
    """What answers ask of a module or a step of the user's own. A language model's numbers are zero."""
    return Config(
        family=name,
        vocab_size=0,
        hidden_size=0,
        num_hidden_layers=0,
        heads={},
        tie_word_embeddings=False,
        sliding_window=None,
        windowed_layers=(),
        source=source,
        given=given,
    )
