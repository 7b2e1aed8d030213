"""What a plan may say of an engine: its keys, words and refusals.

Every plan knows this of every engine. Of its own engine alone it imports more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel

Refusals = Mapping[str, Callable[[Any], object]]
"""Sentences with their conditions. A sentence begins with the key that it is about. It calls the plan ``p``, and the
plan with its model ``r``."""

_NONE: Refusals = MappingProxyType({})


class Keys(NamedTuple):
    """One engine's part of a plan."""

    words: tuple[str, ...] = ()
    """What else people call it. Each is refused with its name."""
    fields: type[BaseModel] = BaseModel
    """The keys that a plan has for it, a block of its own options among them."""
    of_steps: tuple[str, ...] = ()
    """Keys of a step that act on this engine alone."""
    dtypes: Any = None
    """A ``Literal`` of the dtypes that it alone has."""
    takes: tuple[str, ...] = ()
    """Keys of a step in PyTorch that it has, too."""
    topic: tuple[str, str] | None = None
    """Where ``--help`` shows its keys: a topic and its title."""
    claims: Callable[[Mapping[str, Any]], bool] = lambda data: False
    """Whether a plan that names no runtime means it."""
    commanded: Callable[[str], Mapping[str, Any] | None] = lambda text: None
    """The keys of a plan that a command line of its programs means; ``None`` for any other text."""
    serves: bool = False
    """It serves requests: its engine is a ``Served``."""
    refused: Refusals = _NONE
    """What does not go with it, checked when a plan is read."""
    refused_steps: Refusals = _NONE
    """What does not go with it, checked before a step is made."""
    refused_elsewhere: Refusals = _NONE
    """What does not go with another engine, since this one alone has it."""
    instead: str = ""
    """Why no plan can name it yet, and what to ask in its place."""

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that belong to a plan on this engine."""
        return (*self.fields.model_fields, *self.of_steps)


def of_published(runtime: str, words: tuple[str, ...]) -> Keys:
    """Those of an engine of which published figures alone are known: a model, the device, and how long a context."""
    alone = f"runtime: {runtime}, of which published figures alone are known"
    return Keys(
        words=words,
        refused={
            f"task: train does not go with {alone}; set task: infer": lambda p: p.task == "train",
            f"dtype: {{p.dtype}} does not go with {alone}; leave it out": lambda p: "dtype" in p.model_fields_set,
            f"batch: {{p.batch}} does not go with {alone}; leave it out": lambda p: p.batch > 1,
        },
    )
