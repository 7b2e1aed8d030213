"""What an engine is: one object, asked by plans and answers the same way whichever engine it is.

Nothing above asks an engine for its name. What callers need to know has a member here: a value with a meaning of its
own, or a method that does the work. An engine overrides what differs from the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from ..errors import InputError
from ..ledger import Size
from ..programs import Method, Procedure, Step
from ..text import human
from .assumptions import Assumption
from .devices import Device

if TYPE_CHECKING:
    from ..operators.device import Device as Kernels
    from .replay import Batch, Phase, Timeline, Usage
    from .snapshot import Snapshot


class Spec(Protocol):
    """A model that was looked up."""

    @property
    def name(self) -> str:
        """Its name, for people."""

    @property
    def raw(self) -> Mapping[str, Any]:
        """Its config.json."""

    @property
    def config(self) -> Any:
        """Its program's numbers."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an answer about it has to say."""


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

    def with_open_rank(self) -> Job:
        """The same plan with the symbol r for the rank of its method, for formulas. Raises ``InputError``."""

    def sizes(self, symbolic: bool = False, batch: Size | None = None, seq: Size | None = None) -> Any:
        """The model's sizes, with alike layers counted as one run. Batch and sequence are by default the plan's."""

    def knows(self, batch: Size, seq: Size) -> bool:
        """Whether there is a program for these sizes without recording one first."""


class Limit(NamedTuple):
    """A limit of a plan's memory. Sizes are bytes."""

    against: str
    """The figure that is limited."""
    needed: int
    budget: int | None
    uncertain: int
    """The bytes of which the uncertainty is a share."""
    exceeded: str = ""
    """A sentence for answers in which this limit, of several, is exceeded."""

    @property
    def left(self) -> int:
        """Bytes of the budget that remain; negative if some are missing."""
        assert self.budget is not None
        return self.budget - self.needed


HOST = "host"
"""The figure that ``host_memory`` limits: what all processes of a machine hold of its RAM."""


def host_limit(needed: int, host_memory: int | None) -> tuple[Limit, ...]:
    """The limit of a machine's RAM, where it is given and something is held there. Sizes are bytes."""
    if host_memory is None or not needed:
        return ()
    exceeded = f"the host runs out first: {human(needed)} of RAM are needed, and host_memory is {human(host_memory)}"
    return (Limit(HOST, needed, host_memory, needed, exceeded),)


class Figures(NamedTuple):
    """The answer of an engine to a plan. Sizes are bytes."""

    bytes: Mapping[str, int]
    moments: Mapping[str, int]
    """Named moments, and the bytes above resident reached there. The largest is the peak's."""
    total_parameters: int
    limits: tuple[Limit, ...]
    trainable_parameters: int = 0
    warnings: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    """What the limits rest on, beside what the plan does."""
    phases: tuple[Phase, ...] = ()
    devices: tuple[Mapping[str, Any], ...] = ()
    """Where one process uses several devices, the name of each and its bytes, and those of the host."""
    unknown: tuple[str, ...] = ()
    """What was asked for and changes memory by an amount without a rule, by name. The verdict is "not sure"."""
    serving: Mapping[str, float] = MappingProxyType({})
    """Of a server: ``kv_tokens`` of its cache, and ``max_concurrency``, the requests that fit at once."""


class Engine:
    """What runs a model. ``registry.engine_of`` has the one of each name; a plan's is ``plan.engine``."""

    title: ClassVar[str]
    """Its name for people."""

    # What it does.
    runs_steps: ClassVar[bool] = False
    """It runs a step of the plan's model, method and optimizer, whose live bytes are the ledger's. Questions about
    training are asked of such engines, and the methods under *steps* below."""
    is_searched: ClassVar[bool] = False
    """It has no such step, and the longest sequence or largest batch is found by its figures alone."""
    replays: ClassVar[bool] = False
    """Its process follows from the order of all allocations, and so from a replay, not from the live bytes alone."""
    has_own_memory: ClassVar[bool] = False
    """The model is in a card's memory, beside the host's."""
    shares_with_host: ClassVar[bool] = False
    """Beside a card, the machine's memory may hold a part of the model."""
    maps_weights: ClassVar[bool] = False
    """Weights are pages of a file, which a system may drop. So where it limits dirty memory alone, the RAM that they
    must find room in is a second limit."""
    reads_checkpoints: ClassVar[bool] = True
    """It loads the model's own checkpoint, and what the checkpoint says of its weights holds."""
    reads_programs: ClassVar[bool] = False
    """Though it runs no step, it takes a model's parameters from the program."""
    finds_contexts: ClassVar[bool] = False
    """It is asked for the longest context that a device has room for."""
    takes_budget_on_cards: ClassVar[bool] = False
    """A budget beside a card of known size is meant, since the engine can be given a part of it."""
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Keys of a plan whose defaults are others on it."""
    holds_output: ClassVar[bool] = False
    """Training loops on it usually hold the previous step's output while the next forward runs."""
    inference_formats: ClassVar[Sequence[str]] = ()
    """Formats of quantised weights whose layers run the same kernels in inference as in training's forward pass."""

    # What its figures are.
    rows: ClassVar[Sequence[tuple[str, str]]]
    """The rows of a breakdown: keys of the figures' bytes, with their labels."""
    always: ClassVar[Sequence[str]] = ()
    """Rows that are shown though they are zero. Without any, all are."""
    meanings: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What each figure and ``context_key`` is, for exported files of an engine without steps."""
    uncertainty: ClassVar[float] = 0.0
    """The share by which measured processes differ from predictions."""
    uncertainty_of: ClassVar[str] = "not measured"
    """What the uncertainty is, and of how many processes."""
    context_key: ClassVar[str] = "seq"
    """The key that a context or sequence grows with."""
    witness: ClassVar[str] = ""
    """Of an engine without steps the module of ``witnesses/`` whose ``measured`` asks the installed one for buffers."""
    context_step: ClassVar[int] = 1
    """A sequence's context is rounded up to a multiple of so many tokens."""
    fixed_keys: ClassVar[Sequence[str]] = ("batch", "seq")
    """Keys that an exported function is made at where they are no variables."""
    page_dtypes: ClassVar[Sequence[str]] = ("bfloat16", "float32", "nf4")
    """The dtypes of an exported page where none are named."""
    exactness: ClassVar[str]
    """How close the figures are, for exported files."""

    def defaults_of(self, model: Any, load: Callable[[str], Spec]) -> Mapping[str, Any]:
        """``defaults`` of a plan with this ``model``, which ``load`` looks up."""
        return self.defaults

    def asked(self, plan: Any) -> str:
        """In words: what the plan does, and in which program."""
        return f"inference with {self.title}"

    def heading(self, plan: Any) -> str:
        """The plan in one line."""
        return f"{plan.model}, {plan.dtype}, {self.title}"

    def dtype(self, name: Any) -> Any:
        """Its own name of one of PyTorch's dtypes; any other value as it is."""
        return name

    def release(self, plan: Any) -> str:
        """The engine and the release whose rules hold."""
        return self.title

    def knows(self, family: str) -> bool:
        """Whether the engine runs models of a ``model_type``."""
        return True

    def device_of(self, plan: Any) -> Device | None:
        """The device whose kernels decide figures; ``None`` where no device does."""
        return None

    def runs_alike(self, plan: Any, device: Device) -> bool:
        """Whether the plan's formulas hold on another device."""
        return not device.is_card and not device.is_phone

    def against(self, plan: Any, device: Device | None) -> tuple[str, str]:
        """The figures, at least and at most, that a device's memory or a budget is held against in formulas."""
        return "process", "process"

    def parts(self, sizes: Mapping[str, int], peak_at: str, gradients_alive: bool = False) -> dict[str, int]:
        """The parts of the peak, in bytes, by the names that a figure has colours for."""
        return {"weights": sizes["resident"], "compute": sizes["peak_above_resident"]}

    # Engines that run no steps.

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Any:
        """What the engine knows of the plan's model. ``load`` looks a name up. Raises ``InputError``."""
        return load(plan.model)

    def figures(self, plan: Any, model: Any) -> Figures:
        """The answer to a plan with its ``model``. Raises ``InputError``."""
        raise NotImplementedError

    def limits(self, plan: Any, model: Any) -> tuple[Limit, ...]:
        """The limits among the figures."""
        return self.figures(plan, model).limits

    def sequences(self, plan: Any) -> int:
        """Sequences at once."""
        batch: int = plan.batch
        return batch

    def contexts(self, plan: Any, model: Any) -> tuple[int, int, int, int]:
        """The plan's context, the least and the largest, and the step of which each is a multiple; of all sequences.

        Raises ``InputError`` where there is none.
        """
        raise InputError(
            f"a function of the context has no rule with runtime: {plan.runtime}; ask `estimator estimate`"
        )

    def compared(
        self, keys: Mapping[str, Any], recipes: Sequence[str], caches: Sequence[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        """The keys of the plans that compare the longest contexts of one model: one of each recipe, and of each pair of
        cache types where it has several. Without ``recipes`` the plan's own dtype.
        """
        return [{**keys, "dtype": recipe} for recipe in recipes] or [dict(keys)]

    def recipe_of(self, plan: Any) -> str | None:
        """The dtype of the plan's weights; ``None`` where a file has its own."""
        return str(plan.dtype)

    def cache_of(self, plan: Any) -> str:
        """The type of the keys and values in the cache, for people; empty where a file has its own."""
        return ""

    def cache_types(self, plan: Any) -> tuple[str | None, str | None]:
        """The types of keys and of values, where they are two options."""
        return None, None

    def at_context(self, plan: Any, context: int) -> Any:
        """The plan with a context of so many tokens, of all sequences."""
        return plan.model_copy(update={self.context_key: context})

    def layers(self, model: Any) -> int:
        """The layers of a model, of an engine that shares them out to devices."""
        raise NotImplementedError

    def stored(self, model: Any) -> int:
        """Bytes of a model's file, of an engine with recipes."""
        raise NotImplementedError

    def places(self, plan: Any) -> int:
        """The devices that a plan's layers are shared out to, beside the host."""
        return 0

    def shared_out(self, plan: Any, layers: int) -> tuple[int, ...]:
        """How many of so many layers each device has."""
        raise NotImplementedError

    # Engines that run steps.

    def kernels(self, plan: Any) -> Kernels:
        """What runs the step's operators."""
        raise NotImplementedError

    def without_rules(self, plan: Any) -> tuple[str, ...]:
        """What takes memory in a step by an amount without a rule, by name (``Figures.unknown``)."""
        return ()

    def beside(self, plan: Any) -> int:
        """Bytes of a process that are outside all tensors, whatever the step."""
        raise NotImplementedError

    def process(self, plan: Any, held: int) -> int:
        """Bytes of a process whose tensors, or their allocator, hold so many."""
        return held + self.beside(plan)

    def floors(self, job: Job) -> Mapping[str, int]:
        """Figures that are the live peak and a constant, and the constant. Where nothing is replayed, the process."""
        return {"process": self.beside(job.plan)}

    def usage(self, job: Job, peak: int, says_where: bool, logs: Any) -> Usage:
        """The replayed process of a step whose live bytes reach ``peak``. ``says_where`` and ``logs``: see
        ``answers/estimate.py: to_result``.
        """
        raise NotImplementedError

    def logs(self, procedure: Procedure | None = None) -> Any:
        """The logs of a plan's steps, of every batch and length; ``None`` without a replay. ``procedure``: see
        ``answers/estimate.py: to_result``.
        """
        return None

    def batches(self, plan: Any) -> list[Batch]:
        """The steps of a process that is replayed."""
        raise NotImplementedError

    def capacity(self, plan: Any) -> int | None:
        """The most bytes that tensors may take of the plan's budget; ``None`` without one."""
        budget = plan.budget_bytes()
        return None if budget is None else max(budget - self.beside(plan), 0)

    def replay(
        self,
        job: Job,
        batches: Sequence[Batch],
        capacity: int | None = None,
        timeline: Timeline | None = None,
        snapshot: Snapshot | None = None,
    ) -> Usage:
        """Replay a process over batches, and fill in a timeline and a snapshot."""
        raise NotImplementedError
