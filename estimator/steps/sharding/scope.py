"""What acts around a step whose model several processes share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...ledger import FLOATING, Call, Size, Tensor, record
from ...ledger.graph import Output

HEAD_WITHOUT_PLAN = frozenset(
    (
        *("blt", "jetmoe", "mllama", "moshi", "nemotron", "nemotron_h"),
        *("persimmon", "recurrent_gemma", "stablelm", "zamba", "zamba2"),
    )
)
"""Model types whose class has a module ``lm_head`` that no ``_fsdp_plan`` names."""


MOST_RANKS = 16
"""The most groups of equal ranks that are told apart: each takes a run of the step."""


def upcast(parameters: Iterable[Tensor]) -> None:
    """What accelerate does to parameters that train before it shards them under mixed precision: ``to(float32)``."""
    for p in parameters:
        if p.dtype in FLOATING and p.dtype != "float32":
            p.recast("float32")


class Parts(NamedTuple):
    """The parameters of a model in the order of ``named_parameters()``, and the modules that have a role in it."""

    outside: Sequence[Tensor]
    """Those outside of its layers."""
    layers: Mapping[str, Sequence[Tensor]]
    """Those of each layer that is run, by its path."""
    segments: Mapping[str, int]
    """The number of each layer's segment (``Ledger.segment``), by its path."""
    modules: Mapping[str, Sequence[Tensor]]
    """Those of each module itself, by its path. Tied ones are in several."""
    replaced: Mapping[str, Any]
    """The modules that a method has put in the place of others, by their paths."""
    roles: Mapping[str, str]
    """The paths of its modules by their roles: ``input embedding``, ``final norm``, ``output embedding``."""
    family: str
    """Its ``model_type``."""

    @property
    def planned_head(self) -> str:
        """The head that the model's class keeps after forward (``_fsdp_plan`` in transformers); empty without one."""
        head = self.roles.get("output embedding", "")
        beside = any(path.startswith("model.layers.") for path in self.layers)
        return head if head == "lm_head" and beside and self.family not in HEAD_WITHOUT_PLAN else ""


def with_post_backward(name: str, inputs: list[Tensor], post_backward: Callable[[], object]) -> list[Tensor]:
    """A module's inputs, those with a gradient behind one node: a ``torch.autograd.Function`` whose node has that name.

    It runs last in the module's backward, and calls ``post_backward``.
    """
    trained = [i for i, x in enumerate(inputs) if x.requires_grad]
    if not trained or not inputs[0].ledger.grad_enabled:
        return inputs

    def rule(call: Call) -> tuple[Tensor | None, ...]:
        post_backward()
        return tuple(call.grads)

    given, out = [inputs[i] for i in trained], [*inputs]
    node = record(name, given[0].alias, given, (), rule).node
    assert node is not None
    node.outputs = [Output(x.shape, x.dtype) for x in given]
    for number, i in enumerate(trained):
        out[i] = inputs[i].alias()
        out[i].requires_grad, out[i].node, out[i].number = True, node, number
    return out


class Scope:
    """What acts around a step, by the places in which it may act. Here it does nothing in any."""

    paths: Collection[str] = ()
    """The modules that ``before_module`` and ``after_module`` are called around."""
    dtype: str | None = None
    """The dtype that modules compute with, where it is not that of their parameters as they are stored."""
    communication: Size = 0
    """Bytes that are kept between steps beside parameters, gradients and states."""
    communicated: Size = 0
    """Bytes that a rank has sent so far."""
    rank: int = 0
    """The rank whose bytes all are."""
    alike: Sequence[Sequence[range]] = ()
    """The ranks by what they hold, alike ones together; none where all are, or more than ``MOST_RANKS`` differ."""
    unties = False
    """A tied head has a gradient of its own."""
    keeps = False
    """What the last modules have gathered stays after a forward pass that no backward pass follows."""
    states: Size = 0
    """Bytes of the optimizer's states beside those of ``updated``."""
    gradients: Size | None = None
    """Bytes of the gradients that exist at once, where they are not those of the updated parameters."""
    host_gradients: Size | None = None
    """Likewise of those in the memory of a GPU's host."""
    pinned_states: Size = 0
    """What of ``states`` is pinned there."""

    def updated(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the optimizer updates, given the parameters that get a gradient."""
        return parameters

    def know(self, order: Sequence[str]) -> None:
        """Before the first step: in which order modules ask for their parameters, forward and backward."""

    def before_forward(self) -> None:
        """Before the model is called."""

    def after_forward(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """After the model has returned its outputs. What is returned takes their place."""
        return outputs

    def before_module(self, path: str, inputs: list[Tensor]) -> list[Tensor]:
        """Before a module is called with its inputs. What is returned takes their place."""
        return inputs

    def after_module(self, path: str, outputs: list[Tensor]) -> None:
        """After a module has returned its outputs."""

    def before_backward(self, last: bool) -> None:
        """Before a backward pass. It is the ``last`` of those whose gradients are accumulated."""

    def updates(self, parameters: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """What the optimizer updates at once, one after the other. A part of the update lies before and after each."""
        yield parameters

    def before_update(self) -> None:
        """After the last backward pass, before gradients are clipped and the optimizer steps."""

    def after_update(self) -> None:
        """After the optimizer has stepped."""
