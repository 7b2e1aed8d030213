"""What a question may name: the built-in models and the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..engines import devices as catalogue
from ..engines.devices import Device
from ..engines.registry import RUNTIMES, SERVERS, engine_of
from ..plans import models as specs
from ..programs.heads import CAUSAL
from ..text import matches
from .tabular import Brief


@dataclass(frozen=True, repr=False)
class Model(Brief):
    """A built-in model. Sizes are ``None`` where its config has none of that kind."""

    name: str
    family: str
    """The config's ``model_type``."""
    runtimes: str
    parameters: int | None
    """The published number, tied weights counted once."""
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    vocabulary: int | None
    tied: bool
    """Whether the output embedding is the input's."""
    hub_id: str | None
    source: str

    def _brief(self) -> Mapping[str, object]:
        return {"name": self.name, "family": self.family, "parameters": self.parameters}


def models(text: str | None = None) -> list[Model]:
    """The built-in models by name; of a ``text``, those that have it in name, hub id or family."""
    loaded = (specs.load(name) for name in specs.builtin_names())
    return [_model(one) for one in loaded if matches(text, one.name, one.hub_id or "", one.raw["model_type"])]


def devices(text: str | None = None) -> list[Device]:
    """The devices by usable memory; of a ``text``, those that have it in name, label or kind.

    A text that ends within a number, as ``rtx-509`` does, finds devices only where none has it whole: ``h20`` finds no
    H200.
    """
    part, known = catalogue.whole_numbers(text or ""), catalogue.catalogue()
    whole = [one for one in known if any(map(part.search, (one.name, one.label, one.kind)))]
    found = whole or [one for one in known if matches(text, one.name, one.label, one.kind)]
    return sorted(found, key=lambda one: (one.usable_bytes, one.name))


def _model(spec: specs.ModelSpec) -> Model:
    raw = {**spec.raw, **spec.raw.get("text_config", {})}

    def number(*names: str) -> int | None:
        """A size, under the name that the model's class has for it."""
        return next((raw[name] for name in names if isinstance(raw.get(name), int)), None)

    runtimes = [name for name in RUNTIMES if name not in SERVERS or spec.head == CAUSAL]
    knowing = [name for name in runtimes if engine_of(name).knows(raw["model_type"])]
    heads = number("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")
    kv = number("num_key_value_heads", "num_kv_heads", "n_head_kv")
    return Model(
        name=spec.name,
        family=raw["model_type"],
        runtimes="all" if len(knowing) == len(RUNTIMES) else ", ".join(knowing),
        parameters=spec.parameters,
        layers=number("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers"),
        hidden=number("hidden_size", "n_embd", "d_model", "dim"),
        heads=heads,
        kv_heads=heads if kv is None else kv,
        vocabulary=number("vocab_size"),
        tied=raw.get("tie_word_embeddings", spec.head in ("masked-lm", "seq2seq-lm", "speech-seq2seq")),
        hub_id=spec.hub_id,
        source=spec.source,
    )
