"""What engines are given: a plan whose model is known, and the step that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..ledger import Size
from ..programs import Method, Step


class Spec(Protocol):
    """A model that was looked up."""

    @property
    def raw(self) -> Mapping[str, Any]:
        """Its config.json."""

    @property
    def config(self) -> Any:
        """Its program's numbers."""


class Job(Protocol):
    """A plan whose names have been looked up. Engines and moments take it, and what makes it lies above them."""

    @property
    def plan(self) -> Any:
        """The plan, with its keys as attributes."""

    @property
    def spec(self) -> Spec:
        """The plan's model."""

    @property
    def method(self) -> Method:
        """How the model is changed for the plan's method."""

    @property
    def step(self) -> Step:
        """The frozen step that follows from the plan."""

    def at(self, batch: int, seq: int) -> Job:
        """The same plan with another batch and sequence."""

    def with_step(self, step: Step) -> Job:
        """The same plan with another step."""

    def sizes(self, symbolic: bool = False, batch: Size | None = None, seq: Size | None = None) -> Any:
        """The model's sizes, with alike layers counted as one run. Batch and sequence are by default the plan's."""
